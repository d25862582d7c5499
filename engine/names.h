/* names.h: what the tensors of a network are called, in here and in the files that people have.
 *
 * In here they have the names that diffusers gives them today: "canonical". Files made by older
 * versions, and checkpoints of latent diffusion's own code (LDM; one file with all three networks,
 * each under a prefix), call the same tensors otherwise. The tables are in names.c. */
#pragma once
#include "unet.h"
#include "vae.h"

typedef enum { MOJI_PART_TEXT, MOJI_PART_UNET, MOJI_PART_VAE, MOJI_PARTS } MojiPart;

const char *moji_part_name(MojiPart part);   /* "text", "unet" or "vae" */
const char *moji_part_folder(MojiPart part); /* in diffusers' layout: "text_encoder", ... */
/* What comes before a part's names in a checkpoint: "model.diffusion_model." and so on. */
const char *moji_part_prefix(MojiPart part);

/* The canonical name of what an older diffusers or transformers calls `stored`. Caller frees. */
char *moji_name_canonical(MojiPart part, const char *stored);

/* LDM numbers its blocks through, so its names depend on the topology: of unet levels, layers and
 * attention are read, of vae levels and layers. */
typedef struct MojiNames MojiNames;
MojiNames *moji_names_new(const MojiUnetConfig *unet, const MojiVaeConfig *vae);
void moji_names_free(MojiNames *n); /* NULL is fine */
/* Without the part's prefix on LDM's side. NULL if the other side has no such tensor. Caller
 * frees. */
char *moji_name_from_ldm(const MojiNames *n, MojiPart part, const char *ldm);
char *moji_name_to_ldm(const MojiNames *n, MojiPart part, const char *canonical);
