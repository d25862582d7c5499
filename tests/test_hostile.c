/* test_hostile.c: hostile files through every reader that a person can hand one to, by path: the
 * error must name the file and what is wrong, and little memory may be taken. Each is read in a
 * child of its own, whose peak is measured; what single bytes do is for test_files.c,
 * test_weights.c, test_lora.c, test_image.c and the fuzzers. */
#include "draw.h"
#include "inversion.h"
#include "lora.h"
#include "model.h"
#include "test.h"
#include <limits.h>
#include <glib/gstdio.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define KEYS 1000000
#define FEWER_KEYS 80000       /* whose values are just not too many */
#define MOST_KIB (32 << 10)    /* beyond what the file itself holds */
#define PARSED_KIB (200 << 10) /* the same with all of those keys */

static char *tiny, *here; /* tests/fixtures/tiny-sd; a folder for all files */

/* ---- readers: each opens a path and sets the error, or none if it took the file ---- */

typedef void (*Reader)(const char *path, GError **error);

static void read_model(const char *path, GError **error)
{
    moji_model_free(moji_model_open(path, error));
}

static void read_vae(const char *path, GError **error)
{
    moji_model_free(moji_model_open_with_vae(tiny, path, error));
}

static void read_lora(const char *path, GError **error)
{
    MojiModel *m = moji_model_open(tiny, NULL);
    MojiLora *l = moji_lora_open(path, error);
    MojiLoraUse use = {.lora = l, .unet = 1, .text = 1};
    if (l)
        moji_lora_merge(m, MOJI_F32, 1, &use, 1, NULL, error);
    moji_lora_free(l);
    moji_model_free(m);
}

static void read_inversion(const char *path, GError **error)
{
    g_autofree char *folder = g_path_get_dirname(path), *name = g_path_get_basename(path);
    MojiInversions *set = moji_inversions_open(folder, 40);
    gsize bytes;
    *strrchr(name, '.') = '\0';
    moji_inversions_match(set, name, &bytes, error);
    moji_inversions_free(set);
}

static void read_picture(const char *path, GError **error)
{
    moji_image_free(moji_image_read_png(path, error));
}

static void draw_with(const char *path, GError **error)
{
    MojiEngine *engine = moji_engine_new("cpu", 1, error);
    g_autoptr(MojiRequest) r = moji_request_new();
    r->prompt = g_strdup("a red cat");
    r->model = g_strdup(path);
    r->size = 64;
    r->steps = 1;
    GPtrArray *images = moji_engine_draw(engine, r, NULL, NULL, NULL, error);
    if (images)
        g_ptr_array_unref(images);
    moji_engine_free(engine);
}

/* ---- files ---- */

static char *put_file(const char *name, const void *data, gsize bytes)
{
    char *path = g_build_filename(here, name, NULL);
    if (!g_file_set_contents(path, data, bytes, NULL))
        g_error("%s cannot be written", path);
    return path;
}

static char *put_safetensors(const char *name, const char *header, guint8 fill, gsize data)
{
    GString *file = g_string_new(NULL);
    guint64 length = GUINT64_TO_LE(strlen(header));
    g_string_append_len(file, (const char *)&length, sizeof length);
    g_string_append(file, header);
    gsize start = file->len;
    g_string_set_size(file, start + data);
    memset(file->str + start, fill, data);
    char *path = put_file(name, file->str, file->len);
    g_string_free(file, TRUE);
    return path;
}

/* n members, each as `format` has it with its number. Caller frees. */
static char *members(int n, const char *before, const char *format, const char *after)
{
    GString *text = g_string_new(before);
    for (int i = 0; i < n; i++) {
        char number[16];
        g_snprintf(number, sizeof number, "%d", i);
        const char *at = strchr(format, '#');
        g_string_append_c(text, i ? ',' : ' ');
        g_string_append_len(text, format, at - format);
        g_string_append(text, number);
        g_string_append(text, at + 1);
    }
    g_string_append(text, after);
    return g_string_free(text, FALSE);
}

/* tiny-sd with another file in place of PART/NAME. Caller frees. */
static char *put_model(const char *name, const char *part, const char *file, const void *data,
                       gsize bytes)
{
    char *folder = g_build_filename(here, name, NULL);
    g_autofree char *into = g_build_filename(folder, part, NULL);
    g_autofree char *from = g_build_filename(tiny, part, NULL);
    g_autofree char *copy =
        g_strdup_printf("mkdir '%s' && ln -s '%s'/* '%s' && rm '%s' && mkdir '%s'"
                        " && ln -s '%s'/* '%s'",
                        folder, tiny, folder, into, into, from, into);
    g_autofree char *path = g_build_filename(into, file, NULL);
    if (system(copy))
        g_error("%s cannot be made", folder);
    unlink(path);
    if (strstr(file, "index.json")) { /* it counts where the file itself is not */
        g_autofree char *whole =
            g_build_filename(into, "diffusion_pytorch_model.safetensors", NULL);
        unlink(whole);
    }
    if (!g_file_set_contents(path, data, bytes, NULL))
        g_error("%s cannot be written", path);
    return folder;
}

/* An archive of one entry that claims four gigabytes of these, or what calls a function. */
static char *put_archive(const char *name, const char *pickle, gsize bytes, gboolean bomb)
{
    static const char entry[] = "a/data.pkl";
    GByteArray *out = g_byte_array_new();
    guint32 directory = 30 + strlen(entry) + bytes;
    for (int central = 0; central < 2; central++) {
        guint8 h[46] = {'P', 'K', central ? 1 : 3, central ? 2 : 4, 20};
        guint8 *fields = h + (central ? 10 : 8); /* from the method on */
        guint32 packed = GUINT32_TO_LE(bytes), all = bomb ? 0xfffffff0 : packed;
        fields[0] = bomb ? 8 : 0;
        memcpy(fields + 10, &packed, 4);
        memcpy(fields + 14, &all, 4);
        fields[18] = strlen(entry);
        g_byte_array_append(out, h, central ? 46 : 30);
        g_byte_array_append(out, (const guint8 *)entry, strlen(entry));
        if (!central)
            g_byte_array_append(out, (const guint8 *)pickle, bytes);
    }
    guint32 size = out->len - directory;
    guint8 end[22] = {'P', 'K', 5, 6, 0, 0, 0, 0, 1, 0, 1, 0};
    memcpy(end + 12, &size, 4);
    memcpy(end + 16, &directory, 4);
    g_byte_array_append(out, end, sizeof end);
    char *path = put_file(name, out->data, out->len);
    g_byte_array_unref(out);
    return path;
}

/* The first half of a file. */
static char *put_half(const char *name, const char *of)
{
    g_autofree char *data = NULL;
    gsize bytes;
    if (!g_file_get_contents(of, &data, &bytes, NULL))
        g_error("fixture %s cannot be read", of);
    return put_file(name, data, bytes / 2);
}

static guint32 crc32_of(const guint8 *p, gsize n)
{
    guint32 c = ~0u;
    while (n--) {
        c ^= *p++;
        for (int k = 0; k < 8; k++)
            c = c >> 1 ^ (c & 1 ? 0xedb88320 : 0);
    }
    return ~c;
}

/* A picture whose recipe unpacks to 256 MiB, a thousand times its size. */
static char *put_text_bomb(void)
{
    enum { ALL = 256 << 20 };
    g_autoptr(GConverter) pack =
        G_CONVERTER(g_zlib_compressor_new(G_ZLIB_COMPRESSOR_FORMAT_ZLIB, 9));
    g_autofree char *zeros = g_malloc(ALL), *packed = g_malloc(ALL / 100);
    gsize read, bytes;
    memset(zeros, 'a', ALL);
    g_converter_convert(pack, zeros, ALL, packed, ALL / 100, G_CONVERTER_INPUT_AT_END, &read,
                        &bytes, NULL);
    g_autoptr(MojiImage) image = moji_image_new(4, 4);
    g_autoptr(GBytes) png = moji_image_encode_png(image, NULL);
    gsize length;
    const guint8 *data = g_bytes_get_data(png, &length);
    g_autoptr(GByteArray) out = g_byte_array_new(), chunk = g_byte_array_new();
    g_byte_array_append(chunk, (const guint8 *)"zTXtmoji\0\0", 10);
    g_byte_array_append(chunk, (const guint8 *)packed, bytes);
    guint32 size = GUINT32_TO_BE(chunk->len - 4);
    guint32 crc = GUINT32_TO_BE(crc32_of(chunk->data, chunk->len));
    g_byte_array_append(out, data, 33); /* signature and header */
    g_byte_array_append(out, (const guint8 *)&size, 4);
    g_byte_array_append(out, chunk->data, chunk->len);
    g_byte_array_append(out, (const guint8 *)&crc, 4);
    g_byte_array_append(out, data + 33, length - 33);
    return put_file("text-bomb.png", out->data, out->len);
}

/* ---- rows ---- */

typedef struct {
    char message[1000];
    gboolean failed;
    long peak; /* KiB beyond what was there before */
} Outcome;

static long rss_kib(void)
{
    long pages = 0, all = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (!f || fscanf(f, "%ld %ld", &all, &pages) != 2)
        pages = 0;
    if (f)
        fclose(f);
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

static Outcome read_in_child(Reader reader, const char *path)
{
    Outcome o = {.message = "the reader crashed"};
    int ends[2];
    if (pipe(ends))
        g_error("no pipe");
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        GError *error = NULL;
        struct rusage usage;
        long before = rss_kib();
        reader(path, &error);
        getrusage(RUSAGE_SELF, &usage);
        o.failed = error != NULL;
        o.peak = usage.ru_maxrss - before;
        g_strlcpy(o.message, error ? error->message : "taken", sizeof o.message);
        _exit(write(ends[1], &o, sizeof o) != sizeof o);
    }
    close(ends[1]);
    o.failed = read(ends[0], &o, sizeof o) == sizeof o && o.failed;
    close(ends[0]);
    waitpid(child, NULL, 0);
    return o;
}

/* words: what the message must have besides the file's name; NULL: the file is taken. */
static void check_within(Reader reader, char *path, const char *words, long most)
{
    g_autofree char *owned = path, *name = g_path_get_basename(path);
    GStatBuf file;
    Outcome o = read_in_child(reader, path);
    if (g_getenv("MOJI_TEST_FIGURES"))
        g_print("# %s: %.100s; %ld KiB\n", name, o.message, o.peak);
    if (words)
        MOJI_CHECK(o.failed && strstr(o.message, words) && strstr(o.message, name),
                   "%s: \"%s\" lacks the file or \"%s\"", name, o.message, words);
    else
        MOJI_CHECK(!o.failed && !strcmp(o.message, "taken"), "%s: %s", name, o.message);
    long own = g_stat(path, &file) ? 0 : file.st_size / 1024;
#ifdef __SANITIZE_ADDRESS__ /* which keeps what is freed */
    most = LONG_MAX - own;
#endif
    MOJI_CHECK(o.peak < own + most, "%s: took %ld KiB for a file of %ld", name, o.peak, own);
}

static void check(Reader reader, char *path, const char *words)
{
    check_within(reader, path, words, MOST_KIB);
}

static void test_million_keys(void)
{
    g_autofree char *header = members(
        KEYS, "{", "\"lora_unet_#.alpha\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}",
        "}");
    g_autofree char *fewer = members(FEWER_KEYS, "{",
                                     "\"lora_unet_#.alpha\":{\"dtype\":\"F32\",\"shape\":[],"
                                     "\"data_offsets\":[0,4]}",
                                     "}");
    g_autofree char *index = members(KEYS, "{\"weight_map\":{", "\"a#\":\"b\"", "}}");
    g_autofree char *config = members(KEYS, "{", "\"a#\":0", "}");
    static const Reader readers[] = {read_lora, read_model, read_vae, read_inversion};
    for (gsize i = 0; i < G_N_ELEMENTS(readers); i++)
        check(readers[i], put_safetensors("million.safetensors", header, 0, 4), "1000000 values");
    for (gsize i = 0; i < G_N_ELEMENTS(readers); i++)
        check_within(readers[i], put_safetensors("fewer.safetensors", fewer, 0, 4), "", PARSED_KIB);
    check(read_model,
          put_model("index", "unet", "diffusion_pytorch_model.safetensors.index.json", index,
                    strlen(index)),
          "1000000 values");
    check(read_model, put_model("config", "vae", "config.json", config, strlen(config)),
          "1000000 values");
    check(read_vae, put_file("million.json", config, strlen(config)), "");
}

static void test_archives(void)
{
    static const char call[] = "\x80\2cos\nsystem\nX\2\0\0\0lsq\0\x85R.";
    static const Reader readers[] = {read_lora, read_model, read_vae, read_inversion};
    for (gsize i = 0; i < G_N_ELEMENTS(readers); i++) {
        g_autofree char *whole = moji_test_path("files/tiny-1.ckpt");
        check(readers[i], put_archive("call.pt", call, sizeof call - 1, FALSE), "os.system");
        check(readers[i], put_archive("bomb.pt", call, sizeof call - 1, TRUE), "compressed");
        check(readers[i], put_half("half.pt", whole), "");
        check(readers[i], put_file("noise.bin", "\x80\2cos\nsystem\n)R.", 16), "");
    }
}

static void test_cut_short(void)
{
    static const Reader readers[] = {read_lora, read_model, read_vae, read_inversion};
    g_autofree char *vae = g_build_filename(tiny, "vae/diffusion_pytorch_model.safetensors", NULL);
    for (gsize i = 0; i < G_N_ELEMENTS(readers); i++)
        check(readers[i], put_half("cut.safetensors", vae), "");
    g_autofree char *picture = moji_test_path("edit/picture.png");
    check(read_picture, put_half("cut.png", picture), "");
}

static void test_nan(void)
{
    static const char *const parts[] = {"text_encoder/model", "unet/diffusion_pytorch_model",
                                        "vae/diffusion_pytorch_model"};
    for (gsize i = 0; i < G_N_ELEMENTS(parts); i++) {
        g_autofree char *from = g_strdup_printf("%s/%s.safetensors", tiny, parts[i]), *data = NULL;
        g_autofree char *part = g_path_get_dirname(parts[i]), *file = g_path_get_basename(from);
        gsize bytes;
        guint64 header;
        if (!g_file_get_contents(from, &data, &bytes, NULL))
            g_error("fixture %s cannot be read", from);
        memcpy(&header, data, 8);
        memset(data + 8 + GUINT64_FROM_LE(header), 0xff, bytes - 8 - GUINT64_FROM_LE(header));
        g_autofree char *name = g_strdup_printf("nan-%s", part);
        char *folder = put_model(name, part, file, data, bytes);
        Outcome o = read_in_child(draw_with, folder);
        MOJI_CHECK(o.failed && strstr(o.message, "not finite"), "%s: %s", name, o.message);
        g_free(folder);
    }
    check(read_inversion,
          put_safetensors(
              "nanword.safetensors",
              "{\"emb_params\":{\"dtype\":\"F32\",\"shape\":[40],\"data_offsets\":[0,160]}}", 0xff,
              160),
          "not finite");
}

static void test_text_bomb(void)
{
    check(read_picture, put_text_bomb(), NULL);
}

int main(void)
{
    tiny = moji_test_path("tiny-sd");
    here = g_build_filename(moji_test_scratch(), "hostile", NULL);
    g_mkdir(here, 0700);
    moji_test("hostile: a million keys", test_million_keys);
    moji_test("hostile: archives that call or unpack", test_archives);
    moji_test("hostile: files cut short", test_cut_short);
    moji_test("hostile: numbers that are none", test_nan);
    moji_test("hostile: a recipe that unpacks to a thousand times its size", test_text_bomb);
    g_free(tiny);
    g_free(here);
    return moji_test_end();
}
