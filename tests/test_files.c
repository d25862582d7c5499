/* test_files.c: checkpoints in one file, PyTorch's archives, and hostile ones. */
#include "checkpoint.h"
#include "draw.h"
#include "model.h"
#include "test.h"
#include <glib/gstdio.h>
#include <string.h>

/* ---- what PyTorch itself wrote ---- */

static MojiCheckpoint *open_fixture(const char *name)
{
    g_autofree char *path = moji_test_path(name);
    g_autoptr(GError) error = NULL;
    MojiCheckpoint *c = moji_checkpoint_open(path, &error);
    MOJI_CHECK(c, "%s", error->message);
    return c;
}

static void test_checkpoint(void)
{
    MojiCheckpoint *c = open_fixture("files/tiny-1.ckpt");
    if (!c)
        return;
    MOJI_CHECK(c->kind == MOJI_FILE_MODEL && strstr(c->what, "1.x"), "it is %s", c->what);
    const guint count[MOJI_PARTS] = {21, 206, 120};
    for (int part = 0; part < MOJI_PARTS; part++)
        MOJI_CHECK(c->part[part] && moji_weights_list(c->part[part])->len == count[part],
                   "%s has %u tensors, expected %u", moji_part_name(part),
                   c->part[part] ? moji_weights_list(c->part[part])->len : 0, count[part]);
    const MojiWeight *q =
        moji_weights_find(c->part[MOJI_PART_VAE], "decoder.mid_block.attentions.0.to_q.weight");
    MOJI_CHECK(q && q->type == MOJI_F16 && q->rank == 4 && q->dim[0] == 32 && q->mapped,
               "the VAE's attention");
    MOJI_CHECK(!moji_weights_find(c->part[MOJI_PART_UNET], "decay"), "averaged weights");
    MOJI_CHECK(strstr(moji_weights_absence(c->file, "betas"), "DoubleStorage"), "%s",
               moji_weights_absence(c->file, "betas"));
    GHashTable *metadata = moji_weights_metadata(c->file);
    MOJI_CHECK(!g_strcmp0(g_hash_table_lookup(metadata, "global_step"), "470000") &&
                   !g_strcmp0(g_hash_table_lookup(metadata, "pytorch-lightning_version"), "1.4.2"),
               "metadata");
    moji_checkpoint_free(c);
    moji_checkpoint_free(NULL);
}

static void test_topology(void)
{
    g_autofree char *path = moji_test_path("files/tiny-1.ckpt");
    g_autoptr(GError) error = NULL;
    MojiModel *m = moji_model_configs(path, &error);
    if (!MOJI_CHECK(m, "%s", error->message))
        return;
    MOJI_CHECK(m->clip.hidden_size == 16 && m->clip.layers == 1 && m->clip.heads == 1 &&
                   m->clip.vocab_size == 49408 && m->clip.positions == 77 &&
                   m->clip.intermediate_size == 48 && m->clip.quick_gelu,
               "text encoder");
    MOJI_CHECK(m->unet.levels == 2 && m->unet.layers[0] == 1 && m->unet.attention_down[0] &&
                   !m->unet.attention_down[1] && !m->unet.attention_up[0] &&
                   m->unet.attention_up[1] && m->unet.heads[1] == 8 && m->unet.in_channels == 4 &&
                   m->unet.cross_attention_dim == 16 && m->unet.norm_groups == 32,
               "U-Net");
    MOJI_CHECK(m->vae.levels == 2 && m->vae.layers == 1 && m->vae.channels[1] == 32 &&
                   m->vae.mid_attention && m->vae.post_quant_conv && m->vae.latent_channels == 4,
               "VAE");
    MOJI_CHECK(!strcmp(m->sampler.class_name, "PNDMScheduler") && !strcmp(m->card.name, "tiny-1") &&
                   !m->unet_weights && !m->tokenizer,
               "the rest");
    moji_model_free(m);
}

/* Largest difference of a picture from the fixture's, in levels; -1 without a picture. */
static int draw_and_compare(const char *model, const char *vae)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *path = moji_test_path("files/tiny-1.ppm");
    g_autofree char *want = NULL;
    gsize bytes;
    int most = -1;
    MojiEngine *engine = moji_engine_new("cpu", 1, &error);
    g_autoptr(MojiRequest) r = moji_request_new();
    r->prompt = g_strdup("a red cat");
    r->negative = g_strdup("dog");
    r->sampler = g_strdup("ddim");
    r->model = g_strdup(model);
    r->vae = g_strdup(vae);
    r->guidance = 2;
    r->steps = 4;
    r->seed = 3;
    r->size = 64;
    g_assert_true(g_file_get_contents(path, &want, &bytes, NULL));
    const guint8 *rgb = (guint8 *)want + bytes - 64 * 64 * 3;
    moji_engine_set_type(engine, "f32");
    GPtrArray *images = moji_engine_draw(engine, r, NULL, NULL, NULL, &error);
    MOJI_CHECK(images, "%s", error->message);
    const MojiImage *image = images ? images->pdata[0] : NULL;
    for (int i = 0; image && i < 64 * 64 * 3; i++)
        most = MAX(most, ABS(image->rgba[i / 3 * 4 + i % 3] - rgb[i]));
    if (images)
        g_ptr_array_unref(images);
    moji_engine_free(engine);
    return most;
}

static void test_picture(void)
{
    g_autofree char *path = moji_test_path("files/tiny-1.ckpt");
    int most = draw_and_compare(path, NULL);
    MOJI_CHECK(most >= 0 && most <= 1, "off by %d levels", most);
    most = draw_and_compare(path, path);
    MOJI_CHECK(most >= 0 && most <= 1, "with its own VAE named: off by %d levels", most);
}

/* The older form, and one with tensors that do not lie in rows, against safetensors of the same. */
static void test_bin(void)
{
    static const struct {
        const char *bin, *same;
        gboolean mapped;
    } rows[] = {
        {"files/text.bin", "tiny-sd/text_encoder/model.safetensors", TRUE},
        {"files/vae.bin", "tiny-sd/vae/diffusion_pytorch_model.safetensors", FALSE},
    };
    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *bin = moji_test_path(rows[i].bin), *path = moji_test_path(rows[i].same);
        g_autoptr(GError) error = NULL;
        MojiWeights *a = moji_weights_open(bin, &error), *b = moji_weights_open(path, NULL);
        if (!MOJI_CHECK(a, "%s", error->message))
            return;
        GPtrArray *list = moji_weights_list(b);
        MOJI_CHECK(moji_weights_list(a)->len == list->len, "%u tensors", moji_weights_list(a)->len);
        gboolean mapped = TRUE;
        for (guint k = 0; k < list->len; k++) {
            const MojiWeight *y = list->pdata[k], *x = moji_weights_find(a, y->name);
            MOJI_CHECK(x && x->type == y->type && x->rank == y->rank &&
                           !memcmp(x->dim, y->dim, sizeof x->dim) && x->bytes == y->bytes &&
                           !memcmp(x->data, y->data, x->bytes),
                       "%s: %s differs", rows[i].bin, y->name);
            mapped = mapped && x && x->mapped;
        }
        MOJI_CHECK(mapped == rows[i].mapped, "%s: copied where it need not be", rows[i].bin);
        moji_weights_free(a);
        moji_weights_free(b);
    }
}

/* ---- what nobody should have written ---- */

typedef struct {
    const char *name;
    const char *data;
    gsize bytes;
    guint method, flags;
} Entry;

static void put(GByteArray *out, guint64 value, int bytes)
{
    for (int i = 0; i < bytes; i++)
        g_byte_array_append(out, &(guint8){i < 8 ? value >> 8 * i : 0}, 1);
}

static void put_header(GByteArray *out, const Entry *e, gboolean central, guint at)
{
    put(out, central ? 0x02014b50 : 0x04034b50, 4);
    put(out, 20, central ? 4 : 2);
    put(out, e->flags, 2);
    put(out, e->method, 2);
    put(out, 0, 8); /* time, date, checksum */
    put(out, e->bytes, 4);
    put(out, e->bytes, 4);
    put(out, strlen(e->name), 2);
    put(out, 0, central ? 12 : 2);
    if (central)
        put(out, at, 4);
    g_byte_array_append(out, (const guint8 *)e->name, strlen(e->name));
}

static GBytes *make_zip(const Entry *entries, guint n)
{
    GByteArray *out = g_byte_array_new();
    g_autofree guint *at = g_new(guint, n);
    for (guint i = 0; i < n; i++) {
        at[i] = out->len;
        put_header(out, &entries[i], FALSE, 0);
        g_byte_array_append(out, (const guint8 *)entries[i].data, entries[i].bytes);
    }
    guint directory = out->len;
    for (guint i = 0; i < n; i++)
        put_header(out, &entries[i], TRUE, at[i]);
    guint end = out->len;
    put(out, 0x06054b50, 4);
    put(out, 0, 4);
    put(out, n, 2);
    put(out, n, 2);
    put(out, end - directory, 4);
    put(out, directory, 4);
    put(out, 0, 2);
    return g_byte_array_free_to_bytes(out);
}

/* An archive with this pickle and a storage "0" of 16 bytes: 0, 1, 2, ... */
static MojiWeights *read_pickle(const char *pickle, gsize bytes, GError **error)
{
    static const char block[] = "\0\1\2\3\4\5\6\7\10\11\12\13\14\15\16\17";
    const Entry entries[] = {{"a/data.pkl", pickle, bytes, 0, 0}, {"a/data/0", block, 16, 0, 0}};
    g_autoptr(GBytes) file = make_zip(entries, G_N_ELEMENTS(entries));
    return moji_weights_parse(file, "some/file", error);
}

static void check_error(GError *error, const char *words, const char *what)
{
    if (!MOJI_CHECK(error, "%s: accepted", what))
        return;
    MOJI_CHECK(g_error_matches(error, MOJI_ERROR, MOJI_ERROR_FILE) &&
                   g_str_has_prefix(error->message, "some/file: ") && strstr(error->message, words),
               "%s: \"%s\" lacks the path or \"%s\"", what, error->message, words);
}

#define TEXT(length, text) "X" length "\0\0\0" text
#define STORAGE(type, key, count)                                                                  \
    "(" TEXT("\7", "storage") "ctorch\n" type "\n" TEXT("\1", key) TEXT("\3", "cpu") "K" count "t" \
                                                                                     "Q"
#define TENSOR(storage, offset, size, stride)                                                      \
    "ctorch._utils\n_rebuild_tensor_v2\n(" storage "K" offset "(" size "t(" stride "t\x89"         \
    "ccollections\nOrderedDict\n)RtR"
#define DICT(members) "\x80\2}(" members "u."
#define FLOATS STORAGE("FloatStorage", "0", "\4")

static void test_windows(void)
{
    static const char pickle[] =
        DICT(TEXT("\1", "a") TENSOR(FLOATS, "\0", "K\2K\2", "K\2K\1") TEXT("\1", "t")
                 TENSOR(FLOATS, "\0", "K\2K\2", "K\1K\2") TEXT("\1", "b")
                     TENSOR(FLOATS, "\1", "K\3", "K\1") TEXT("\1", "e")
                         TENSOR(FLOATS, "\0", "K\0K\5", "K\5K\1") TEXT("\1", "s")
                             TENSOR(FLOATS, "\3", "", ""));
    g_autoptr(GError) error = NULL;
    MojiWeights *w = read_pickle(pickle, sizeof pickle - 1, &error);
    if (!MOJI_CHECK(w, "%s", error->message))
        return;
    const MojiWeight *a = moji_weights_find(w, "a"), *t = moji_weights_find(w, "t");
    const MojiWeight *b = moji_weights_find(w, "b"), *e = moji_weights_find(w, "e");
    const MojiWeight *s = moji_weights_find(w, "s");
    MOJI_CHECK(a && t && b && e && s, "not all are there");
    MOJI_CHECK(!memcmp(a->data, "\0\1\2\3\4\5\6\7\10\11\12\13\14\15\16\17", 16), "rows");
    MOJI_CHECK(!memcmp(t->data, "\0\1\2\3\10\11\12\13\4\5\6\7\14\15\16\17", 16), "transposed");
    MOJI_CHECK(b->bytes == 12 && !memcmp(b->data, "\4\5\6\7", 4), "with an offset");
    MOJI_CHECK(e->bytes == 0 && e->rank == 2, "empty");
    MOJI_CHECK(s->bytes == 4 && s->rank == 0 && !memcmp(s->data, "\14\15\16\17", 4), "a scalar");
    moji_weights_free(w);
}

static void test_hostile_pickles(void)
{
#define ROW(what, words, pickle)                                                                   \
    {                                                                                              \
        what, words, pickle, sizeof(pickle) - 1                                                    \
    }
    static const struct {
        const char *what, *words, *pickle;
        gsize bytes;
    } rows[] = {
        ROW("a call of a function", "os.system", "\x80\2cos\nsystem\n" TEXT("\2", "ls") "\x85R."),
        ROW("a name alone", "posix.system", "\x80\2}" TEXT("\1", "a") "cposix\nsystem\ns."),
        ROW("a name from the stack", "builtins.eval",
            "\x80\4\x8c\10builtins\x8c\4eval\x93\x8c\1"
            "1\x85R."),
        ROW("a name from the stack", "builtins.exec",
            "\x80\4\x8c\10builtins\x8c\4exec\x93\x8c\1"
            "1\x85R."),
        ROW("a call of a class", "ModelCheckpoint",
            "\x80\2cpytorch_lightning.callbacks\nModelCheckpoint\n)R."),
        ROW("a call of a storage", "FloatStorage", "\x80\2ctorch\nFloatStorage\n)R."),
        ROW("a call of a text", "no function", "\x80\2" TEXT("\1", "a") ")R."),
        ROW("an object", "it calls collections.OrderedDict",
            "\x80\2ccollections\nOrderedDict\n)\x81."),
        ROW("an object with arguments", "it calls torch.nn.modules.container.ParameterDict",
            "\x80\2ctorch.nn.modules.container\nParameterDict\nN\x85\x81."),
        ROW("an object of nothing", "empty stack", "\x80\2)\x81."),
        ROW("a call of a module", "it calls torch.nn.modules.container.ParameterDict",
            "\x80\2ctorch.nn.modules.container\nParameterDict\n)R."),
        ROW("an instance", "opcode 0x69", "(ios\nsystem\n."),
        ROW("an old instance", "opcode 0x6f", "(ccollections\nOrderedDict\no."),
        ROW("an extension", "opcode 0x82", "\x80\2\x82\1."),
        ROW("no end", "cut short", "\x80\2}"),
        ROW("nothing", "cut short", ""),
        ROW("an end alone", "empty stack", "\x80\2."),
        ROW("a list without a beginning", "no beginning", "\x80\2]e."),
        ROW("a text that is longer", "cut short",
            "\x80\2X\xff\xff\xff\xff"
            "abc."),
        ROW("a text that is much longer", "cut short",
            "\x80\2\x8d\xff\xff\xff\xff\xff\xff\xff\xff"
            "abc."),
        ROW("a value that was not remembered", "recalls", "\x80\2h\5."),
        ROW("too much to remember", "remembers", "\x80\2Nr\xff\xff\xff\x7f."),
        ROW("an item of no list", "no list", "\x80\2NNa."),
        ROW("a key without a value", "no value", "\x80\2}(Nu."),
        ROW("below a mark", "empty stack", "\x80\2N(0."),
        ROW("a list as root", "dictionary", "\x80\2]."),
        ROW("a tensor of nothing", "storage",
            DICT(TEXT("\1", "a") "ctorch._utils\n_rebuild_tensor_v2\n)R")),
        ROW("an offset beyond", "beyond its storage",
            DICT(TEXT("\1", "a") TENSOR(FLOATS, "\4", "K\1", "K\1"))),
        ROW("sizes beyond", "beyond its storage",
            DICT(TEXT("\1", "a") TENSOR(FLOATS, "\0", "K\5", "K\1"))),
        ROW("strides beyond", "beyond its storage",
            DICT(TEXT("\1", "a") TENSOR(FLOATS, "\0", "K\2", "K\4"))),
        ROW("one number for millions", "beyond its storage",
            DICT(TEXT("\1", "a") TENSOR(FLOATS, "\0", "J\0\0\0\x40", "K\0"))),
        ROW("sizes beyond 64 bits", "beyond its storage",
            DICT(TEXT("\1", "a")
                     TENSOR(FLOATS, "\0", "J\0\0\0\x40J\0\0\0\x40J\0\0\0\x40", "K\0K\0K\0"))),
        ROW("a negative size", "sizes and strides",
            DICT(TEXT("\1", "a") TENSOR(FLOATS, "\0", "J\xff\xff\xff\xff", "K\1"))),
        ROW("fewer strides than sizes", "sizes and strides",
            DICT(TEXT("\1", "a") TENSOR(FLOATS, "\0", "K\1K\1", "K\1"))),
        ROW("a storage larger than its block", "has 16 bytes",
            DICT(TEXT("\1", "a") TENSOR(STORAGE("FloatStorage", "0", "\5"), "\0", "K\1", "K\1"))),
        ROW("a storage that is not there", "not in the file",
            DICT(TEXT("\1", "a") TENSOR(STORAGE("FloatStorage", "9", "\4"), "\0", "K\1", "K\1"))),
        ROW("another identity", "not kept in the file", "\x80\2" TEXT("\1", "a") "Q."),
    };
    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(GError) error = NULL;
        MojiWeights *w = read_pickle(rows[i].pickle, rows[i].bytes, &error);
        MOJI_CHECK(!w == !!error, "%s: result and error disagree", rows[i].what);
        check_error(error, rows[i].words, rows[i].what);
        moji_weights_free(w);
    }
}

/* Dictionaries that hold themselves, and more steps than any file has. */
static void test_bombs(void)
{
    static const char loop[] = "\x80\2}q\0(" TEXT("\1", "a") "h\0" TEXT("\1", "b") "h\0u.";
    g_autoptr(GError) error = NULL;
    MojiWeights *w = read_pickle(loop, sizeof loop - 1, &error);
    MOJI_CHECK(w && moji_weights_list(w)->len == 0, "a dictionary in itself");
    moji_weights_free(w);

    /* A module in its own parameters. */
    static const char module[] = "\x80\2ctorch.nn.modules.container\nParameterDict\n)\x81q\0}" TEXT(
        "\13", "_parameters") "}" TEXT("\1", "a") "h\0ssb.";
    w = read_pickle(module, sizeof module - 1, &error);
    MOJI_CHECK(w && moji_weights_list(w)->len == 0, "%s", error ? error->message : "not empty");
    moji_weights_free(w);

    GString *steps = g_string_new("\x80\2");
    for (int i = 0; i < (1 << 21); i++)
        g_string_append_c(steps, 'N');
    w = read_pickle(steps->str, steps->len, &error);
    MOJI_CHECK(!w, "as many steps as one likes");
    check_error(error, "steps", "many steps");
    g_string_free(steps, TRUE);

    /* Each tensor is a transposed window into the same 16 bytes. */
    g_clear_error(&error);
    GString *copies = g_string_new_len("\x80\2}(", 4);
    for (char c = 'a'; c <= 'z'; c++) {
        static const char tensor[] = TENSOR(FLOATS, "\0", "K\2K\2", "K\1K\2");
        g_string_append_len(copies, TEXT("\1", ""), 5);
        g_string_append_c(copies, c);
        g_string_append_len(copies, tensor, sizeof tensor - 1);
    }
    g_string_append(copies, "u.");
    w = read_pickle(copies->str, copies->len, &error);
    MOJI_CHECK(w && moji_weights_list(w)->len == 26, "%s", error ? error->message : "not 26");
    moji_weights_free(w);
    g_string_free(copies, TRUE);
}

static void test_hostile_zips(void)
{
    static const char pickle[] = "\x80\2}.";
    static const struct {
        const char *what, *words;
        Entry entry[2];
    } rows[] = {
        {"compressed", "compressed", {{"a/data.pkl", pickle, 4, 8, 0}}},
        {"encrypted", "encrypted", {{"a/data.pkl", pickle, 4, 0, 1}}},
        {"twice", "twice", {{"a/data.pkl", pickle, 4, 0, 0}, {"a/data.pkl", pickle, 4, 0, 0}}},
        {"two pickles",
         "one data.pkl",
         {{"a/data.pkl", pickle, 4, 0, 0}, {"b/data.pkl", pickle, 4, 0, 0}}},
        {"no pickle", "one data.pkl", {{"a/data", pickle, 4, 0, 0}}},
        {"big endian",
         "high byte",
         {{"a/data.pkl", pickle, 4, 0, 0}, {"a/byteorder", "big", 3, 0, 0}}},
        {"not UTF-8", "UTF-8", {{"\xff", pickle, 4, 0, 0}}},
    };
    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(GBytes) file = make_zip(rows[i].entry, rows[i].entry[1].name ? 2 : 1);
        MojiWeights *w = moji_weights_parse(file, "some/file", &error);
        check_error(error, rows[i].words, rows[i].what);
        moji_weights_free(w);
    }
    /* Cut short anywhere, and with any one byte another, it is an error or harmless. */
    const Entry good[] = {{"a/data.pkl", pickle, 4, 0, 0}, {"a/data/0", "0123", 4, 0, 0}};
    g_autoptr(GBytes) file = make_zip(good, 2);
    gsize bytes;
    const guint8 *data = g_bytes_get_data(file, &bytes);
    for (gsize n = 4; n < bytes; n++) {
        g_autoptr(GBytes) part = g_bytes_new(data, n);
        g_autoptr(GError) error = NULL;
        MojiWeights *w = moji_weights_parse(part, "some/file", &error);
        MOJI_CHECK(!w, "accepted when cut to %zu of %zu bytes", n, bytes);
        moji_weights_free(w);
    }
    for (gsize at = 0; at < 8 * bytes; at++) {
        g_autofree guint8 *other = g_memdup2(data, bytes);
        other[at / 8] ^= 1 << at % 8;
        g_autoptr(GBytes) changed = g_bytes_new(other, bytes);
        moji_weights_free(moji_weights_parse(changed, "some/file", NULL));
    }
}

/* ---- files of other kinds ---- */

/* A safetensors file with one number under each name. Caller frees the path. */
static char *put_names(const char *const *names, const char *shape)
{
    static int count;
    g_autoptr(GString) file = g_string_new("{");
    g_autofree char *base = g_strdup_printf("named-%d.safetensors", count++);
    int n = 0, each = strcmp(shape, "[1]") ? 1024 * 4 : 4;
    for (; names[n]; n++)
        g_string_append_printf(file,
                               "%s\"%s\":{\"dtype\":\"F32\",\"shape\":%s,\"data_offsets\":[%d,%d]}",
                               n ? "," : "", names[n], shape, each * n, each * n + each);
    g_string_append_c(file, '}');
    guint64 length = GUINT64_TO_LE(file->len);
    g_string_prepend_len(file, (const char *)&length, sizeof length);
    for (int i = 0; i < each * n; i++)
        g_string_append_c(file, '\0');
    char *path = g_build_filename(moji_test_scratch(), base, NULL);
    g_assert_true(g_file_set_contents(path, file->str, file->len, NULL));
    return path;
}

static void test_kinds(void)
{
    static const struct {
        const char *name, *words;
        MojiFileKind kind;
    } rows[] = {
        {"conditioner.embedders.1.model.ln_final.weight", "Stable Diffusion XL", MOJI_FILE_OTHER},
        {"cond_stage_model.model.ln_final.weight", "Stable Diffusion 2", MOJI_FILE_OTHER},
        {"model.diffusion_model.joint_blocks.0.x", "Stable Diffusion 3", MOJI_FILE_OTHER},
        {"double_blocks.0.img_attn.qkv.weight", "FLUX", MOJI_FILE_OTHER},
        {"control_model.input_blocks.0.0.weight", "ControlNet", MOJI_FILE_OTHER},
        {"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight", "LoRA", MOJI_FILE_LORA},
        {"unet.mid_block.attentions.0.proj_in.lora_A.weight", "LoRA", MOJI_FILE_LORA},
        {"emb_params", "embedding", MOJI_FILE_EMBEDDING},
        {"decoder.conv_out.weight", "no kind that is known", MOJI_FILE_OTHER},
    };
    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(GError) error = NULL;
        g_autofree char *path = put_names((const char *const[]){rows[i].name, NULL}, "[1]");
        MojiCheckpoint *c = moji_checkpoint_open(path, &error);
        if (!MOJI_CHECK(c, "%s", error->message))
            return;
        MOJI_CHECK(c->kind == rows[i].kind && strstr(c->what, rows[i].words), "%s is %s",
                   rows[i].name, c->what);
        moji_checkpoint_free(c);
        MojiModel *m = moji_model_open(path, &error);
        MOJI_CHECK(!m && error && strstr(error->message, rows[i].words), "%s: as a model",
                   rows[i].name);
    }
    /* No text encoder to tell the family by, but the width of what it would give. */
    const char *const wide[] = {
        "model.diffusion_model.input_blocks.1.0.in_layers.0.weight",
        "model.diffusion_model.input_blocks.1.0.in_layers.2.weight",
        "model.diffusion_model.input_blocks.1.1.norm.weight",
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight", NULL};
    g_autofree char *path = put_names(wide, "[1,1024]");
    g_autoptr(GError) error = NULL;
    MojiModel *m = moji_model_open(path, &error);
    MOJI_CHECK(!m && strstr(error->message, "Stable Diffusion 2 family"), "%s", error->message);
}

static void test_missing_parts(void)
{
    const char *const unet[] = {"model.diffusion_model.out.2.bias", NULL};
    const char *const vae[] = {"first_stage_model.quant_conv.bias", NULL};
    g_autofree char *path = put_names(unet, "[1]"), *other = put_names(vae, "[1]");
    g_autofree char *tiny = moji_test_path("files/tiny-1.ckpt");
    g_autofree char *text = moji_test_path("files/text.bin");
    g_autoptr(GError) error = NULL;
    MOJI_CHECK(!moji_model_open(path, &error) &&
                   strstr(error->message, "no text encoder (tensors named cond_stage_model."),
               "%s", error->message);
    g_clear_error(&error);
    MOJI_CHECK(!moji_model_open(other, &error) && strstr(error->message, "is a VAE, expected"),
               "%s", error->message);
    g_clear_error(&error);
    MOJI_CHECK(!moji_model_open_with_vae(tiny, text, &error) &&
                   strstr(error->message, "is a text encoder, expected a VAE"),
               "%s", error->message);
    g_clear_error(&error);
    MOJI_CHECK(!moji_model_open_with_vae(tiny, "nowhere.pt", &error) &&
                   g_error_matches(error, MOJI_ERROR, MOJI_ERROR_FILE),
               "a VAE that is not there");
}

int main(void)
{
    moji_test("files: a checkpoint of PyTorch's", test_checkpoint);
    moji_test("files: topology from shapes", test_topology);
    moji_test("files: the picture of a checkpoint", test_picture);
    moji_test("files: .bin, old and with strides", test_bin);
    moji_test("files: tensors as windows into storages", test_windows);
    moji_test("files: hostile pickles", test_hostile_pickles);
    moji_test("files: bombs", test_bombs);
    moji_test("files: hostile zip archives", test_hostile_zips);
    moji_test("files: what a file is", test_kinds);
    moji_test("files: missing parts", test_missing_parts);
    return moji_test_end();
}
