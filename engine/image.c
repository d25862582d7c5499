/* image.c: see image.h.
 *
 * The surprising rule: libpng leaves a failed call by longjmp, so whatever is allocated between
 * setjmp and the end lives in one struct that is cleared on both ways out, and no local of the
 * function that calls setjmp changes after it. */
#include "image.h"
#include "json.h"
#include "version.h"
#include <gio/gio.h>
#include <glib/gstdio.h>
#include <png.h>
#include <string.h>
#include <sys/stat.h>

enum {
    MAX_SIDE = 16384,
    MAX_PIXELS = 1 << 26,
    MAX_CHUNK_BYTES = 8 << 20, /* of text or profile, unpacked */
    MAX_CHUNKS = 64,           /* ancillary ones that are kept */
    MAX_FILE_BYTES = 1 << 29,
};

/* Photographs and drawings by a model are marked so that tools can tell (IPTC, 2021). */
static const char provenance[] =
    "<x:xmpmeta xmlns:x=\"adobe:ns:meta/\">"
    "<rdf:RDF xmlns:rdf=\"http://www.w3.org/1999/02/22-rdf-syntax-ns#\">"
    "<rdf:Description rdf:about=\"\""
    " xmlns:Iptc4xmpExt=\"http://iptc.org/std/Iptc4xmpExt/2008-02-29/\""
    " Iptc4xmpExt:DigitalSourceType="
    "\"http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia\"/>"
    "</rdf:RDF></x:xmpmeta>";

typedef struct {
    png_structp png;
    png_infop info;
    char fault[160];
    gboolean out_of_memory;

    GByteArray *out; /* writing */
    guint8 *row;
    gboolean alpha;

    const guint8 *in; /* reading */
    gsize left;
    MojiImage *image;
} Coder;

MojiImage *moji_image_new(int width, int height)
{
    g_assert(width > 0 && height > 0 && width <= MAX_SIDE && height <= MAX_SIDE);
    MojiImage *image = g_new0(MojiImage, 1);
    image->width = width;
    image->height = height;
    image->rgba = g_malloc0_n((gsize)width * height, 4);
    return image;
}

void moji_image_free(MojiImage *image)
{
    if (!image)
        return;
    g_free(image->rgba);
    g_free(image->mask);
    g_free(image->recipe);
    g_free(image);
}

MojiImage *moji_image_copy(const MojiImage *image)
{
    gsize pixels = (gsize)image->width * image->height;
    MojiImage *copy = g_new0(MojiImage, 1);
    copy->width = image->width;
    copy->height = image->height;
    copy->rgba = g_memdup2(image->rgba, pixels * 4);
    copy->mask = image->mask ? g_memdup2(image->mask, pixels) : NULL;
    copy->recipe = g_strdup(image->recipe);
    return copy;
}

/* ---- between processes ---- */

static GVariant *bytes_variant(const void *data, gsize bytes)
{
    return g_variant_new_fixed_array(G_VARIANT_TYPE_BYTE, data, bytes, 1);
}

GVariant *moji_image_to_variant(const MojiImage *image)
{
    gsize pixels = (gsize)image->width * image->height;
    return g_variant_new(
        "(ii@ay@ays)", image->width, image->height, bytes_variant(image->rgba, pixels * 4),
        bytes_variant(image->mask, image->mask ? pixels : 0), image->recipe ? image->recipe : "");
}

MojiImage *moji_image_from_variant(GVariant *v, GError **error)
{
    g_autoptr(GVariant) rgba = NULL, mask = NULL;
    int width, height;
    gsize rgba_bytes, mask_bytes;
    const char *recipe;
    g_variant_get(v, "(ii@ay@ay&s)", &width, &height, &rgba, &mask, &recipe);
    const void *rgba_data = g_variant_get_fixed_array(rgba, &rgba_bytes, 1);
    const void *mask_data = g_variant_get_fixed_array(mask, &mask_bytes, 1);
    gsize pixels = (gsize)MAX(width, 0) * (gsize)MAX(height, 0);
    if (width < 1 || height < 1 || width > 16384 || height > 16384 || rgba_bytes != pixels * 4 ||
        (mask_bytes && mask_bytes != pixels)) {
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_USAGE,
                    "a picture of %d x %d px came with %" G_GSIZE_FORMAT
                    " bytes of pixels and %" G_GSIZE_FORMAT " of mask",
                    width, height, rgba_bytes, mask_bytes);
        return NULL;
    }
    MojiImage *image = moji_image_new(width, height);
    memcpy(image->rgba, rgba_data, rgba_bytes);
    if (mask_bytes)
        image->mask = g_memdup2(mask_data, mask_bytes);
    if (*recipe)
        image->recipe = g_strdup(recipe);
    return image;
}

static void on_error(png_structp png, png_const_charp text)
{
    Coder *c = png_get_error_ptr(png);
    g_strlcpy(c->fault, text, sizeof c->fault);
    png_longjmp(png, 1);
}

static void on_warning(png_structp png, png_const_charp text)
{
    (void)png;
    (void)text;
}

/* ---- the recipe as people read it ---- */

/* Names that other programs use for the same samplers. */
static const char *common_name(const char *sampler)
{
    static const char *const pairs[][2] = {
        {"pndm", "PLMS"},       {"ddim", "DDIM"},        {"euler", "Euler"},
        {"euler-a", "Euler a"}, {"dpm++2m", "DPM++ 2M"}, {"dpm++2m-karras", "DPM++ 2M Karras"},
        {"lcm", "LCM"},
    };
    for (gsize i = 0; i < G_N_ELEMENTS(pairs); i++)
        if (strcmp(sampler, pairs[i][0]) == 0)
            return pairs[i][1];
    return sampler;
}

/* ", LABEL: value", or nothing if the recipe has no such member. */
static void append_member(GString *text, JsonObject *recipe, const char *member, const char *label)
{
    JsonNode *node = json_object_get_member(recipe, member);
    if (!node || !JSON_NODE_HOLDS_VALUE(node))
        return;
    GType type = json_node_get_value_type(node);
    g_string_append_printf(text, ", %s: ", label);
    if (type == G_TYPE_STRING) {
        const char *value = json_node_get_string(node);
        g_string_append(text, strcmp(member, "sampler") == 0 ? common_name(value) : value);
    } else if (type == G_TYPE_DOUBLE) {
        char shown[G_ASCII_DTOSTR_BUF_SIZE];
        g_string_append(text,
                        g_ascii_formatd(shown, sizeof shown, "%g", json_node_get_double(node)));
    } else {
        g_string_append_printf(text, "%" G_GINT64_FORMAT, json_node_get_int(node));
    }
}

/* "PROMPT\nNegative prompt: ...\nSteps: 20, Sampler: DDIM, ..."; NULL if recipe is not JSON. */
static char *readable(const MojiImage *image)
{
    JsonObject *root;
    g_autoptr(JsonParser) parser =
        moji_json_parse(image->recipe, strlen(image->recipe), FALSE, "recipe", &root, NULL);
    g_autofree char *prompt = NULL, *negative = NULL;
    if (!parser || !moji_json_string(root, "recipe", "prompt", &prompt, NULL) ||
        !moji_json_string(root, "recipe", "negative", &negative, NULL))
        return NULL;
    GString *text = g_string_new(prompt), *details = g_string_new(NULL);
    if (negative && *negative)
        g_string_append_printf(text, "\nNegative prompt: %s", negative);
    /* Programs that read such lines expect the steps first. */
    append_member(details, root, "steps", "Steps");
    append_member(details, root, "sampler", "Sampler");
    append_member(details, root, "guidance", "CFG scale");
    append_member(details, root, "seed", "Seed");
    g_string_append_printf(details, ", Size: %dx%d", image->width, image->height);
    append_member(details, root, "model", "Model");
    g_string_append_printf(text, "\n%s", details->str + strlen(", "));
    g_string_free(details, TRUE);
    return g_string_free(text, FALSE);
}

/* ---- writing ---- */

static void on_write(png_structp png, png_bytep data, size_t bytes)
{
    Coder *c = png_get_io_ptr(png);
    g_byte_array_append(c->out, data, bytes);
}

static void on_flush(png_structp png)
{
    (void)png;
}

static gboolean has_alpha(const MojiImage *image)
{
    gsize pixels = (gsize)image->width * image->height;
    if (image->mask)
        return TRUE;
    for (gsize i = 0; i < pixels; i++)
        if (image->rgba[4 * i + 3] != 255)
            return TRUE;
    return FALSE;
}

static void fill_row(const MojiImage *image, int y, gboolean alpha, guint8 *row)
{
    gsize start = (gsize)y * image->width;
    for (gsize i = start; i < start + image->width; i++) {
        const guint8 *p = image->rgba + 4 * i;
        int a = p[3];
        if (image->mask)
            a = (a * image->mask[i] + 127) / 255;
        for (int k = 0; k < 3; k++)
            *row++ = a == 0 && p[3] > 0 ? 0 : p[k]; /* nothing of what the mask hides */
        if (alpha)
            *row++ = a;
    }
}

static void set_texts(Coder *c, const MojiImage *image, const char *recipe, const char *parameters)
{
    const struct {
        const char *key, *text;
    } all[] = {
        {"Software", "moji " MOJI_VERSION},
        {"moji", recipe},
        {"parameters", parameters},
        {"XML:com.adobe.xmp", image->recipe ? provenance : NULL},
    };
    for (gsize i = 0; i < G_N_ELEMENTS(all); i++) {
        png_text text = {
            .compression = PNG_ITXT_COMPRESSION_NONE,
            .key = (char *)all[i].key,
            .text = (char *)all[i].text,
            .itxt_length = all[i].text ? strlen(all[i].text) : 0,
            .lang = (char *)"",
            .lang_key = (char *)"",
        };
        if (all[i].text)
            png_set_text(c->png, c->info, &text, 1);
    }
}

static gboolean encode(Coder *c, const MojiImage *image, const char *recipe, const char *parameters)
{
    if (setjmp(png_jmpbuf(c->png)))
        return FALSE;
    png_set_write_fn(c->png, c, on_write, on_flush);
    png_set_user_limits(c->png, MAX_SIDE, MAX_SIDE);
    png_set_IHDR(c->png, c->info, image->width, image->height, 8,
                 c->alpha ? PNG_COLOR_TYPE_RGBA : PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
                 PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    png_set_sRGB(c->png, c->info, PNG_sRGB_INTENT_PERCEPTUAL);
    set_texts(c, image, recipe, parameters);
    png_write_info(c->png, c->info);
    for (int y = 0; y < image->height; y++) {
        fill_row(image, y, c->alpha, c->row);
        png_write_row(c->png, c->row);
    }
    png_write_end(c->png, NULL);
    return TRUE;
}

GBytes *moji_image_encode_png(const MojiImage *image, GError **error)
{
    Coder c = {.out = g_byte_array_new(), .alpha = has_alpha(image)};
    gboolean done = FALSE;
    g_autofree char *recipe = image->recipe ? g_utf8_make_valid(image->recipe, -1) : NULL;
    g_autofree char *parameters = recipe ? readable(image) : NULL;
    c.row = g_malloc_n(image->width, 4);
    c.png = png_create_write_struct(PNG_LIBPNG_VER_STRING, &c, on_error, on_warning);
    c.info = c.png ? png_create_info_struct(c.png) : NULL;
    if (c.info)
        done = encode(&c, image, recipe, parameters);
    png_destroy_write_struct(&c.png, &c.info);
    g_free(c.row);
    if (done)
        return g_byte_array_free_to_bytes(c.out);
    g_byte_array_unref(c.out);
    g_set_error(error, MOJI_ERROR, MOJI_ERROR_MEMORY, "cannot make a PNG of %dx%d pixels: %s",
                image->width, image->height, c.fault[0] ? c.fault : "not enough memory");
    return NULL;
}

gboolean moji_image_write_png(const MojiImage *image, const char *path, GError **error)
{
    g_autoptr(GBytes) bytes = moji_image_encode_png(image, error);
    g_autoptr(GError) why = NULL;
    if (!bytes)
        return FALSE;
    gsize length;
    const char *data = g_bytes_get_data(bytes, &length);
    if (g_file_set_contents(path, data, length, &why))
        return TRUE;
    moji_error_file(error, path, "cannot be written: %s", why->message);
    return FALSE;
}

/* ---- reading ---- */

static void on_read(png_structp png, png_bytep data, size_t bytes)
{
    Coder *c = png_get_io_ptr(png);
    if (bytes > c->left)
        png_error(png, "it ends too early");
    memcpy(data, c->in, bytes);
    c->in += bytes;
    c->left -= bytes;
}

/* Whatever the file holds, rows of RGBA8 from here on. Returns the number of interlace passes. */
static int ask_for_rgba(png_structp png, png_infop info)
{
    png_set_expand(png);
    png_set_scale_16(png);
    png_set_gray_to_rgb(png);
    png_set_add_alpha(png, 0xff, PNG_FILLER_AFTER);
    int passes = png_set_interlace_handling(png);
    png_read_update_info(png, info);
    return passes;
}

static void make_room(Coder *c)
{
    gsize width = png_get_image_width(c->png, c->info);
    gsize height = png_get_image_height(c->png, c->info);
    if (width * height > MAX_PIXELS)
        png_error(c->png, "it has more than 67 million pixels");
    c->image = g_new0(MojiImage, 1);
    c->image->width = width;
    c->image->height = height;
    c->image->rgba = g_try_malloc0_n(width * height, 4);
    c->out_of_memory = !c->image->rgba;
    if (c->out_of_memory)
        png_error(c->png, "not enough memory");
}

static void keep_recipe(Coder *c)
{
    png_textp texts;
    int count = 0;
    png_get_text(c->png, c->info, &texts, &count);
    for (int i = 0; i < count && !c->image->recipe; i++)
        if (strcmp(texts[i].key, "moji") == 0 && texts[i].text &&
            g_utf8_validate(texts[i].text, -1, NULL))
            c->image->recipe = g_strdup(texts[i].text);
}

static gboolean decode(Coder *c)
{
    if (setjmp(png_jmpbuf(c->png)))
        return FALSE;
    png_set_read_fn(c->png, c, on_read);
    png_set_user_limits(c->png, MAX_SIDE, MAX_SIDE);
    png_set_chunk_cache_max(c->png, MAX_CHUNKS);
    png_set_chunk_malloc_max(c->png, MAX_CHUNK_BYTES);
    png_read_info(c->png, c->info);
    make_room(c);
    for (int passes = ask_for_rgba(c->png, c->info); passes > 0; passes--)
        for (int y = 0; y < c->image->height; y++)
            png_read_row(c->png, c->image->rgba + (gsize)y * c->image->width * 4, NULL);
    png_read_end(c->png, c->info);
    keep_recipe(c);
    return TRUE;
}

/* Every chunk must end within the file: libpng makes room for what a chunk claims before it reads.
 */
static gboolean chunks_fit(const guint8 *data, gsize bytes)
{
    for (gsize at = 8; at < bytes;) {
        guint32 length;
        if (bytes - at < 12)
            return FALSE;
        memcpy(&length, data + at, 4);
        length = GUINT32_FROM_BE(length);
        if (length > bytes - at - 12)
            return FALSE;
        if (memcmp(data + at + 4, "IEND", 4) == 0)
            return TRUE;
        at += (gsize)length + 12;
    }
    return FALSE;
}

MojiImage *moji_image_decode_png(const void *data, gsize bytes, const char *name, GError **error)
{
    Coder c = {.in = data, .left = bytes};
    if (bytes < 8 || png_sig_cmp(data, 0, 8) != 0) {
        moji_error_file(error, name, "not a PNG file");
        return NULL;
    }
    if (!chunks_fit(data, bytes)) {
        moji_error_file(error, name, "not a sound PNG file: it ends too early");
        return NULL;
    }
    c.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &c, on_error, on_warning);
    c.info = c.png ? png_create_info_struct(c.png) : NULL;
    gboolean done = c.info && decode(&c);
    png_destroy_read_struct(&c.png, &c.info, NULL);
    if (done)
        return c.image;
    g_autofree char *shown = g_filename_display_name(name);
    if (c.out_of_memory)
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_MEMORY, "%s: not enough memory for %dx%d pixels",
                    shown, c.image->width, c.image->height);
    else
        moji_error_file(error, name, "not a sound PNG file: %s",
                        c.fault[0] ? c.fault : "not enough memory");
    moji_image_free(c.image);
    return NULL;
}

MojiImage *moji_image_read_png(const char *path, GError **error)
{
    g_autofree char *data = NULL;
    g_autoptr(GError) why = NULL;
    gsize bytes;
    GStatBuf about;
    if (g_stat(path, &about) == 0 && (!S_ISREG(about.st_mode) || about.st_size > MAX_FILE_BYTES)) {
        moji_error_file(error, path, "expected a PNG file of at most %d MB", MAX_FILE_BYTES >> 20);
        return NULL;
    }
    if (!g_file_get_contents(path, &data, &bytes, &why)) {
        moji_error_file(error, path, "cannot be read: %s", why->message);
        return NULL;
    }
    return moji_image_decode_png(data, bytes, path, error);
}
