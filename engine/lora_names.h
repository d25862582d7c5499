/* lora_names.h: what LoRA files call the modules of a model.
 *
 *     lora_unet_down_blocks_0_attentions_0_..._attn1_to_q.lora_down.weight     kohya
 *     lora_unet_input_blocks_1_1_..._attn1_to_q.hada_w1_a                      LyCORIS, LDM's names
 *     unet.down_blocks.0.attentions.0. ... .attn1.processor.to_q_lora.down.weight   old diffusers
 *     text_encoder.text_model. ... .q_proj.lora_linear_layer.up.weight         newer
 *     base_model.model. ... .to_q.lora_A.default.weight                        PEFT
 *
 * The surprising rule: a name whose dots became underscores cannot be taken apart again, so nobody
 * tries. Every module of the model goes into a table under its flat names, and every key is made
 * flat and looked up there. */
#pragma once
#include "lora_delta.h"
#include "model.h"

typedef enum { MOJI_LORA_UNET, MOJI_LORA_TEXT, MOJI_LORA_SIDES, MOJI_LORA_ANY = -1 } MojiLoraSide;

typedef struct {
    MojiLoraPart part;
    MojiLoraSide side; /* MOJI_LORA_ANY: the name does not tell */
    char *module;      /* flat: "down_blocks_0_..._attn1_to_q" */
} MojiLoraKey;

/* FALSE if it is no key of a kind that we know. The caller frees module. */
gboolean moji_lora_key_parse(const char *name, MojiLoraKey *key);

typedef struct { /* a module of the model */
    char *name;  /* "down_blocks.0...to_q" */
    MojiLoraSide side;
    MojiLoraShape weight; /* of NAME.weight */
    gint64 bias;          /* values of NAME.bias; 0: there is none */
} MojiLoraTarget;

typedef struct MojiLoraTable MojiLoraTable;
MojiLoraTable *moji_lora_table_new(const MojiModel *m);
void moji_lora_table_free(MojiLoraTable *t);                /* NULL is fine */
GPtrArray *moji_lora_table_targets(const MojiLoraTable *t); /* of MojiLoraTarget*, owned by t */
/* NULL if the model has none of that name. */
MojiLoraTarget *moji_lora_table_find(const MojiLoraTable *t, const MojiLoraKey *key);
