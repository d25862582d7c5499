/* test_image.c: PNG files there and back, of every kind, and damaged ones. */
#include "image.h"
#include "test.h"
#include <string.h>

#define RECIPE                                                                                         \
    "{\"prompt\":\"a cat, 고양이 😺\",\"negative\":\"dog\",\"steps\":20,\"sampler\":\"euler-a\"," \
    "\"guidance\":7.5,\"seed\":9007199254740993,\"model\":\"moji-mini\"}"

/* Deterministic and without two equal rows. */
static MojiImage *pattern(int width, int height, gboolean alpha)
{
    MojiImage *image = moji_image_new(width, height);
    for (int i = 0; i < width * height; i++) {
        image->rgba[4 * i] = i * 7;
        image->rgba[4 * i + 1] = i / width * 11;
        image->rgba[4 * i + 2] = i * i;
        image->rgba[4 * i + 3] = alpha ? 255 - i % 256 : 255;
    }
    return image;
}

static MojiImage *there_and_back(const MojiImage *image, int *colour_type)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GBytes) bytes = moji_image_encode_png(image, &error);
    if (!MOJI_CHECK(bytes, "%s", error ? error->message : "no reason"))
        return NULL;
    gsize length;
    const guint8 *data = g_bytes_get_data(bytes, &length);
    *colour_type = data[25]; /* of IHDR, which comes first */
    MojiImage *back = moji_image_decode_png(data, length, "memory", &error);
    MOJI_CHECK(back, "%s", error ? error->message : "no reason");
    return back;
}

static void test_opaque(void)
{
    g_autoptr(MojiImage) image = pattern(37, 23, FALSE);
    int colour_type = -1;
    g_autoptr(MojiImage) back = there_and_back(image, &colour_type);
    if (!back)
        return;
    MOJI_CHECK(colour_type == 2, "colour type %d, expected RGB", colour_type);
    MOJI_CHECK(back->width == 37 && back->height == 23, "%dx%d", back->width, back->height);
    MOJI_CHECK(memcmp(back->rgba, image->rgba, 37 * 23 * 4) == 0, "pixels differ");
    MOJI_CHECK(!back->recipe && !back->mask, "a recipe or a mask out of nowhere");
}

static void test_alpha(void)
{
    g_autoptr(MojiImage) image = pattern(33, 17, TRUE);
    int colour_type = -1, n = 33 * 17;
    image->mask = g_malloc(n);
    for (int i = 0; i < n; i++)
        image->mask[i] = i % 3 == 0 ? 0 : i % 3 == 1 ? 255 : i;
    g_autoptr(MojiImage) back = there_and_back(image, &colour_type);
    if (!back)
        return;
    MOJI_CHECK(colour_type == 6, "colour type %d, expected RGBA", colour_type);
    for (int i = 0; i < n; i++) {
        const guint8 *a = image->rgba + 4 * i, *b = back->rgba + 4 * i;
        int alpha = (int)(a[3] * image->mask[i] / 255.0 + 0.5);
        guint8 want[4] = {a[0], a[1], a[2], alpha};
        if (alpha == 0 && a[3] > 0)
            memset(want, 0, 3); /* what the mask hides; colour that was transparent before stays */
        MOJI_CHECK(memcmp(b, want, 4) == 0, "pixel %d: %d %d %d %d", i, b[0], b[1], b[2], b[3]);
    }
}

/* A mask that keeps everything still asks for an alpha channel; alpha below 255 does, too. */
static void test_channels(void)
{
    g_autoptr(MojiImage) masked = pattern(4, 4, FALSE), faint = pattern(4, 4, FALSE);
    int colour_type = -1;
    masked->mask = g_malloc(16);
    memset(masked->mask, 255, 16);
    faint->rgba[63] = 254;
    g_autoptr(MojiImage) a = there_and_back(masked, &colour_type);
    MOJI_CHECK(a && colour_type == 6, "mask: colour type %d", colour_type);
    g_autoptr(MojiImage) b = there_and_back(faint, &colour_type);
    MOJI_CHECK(b && colour_type == 6, "alpha: colour type %d", colour_type);
}

static gboolean contains(GBytes *bytes, const char *text)
{
    gsize length;
    const char *data = g_bytes_get_data(bytes, &length);
    return memmem(data, length, text, strlen(text)) != NULL;
}

static void test_recipe(void)
{
    g_autoptr(MojiImage) image = pattern(8, 16, FALSE);
    int colour_type;
    image->recipe = g_strdup(RECIPE);
    g_autoptr(MojiImage) back = there_and_back(image, &colour_type);
    MOJI_CHECK(back && g_strcmp0(back->recipe, RECIPE) == 0, "the recipe came back as %s",
               back && back->recipe ? back->recipe : "nothing");
    g_autoptr(GBytes) a = moji_image_encode_png(image, NULL),
                      b = moji_image_encode_png(image, NULL);
    MOJI_CHECK(g_bytes_equal(a, b), "the same image gave other bytes");
    MOJI_CHECK(contains(a, "a cat, 고양이 😺\nNegative prompt: dog\nSteps: 20, Sampler: Euler a, "
                           "CFG scale: 7.5, Seed: 9007199254740993, Size: 8x16, Model: moji-mini"),
               "no readable parameters");
    MOJI_CHECK(contains(a, "trainedAlgorithmicMedia"), "no mark that an algorithm made it");
    g_free(image->recipe);
    image->recipe = NULL;
    g_autoptr(GBytes) plain = moji_image_encode_png(image, NULL);
    MOJI_CHECK(!contains(plain, "trainedAlgorithmicMedia") && !contains(plain, "parameters"),
               "text about a recipe without one");
}

/* A recipe that is not JSON, or not UTF-8, must not stop the picture. */
static void test_odd_recipes(void)
{
    static const char *const recipes[] = {"", "not json", "{\"prompt\":3}", "\xff\xfe",
                                          "{\"guidance\":\"x\",\"steps\":[1]}"};
    for (gsize i = 0; i < G_N_ELEMENTS(recipes); i++) {
        g_autoptr(MojiImage) image = pattern(2, 2, FALSE);
        int colour_type;
        image->recipe = g_strdup(recipes[i]);
        g_autofree char *valid = g_utf8_make_valid(recipes[i], -1);
        g_autoptr(MojiImage) back = there_and_back(image, &colour_type);
        MOJI_CHECK(back && g_strcmp0(back->recipe, valid) == 0, "recipe \"%s\"", valid);
    }
}

/* Every colour type, depth and interlacing, against pixels worked out when the files were made. */
static void test_kinds(void)
{
    gint64 shape[4];
    gsize words, files, count;
    g_autofree gint64 *packed = moji_test_npy_int("host/image_files.npy", &words, shape);
    g_autofree gint64 *lengths = moji_test_npy_int("host/image_lengths.npy", &files, shape);
    g_autofree gint64 *pixels = moji_test_npy_int("host/image_rgba.npy", &count, shape);
    g_autofree char *path = moji_test_path("host/image_names.txt"), *names = NULL;
    g_assert(g_file_get_contents(path, &names, NULL, NULL));
    g_auto(GStrv) name = g_strsplit(names, "\n", -1);
    g_autofree guint8 *data = g_malloc(words * 4);
    for (gsize i = 0; i < words * 4; i++)
        data[i] = packed[i / 4] >> (8 * (i % 4));
    gsize at = 0, size = shape[1] * shape[2];
    for (gsize k = 0; k < files; at += lengths[k++]) {
        g_autoptr(GError) error = NULL;
        g_autoptr(MojiImage) image = moji_image_decode_png(data + at, lengths[k], name[k], &error);
        if (!MOJI_CHECK(image && image->width * 4 == shape[2] && image->height == shape[1],
                        "%s: %s", name[k], error ? error->message : "another size"))
            continue;
        for (gsize i = 0; i < size; i++)
            if (!MOJI_CHECK(image->rgba[i] == pixels[k * size + i],
                            "%s: byte %d is %d, expected %d", name[k], (int)i, image->rgba[i],
                            (int)pixels[k * size + i]))
                break;
    }
    MOJI_CHECK(files == 27, "only %d files", (int)files);
}

static void test_files(void)
{
    g_autofree char *path = g_build_filename(moji_test_scratch(), "a.png", NULL);
    g_autofree char *absent = g_build_filename(moji_test_scratch(), "no", "b.png", NULL);
    g_autoptr(MojiImage) image = pattern(64, 48, TRUE);
    g_autoptr(GError) error = NULL, missing = NULL;
    if (!MOJI_CHECK(moji_image_write_png(image, path, &error), "%s", error->message))
        return;
    g_autoptr(MojiImage) back = moji_image_read_png(path, &error);
    MOJI_CHECK(back && back->width == 64, "%s", error ? error->message : "another width");
    MOJI_CHECK(!moji_image_write_png(image, absent, &missing) &&
                   g_error_matches(missing, MOJI_ERROR, MOJI_ERROR_FILE) &&
                   strstr(missing->message, absent),
               "writing into a folder that is not there: %s", missing ? missing->message : "done");
    g_clear_error(&missing);
    MOJI_CHECK(!moji_image_read_png(absent, &missing) &&
                   g_error_matches(missing, MOJI_ERROR, MOJI_ERROR_FILE) &&
                   strstr(missing->message, absent),
               "reading a file that is not there");
    g_clear_error(&missing);
    MOJI_CHECK(!moji_image_read_png(moji_test_scratch(), &missing) &&
                   g_error_matches(missing, MOJI_ERROR, MOJI_ERROR_FILE),
               "reading a folder");
    g_clear_error(&missing);
    MOJI_CHECK(!moji_image_read_png("/dev/zero", &missing) &&
                   g_error_matches(missing, MOJI_ERROR, MOJI_ERROR_FILE),
               "reading a device without an end");
}

/* Every beginning of a file, and every file with one byte changed: an error or an image, and under
 * a sanitizer no leak. */
static void test_damaged(void)
{
    g_autoptr(MojiImage) image = pattern(9, 6, TRUE);
    image->recipe = g_strdup("{}");
    g_autoptr(GBytes) bytes = moji_image_encode_png(image, NULL);
    gsize length;
    const guint8 *data = g_bytes_get_data(bytes, &length);
    for (gsize cut = 0; cut < length; cut++) {
        g_autofree guint8 *part = g_memdup2(data, cut);
        g_autoptr(GError) error = NULL;
        g_autoptr(MojiImage) got = moji_image_decode_png(part, cut, "part.png", &error);
        MOJI_CHECK(!got && g_error_matches(error, MOJI_ERROR, MOJI_ERROR_FILE) &&
                       g_str_has_prefix(error->message, "part.png: "),
                   "the first %d bytes: %s", (int)cut, error ? error->message : "an image");
    }
    for (gsize i = 0; i < length; i++) {
        g_autofree guint8 *copy = g_memdup2(data, length);
        g_autoptr(GError) error = NULL;
        copy[i] ^= 1 << i % 8;
        g_autoptr(MojiImage) got = moji_image_decode_png(copy, length, "flip.png", &error);
        MOJI_CHECK(!got == !!error, "byte %d: neither an image nor an error", (int)i);
    }
}

static guint32 crc32_of(const guint8 *data, gsize bytes)
{
    guint32 crc = ~0u;
    for (gsize i = 0; i < bytes; i++) {
        crc ^= data[i];
        for (int k = 0; k < 8; k++)
            crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    return ~crc;
}

/* Sizes that a few bytes can claim and no memory should be given for. */
static void test_claims(void)
{
    static const guint32 sizes[][2] = {{0, 1},          {1, 0},         {16385, 1},
                                       {1, 16385},      {16384, 16384}, {0x7fffffff, 0x7fffffff},
                                       {0xffffffff, 1}, {8193, 8193}};
    g_autoptr(MojiImage) image = pattern(9, 6, FALSE);
    g_autoptr(GBytes) bytes = moji_image_encode_png(image, NULL);
    gsize length;
    const guint8 *data = g_bytes_get_data(bytes, &length);
    for (gsize i = 0; i < G_N_ELEMENTS(sizes); i++) {
        g_autofree guint8 *copy = g_memdup2(data, length);
        g_autoptr(GError) error = NULL;
        guint32 big[2] = {GUINT32_TO_BE(sizes[i][0]), GUINT32_TO_BE(sizes[i][1])};
        memcpy(copy + 16, big, 8);
        guint32 crc = GUINT32_TO_BE(crc32_of(copy + 12, 17));
        memcpy(copy + 29, &crc, 4);
        g_autoptr(MojiImage) got = moji_image_decode_png(copy, length, "big.png", &error);
        MOJI_CHECK(!got && g_error_matches(error, MOJI_ERROR, MOJI_ERROR_FILE), "%u by %u: %s",
                   sizes[i][0], sizes[i][1], error ? error->message : "an image");
    }
}

int main(void)
{
    moji_test("image: opaque pixels there and back", test_opaque);
    moji_test("image: alpha and mask", test_alpha);
    moji_test("image: when there is an alpha channel", test_channels);
    moji_test("image: recipe and readable text", test_recipe);
    moji_test("image: recipes that are not JSON", test_odd_recipes);
    moji_test("image: every kind of PNG", test_kinds);
    moji_test("image: files", test_files);
    moji_test("image: damaged files", test_damaged);
    moji_test("image: sizes beyond reason", test_claims);
    return moji_test_end();
}
