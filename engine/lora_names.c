/* lora_names.c: see lora_names.h. */
#include "lora_names.h"
#include "names.h"
#include "stage.h"
#include <string.h>

struct MojiLoraTable {
    GPtrArray *targets;
    GHashTable *flat[MOJI_LORA_SIDES]; /* flat name -> MojiLoraTarget */
};

/* ---- keys ---- */

static const struct {
    const char *text;
    MojiLoraPart part;
} ends[] = {
    {".lora_down.weight", MOJI_LORA_DOWN},
    {".lora_up.weight", MOJI_LORA_UP},
    {".lora_mid.weight", MOJI_LORA_MID},
    {".lora.down.weight", MOJI_LORA_DOWN},
    {".lora.up.weight", MOJI_LORA_UP},
    {"_lora.down.weight", MOJI_LORA_DOWN},
    {"_lora.up.weight", MOJI_LORA_UP},
    {".lora_linear_layer.down.weight", MOJI_LORA_DOWN},
    {".lora_linear_layer.up.weight", MOJI_LORA_UP},
    {".lora.alpha", MOJI_LORA_ALPHA},
    {"_lora.alpha", MOJI_LORA_ALPHA},
    {".lora_linear_layer.alpha", MOJI_LORA_ALPHA},
    {".alpha", MOJI_LORA_ALPHA},
    {".dora_scale", MOJI_LORA_DORA_SCALE},
    {".hada_w1_a", MOJI_LORA_HADA_W1_A},
    {".hada_w1_b", MOJI_LORA_HADA_W1_B},
    {".hada_w2_a", MOJI_LORA_HADA_W2_A},
    {".hada_w2_b", MOJI_LORA_HADA_W2_B},
    {".hada_t1", MOJI_LORA_HADA_T1},
    {".hada_t2", MOJI_LORA_HADA_T2},
    {".lokr_w1", MOJI_LORA_LOKR_W1},
    {".lokr_w1_a", MOJI_LORA_LOKR_W1_A},
    {".lokr_w1_b", MOJI_LORA_LOKR_W1_B},
    {".lokr_w2", MOJI_LORA_LOKR_W2},
    {".lokr_w2_a", MOJI_LORA_LOKR_W2_A},
    {".lokr_w2_b", MOJI_LORA_LOKR_W2_B},
    {".lokr_t2", MOJI_LORA_LOKR_T2},
    {".diff", MOJI_LORA_DIFF},
    {".diff_b", MOJI_LORA_DIFF_B},
    {".w_norm", MOJI_LORA_DIFF},
    {".b_norm", MOJI_LORA_DIFF_B},
};

/* PEFT may put an adapter's name in the middle: ".lora_A.default.weight". */
static const struct {
    const char *text, *end;
    MojiLoraPart part;
} middles[] = {
    {".lora_A.", "weight", MOJI_LORA_DOWN},
    {".lora_B.", "weight", MOJI_LORA_UP},
    {".lora_B.", "bias", MOJI_LORA_UP_BIAS},
    {".lora_magnitude_vector", "", MOJI_LORA_MAGNITUDE},
};

static const struct {
    const char *text;
    MojiLoraSide side;
} starts[] = {
    {"lora_unet_", MOJI_LORA_UNET},       {"lora_te_", MOJI_LORA_TEXT},
    {"lora_te1_", MOJI_LORA_TEXT},        {"lycoris_", MOJI_LORA_ANY},
    {"base_model.model.", MOJI_LORA_ANY}, {"unet.", MOJI_LORA_UNET},
    {"text_encoder.", MOJI_LORA_TEXT},    {"model.diffusion_model.", MOJI_LORA_UNET},
    {"diffusion_model.", MOJI_LORA_UNET},
};

/* The module's part of a key, or 0 if its end is not known. */
static gsize split(const char *name, MojiLoraPart *part)
{
    for (gsize i = 0; i < G_N_ELEMENTS(middles); i++) {
        const char *at = strstr(name, middles[i].text);
        if (at && g_str_has_suffix(at, middles[i].end)) {
            *part = middles[i].part;
            return at - name;
        }
    }
    for (gsize i = 0; i < G_N_ELEMENTS(ends); i++)
        if (g_str_has_suffix(name, ends[i].text)) {
            *part = ends[i].part;
            return strlen(name) - strlen(ends[i].text);
        }
    return 0;
}

gboolean moji_lora_key_parse(const char *name, MojiLoraKey *key)
{
    gsize bytes = split(name, &key->part);
    const char *from = name, *end = name + bytes;
    key->side = MOJI_LORA_ANY;
    if (bytes == 0)
        return FALSE;
    for (gsize i = 0; i < G_N_ELEMENTS(starts); i++) { /* in order: PEFT's comes before others */
        gsize n = strlen(starts[i].text);
        if (n < (gsize)(end - from) && !strncmp(from, starts[i].text, n)) {
            from += n;
            if (starts[i].side != MOJI_LORA_ANY)
                key->side = starts[i].side;
        }
    }
    g_autofree char *dotted = g_strndup(from, end - from);
    g_auto(GStrv) parts = g_strsplit(dotted, ".processor.", 2); /* old diffusers */
    key->module = g_strdelimit(g_strjoinv(".", parts), ".", '_');
    return TRUE;
}

/* ---- the model's modules ---- */

static char *flatten(const char *name)
{
    return g_strdelimit(g_strdup(name), ".", '_');
}

static void free_target(gpointer data)
{
    MojiLoraTarget *t = data;
    g_free(t->name);
    g_free(t);
}

static MojiLoraShape shape_of(const MojiTensor *t)
{
    if (t->rank == 1) /* a norm: one row */
        return (MojiLoraShape){1, t->dim[0], 1};
    gint64 area = 1;
    for (int i = 2; i < t->rank; i++)
        area *= t->dim[i];
    return (MojiLoraShape){t->dim[0], t->dim[1], area};
}

/* The parameters of a tape say what the network has, whatever file its weights come from. */
static void add_modules(MojiLoraTable *t, MojiLoraSide side, MojiTape *tape, const MojiNames *names)
{
    for (int i = 0; i < moji_tape_tensors(tape); i++) {
        const MojiTensor *p = moji_tape_tensor(tape, i);
        if (p->kind != MOJI_PARAMETER || p->view_of || !g_str_has_suffix(p->name, ".weight"))
            continue;
        MojiLoraTarget *target = g_new0(MojiLoraTarget, 1);
        target->name = g_strndup(p->name, strlen(p->name) - strlen(".weight"));
        target->side = side;
        target->weight = shape_of(p);
        g_ptr_array_add(t->targets, target);
        g_hash_table_insert(t->flat[side], flatten(target->name), target);
        g_autofree char *ldm =
            side == MOJI_LORA_UNET ? moji_name_to_ldm(names, MOJI_PART_UNET, p->name) : NULL;
        if (ldm)
            g_hash_table_insert(
                t->flat[side],
                g_strdelimit(g_strndup(ldm, strlen(ldm) - strlen(".weight")), ".", '_'), target);
    }
}

static void find_biases(MojiLoraTable *t, MojiLoraSide side, MojiTape *tape)
{
    for (int i = 0; i < moji_tape_tensors(tape); i++) {
        const MojiTensor *p = moji_tape_tensor(tape, i);
        if (p->kind != MOJI_PARAMETER || !g_str_has_suffix(p->name, ".bias"))
            continue;
        g_autofree char *name = g_strndup(p->name, strlen(p->name) - strlen(".bias"));
        g_autofree char *flat = flatten(name);
        MojiLoraTarget *target = g_hash_table_lookup(t->flat[side], flat);
        if (target)
            target->bias = p->dim[0];
    }
}

MojiLoraTable *moji_lora_table_new(const MojiModel *m)
{
    MojiLoraTable *t = g_new0(MojiLoraTable, 1);
    int unit = 1 << (m->unet.levels - 1);
    MojiStage *stage[MOJI_LORA_SIDES] = {
        [MOJI_LORA_UNET] = moji_stage_unet(m, MOJI_F32, 1, unit, unit),
        [MOJI_LORA_TEXT] = moji_stage_text(m, MOJI_F32, 1, 1, FALSE), /* all layers */
    };
    MojiNames *names = moji_names_new(&m->unet, &m->vae);
    t->targets = g_ptr_array_new_with_free_func(free_target);
    for (int side = 0; side < MOJI_LORA_SIDES; side++) {
        t->flat[side] = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
        add_modules(t, side, stage[side]->tape, names);
        find_biases(t, side, stage[side]->tape);
        moji_stage_free(stage[side]);
    }
    moji_names_free(names);
    return t;
}

void moji_lora_table_free(MojiLoraTable *t)
{
    if (!t)
        return;
    for (int side = 0; side < MOJI_LORA_SIDES; side++)
        g_hash_table_unref(t->flat[side]);
    g_ptr_array_unref(t->targets);
    g_free(t);
}

GPtrArray *moji_lora_table_targets(const MojiLoraTable *t)
{
    return t->targets;
}

/* transformers 5 leaves out the text encoder's own prefix; old diffusers named the layers of every
 * attention as the U-Net's, and the last one without its ".0". */
static MojiLoraTarget *find_on(const MojiLoraTable *t, MojiLoraSide side, const char *flat)
{
    static const struct {
        const char *old, *now;
    } layers[MOJI_LORA_SIDES][4] = {
        [MOJI_LORA_UNET] = {{"_to_out", "_to_out_0"}},
        [MOJI_LORA_TEXT] = {{"_attn_to_q", "_attn_q_proj"},
                            {"_attn_to_k", "_attn_k_proj"},
                            {"_attn_to_v", "_attn_v_proj"},
                            {"_attn_to_out", "_attn_out_proj"}},
    };
    MojiLoraTarget *found = g_hash_table_lookup(t->flat[side], flat);
    for (int i = 0; !found && i < 4 && layers[side][i].old; i++) {
        const char *old = layers[side][i].old;
        if (!g_str_has_suffix(flat, old))
            continue;
        g_autofree char *now =
            g_strdup_printf("%.*s%s", (int)(strlen(flat) - strlen(old)), flat, layers[side][i].now);
        found = g_hash_table_lookup(t->flat[side], now);
    }
    if (!found && side == MOJI_LORA_TEXT && !g_str_has_prefix(flat, "text_model_")) {
        g_autofree char *full = g_strconcat("text_model_", flat, NULL);
        found = find_on(t, side, full);
    }
    return found;
}

MojiLoraTarget *moji_lora_table_find(const MojiLoraTable *t, const MojiLoraKey *key)
{
    MojiLoraTarget *found = NULL;
    for (int side = 0; !found && side < MOJI_LORA_SIDES; side++)
        if (key->side == MOJI_LORA_ANY || (int)key->side == side)
            found = find_on(t, side, key->module);
    return found;
}
