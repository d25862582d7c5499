/* request.c: see request.h. One table names every field, so that copying, the wire and the checks
 * cannot forget one. */
#include "request.h"
#include "json.h"
#include <math.h>
#include <string.h>

typedef struct {
    const char *name;
    char type; /* GVariant's letter: s, x, i, d, b; a for as; ( for a picture */
    gsize offset;
    gsize max_bytes; /* of a string, or of each in a list */
} Field;

static const Field FIELDS[] = {
    {"prompt", 's', G_STRUCT_OFFSET(MojiRequest, prompt), MOJI_REQUEST_MAX_TEXT},
    {"negative", 's', G_STRUCT_OFFSET(MojiRequest, negative), MOJI_REQUEST_MAX_TEXT},
    {"style", 's', G_STRUCT_OFFSET(MojiRequest, style), 128},
    {"background", 's', G_STRUCT_OFFSET(MojiRequest, background), 128},
    {"sampler", 's', G_STRUCT_OFFSET(MojiRequest, sampler), 128},
    {"spacing", 's', G_STRUCT_OFFSET(MojiRequest, spacing), 128},
    {"sigmas", 's', G_STRUCT_OFFSET(MojiRequest, sigmas), 128},
    {"rng", 's', G_STRUCT_OFFSET(MojiRequest, rng), 128},
    {"model", 's', G_STRUCT_OFFSET(MojiRequest, model), 4096},
    {"vae", 's', G_STRUCT_OFFSET(MojiRequest, vae), 4096},
    {"loras", 'a', G_STRUCT_OFFSET(MojiRequest, loras), 4096},
    {"seed", 'x', G_STRUCT_OFFSET(MojiRequest, seed), 0},
    {"steps", 'i', G_STRUCT_OFFSET(MojiRequest, steps), 0},
    {"guidance", 'd', G_STRUCT_OFFSET(MojiRequest, guidance), 0},
    {"size", 'i', G_STRUCT_OFFSET(MojiRequest, size), 0},
    {"clip_skip", 'i', G_STRUCT_OFFSET(MojiRequest, clip_skip), 0},
    {"count", 'i', G_STRUCT_OFFSET(MojiRequest, count), 0},
    {"transparent", 'b', G_STRUCT_OFFSET(MojiRequest, transparent), 0},
    {"amount", 'd', G_STRUCT_OFFSET(MojiRequest, amount), 0},
    {"variation_seed", 'x', G_STRUCT_OFFSET(MojiRequest, variation_seed), 0},
    {"image", '(', G_STRUCT_OFFSET(MojiRequest, image), 0},
    {"strength", 'd', G_STRUCT_OFFSET(MojiRequest, strength), 0},
};

/* What holds for one picture and not for another that is made of it. */
static const char *const ALONE[] = {"model", "vae", "size", "count", "image", "strength", NULL};

static char **string_at(const MojiRequest *r, const Field *f)
{
    return G_STRUCT_MEMBER_P(r, f->offset);
}

static char ***list_at(const MojiRequest *r, const Field *f)
{
    return G_STRUCT_MEMBER_P(r, f->offset);
}

MojiRequest *moji_request_new(void)
{
    MojiRequest *r = g_new0(MojiRequest, 1);
    r->seed = r->variation_seed = -1;
    r->guidance = r->strength = -1;
    return r;
}

MojiRequest *moji_request_copy(const MojiRequest *r)
{
    MojiRequest *copy = g_memdup2(r, sizeof *r);
    for (gsize i = 0; i < G_N_ELEMENTS(FIELDS); i++)
        if (FIELDS[i].type == 's')
            *string_at(copy, &FIELDS[i]) = g_strdup(*string_at(r, &FIELDS[i]));
        else if (FIELDS[i].type == 'a')
            *list_at(copy, &FIELDS[i]) = g_strdupv(*list_at(r, &FIELDS[i]));
    copy->image = r->image ? moji_image_copy(r->image) : NULL;
    return copy;
}

void moji_request_free(MojiRequest *r)
{
    if (!r)
        return;
    for (gsize i = 0; i < G_N_ELEMENTS(FIELDS); i++)
        if (FIELDS[i].type == 's')
            g_free(*string_at(r, &FIELDS[i]));
        else if (FIELDS[i].type == 'a')
            g_strfreev(*list_at(r, &FIELDS[i]));
    moji_image_free(r->image);
    g_free(r);
}

static gboolean check_string(const Field *f, const char *text, GError **error)
{
    gsize bytes = strlen(text);
    if (bytes > f->max_bytes) {
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_USAGE,
                    "%s: %" G_GSIZE_FORMAT " bytes long; at most %" G_GSIZE_FORMAT " are taken",
                    f->name, bytes, f->max_bytes);
        return FALSE;
    }
    /* The folder's name too: it travels as a string. */
    if (!g_utf8_validate(text, -1, NULL)) {
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_USAGE, "%s: not valid UTF-8", f->name);
        return FALSE;
    }
    return TRUE;
}

static gboolean check_text(const MojiRequest *r, GError **error)
{
    for (gsize i = 0; i < G_N_ELEMENTS(FIELDS); i++) {
        const Field *f = &FIELDS[i];
        const char *text = f->type == 's' ? *string_at(r, f) : NULL;
        char **list = f->type == 'a' ? *list_at(r, f) : NULL;
        if (text && !check_string(f, text, error))
            return FALSE;
        for (char **s = list; s && *s; s++)
            if (!check_string(f, *s, error))
                return FALSE;
        if (list && g_strv_length(list) > MOJI_REQUEST_MAX_LORAS) {
            g_set_error(error, MOJI_ERROR, MOJI_ERROR_USAGE, "%s: %u of them; at most %d are taken",
                        f->name, g_strv_length(list), MOJI_REQUEST_MAX_LORAS);
            return FALSE;
        }
    }
    return TRUE;
}

static gboolean check_range(const char *name, gint64 value, gint64 min, gint64 max, GError **error)
{
    if (value >= min && value <= max)
        return TRUE;
    g_set_error(error, MOJI_ERROR, MOJI_ERROR_USAGE,
                "%s: %" G_GINT64_FORMAT " is out of range; expected %" G_GINT64_FORMAT
                " to %" G_GINT64_FORMAT,
                name, value, min, max);
    return FALSE;
}

/* NaN is out of every range. */
static gboolean check_share(const char *name, double value, gboolean zero, GError **error)
{
    if (value <= 1 && (zero ? value >= 0 : value != 0))
        return TRUE;
    g_set_error(error, MOJI_ERROR, MOJI_ERROR_USAGE, "%s: %g is out of range; expected %s to 1",
                name, value, zero ? "0" : "more than 0");
    return FALSE;
}

static gboolean check_image(const MojiImage *image, GError **error)
{
    if (!image || (gsize)image->width * image->height <= MOJI_IMAGE_MAX_SENT)
        return TRUE;
    g_set_error(error, MOJI_ERROR, MOJI_ERROR_USAGE,
                "picture: %d x %d px is too large; at most %d pixels are taken", image->width,
                image->height, MOJI_IMAGE_MAX_SENT);
    return FALSE;
}

static gboolean blank(const char *text)
{
    for (; text && *text; text = g_utf8_next_char(text))
        if (!g_unichar_isspace(g_utf8_get_char(text)))
            return FALSE;
    return TRUE;
}

gboolean moji_request_check(const MojiRequest *r, GError **error)
{
    if (!check_text(r, error))
        return FALSE;
    if (blank(r->prompt)) {
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_USAGE,
                    "prompt: it is empty; say what to draw, as \"grinning cat\"");
        return FALSE;
    }
    /* The last picture's seed must be a seed too. */
    gint64 last_seed = G_MAXINT64 - (MOJI_REQUEST_MAX_COUNT - 1);
    if (!check_range("seed", r->seed, -1, last_seed, error) ||
        !check_range("steps", r->steps, 0, MOJI_REQUEST_MAX_STEPS, error) ||
        !check_range("clip_skip", r->clip_skip, 0, MOJI_REQUEST_MAX_CLIP_SKIP, error) ||
        !check_range("count", r->count, 0, MOJI_REQUEST_MAX_COUNT, error) ||
        !check_range("variation_seed", r->variation_seed, -1, last_seed, error) ||
        !check_share("amount", r->amount, TRUE, error) ||
        !check_share("strength", r->strength, FALSE, error) || !check_image(r->image, error))
        return FALSE;
    if (!isfinite(r->guidance) || r->guidance > MOJI_REQUEST_MAX_GUIDANCE) {
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_USAGE,
                    "guidance: %g is out of range; expected 0 to %g (1 switches it off)",
                    r->guidance, MOJI_REQUEST_MAX_GUIDANCE);
        return FALSE;
    }
    if (r->size &&
        (r->size < MOJI_REQUEST_MIN_SIZE || r->size > MOJI_REQUEST_MAX_SIZE || r->size % 8)) {
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_USAGE,
                    "size: %d px; expected a multiple of 8 from %d to %d", r->size,
                    MOJI_REQUEST_MIN_SIZE, MOJI_REQUEST_MAX_SIZE);
        return FALSE;
    }
    return TRUE;
}

/* A comma also stands between the weights of one LoRA. */
static gboolean is_weight(const char *part)
{
    return g_str_has_prefix(part, "unet=") || g_str_has_prefix(part, "text=");
}

char **moji_request_split_loras(const char *text)
{
    g_auto(GStrv) parts = g_strsplit(text ? text : "", ",", -1);
    GPtrArray *list = g_ptr_array_new();
    for (char **p = parts; *p; p++) {
        char *part = g_strstrip(*p);
        if (list->len && is_weight(part)) {
            char *before = list->pdata[list->len - 1];
            list->pdata[list->len - 1] = g_strconcat(before, ",", part, NULL);
            g_free(before);
        } else if (*part) {
            g_ptr_array_add(list, g_strdup(part));
        }
    }
    g_ptr_array_add(list, NULL);
    if (list->len == 1) {
        g_ptr_array_free(list, TRUE);
        return NULL;
    }
    return (char **)g_ptr_array_free(list, FALSE);
}

char *moji_request_join_loras(char *const *loras)
{
    return loras && *loras ? g_strjoinv(", ", (char **)loras) : NULL;
}

/* A field's value as a variant, or NULL where it is what moji_request_new made it. */
static GVariant *field_to_variant(const MojiRequest *r, const MojiRequest *unset, const Field *f)
{
    gconstpointer p = G_STRUCT_MEMBER_P(r, f->offset);
    gconstpointer q = G_STRUCT_MEMBER_P(unset, f->offset);
    switch (f->type) {
    case 's':
        return *(char *const *)p ? g_variant_new_string(*(char *const *)p) : NULL;
    case 'a':
        return *(char *const *const *)p && **(char *const *const *)p
                   ? g_variant_new_strv(*(const char *const *const *)p, -1)
                   : NULL;
    case 'x':
        return *(const gint64 *)p != *(const gint64 *)q ? g_variant_new_int64(*(const gint64 *)p)
                                                        : NULL;
    case 'i':
        return *(const int *)p != *(const int *)q ? g_variant_new_int32(*(const int *)p) : NULL;
    case 'd':
        return *(const double *)p != *(const double *)q ? g_variant_new_double(*(const double *)p)
                                                        : NULL;
    case '(':
        return *(MojiImage *const *)p ? moji_image_to_variant(*(MojiImage *const *)p) : NULL;
    default:
        return *(const gboolean *)p ? g_variant_new_boolean(TRUE) : NULL;
    }
}

GVariant *moji_request_to_variant(const MojiRequest *r)
{
    g_autoptr(MojiRequest) unset = moji_request_new();
    GVariantBuilder dict;
    g_variant_builder_init(&dict, G_VARIANT_TYPE_VARDICT);
    for (gsize i = 0; i < G_N_ELEMENTS(FIELDS); i++) {
        GVariant *value = field_to_variant(r, unset, &FIELDS[i]);
        if (value)
            g_variant_builder_add(&dict, "{sv}", FIELDS[i].name, value);
    }
    return g_variant_builder_end(&dict);
}

static const Field *field_find(const char *name)
{
    for (gsize i = 0; i < G_N_ELEMENTS(FIELDS); i++)
        if (!strcmp(FIELDS[i].name, name))
            return &FIELDS[i];
    return NULL;
}

static gboolean field_from_variant(MojiRequest *r, const Field *f, GVariant *value, GError **error)
{
    char letter[3] = {f->type, f->type == 'a' ? 's' : 0, 0};
    const char *expected = f->type == '(' ? "(iiayays)" : letter;
    if (!g_variant_is_of_type(value, G_VARIANT_TYPE(expected))) {
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_USAGE,
                    "%s: a value of type \"%s\" was sent, expected \"%s\"", f->name,
                    g_variant_get_type_string(value), expected);
        return FALSE;
    }
    gpointer p = G_STRUCT_MEMBER_P(r, f->offset);
    if (f->type == '(')
        return (*(MojiImage **)p = moji_image_from_variant(value, error)) != NULL;
    if (f->type == 's')
        *(char **)p = g_variant_dup_string(value, NULL);
    else if (f->type == 'a')
        *(char ***)p = g_variant_dup_strv(value, NULL);
    else
        g_variant_get(value, expected, p);
    return TRUE;
}

MojiRequest *moji_request_from_variant(GVariant *dict, GError **error)
{
    if (!g_variant_is_of_type(dict, G_VARIANT_TYPE_VARDICT)) {
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_USAGE,
                    "the request is of type \"%s\", expected \"a{sv}\"",
                    g_variant_get_type_string(dict));
        return NULL;
    }
    g_autoptr(MojiRequest) r = moji_request_new();
    gboolean seen[G_N_ELEMENTS(FIELDS)] = {FALSE};
    GVariantIter iter;
    const char *name;
    GVariant *value;
    g_variant_iter_init(&iter, dict);
    while (g_variant_iter_next(&iter, "{&sv}", &name, &value)) {
        g_autoptr(GVariant) owned = value;
        const Field *f = field_find(name);
        if (!f || seen[f - FIELDS]) {
            g_set_error(error, MOJI_ERROR, MOJI_ERROR_USAGE,
                        f ? "\"%s\" is set twice" : "\"%s\" is not a setting of a request", name);
            return NULL;
        }
        seen[f - FIELDS] = TRUE;
        if (!field_from_variant(r, f, owned, error))
            return NULL;
    }
    return g_steal_pointer(&r);
}

static double number_member(JsonObject *o, const char *name)
{
    double value = 1;
    return moji_json_double(o, "recipe", name, &value, NULL) ? value : 1;
}

/* [{"name": "frog", "unet": 0.8, "text": 0.8}, ...] as entries, or NULL. Floating. */
static GVariant *loras_to_variant(JsonArray *list)
{
    g_autoptr(GPtrArray) entries = g_ptr_array_new_with_free_func(g_free);
    for (guint i = 0; i < MIN(json_array_get_length(list), MOJI_REQUEST_MAX_LORAS); i++) {
        JsonNode *node = json_array_get_element(list, i);
        JsonObject *o = JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
        g_autofree char *name = NULL;
        char unet[G_ASCII_DTOSTR_BUF_SIZE], text[G_ASCII_DTOSTR_BUF_SIZE];
        if (!o || !moji_json_string(o, "recipe", "name", &name, NULL) || !name)
            continue;
        g_ascii_dtostr(unet, sizeof unet, number_member(o, "unet"));
        g_ascii_dtostr(text, sizeof text, number_member(o, "text"));
        g_ptr_array_add(entries, strcmp(unet, text)
                                     ? g_strdup_printf("%s:unet=%s,text=%s", name, unet, text)
                                     : g_strdup_printf("%s:%s", name, unet));
    }
    return entries->len ? g_variant_new_strv((const char *const *)entries->pdata, entries->len)
                        : NULL;
}

/* A recipe's member as the field's type, or NULL. Floating. */
static GVariant *member_to_variant(JsonObject *recipe, const Field *f)
{
    JsonNode *node = json_object_get_member(recipe, f->name);
    GType type = node && JSON_NODE_HOLDS_VALUE(node) ? json_node_get_value_type(node) : 0;
    gboolean number = type == G_TYPE_INT64 || type == G_TYPE_DOUBLE;
    if (f->type == 'a' && node && JSON_NODE_HOLDS_ARRAY(node))
        return loras_to_variant(json_node_get_array(node));
    if (f->type == 's' && type == G_TYPE_STRING && *json_node_get_string(node))
        return g_variant_new_string(json_node_get_string(node));
    if (f->type == 'x' && type == G_TYPE_INT64)
        return g_variant_new_int64(json_node_get_int(node));
    if (f->type == 'i' && type == G_TYPE_INT64)
        return g_variant_new_int32((gint32)CLAMP(json_node_get_int(node), 0, G_MAXINT32));
    if (f->type == 'd' && number)
        return g_variant_new_double(json_node_get_double(node));
    if (f->type == 'b' && type == G_TYPE_BOOLEAN)
        return g_variant_new_boolean(json_node_get_boolean(node));
    return NULL;
}

void moji_request_take_recipe(MojiRequest *r, const char *json)
{
    JsonObject *recipe;
    g_autoptr(MojiRequest) unset = moji_request_new();
    g_autoptr(JsonParser) parser =
        json ? moji_json_parse(json, strlen(json), FALSE, "recipe", &recipe, NULL) : NULL;
    for (gsize i = 0; parser && i < G_N_ELEMENTS(FIELDS); i++) {
        const Field *f = &FIELDS[i];
        GVariant *own = field_to_variant(r, unset, f);
        GVariant *value =
            own || g_strv_contains(ALONE, f->name) ? NULL : member_to_variant(recipe, f);
        if (own)
            g_variant_unref(g_variant_ref_sink(own));
        if (value) {
            field_from_variant(r, f, value, NULL);
            g_variant_unref(g_variant_ref_sink(value));
        }
    }
}
