/* lora.c: see lora.h. Opening sorts out the names; merging goes through the model tensor by tensor,
 * a block of rows at a time: W, then what each LoRA adds. */
#include "lora.h"
#include "cpu/host.h"
#include "json.h"
#include "lora_names.h"
#include "stage.h"
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_VALUES (1 << 16) /* of rows: with its copies it stays in a core's cache */

typedef struct {
    MojiWeight *tensor;
    MojiLoraKey key;
} Entry;

struct MojiLora {
    MojiWeights *weights;
    GArray *entries;       /* of Entry */
    JsonParser *settings;  /* PEFT's, or NULL */
    JsonObject *peft;      /* owned by settings */
    gboolean peft_by_part; /* its members begin with "unet." or "text_encoder." */
};

/* ---- opening ---- */

static void clear_entry(gpointer data)
{
    g_free(((Entry *)data)->key.module);
}

void moji_lora_free(MojiLora *l)
{
    if (!l)
        return;
    g_clear_object(&l->settings);
    g_array_unref(l->entries);
    moji_weights_free(l->weights);
    g_free(l);
}

const char *moji_lora_path(const MojiLora *l)
{
    return moji_weights_path(l->weights);
}

guint moji_lora_tensors(const MojiLora *l)
{
    return l->entries->len;
}

GHashTable *moji_lora_metadata(const MojiLora *l)
{
    return moji_weights_metadata(l->weights);
}

/* diffusers puts PEFT's settings into the file's metadata, PEFT itself beside the file. */
static gboolean read_settings(MojiLora *l, GError **error)
{
    const char *path = moji_lora_path(l);
    const char *text = g_hash_table_lookup(moji_lora_metadata(l), "lora_adapter_metadata");
    g_autofree char *folder = g_path_get_dirname(path);
    g_autofree char *beside = g_build_filename(folder, "adapter_config.json", NULL);
    if (text) {
        g_autoptr(GError) why = NULL;
        l->peft_by_part = TRUE;
        l->settings =
            moji_json_parse(text, strlen(text), FALSE, "lora_adapter_metadata", &l->peft, &why);
        if (!l->settings)
            moji_error_file(error, path, "%s", why->message);
    } else if (g_file_test(beside, G_FILE_TEST_IS_REGULAR)) {
        l->settings = moji_json_open(beside, &l->peft, error);
    } else {
        return TRUE;
    }
    return l->settings != NULL;
}

static gboolean refuse_key(const MojiLora *l, const char *name, guint known, GError **error)
{
    static const char *const others[][2] = {{".oft_", "OFT"},
                                            {".on_input", "IA3"},
                                            {".a1.", "GLoRA"},
                                            {".b1.", "GLoRA"},
                                            {"bundle_emb.", "a textual inversion in the file"},
                                            {".bias_indices", "a sparse bias"}};
    const char *kind = NULL;
    for (gsize i = 0; i < G_N_ELEMENTS(others); i++)
        if (strstr(name, others[i][0]))
            kind = others[i][1];
    if (kind)
        moji_error_file(error, moji_lora_path(l), "tensor %s: this is %s, which is not supported",
                        name, kind);
    else if (known)
        moji_error_file(error, moji_lora_path(l), "tensor %s is none that a LoRA has", name);
    else
        moji_error_file(error, moji_lora_path(l),
                        "is no LoRA: it has tensors as %s, expected ones as "
                        "lora_unet_....lora_down.weight or unet.....lora_A.weight",
                        name);
    return FALSE;
}

static gboolean read_keys(MojiLora *l, GError **error)
{
    GPtrArray *list = moji_weights_list(l->weights);
    GHashTableIter passed_over;
    gpointer name, why;
    for (guint i = 0; i < list->len; i++) {
        Entry e = {.tensor = list->pdata[i]};
        if (!moji_lora_key_parse(e.tensor->name, &e.key))
            return refuse_key(l, e.tensor->name, l->entries->len, error);
        g_array_append_val(l->entries, e);
    }
    g_hash_table_iter_init(&passed_over, moji_weights_unusable(l->weights));
    if (g_hash_table_iter_next(&passed_over, &name, &why))
        moji_error_file(error, moji_lora_path(l), "tensor %s is %s", (char *)name, (char *)why);
    else if (list->len == 0)
        moji_error_file(error, moji_lora_path(l), "has no tensors");
    else
        return TRUE;
    return FALSE;
}

MojiLora *moji_lora_new(MojiWeights *weights, GError **error)
{
    MojiLora *l = g_new0(MojiLora, 1);
    l->weights = weights;
    l->entries = g_array_new(FALSE, FALSE, sizeof(Entry));
    g_array_set_clear_func(l->entries, clear_entry);
    if (!read_keys(l, error) || !read_settings(l, error))
        g_clear_pointer(&l, moji_lora_free);
    return l;
}

MojiLora *moji_lora_open(const char *path, GError **error)
{
    MojiWeights *w = moji_weights_open(path, error);
    return w ? moji_lora_new(w, error) : NULL;
}

/* ---- what it is ---- */

/* By a name alone; NULL if it does not tell. */
static const char *base_of_name(const char *name, const char *module)
{
    static const char *const marks[][2] = {
        {"lora_te2_", "SDXL"},
        {"text_encoder_2.", "SDXL"},
        {"label_emb", "SDXL"},
        {"add_embedding", "SDXL"},
        {"double_blocks", "Flux or SD 3"},
        {"single_transformer_blocks", "Flux or SD 3"},
        {"joint_blocks", "Flux or SD 3"},
    };
    for (gsize i = 0; i < G_N_ELEMENTS(marks); i++)
        if (strstr(name, marks[i][0]))
            return marks[i][1];
    const char *deep = strstr(module, "_transformer_blocks_");
    return deep && deep[strlen("_transformer_blocks_")] > '0' ? "SDXL" : NULL;
}

/* By the width of the text that a cross attention takes. */
static const char *base_of_shape(const Entry *e)
{
    const MojiWeight *w = e->tensor;
    gboolean matrix = e->key.part == MOJI_LORA_DOWN || e->key.part == MOJI_LORA_HADA_W1_B;
    if (!matrix || w->rank < 2 || !strstr(e->key.module, "_attn2_to_k"))
        return NULL;
    return w->dim[1] == 768    ? "SD 1.x"
           : w->dim[1] == 1024 ? "SD 2.x"
           : w->dim[1] == 2048 ? "SDXL"
                               : NULL;
}

static const char *base_of_metadata(GHashTable *metadata)
{
    static const char *const words[][2] = {{"sdxl", "SDXL"},        {"diffusion-xl", "SDXL"},
                                           {"sd_v2", "SD 2.x"},     {"diffusion-v2", "SD 2.x"},
                                           {"sd_v1", "SD 1.x"},     {"diffusion-v1", "SD 1.x"},
                                           {"flux", "Flux or SD 3"}};
    static const char *const members[] = {"ss_base_model_version", "modelspec.architecture"};
    for (gsize k = 0; k < G_N_ELEMENTS(members); k++) {
        const char *value = g_hash_table_lookup(metadata, members[k]);
        for (gsize i = 0; value && i < G_N_ELEMENTS(words); i++)
            if (strstr(value, words[i][0]))
                return words[i][1];
    }
    return NULL;
}

const char *moji_lora_base(const MojiLora *l)
{
    const char *base = NULL;
    for (guint i = 0; !base && i < l->entries->len; i++) {
        const Entry *e = &g_array_index(l->entries, Entry, i);
        base = base_of_name(e->tensor->name, e->key.module);
    }
    for (guint i = 0; !base && i < l->entries->len; i++)
        base = base_of_shape(&g_array_index(l->entries, Entry, i));
    return base ? base : base_of_metadata(moji_lora_metadata(l));
}

static const char *kind_of_part(MojiLoraPart part)
{
    switch (part) {
    case MOJI_LORA_MID:
        return "LoCon with a core";
    case MOJI_LORA_DOWN:
        return "LoRA";
    case MOJI_LORA_HADA_W1_A:
        return "LoHa";
    case MOJI_LORA_LOKR_W1:
    case MOJI_LORA_LOKR_W1_A:
        return "LoKr";
    case MOJI_LORA_DIFF:
        return "full difference";
    case MOJI_LORA_DORA_SCALE:
    case MOJI_LORA_MAGNITUDE:
        return "DoRA";
    default:
        return NULL;
    }
}

/* Words once each, in the order they come. */
static void add_word(GString *text, const char *word)
{
    if (strstr(text->str, word))
        return;
    g_string_append_printf(text, "%s%s", text->len ? " and " : "", word);
}

char *moji_lora_describe(const MojiLora *l)
{
    GString *text = g_string_new(NULL);
    g_autoptr(GHashTable) modules = g_hash_table_new(g_str_hash, g_str_equal);
    gint64 low = G_MAXINT64, high = 0;
    guint count[2] = {0};
    for (guint i = 0; i < l->entries->len; i++) {
        const Entry *e = &g_array_index(l->entries, Entry, i);
        const char *kind = kind_of_part(e->key.part);
        if (kind)
            add_word(text, kind);
        if (g_hash_table_add(modules, e->key.module))
            count[e->key.side == MOJI_LORA_TEXT || strstr(e->key.module, "encoder_layers_")]++;
        if (e->key.part == MOJI_LORA_DOWN || e->key.part == MOJI_LORA_HADA_W1_B ||
            e->key.part == MOJI_LORA_LOKR_W2_B) {
            gint64 rank = e->tensor->rank ? e->tensor->dim[0] : 0;
            low = MIN(low, rank);
            high = MAX(high, rank);
        }
    }
    if (high && low == high)
        g_string_append_printf(text, ", rank %" G_GINT64_FORMAT, high);
    else if (high)
        g_string_append_printf(text, ", ranks %" G_GINT64_FORMAT " to %" G_GINT64_FORMAT, low,
                               high);
    g_string_append_printf(text, ", %u modules of the U-Net, %u of the text encoder", count[0],
                           count[1]);
    return g_string_free(text, FALSE);
}

/* ---- PEFT's alpha ---- */

static JsonObject *object_member(JsonObject *o, const char *name)
{
    JsonNode *node = json_object_get_member(o, name);
    return node && JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
}

/* A pattern is the end of a module's path, or all of it behind a "^". PEFT allows expressions; no
 * writer of LoRAs makes any. */
static gboolean pattern_fits(const char *pattern, const char *module)
{
    if (*pattern == '^')
        return !strcmp(pattern + 1, module);
    gsize n = strlen(pattern), all = strlen(module);
    return all >= n && !strcmp(module + all - n, pattern) &&
           (all == n || module[all - n - 1] == '.');
}

/* alpha for a module, NAN if the settings do not tell. */
static gboolean peft_alpha(const MojiLora *l, const MojiLoraTarget *t, MojiLoraModule *m,
                           GError **error)
{
    m->alpha = NAN;
    if (!l->peft)
        return TRUE;
    const char *part = !l->peft_by_part            ? ""
                       : t->side == MOJI_LORA_UNET ? "unet."
                                                   : "text_encoder.";
    g_autofree char *alpha = g_strconcat(part, "lora_alpha", NULL);
    g_autofree char *root = g_strconcat(part, "use_rslora", NULL);
    g_autofree char *pattern = g_strconcat(part, "alpha_pattern", NULL);
    if (!moji_json_double(l->peft, m->path, alpha, &m->alpha, error) ||
        !moji_json_bool(l->peft, m->path, root, &m->root, error))
        return FALSE;
    JsonObject *patterns = object_member(l->peft, pattern);
    JsonObjectIter iter;
    const char *name;
    JsonNode *node;
    if (!patterns)
        return TRUE;
    json_object_iter_init_ordered(&iter, patterns);
    while (json_object_iter_next_ordered(&iter, &name, &node))
        if (pattern_fits(name, t->name))
            return moji_json_double(patterns, m->path, name, &m->alpha, error);
    return TRUE;
}

/* ---- matching ---- */

/* " (made for SDXL; ...)", or nothing. Caller frees. */
static char *made_for(const MojiLora *l, const MojiModel *m)
{
    const char *base = moji_lora_base(l);
    return base
               ? g_strdup_printf("; this LoRA is for %s, and this model takes text that is %d wide",
                                 base, m->unet.cross_attention_dim)
               : g_strdup("");
}

static void refuse_unmatched(const MojiLora *l, const MojiModel *m, const MojiLoraTable *table,
                             const Entry *first, guint unmatched, GError **error)
{
    g_autofree char *base = made_for(l, m);
    const MojiLoraTarget *example = NULL;
    GPtrArray *targets = moji_lora_table_targets(table);
    for (guint i = 0; i < targets->len && !example; i++) {
        const MojiLoraTarget *t = targets->pdata[i];
        if (t->weight.rows > 1 && (first->key.side == MOJI_LORA_ANY || t->side == first->key.side))
            example = t;
    }
    moji_error_file(error, moji_lora_path(l),
                    "%u of its %u tensors fit nothing in this model; the first is %s, expected a "
                    "module such as %s%s",
                    unmatched, l->entries->len, first->tensor->name, example->name, base);
}

/* MojiLoraTarget -> MojiLoraModule for all of the file; NULL and an error if one fits nothing. */
static GHashTable *match(const MojiLora *l, const MojiModel *m, const MojiLoraTable *table,
                         GError **error)
{
    g_autoptr(GHashTable) modules = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    const Entry *first = NULL;
    guint unmatched = 0;
    for (guint i = 0; i < l->entries->len; i++) {
        const Entry *e = &g_array_index(l->entries, Entry, i);
        MojiLoraTarget *t = moji_lora_table_find(table, &e->key);
        if (!t) {
            first = first ? first : e;
            unmatched++;
            continue;
        }
        MojiLoraModule *module = g_hash_table_lookup(modules, t);
        if (!module) {
            module = g_new0(MojiLoraModule, 1);
            module->path = moji_lora_path(l);
            g_hash_table_insert(modules, t, module);
            if (!peft_alpha(l, t, module, error))
                return NULL;
        }
        if (module->part[e->key.part]) {
            moji_error_file(error, module->path, "tensors %s and %s are for the same thing",
                            module->part[e->key.part]->name, e->tensor->name);
            return NULL;
        }
        module->part[e->key.part] = e->tensor;
    }
    if (!unmatched)
        return g_steal_pointer(&modules);
    refuse_unmatched(l, m, table, first, unmatched, error);
    return NULL;
}

/* ---- merging ---- */

typedef struct {
    const MojiModel *model;
    MojiType type;
    int threads;
    MojiLoraUse *use;
    int n;
    GHashTable **modules; /* of each use */
    guint64 bytes;        /* of what is merged */
} Merge;

typedef struct { /* one tensor's */
    const char *name;
    MojiLoraShape shape;
    const MojiWeight *from;
    MojiLoraDelta **delta; /* n of them, NULL where a LoRA leaves the tensor alone */
    const float *by;
    int n;
    MojiType type;
    void *to;
} Job;

static gsize job_block(const Job *j)
{
    gint64 columns = j->shape.in * j->shape.area;
    return (gsize)CLAMP(BLOCK_VALUES / columns, 1, j->shape.rows);
}

static void load_rows(const Job *j, gint64 first, gint64 n, float *w)
{
    gsize columns = j->shape.in * j->shape.area;
    moji_host_load(w,
                   (const char *)j->from->data + first * columns * moji_type_bytes(j->from->type),
                   j->from->type, n * columns);
}

/* What norms by input channel need: a pass over all rows. */
static void measure_norms(const Job *j, MojiLoraDelta *d)
{
    gsize block = job_block(j), values = block * j->shape.in * j->shape.area;
    g_autofree float *w = g_new(float, values), *scratch = g_new(float, 3 * values);
    g_autofree double *sum = g_new0(double, j->shape.in);
    for (gint64 first = 0; first < j->shape.rows; first += block) {
        gint64 n = MIN((gint64)block, j->shape.rows - first);
        load_rows(j, first, n, w);
        moji_lora_delta_squares(d, first, n, w, sum, scratch);
    }
    moji_lora_delta_norms(d, sum);
}

/* FALSE if a number is out of range. buffer: five blocks. */
static gboolean merge_block(const Job *j, gint64 first, gint64 n, float *buffer)
{
    gsize columns = j->shape.in * j->shape.area, values = n * columns;
    float *w = buffer, *y = buffer + values, *scratch = buffer + 2 * values;
    load_rows(j, first, n, w);
    memcpy(y, w, values * sizeof *y);
    for (int i = 0; i < j->n; i++)
        if (j->delta[i])
            moji_lora_delta_add(j->delta[i], first, n, w, j->by[i], y, scratch);
    gboolean finite = TRUE;
    for (gsize i = 0; i < values; i++)
        finite &= isfinite(y[i]) != 0;
    moji_host_store((char *)j->to + first * columns * moji_type_bytes(j->type), j->type, y, values);
    return finite;
}

static gboolean run_job(Job *j, int threads)
{
    gint64 block = (gint64)job_block(j), blocks = (j->shape.rows + block - 1) / block;
    gsize values = block * j->shape.in * j->shape.area;
    int wrong = 0;
    for (int i = 0; i < j->n; i++)
        if (j->delta[i] && moji_lora_delta_wants_norms(j->delta[i]))
            measure_norms(j, j->delta[i]);
#pragma omp parallel num_threads(threads) reduction(+ : wrong)
    {
        g_autofree float *buffer = g_new(float, 5 * values);
#pragma omp for schedule(dynamic)
        for (gint64 k = 0; k < blocks; k++)
            wrong += !merge_block(j, k * block, MIN(block, j->shape.rows - k * block), buffer);
    }
    return !wrong;
}

/* Merges NAME.weight or NAME.bias with what the LoRAs have for it. */
static gboolean merge_tensor(Merge *g, const MojiLoraTarget *t, gboolean bias,
                             MojiLoraDelta **delta, const float *by, GError **error)
{
    MojiWeights *weights =
        t->side == MOJI_LORA_UNET ? g->model->unet_weights : g->model->clip_weights;
    g_autofree char *name = g_strconcat(t->name, bias ? ".bias" : ".weight", NULL);
    MojiLoraShape shape = bias ? (MojiLoraShape){1, t->bias, 1} : t->weight;
    gint64 count = shape.rows * shape.in * shape.area;
    MojiWeight *from = moji_weights_pristine(weights, name);
    MojiType type = shape.rows == 1 ? MOJI_F32 : g->type;
    /* Whatever else is wrong with it, preparing a tape will say. */
    if (!from || (from->type != MOJI_F32 && from->type != MOJI_F16 && from->type != MOJI_BF16) ||
        (gint64)(from->bytes / moji_type_bytes(from->type)) != count)
        return TRUE;
    Job job = {.name = name,
               .shape = shape,
               .from = from,
               .delta = delta,
               .by = by,
               .n = g->n,
               .type = type,
               .to = g_try_malloc(count * moji_type_bytes(type))};
    if (!job.to) {
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_MEMORY,
                    "Not enough memory to merge LoRAs into %s", name);
        return FALSE;
    }
    if (!run_job(&job, g->threads)) {
        free(job.to);
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_FILE,
                    "The LoRAs make numbers of %s that are not finite; lower their weights", name);
        return FALSE;
    }
    moji_weights_override(weights, name, type, job.to);
    return TRUE;
}

/* The error of a tensor that does not fit, with what the LoRA is for. */
static void explain_shape(const Merge *g, const MojiLora *l, GError *why, GError **error)
{
    g_autofree char *base = made_for(l, g->model);
    g_set_error(error, why->domain, why->code, "%s%s", why->message, base);
    g_error_free(why);
}

static gboolean merge_target(Merge *g, const MojiLoraTarget *t, gboolean bias, GError **error)
{
    g_autofree MojiLoraDelta **delta = g_new0(MojiLoraDelta *, g->n);
    g_autofree float *by = g_new0(float, g->n);
    gboolean ok = TRUE, any = FALSE;
    for (int i = 0; ok && i < g->n; i++) {
        const MojiLoraModule *m = g_hash_table_lookup(g->modules[i], t);
        GError *why = NULL;
        MojiLoraKind kind;
        by[i] = (float)(t->side == MOJI_LORA_UNET ? g->use[i].unet : g->use[i].text);
        if (!m || by[i] == 0)
            continue;
        ok = moji_lora_module_kind(m, &kind, error);
        if (!ok || (bias ? !moji_lora_module_has_bias(m) : kind == MOJI_LORA_BIAS_ONLY))
            continue;
        delta[i] =
            moji_lora_delta_new(m, bias, bias ? (MojiLoraShape){1, t->bias, 1} : t->weight, &why);
        ok = any = delta[i] != NULL;
        if (!ok)
            explain_shape(g, g->use[i].lora, why, error);
    }
    ok = ok && (!any || merge_tensor(g, t, bias, delta, by, error));
    for (int i = 0; i < g->n; i++)
        moji_lora_delta_free(delta[i]);
    return ok;
}

static gboolean bias_fits(const Merge *g, const MojiLoraTarget *t, GError **error)
{
    for (int i = 0; i < g->n && !t->bias; i++) {
        const MojiLoraModule *m = g_hash_table_lookup(g->modules[i], t);
        if (m && moji_lora_module_has_bias(m)) {
            moji_error_file(error, m->path, "has a bias for %s, which has none in this model",
                            t->name);
            return FALSE;
        }
    }
    return TRUE;
}

/* Matches everything before anything is computed; counts what will be applied, and its bytes. */
static gboolean match_all(Merge *g, const MojiLoraTable *table, GError **error)
{
    for (int i = 0; i < g->n; i++) {
        MojiLoraUse *use = &g->use[i];
        g->modules[i] = match(use->lora, g->model, table, error);
        if (!g->modules[i])
            return FALSE;
        GHashTableIter iter;
        gpointer target, module;
        use->applied = 0;
        g_hash_table_iter_init(&iter, g->modules[i]);
        while (g_hash_table_iter_next(&iter, &target, &module)) {
            const MojiLoraTarget *t = target;
            const MojiLoraModule *m = module;
            if ((t->side == MOJI_LORA_UNET ? use->unet : use->text) == 0)
                continue;
            g->bytes += t->weight.rows * t->weight.in * t->weight.area * moji_type_bytes(g->type);
            for (int p = 0; p < MOJI_LORA_PARTS; p++)
                use->applied += m->part[p] != NULL;
        }
    }
    return TRUE;
}

static gboolean merge_all(Merge *g, const MojiLoraTable *table, GCancellable *cancellable,
                          GError **error)
{
    GPtrArray *targets = moji_lora_table_targets(table);
    if (!match_all(g, table, error))
        return FALSE;
    if (g->bytes > moji_stage_memory_left(NULL)) {
        g_autofree char *wanted = g_format_size_full(g->bytes, G_FORMAT_SIZE_IEC_UNITS);
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_MEMORY,
                    "Merging these LoRAs takes %s of memory, which is not there", wanted);
        return FALSE;
    }
    for (guint i = 0; i < targets->len; i++) {
        const MojiLoraTarget *t = targets->pdata[i];
        if (g_cancellable_is_cancelled(cancellable)) {
            g_set_error(error, MOJI_ERROR, MOJI_ERROR_CANCELLED, "Cancelled");
            return FALSE;
        }
        if (!bias_fits(g, t, error) || !merge_target(g, t, FALSE, error) ||
            (t->bias && !merge_target(g, t, TRUE, error)))
            return FALSE;
    }
    return TRUE;
}

/* The model's modules by name: making the list costs more than merging a small LoRA does. */
static const MojiLoraTable *table_of(MojiModel *m)
{
    if (!m->lora_table) {
        m->lora_table = moji_lora_table_new(m);
        m->free_lora_table = (GDestroyNotify)moji_lora_table_free;
    }
    return m->lora_table;
}

gboolean moji_lora_merge(MojiModel *m, MojiType type, int threads, MojiLoraUse *uses, int n,
                         GCancellable *cancellable, GError **error)
{
    moji_weights_restore(m->unet_weights);
    moji_weights_restore(m->clip_weights);
    if (n == 0)
        return TRUE;
    Merge g = {.model = m, .type = type, .use = uses, .n = n};
    g.threads = threads > 0 ? threads : omp_get_num_procs();
    g.modules = g_new0(GHashTable *, n);
    gboolean ok = merge_all(&g, table_of(m), cancellable, error);
    if (!ok) {
        moji_weights_restore(m->unet_weights);
        moji_weights_restore(m->clip_weights);
    }
    for (int i = 0; i < n; i++)
        if (g.modules[i])
            g_hash_table_unref(g.modules[i]);
    g_free(g.modules);
    return ok;
}

guint64 moji_lora_merged_bytes(const MojiModel *m)
{
    MojiWeights *const parts[] = {m->unet_weights, m->clip_weights};
    guint64 bytes = 0;
    for (gsize p = 0; p < G_N_ELEMENTS(parts); p++) {
        GPtrArray *list = moji_weights_list(parts[p]);
        for (guint i = 0; i < list->len; i++) {
            const MojiWeight *w = list->pdata[i];
            const MojiWeight *now = moji_weights_find(parts[p], w->name);
            bytes += now == w ? 0 : now->bytes;
        }
    }
    return bytes;
}
