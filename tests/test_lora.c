/* test_lora.c: LoRA files of every kind, against what diffusers, PEFT and LyCORIS make of them
 * (tests/fixtures/make_lora.py): the merged weights, and pictures. Then changing them, naming them,
 * and files that are not what they should be. */
#include "draw.h"
#include "lora.h"
#include "lora_names.h"
#include "order.h"
#include "styles.h"
#include "test.h"
#include <glib/gstdio.h>
#include <json-glib/json-glib.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *const CASES[] = {"kohya",     "ldm",        "old",      "new",    "peft",
                                    "folder",    "locon",      "loha",     "lokr",   "full",
                                    "locon-mid", "loha-t",     "dora",     "lokr-t", "dora-in",
                                    "doha",      "lokr-whole", "dora-peft"};

static const char *name; /* the running row's case */
static char *tiny;
static MojiEngine *engine;

/* The LoRA of a case: a file, or PEFT's folder of two. Caller frees. */
static char *lora_path(const char *of)
{
    g_autofree char *relative = !strcmp(of, "folder")
                                    ? g_strdup("lora/folder/adapter_model.safetensors")
                                    : g_strdup_printf("lora/%s.safetensors", of);
    return moji_test_path(relative);
}

static MojiModel *open_model(void)
{
    g_autoptr(GError) error = NULL;
    MojiModel *m = moji_model_open(tiny, &error);
    MOJI_CHECK(m, "%s", error->message);
    return m;
}

static MojiLora *open_lora(const char *of)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *path = lora_path(of);
    MojiLora *l = moji_lora_open(path, &error);
    MOJI_CHECK(l, "%s", error->message);
    return l;
}

static gboolean merge(MojiModel *m, MojiType type, MojiLora *l, double unet, double text)
{
    g_autoptr(GError) error = NULL;
    MojiLoraUse use = {.lora = l, .unet = unet, .text = text};
    gboolean ok = moji_lora_merge(m, type, 2, &use, 1, NULL, &error);
    MOJI_CHECK(ok, "%s", error->message);
    return ok;
}

static JsonParser *read_json(const char *file, JsonObject **root)
{
    g_autofree char *relative = g_strdup_printf("lora/%s.json", file);
    g_autofree char *path = moji_test_path(relative);
    JsonParser *parser = json_parser_new();
    if (!json_parser_load_from_file(parser, path, NULL))
        g_error("fixture %s cannot be read", path);
    *root = json_node_get_object(json_parser_get_root(parser));
    return parser;
}

/* As floats, whatever it is stored as. Caller frees. */
static float *floats(const MojiWeight *w, gsize *n)
{
    *n = w->bytes / moji_type_bytes(w->type);
    float *values = g_new(float, *n);
    for (gsize i = 0; i < *n; i++) {
        guint16 half;
        guint32 bits;
        if (w->type == MOJI_BF16) {
            memcpy(&half, (const char *)w->data + 2 * i, 2);
            bits = (guint32)half << 16;
            memcpy(&values[i], &bits, 4);
        } else {
            g_assert(w->type == MOJI_F32);
            memcpy(&values[i], (const char *)w->data + 4 * i, 4);
        }
    }
    return values;
}

/* ---- merged weights ---- */

/* |print - expected| against what 1e-5 of the tensor can make of it. */
static void check_print(const MojiWeight *w, const char *key, JsonObject *expected)
{
    gsize n;
    g_autofree float *values = floats(w, &n);
    JsonArray *print = json_object_get_array_member(expected, "print");
    double norm = json_object_get_double_member(expected, "norm");
    for (int k = 0; k < 3; k++) {
        double sum = 0, want = json_array_get_double_element(print, k);
        for (gsize i = 0; i < n; i++)
            sum += values[i] * sin((k + 1) * (double)(i + 1));
        MOJI_CHECK(fabs(sum - want) <= 1e-5 * norm, "%s: print %d is %.9g, expected %.9g (norm %g)",
                   key, k, sum, want, norm);
    }
}

static guint overridden(MojiWeights *weights)
{
    GPtrArray *list = moji_weights_list(weights);
    guint n = 0;
    for (guint i = 0; i < list->len; i++) {
        const MojiWeight *w = list->pdata[i];
        n += moji_weights_find(weights, w->name) != w;
    }
    return n;
}

static void test_weights(void)
{
    g_autoptr(GError) error = NULL;
    JsonObject *root;
    g_autoptr(JsonParser) parser = read_json(name, &root);
    JsonObject *weights = json_object_get_object_member(root, "weights");
    MojiModel *m = open_model();
    MojiLora *l = open_lora(name);
    MojiLoraUse use = {.lora = l, .unet = 1, .text = 1};
    if (m && l &&
        MOJI_CHECK(moji_lora_merge(m, MOJI_F32, 1, &use, 1, NULL, &error), "%s", error->message)) {
        JsonObjectIter iter;
        const char *key;
        JsonNode *node;
        json_object_iter_init(&iter, weights);
        while (json_object_iter_next(&iter, &key, &node)) {
            gboolean unet = g_str_has_prefix(key, "unet.");
            MojiWeight *w = moji_weights_find(unet ? m->unet_weights : m->clip_weights, key + 5);
            if (MOJI_CHECK(w, "%s is not in the model", key))
                check_print(w, key, json_node_get_object(node));
        }
        guint changed = overridden(m->unet_weights) + overridden(m->clip_weights);
        MOJI_CHECK(changed == json_object_get_size(weights), "%u weights were changed, expected %u",
                   changed, json_object_get_size(weights));
        MOJI_CHECK(use.applied == moji_lora_tensors(l), "%u of %u tensors applied", use.applied,
                   moji_lora_tensors(l));
        if (!json_object_get_null_member(root, "tensors"))
            MOJI_CHECK(use.applied == json_object_get_int_member(root, "tensors"),
                       "%u tensors applied", use.applied);
    }
    moji_lora_free(l);
    moji_model_free(m);
}

/* W' x against W x + s up (down x), in double: what runs a LoRA without merging it. */
static void check_runtime(MojiWeights *weights, const char *module, const MojiWeight *down,
                          const MojiWeight *up, double s)
{
    g_autofree char *full = g_strconcat(module, ".weight", NULL);
    gsize n, nd, nu;
    g_autofree float *merged = floats(moji_weights_find(weights, full), &n);
    g_autofree float *plain = floats(moji_weights_pristine(weights, full), &n);
    g_autofree float *a = floats(down, &nd), *b = floats(up, &nu);
    gsize rank = down->dim[0], in = nd / rank, out = nu / rank;
    g_autofree double *middle = g_new0(double, rank);
    double worst = 0, largest = 0;
    for (gsize r = 0; r < rank; r++)
        for (gsize i = 0; i < in; i++)
            middle[r] += a[r * in + i] * cos(3.0 * i);
    for (gsize o = 0; o < out; o++) {
        double got = 0, want = 0;
        for (gsize i = 0; i < in; i++) {
            got += merged[o * in + i] * cos(3.0 * i);
            want += plain[o * in + i] * cos(3.0 * i);
        }
        for (gsize r = 0; r < rank; r++)
            want += s * b[o * rank + r] * middle[r];
        worst = MAX(worst, fabs(got - want));
        largest = MAX(largest, fabs(want));
    }
    MOJI_CHECK(worst <= 1e-5 * largest, "%s differs by %g of %g", module, worst, largest);
}

static void test_runtime(void)
{
    MojiModel *m = open_model();
    g_autofree char *path = lora_path("locon");
    MojiWeights *file = moji_weights_open(path, NULL);
    MojiLora *l = open_lora("locon");
    MojiLoraTable *table = moji_lora_table_new(m);
    GPtrArray *list = moji_weights_list(file);
    int modules = 0;
    merge(m, MOJI_F32, l, 0.6, 0.6);
    for (guint i = 0; i < list->len; i++) {
        const MojiWeight *down = list->pdata[i];
        MojiLoraKey key;
        if (!moji_lora_key_parse(down->name, &key))
            continue;
        MojiLoraTarget *t = moji_lora_table_find(table, &key);
        g_free(key.module);
        if (key.part != MOJI_LORA_DOWN || !t || t->side != MOJI_LORA_UNET)
            continue;
        g_auto(GStrv) halves = g_strsplit(down->name, "lora_down", 2);
        g_autofree char *up = g_strjoinv("lora_up", halves);
        check_runtime(m->unet_weights, t->name, down, moji_weights_find(file, up), 0.6 * 2 / 3);
        modules++;
    }
    MOJI_CHECK(modules > 20, "only %d modules were compared", modules);
    moji_lora_table_free(table);
    moji_lora_free(l);
    moji_weights_free(file);
    moji_model_free(m);
}

/* The tensor W' at a weight, of a LoRA that changes it. Caller frees. */
static float *merged_at(MojiModel *m, MojiLora *l, const char *tensor, double weight, gsize *n)
{
    merge(m, MOJI_F32, l, weight, weight);
    return floats(moji_weights_find(m->unet_weights, tensor), n);
}

/* W + m (W' - W) at every weight, for DoRA too, and one LoRA after another leaves nothing. */
static void test_strength(void)
{
    const char *tensor = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight";
    MojiModel *m = open_model();
    MojiLora *l = open_lora(name), *other = open_lora(strcmp(name, "full") ? "full" : "kohya");
    gsize n;
    g_autofree float *plain = merged_at(m, l, tensor, 0, &n);
    g_autofree float *one = merged_at(m, l, tensor, 1, &n);
    g_autofree float *half = merged_at(m, l, tensor, 0.5, &n);
    g_autofree float *minus = merged_at(m, l, tensor, -1.5, &n);
    g_autofree float *in_between = merged_at(m, other, tensor, 1, &n);
    g_autofree float *again = merged_at(m, l, tensor, 1, &n);
    double change = 0;
    for (gsize i = 0; i < n; i++) {
        double d = one[i] - plain[i], scale = fabs(plain[i]) + fabs(d) + 1e-3;
        change = MAX(change, fabs(d));
        MOJI_CHECK(fabs(half[i] - (plain[i] + 0.5 * d)) <= 1e-5 * scale, "half: %g", half[i]);
        MOJI_CHECK(fabs(minus[i] - (plain[i] - 1.5 * d)) <= 1e-5 * scale, "minus: %g", minus[i]);
    }
    MOJI_CHECK(change > 0.01, "the LoRA changes nothing");
    MOJI_CHECK(!memcmp(one, again, n * sizeof *one), "it is another after another LoRA");
    MOJI_CHECK(memcmp(one, in_between, n * sizeof *one), "the other LoRA does nothing");
    moji_lora_merge(m, MOJI_F32, 1, NULL, 0, NULL, NULL);
    MOJI_CHECK(overridden(m->unet_weights) == 0 && overridden(m->clip_weights) == 0,
               "not back to the file's own");
    moji_lora_free(l);
    moji_lora_free(other);
    moji_model_free(m);
}

static void test_sides(void)
{
    MojiModel *m = open_model();
    MojiLora *l = open_lora("kohya");
    MojiLoraUse use = {.lora = l, .unet = 0, .text = 0.5};
    moji_lora_merge(m, MOJI_F32, 1, &use, 1, NULL, NULL);
    MOJI_CHECK(overridden(m->unet_weights) == 0 && overridden(m->clip_weights) == 12,
               "text alone changed %u and %u", overridden(m->unet_weights),
               overridden(m->clip_weights));
    MOJI_CHECK(use.applied == 36, "%u tensors applied, expected 36", use.applied);
    use = (MojiLoraUse){.lora = l, .unet = 0.5, .text = 0};
    moji_lora_merge(m, MOJI_F32, 1, &use, 1, NULL, NULL);
    MOJI_CHECK(overridden(m->unet_weights) == 84 && overridden(m->clip_weights) == 0,
               "the U-Net alone changed %u and %u", overridden(m->unet_weights),
               overridden(m->clip_weights));
    moji_lora_free(l);
    moji_model_free(m);
}

/* Stored as the type that networks run in, rounded once; norms and biases as f32. */
static void test_types(void)
{
    MojiModel *m = open_model();
    MojiLora *l = open_lora("full");
    const char *matrix = "mid_block.resnets.0.conv1.weight";
    const char *norm = "up_blocks.2.resnets.0.norm1.weight";
    gsize n;
    g_autofree float *exact = merged_at(m, l, matrix, 1, &n);
    merge(m, MOJI_BF16, l, 1, 1);
    MojiWeight *w = moji_weights_find(m->unet_weights, matrix);
    MOJI_CHECK(w->type == MOJI_BF16 && w->bytes == 2 * n, "stored as %s", moji_type_name(w->type));
    MOJI_CHECK(moji_weights_find(m->unet_weights, norm)->type == MOJI_F32, "a norm is not f32");
    g_autofree float *rounded = floats(w, &n);
    for (gsize i = 0; i < n; i++)
        MOJI_CHECK(fabs(rounded[i] - exact[i]) <= fabs(exact[i]) / 256, "%g became %g", exact[i],
                   rounded[i]);
    moji_lora_free(l);
    moji_model_free(m);
}

static void test_cancel(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GCancellable) cancel = g_cancellable_new();
    MojiModel *m = open_model();
    MojiLora *l = open_lora("kohya");
    MojiLoraUse use = {.lora = l, .unet = 1, .text = 1};
    g_cancellable_cancel(cancel);
    MOJI_CHECK(!moji_lora_merge(m, MOJI_F32, 1, &use, 1, cancel, &error) &&
                   g_error_matches(error, MOJI_ERROR, MOJI_ERROR_CANCELLED),
               "it went on");
    MOJI_CHECK(overridden(m->clip_weights) == 0, "some were left merged");
    moji_lora_free(l);
    moji_model_free(m);
}

/* ---- pictures ---- */

static MojiRequest *request_new(void)
{
    JsonObject *o;
    g_autoptr(JsonParser) parser = read_json("all", &o);
    MojiRequest *r = moji_request_new();
    r->prompt = g_strdup(json_object_get_string_member(o, "prompt"));
    r->negative = g_strdup(json_object_get_string_member(o, "negative"));
    r->model = g_strdup(tiny);
    r->sampler = g_strdup("ddim");
    r->seed = json_object_get_int_member(o, "seed");
    r->steps = (int)json_object_get_int_member(o, "steps");
    r->guidance = json_object_get_double_member(o, "guidance");
    r->size = (int)json_object_get_int_member(o, "size");
    return r;
}

/* The picture with these entries, NULL-terminated. Caller frees. */
static MojiImage *draw(MojiRequest *r, const char *const *loras)
{
    g_autoptr(GError) error = NULL;
    g_strfreev(r->loras);
    r->loras = g_strdupv((char **)loras);
    GPtrArray *images = moji_engine_draw(engine, r, NULL, NULL, NULL, &error);
    if (!MOJI_CHECK(images, "%s", error->message))
        return moji_image_new(r->size, r->size);
    MojiImage *image = g_steal_pointer(&images->pdata[0]);
    g_ptr_array_set_free_func(images, NULL);
    g_ptr_array_unref(images);
    return image;
}

static void check_picture(const char *file, const MojiImage *image)
{
    g_autofree char *relative = g_strdup_printf("lora/%s.ppm", file);
    g_autofree char *path = moji_test_path(relative), *ppm = NULL;
    gsize bytes, pixels = (gsize)image->width * image->height, agree = 0;
    int width, height, start = 0;
    if (!g_file_get_contents(path, &ppm, &bytes, NULL) ||
        sscanf(ppm, "P6 %d %d 255%n", &width, &height, &start) != 2 || !start ||
        bytes != start + 1 + pixels * 3)
        g_error("fixture %s cannot be read", path);
    const guint8 *want = (const guint8 *)ppm + start + 1;
    for (gsize i = 0; i < pixels; i++) {
        int worst = 0;
        for (int c = 0; c < 3; c++)
            worst = MAX(worst, abs(image->rgba[i * 4 + c] - want[i * 3 + c]));
        agree += worst <= 1;
    }
    if (g_getenv("MOJI_TEST_FIGURES"))
        g_print("# %s: %.3f %% within one level\n", file, 100.0 * agree / pixels);
    MOJI_CHECK(agree >= 0.999 * pixels, "%s: %.3f %% of the pixels are within one level", file,
               100.0 * agree / pixels);
}

static void test_picture(void)
{
    g_autoptr(MojiRequest) r = request_new();
    g_autofree char *path = lora_path(name);
    moji_engine_set_type(engine, "f32");
    MojiImage *image = draw(r, (const char *const[]){path, NULL});
    check_picture(name, image);
    moji_image_free(image);
}

static gboolean same_pixels(const MojiImage *a, const MojiImage *b)
{
    return !memcmp(a->rgba, b->rgba, (gsize)a->width * a->height * 4);
}

/* On one warm engine: none, two, one of them, two, none. */
static void test_changing(void)
{
    g_autoptr(MojiRequest) r = request_new();
    g_autofree char *a = lora_path("kohya"), *b = lora_path("new");
    g_autofree char *first = g_strdup_printf("%s:0.7", a), *second = g_strdup_printf("%s:-0.5", b);
    const char *const none[] = {NULL}, *const two[] = {first, second, NULL};
    const char *const turned[] = {second, first, NULL}, *const one[] = {first, NULL};
    moji_engine_set_type(engine, name);
    MojiImage *images[] = {draw(r, none), draw(r, two),    draw(r, one),
                           draw(r, two),  draw(r, turned), draw(r, none)};
    if (!strcmp(name, "f32")) {
        check_picture("none", images[0]);
        check_picture("two", images[1]);
        check_picture("two", images[4]);
    }
    MOJI_CHECK(same_pixels(images[0], images[5]), "not the same without LoRAs as before");
    MOJI_CHECK(same_pixels(images[1], images[3]), "not the same with two LoRAs as before");
    MOJI_CHECK(!same_pixels(images[1], images[2]), "the second LoRA does nothing");
    for (gsize i = 0; i < G_N_ELEMENTS(images); i++)
        moji_image_free(images[i]);
}

static void test_recipe(void)
{
    g_autoptr(MojiRequest) r = request_new();
    g_autofree char *styles = moji_test_path("lora");
    g_setenv("MOJI_STYLES", styles, TRUE);
    g_free(r->prompt);
    r->prompt = g_strdup("<lora:kohya:0.5>, red cat <lora:new:unet=0.25,text=0> grinning");
    MojiImage *image = draw(r, (const char *const[]){"loha:2", NULL});
    g_autoptr(JsonNode) root = json_from_string(image->recipe, NULL);
    JsonObject *o = json_node_get_object(root);
    const char *prompt = json_object_get_string_member(o, "prompt");
    JsonArray *list = json_object_get_array_member(o, "loras");
    static const struct {
        const char *name;
        double unet, text;
        int applied, tensors;
    } want[] = {{"loha", 2, 2, 80, 80}, {"kohya", 0.5, 0.5, 288, 288}, {"new", 0.25, 0, 112, 128}};
    MOJI_CHECK(!strcmp(prompt, "red cat grinning"), "the prompt is \"%s\"", prompt);
    MOJI_CHECK(json_array_get_length(list) == 3, "%u LoRAs", json_array_get_length(list));
    for (int i = 0; i < 3; i++) {
        JsonObject *l = json_array_get_object_element(list, i);
        int applied = json_object_get_int_member(l, "applied");
        MOJI_CHECK(!strcmp(json_object_get_string_member(l, "name"), want[i].name) &&
                       json_object_get_double_member(l, "unet") == want[i].unet &&
                       json_object_get_double_member(l, "text") == want[i].text,
                   "LoRA %d is not %s", i, want[i].name);
        MOJI_CHECK(applied == want[i].applied &&
                       json_object_get_int_member(l, "tensors") == want[i].tensors,
                   "%s: %d tensors applied", want[i].name, applied);
        MOJI_CHECK(strlen(json_object_get_string_member(l, "weights")) == 16, "no identity");
    }
    moji_image_free(image);
    g_unsetenv("MOJI_STYLES");
}

/* ---- names ---- */

static void test_keys(void)
{
    static const struct {
        const char *name, *module;
        MojiLoraPart part;
        MojiLoraSide side;
    } rows[] = {
        {"lora_unet_a_to_q.lora_down.weight", "a_to_q", MOJI_LORA_DOWN, MOJI_LORA_UNET},
        {"lora_te1_x_q_proj.alpha", "x_q_proj", MOJI_LORA_ALPHA, MOJI_LORA_TEXT},
        {"unet.a.attn1.processor.to_q_lora.up.weight", "a_attn1_to_q", MOJI_LORA_UP,
         MOJI_LORA_UNET},
        {"a.b.lora.down.weight", "a_b", MOJI_LORA_DOWN, MOJI_LORA_ANY},
        {"text_encoder.x.lora_linear_layer.up.weight", "x", MOJI_LORA_UP, MOJI_LORA_TEXT},
        {"base_model.model.unet.a.b.lora_A.default.weight", "a_b", MOJI_LORA_DOWN, MOJI_LORA_UNET},
        {"base_model.model.a.b.lora_B.weight", "a_b", MOJI_LORA_UP, MOJI_LORA_ANY},
        {"unet.a.lora_B.bias", "a", MOJI_LORA_UP_BIAS, MOJI_LORA_UNET},
        {"unet.a.lora_magnitude_vector", "a", MOJI_LORA_MAGNITUDE, MOJI_LORA_UNET},
        {"unet.a.lora_magnitude_vector.default.weight", "a", MOJI_LORA_MAGNITUDE, MOJI_LORA_UNET},
        {"lycoris_a_b.lokr_t2", "a_b", MOJI_LORA_LOKR_T2, MOJI_LORA_ANY},
        {"lora_unet_n.b_norm", "n", MOJI_LORA_DIFF_B, MOJI_LORA_UNET},
        {"diffusion_model.input_blocks.1.1.proj_in.lora_up.weight", "input_blocks_1_1_proj_in",
         MOJI_LORA_UP, MOJI_LORA_UNET},
        {"conv_in.weight", NULL, 0, 0},
        {".alpha", NULL, 0, 0},
        {"", NULL, 0, 0},
    };
    for (gsize i = 0; i < G_N_ELEMENTS(rows); i++) {
        MojiLoraKey key = {0};
        gboolean ok = moji_lora_key_parse(rows[i].name, &key);
        MOJI_CHECK(ok == !!rows[i].module, "%s: %s", rows[i].name, ok ? "taken" : "not taken");
        if (ok && rows[i].module)
            MOJI_CHECK(!strcmp(key.module, rows[i].module) && key.part == rows[i].part &&
                           key.side == rows[i].side,
                       "%s: module %s, part %d, side %d", rows[i].name, key.module, key.part,
                       key.side);
        g_free(key.module);
    }
}

/* ---- styles ---- */

static void test_entries(void)
{
    g_autofree char *styles = moji_test_path("lora"), *path = lora_path("kohya");
    g_autofree char *with_path = g_strdup_printf("%s:-2", path);
    g_setenv("MOJI_STYLES", styles, TRUE);
    const struct {
        const char *entry, *name;
        double unet, text;
    } rows[] = {
        {"kohya", "kohya", 1, 1},
        {"kohya:0.8", "kohya", 0.8, 0.8},
        {" kohya : -0.5 ", "kohya", -0.5, -0.5},
        {"kohya:unet=0.8,text=0.5", "kohya", 0.8, 0.5},
        {"kohya:text=0", "kohya", 1, 0},
        {"kohya:te=0.25,unet=3", "kohya", 3, 0.25},
        {"kohya:0.5:0.75", "kohya", 0.75, 0.5},
        {"folder:2", "folder", 2, 2},
        {with_path, "kohya", -2, -2},
        {"nobody", NULL, 0, 0},
        {"kohya:", NULL, 0, 0},
        {"kohya:much", NULL, 0, 0},
        {"kohya:11", NULL, 0, 0},
        {"kohya:nan", NULL, 0, 0},
        {"kohya:1:2:3", NULL, 0, 0},
        {"kohya:vae=1", NULL, 0, 0},
        {"", NULL, 0, 0},
        {"../lora/kohya", NULL, 0, 0},
        {"none.safetensors", NULL, 0, 0},
    };
    for (gsize i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(GError) error = NULL;
        MojiStyle *s = moji_style_open(rows[i].entry, &error);
        MOJI_CHECK(!s == !!error && !!s == !!rows[i].name, "\"%s\": %s", rows[i].entry,
                   s ? "taken" : error->message);
        if (s && rows[i].name)
            MOJI_CHECK(!strcmp(s->name, rows[i].name) && s->unet == rows[i].unet &&
                           s->text == rows[i].text,
                       "\"%s\" is %s at %g, %g", rows[i].entry, s->name, s->unet, s->text);
        moji_style_free(s);
    }
    g_autoptr(GError) error = NULL;
    moji_style_open("nobody", &error);
    MOJI_CHECK(strstr(error->message, "dora-in") && strstr(error->message, "folder"),
               "the choices are not listed: %s", error->message);
    g_unsetenv("MOJI_STYLES");
}

static void test_tags(void)
{
    static const struct {
        const char *prompt, *rest, *entries;
    } rows[] = {
        {"a cat", "a cat", ""},
        {"a cat <lora:frog:0.8>", "a cat", "frog:0.8"},
        {"<lora:frog:0.8> a cat", "a cat", "frog:0.8"},
        {"a <lora:frog> cat", "a cat", "frog"},
        {"a cat <lora:a:1>, green", "a cat, green", "a:1"},
        {"a<LoRA:a:1><lyco:b:unet=1,text=2>b", "ab", "a:1|b:unet=1,text=2"},
        {"1 < 2 <3", "1 < 2 <3", ""},
        {"a <lora:frog", NULL, ""},
    };
    for (gsize i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(GPtrArray) entries = g_ptr_array_new_with_free_func(g_free);
        g_autoptr(GError) error = NULL;
        g_autofree char *rest = moji_styles_take_tags(rows[i].prompt, entries, &error);
        g_ptr_array_add(entries, NULL);
        g_autofree char *all = g_strjoinv("|", (char **)entries->pdata);
        MOJI_CHECK(!rest == !!error, "result and error disagree");
        MOJI_CHECK(!g_strcmp0(rest, rows[i].rest) && !strcmp(all, rows[i].entries),
                   "\"%s\" became \"%s\" and \"%s\"", rows[i].prompt, rest, all);
    }
}

static void test_few_steps(void)
{
    static const struct {
        const char *name, *title, *kind, *sampler;
        int steps;
        double guidance;
    } rows[] = {
        {"lcm-lora-sdv1-5", NULL, "LCM-LoRA", "lcm", 4, 1},
        {"pytorch_lora_weights", "LCM LoRA 8 steps", "LCM-LoRA", "lcm", 8, 1},
        {"Hyper-SD15-1step-lora", NULL, "Hyper-SD", "tcd", 1, 1},
        {"Hyper-SD15-8steps-CFG-lora", NULL, "Hyper-SD", "tcd", 8, 5},
        {"TCD-SD15-LoRA", NULL, "TCD-LoRA", "tcd", 4, 1},
        {"calcmania", NULL, NULL, NULL, 0, 0},
        {"frog 4 steps", NULL, NULL, NULL, 0, 0},
    };
    for (gsize i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(GHashTable) metadata = g_hash_table_new(g_str_hash, g_str_equal);
        if (rows[i].title)
            g_hash_table_insert(metadata, "modelspec.title", (gpointer)rows[i].title);
        MojiStyleSteps s = moji_style_steps(rows[i].name, metadata);
        MOJI_CHECK(!g_strcmp0(s.kind, rows[i].kind), "%s is taken for %s", rows[i].name, s.kind);
        if (rows[i].kind)
            MOJI_CHECK(!strcmp(s.sampler, rows[i].sampler) && s.steps == rows[i].steps &&
                           s.guidance == rows[i].guidance,
                       "%s: %d steps of %s, guidance %g", rows[i].name, s.steps, s.sampler,
                       s.guidance);
    }
}

/* A copy of a fixture under another name in a folder of styles. */
static char *make_styles(const char *as)
{
    char *folder = g_build_filename(moji_test_scratch(), "styles", NULL);
    g_autofree char *from = lora_path("new"), *data = NULL;
    g_autofree char *file = g_strconcat(as, ".safetensors", NULL);
    g_autofree char *path = g_build_filename(folder, file, NULL);
    gsize bytes;
    g_mkdir_with_parents(folder, 0700);
    g_file_get_contents(from, &data, &bytes, NULL);
    g_file_set_contents(path, data, bytes, NULL);
    return folder;
}

static void test_order(void)
{
    g_autofree char *folder = make_styles("lcm-tiny");
    g_autoptr(GError) error = NULL;
    MojiModel *m = open_model();
    g_autoptr(MojiRequest) r = moji_request_new();
    g_setenv("MOJI_STYLES", folder, TRUE);
    r->prompt = g_strdup("cat <lora:lcm-tiny:0.5>");
    MojiOrder *o = moji_order_new(r, m, &error);
    if (MOJI_CHECK(o, "%s", error->message))
        MOJI_CHECK(o->steps == 4 && o->guidance == 1 &&
                       !strcmp(moji_sampler_name(o->sampler), "lcm") && o->note,
                   "%d steps of %s, guidance %g", o->steps, moji_sampler_name(o->sampler),
                   o->guidance);
    moji_order_free(o);
    r->steps = 7;
    r->guidance = 2;
    r->sampler = g_strdup("euler");
    o = moji_order_new(r, m, NULL);
    MOJI_CHECK(o->steps == 7 && o->guidance == 2 &&
                   !strcmp(moji_sampler_name(o->sampler), "euler") && !o->note,
               "what was asked for did not count");
    moji_order_free(o);
    g_free(r->prompt);
    r->prompt = g_strdup("<lora:lcm-tiny:0.5> , ");
    MOJI_CHECK(!moji_order_new(r, m, &error), "a prompt of tags alone is taken");
    g_unsetenv("MOJI_STYLES");
    moji_model_free(m);
}

static void test_describe(void)
{
    g_autofree char *folder = make_styles("pond");
    g_autofree char *json = g_build_filename(folder, "pond.json", NULL);
    g_autofree char *png = g_build_filename(folder, "pond.png", NULL);
    g_file_set_contents(json, "{\"activation text\": \"green pond\", \"notes\": 7}", -1, NULL);
    g_file_set_contents(png, "", 0, NULL);
    g_autofree char *path = g_build_filename(folder, "pond.safetensors", NULL);
    MojiStyle *pond = moji_style_open(path, NULL);
    MojiLora *kohya = open_lora("kohya");
    g_autofree char *text = moji_style_describe("pond", pond->lora);
    g_autofree char *frog = moji_style_describe("kohya", kohya);
    const char *const in_text[] = {"green pond\n", "pond.png\n", "rank 2,", "128 tensors"};
    const char *const in_frog[] = {"Tiny frog\n", "base         SD 1.x\n", "trigger      frog\n",
                                   "frog, lily pad; tags frog 15, green 7, lily 4, pond 2\n"};
    for (int i = 0; i < 4; i++) {
        MOJI_CHECK(strstr(text, in_text[i]), "no \"%s\" in %s", in_text[i], text);
        MOJI_CHECK(strstr(frog, in_frog[i]), "no \"%s\" in %s", in_frog[i], frog);
    }
    moji_style_free(pond);
    moji_lora_free(kohya);
}

/* ---- files that are not what they should be ---- */

typedef struct {
    GString *header;
    GByteArray *data;
} Writer;

static void add(Writer *w, const char *key, const char *dtype, const char *shape, gsize bytes,
                guint8 fill)
{
    gsize begin = w->data->len;
    g_byte_array_set_size(w->data, begin + bytes);
    if (bytes)
        memset(w->data->data + begin, fill, bytes);
    g_string_append_printf(w->header,
                           "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
                           w->header->len > 1 ? "," : "", key, dtype, shape, begin, begin + bytes);
}

static Writer writer_new(void)
{
    return (Writer){g_string_new("{"), g_byte_array_new()};
}

static MojiLora *writer_end(Writer *w, GError **error)
{
    g_string_append_c(w->header, '}');
    guint64 length = GUINT64_TO_LE((guint64)w->header->len);
    GByteArray *file = g_byte_array_new();
    g_byte_array_append(file, (const guint8 *)&length, 8);
    g_byte_array_append(file, (const guint8 *)w->header->str, w->header->len);
    g_byte_array_append(file, w->data->data, w->data->len);
    g_autoptr(GBytes) bytes = g_byte_array_free_to_bytes(file);
    g_string_free(w->header, TRUE);
    g_byte_array_unref(w->data);
    MojiWeights *weights = moji_weights_parse(bytes, "some/file", error);
    return weights ? moji_lora_new(weights, error) : NULL;
}

/* "KEY DTYPE SHAPE FILL" for each tensor. mid_block's to_q is [24,24], its to_k of attn2 [24,40];
 * conv1 of its resnets [24,24,3,3]. */
#define Q "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
#define K2 "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
#define CONV "lora_unet_mid_block_resnets_0_conv1"

static const struct {
    const char *what, *words;
    struct {
        const char *key, *dtype, *shape;
        gsize count;
        guint8 fill;
    } t[4];
} HOSTILE[] = {
    {"no LoRA", "is no LoRA", {{"conv_in.weight", "F32", "1", 1, 0}}},
    {"OFT", "OFT", {{Q ".oft_blocks", "F32", "1", 1, 0}}},
    {"a stray key",
     "none that a LoRA has",
     {{Q ".alpha", "F32", "", 1, 0}, {"what.ever", "F32", "1", 1, 0}}},
    {"only alpha", "no counterpart", {{Q ".alpha", "F32", "", 1, 0}}},
    {"no up", "no counterpart", {{Q ".lora_down.weight", "F32", "2,24", 48, 0}}},
    {"ranks differ",
     "expected [24,2]",
     {{Q ".lora_down.weight", "F32", "2,24", 48, 0}, {Q ".lora_up.weight", "F32", "24,3", 72, 0}}},
    {"wrong input",
     "expected [rank,24]",
     {{Q ".lora_down.weight", "F32", "2,23", 46, 0}, {Q ".lora_up.weight", "F32", "24,2", 48, 0}}},
    {"wrong output",
     "expected [24,2]",
     {{Q ".lora_down.weight", "F32", "2,24", 48, 0}, {Q ".lora_up.weight", "F32", "2,24", 48, 0}}},
    {"rank 0",
     "shape [0,24]",
     {{Q ".lora_down.weight", "F32", "0,24", 0, 0}, {Q ".lora_up.weight", "F32", "24,0", 0, 0}}},
    {"huge and empty",
     "shape [0,1099511627776]",
     {{Q ".lora_down.weight", "F32", "0,1099511627776", 0, 0},
      {Q ".lora_up.weight", "F32", "24,0", 0, 0}}},
    {"rank of 5000",
     "rank 5000",
     {{Q ".lora_down.weight", "F32", "5000,24", 120000, 0},
      {Q ".lora_up.weight", "F32", "24,5000", 120000, 0}}},
    {"NaN",
     "not finite",
     {{Q ".lora_down.weight", "F32", "2,24", 48, 0xff},
      {Q ".lora_up.weight", "F32", "24,2", 48, 0}}},
    {"NaN in bf16",
     "not finite",
     {{Q ".lora_down.weight", "F32", "2,24", 48, 0},
      {Q ".lora_up.weight", "BF16", "24,2", 48, 0xff}}},
    {"NaN alpha",
     "not a finite number",
     {{Q ".lora_down.weight", "F32", "2,24", 48, 0},
      {Q ".lora_up.weight", "F32", "24,2", 48, 0},
      {Q ".alpha", "F32", "", 1, 0xff}}},
    {"alpha of two numbers",
     "shape [2]",
     {{Q ".lora_down.weight", "F32", "2,24", 48, 0},
      {Q ".lora_up.weight", "F32", "24,2", 48, 0},
      {Q ".alpha", "F32", "2", 2, 0}}},
    {"too large for the type",
     "lower their weights",
     {{Q ".lora_down.weight", "F32", "2,24", 48, 0x7e},
      {Q ".lora_up.weight", "F32", "24,2", 48, 0x7e}}},
    {"f64",
     "stored as F64",
     {{Q ".lora_down.weight", "F64", "2,24", 96, 0}, {Q ".lora_up.weight", "F32", "24,2", 48, 0}}},
    {"whole numbers",
     "type i32",
     {{Q ".lora_down.weight", "I32", "2,24", 48, 0}, {Q ".lora_up.weight", "F32", "24,2", 48, 0}}},
    {"twice",
     "for the same thing",
     {{Q ".lora_down.weight", "F32", "2,24", 48, 0},
      {Q ".lora.down.weight", "F32", "2,24", 48, 0}}},
    {"mixed kinds",
     "does not go with",
     {{Q ".lora_down.weight", "F32", "2,24", 48, 0},
      {Q ".lora_up.weight", "F32", "24,2", 48, 0},
      {Q ".diff", "F32", "24,24", 576, 0}}},
    {"half a LoHa",
     "no counterpart",
     {{Q ".hada_w1_a", "F32", "24,2", 48, 0}, {Q ".hada_w1_b", "F32", "2,24", 48, 0}}},
    {"half a LoKr", "other half", {{Q ".lokr_w1", "F32", "2,2", 4, 0}}},
    {"LoKr that does not divide",
     "factors of 24",
     {{Q ".lokr_w1", "F32", "5,5", 25, 0}, {Q ".lokr_w2", "F32", "5,5", 25, 0}}},
    {"LoKr of nothing",
     "factors of 24",
     {{Q ".lokr_w1", "F32", "0,0", 0, 0}, {Q ".lokr_w2", "F32", "5,5", 25, 0}}},
    {"a small core",
     "expected [2,18]",
     {{CONV ".lora_down.weight", "F32", "2,24,1,1", 48, 0},
      {CONV ".lora_up.weight", "F32", "24,2,1,1", 48, 0},
      {CONV ".lora_mid.weight", "F32", "2,2,1,1", 4, 0}}},
    {"DoRA of another size",
     "expected [24,1]",
     {{Q ".lora_down.weight", "F32", "2,24", 48, 0},
      {Q ".lora_up.weight", "F32", "24,2", 48, 0},
      {Q ".dora_scale", "F32", "7,1", 7, 0}}},
    {"a bias too many",
     "has none in this model",
     {{Q ".diff", "F32", "24,24", 576, 0}, {Q ".diff_b", "F32", "24", 24, 0}}},
    {"SDXL by depth",
     "is for SDXL",
     {{"lora_unet_input_blocks_7_1_transformer_blocks_3_attn1_to_q.lora_down.weight", "F32", "2,24",
       48, 0}}},
    {"SDXL by its second text encoder",
     "is for SDXL",
     {{"lora_te2_text_model_encoder_layers_0_mlp_fc1.alpha", "F32", "", 1, 0}}},
    {"SD 2 by width",
     "is for SD 2.x, and this model takes text that is 40 wide",
     {{K2 ".lora_down.weight", "F32", "2,1024", 2048, 0},
      {K2 ".lora_up.weight", "F32", "24,2", 48, 0}}},
    {"SD 1 by width",
     "is for SD 1.x",
     {{K2 ".lora_down.weight", "F32", "2,768", 1536, 0},
      {K2 ".lora_up.weight", "F32", "24,2", 48, 0}}},
    {"another family",
     "is for Flux",
     {{"lora_unet_double_blocks_0_img_attn_qkv.alpha", "F32", "", 1, 0}}},
};

static void test_hostile(void)
{
    MojiModel *m = open_model();
    for (gsize i = 0; i < G_N_ELEMENTS(HOSTILE); i++) {
        g_autoptr(GError) error = NULL;
        Writer w = writer_new();
        for (int k = 0; k < 4 && HOSTILE[i].t[k].key; k++)
            add(&w, HOSTILE[i].t[k].key, HOSTILE[i].t[k].dtype, HOSTILE[i].t[k].shape,
                HOSTILE[i].t[k].count * (!strcmp(HOSTILE[i].t[k].dtype, "BF16") ? 2 : 4),
                HOSTILE[i].t[k].fill);
        MojiLora *l = writer_end(&w, &error);
        MojiLoraUse use = {.lora = l, .unet = 1, .text = 1};
        gboolean ok = l && moji_lora_merge(m, MOJI_F32, 1, &use, 1, NULL, &error);
        if (MOJI_CHECK(!ok && error, "%s: taken", HOSTILE[i].what)) {
            gboolean names_file = strstr(HOSTILE[i].words, "lower") ||
                                  g_str_has_prefix(error->message, "some/file: ");
            MOJI_CHECK(names_file && strstr(error->message, HOSTILE[i].words),
                       "%s: \"%s\" lacks the path or \"%s\"", HOSTILE[i].what, error->message,
                       HOSTILE[i].words);
        }
        MOJI_CHECK(overridden(m->unet_weights) == 0, "%s: some were left merged", HOSTILE[i].what);
        moji_lora_free(l);
    }
    moji_model_free(m);
}

/* Many keys, all wrong: one error that counts them, soon. */
static void test_many_keys(void)
{
    enum { KEYS = 50000 };
    g_autoptr(GError) error = NULL;
    MojiModel *m = open_model();
    Writer w = writer_new();
    for (int i = 0; i < KEYS; i++) {
        char key[64];
        g_snprintf(key, sizeof key, "lora_unet_blocks_%d.alpha", i);
        add(&w, key, "F32", "", 4, 0);
    }
    MojiLora *l = writer_end(&w, &error);
    MojiLoraUse use = {.lora = l, .unet = 1, .text = 1};
    MOJI_CHECK(l && !moji_lora_merge(m, MOJI_F32, 1, &use, 1, NULL, &error) &&
                   strstr(error->message, "50000 of its 50000 tensors fit nothing"),
               "%s", error ? error->message : "taken");
    moji_lora_free(l);
    moji_model_free(m);
}

static void rows(const char *const *of, gsize n, const char *format, MojiTestFn fn)
{
    for (gsize i = 0; i < n; i++) {
        g_autofree char *row = g_strdup_printf("lora: %s %s", of[i], format);
        name = of[i];
        moji_test(row, fn);
    }
}

int main(void)
{
    static const char *const types[] = {"f32", "bf16"};
    static const char *const strengths[] = {"kohya", "loha", "lokr", "full", "dora", "dora-in"};
    tiny = moji_test_path("tiny-sd");
    engine = moji_engine_new("auto", 1, NULL);
    rows(CASES, G_N_ELEMENTS(CASES), "merged as the reference does", test_weights);
    moji_test("lora: merged is what runs beside it", test_runtime);
    rows(strengths, G_N_ELEMENTS(strengths), "at other weights", test_strength);
    moji_test("lora: one network alone", test_sides);
    moji_test("lora: types", test_types);
    moji_test("lora: cancelling", test_cancel);
    rows(CASES, G_N_ELEMENTS(CASES), "in a picture", test_picture);
    rows(types, G_N_ELEMENTS(types), "changed on a warm engine", test_changing);
    moji_test("lora: recipe", test_recipe);
    moji_test("lora: keys", test_keys);
    moji_test("lora: entries of a request", test_entries);
    moji_test("lora: tags in a prompt", test_tags);
    moji_test("lora: few steps", test_few_steps);
    moji_test("lora: few steps in an order", test_order);
    moji_test("lora: what a file tells", test_describe);
    moji_test("lora: hostile files", test_hostile);
    moji_test("lora: many keys", test_many_keys);
    moji_engine_free(engine);
    g_free(tiny);
    return moji_test_end();
}
