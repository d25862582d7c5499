/* inversion.c: see inversion.h. */
#include "inversion.h"
#include "weights.h"
#include <math.h>
#include <string.h>

struct MojiInversions {
    GPtrArray *entries; /* MojiInversion *, longest name first */
    int width;
};

static void entry_free(gpointer data)
{
    MojiInversion *e = data;
    g_free(e->name);
    g_free(e->vectors);
    g_free(e->path);
    g_free(e);
}

static int longest_first(gconstpointer a, gconstpointer b)
{
    const MojiInversion *const *x = a, *const *y = b;
    gsize m = strlen((*x)->name), n = strlen((*y)->name);
    return m != n ? (m < n) - (m > n) : strcmp((*x)->path, (*y)->path);
}

static void list_file(MojiInversions *set, const char *folder, const char *file)
{
    static const char *const endings[] = {".safetensors", ".pt", ".bin"};
    for (gsize i = 0; i < G_N_ELEMENTS(endings); i++) {
        if (!g_str_has_suffix(file, endings[i]) || strlen(file) == strlen(endings[i]))
            continue;
        MojiInversion *e = g_new0(MojiInversion, 1);
        e->name = g_strndup(file, strlen(file) - strlen(endings[i]));
        e->path = g_build_filename(folder, file, NULL);
        g_ptr_array_add(set->entries, e);
    }
}

MojiInversions *moji_inversions_open(const char *folder, int width)
{
    MojiInversions *set = g_new0(MojiInversions, 1);
    g_autofree char *standard =
        folder ? NULL : g_build_filename(g_get_user_data_dir(), "moji", "embeddings", NULL);
    const char *where = folder ? folder : standard, *file;
    g_autoptr(GDir) dir = g_dir_open(where, 0, NULL);
    set->entries = g_ptr_array_new_with_free_func(entry_free);
    set->width = width;
    while (dir && (file = g_dir_read_name(dir)))
        list_file(set, where, file);
    g_ptr_array_sort(set->entries, longest_first);
    return set;
}

void moji_inversions_free(MojiInversions *set)
{
    if (!set)
        return;
    g_ptr_array_unref(set->entries);
    g_free(set);
}

int moji_inversions_width(const MojiInversions *set)
{
    return set->width;
}

/* ---- a file ---- */

/* The one tensor that holds the vectors; NULL if it cannot be told. */
static const MojiWeight *find_vectors(MojiWeights *w)
{
    static const char *const known[] = {"emb_params", "string_to_param.*"};
    GPtrArray *list = moji_weights_list(w);
    for (gsize i = 0; i < G_N_ELEMENTS(known); i++) {
        const MojiWeight *t = moji_weights_find(w, known[i]);
        if (t)
            return t;
    }
    return list->len == 1 ? list->pdata[0] : NULL;
}

static gboolean read_vectors(MojiInversion *e, MojiWeights *w, int width, GError **error)
{
    enum { MOST = 75 };
    const MojiWeight *t = find_vectors(w);
    if (!t || t->rank < 1 || t->rank > 2) {
        moji_error_file(error, e->path, "is no textual inversion, expected one tensor [n,%d]",
                        width);
        return FALSE;
    }
    gint64 found = t->dim[t->rank - 1], count = t->rank == 2 ? t->dim[0] : 1;
    if (found != width || count < 1 || count > MOST) {
        moji_error_file(error, e->path,
                        "holds %" G_GINT64_FORMAT " vectors of %" G_GINT64_FORMAT
                        " numbers, this model takes 1 to %d of %d",
                        count, found, MOST, width);
        return FALSE;
    }
    if (t->type != MOJI_F32 && t->type != MOJI_F16 && t->type != MOJI_BF16) {
        moji_error_file(error, e->path, "its numbers are %s, expected f32, f16 or bf16",
                        moji_type_name(t->type));
        return FALSE;
    }
    e->vectors = g_renew(float, e->vectors, count *width);
    moji_weight_numbers(t, 0, count * width, e->vectors);
    for (gint64 i = 0; i < count * width; i++)
        if (!isfinite(e->vectors[i])) {
            moji_error_file(error, e->path, "tensor %s has numbers that are not finite", t->name);
            return FALSE;
        }
    e->count = (int)count;
    return TRUE;
}

static gboolean load(MojiInversion *e, int width, GError **error)
{
    if (e->count)
        return TRUE;
    MojiWeights *w = moji_weights_open(e->path, error);
    gboolean read = w && read_vectors(e, w, width, error);
    moji_weights_free(w);
    return read;
}

static gboolean is_word(gunichar c)
{
    return c == '_' || g_unichar_isalnum(c);
}

const MojiInversion *moji_inversions_match(MojiInversions *set, const char *text, gsize *bytes,
                                           GError **error)
{
    const char *prefix = "embedding:";
    gsize skip = g_ascii_strncasecmp(text, prefix, strlen(prefix)) ? 0 : strlen(prefix);
    for (guint i = 0; i < set->entries->len; i++) {
        MojiInversion *e = set->entries->pdata[i];
        gsize length = strlen(e->name);
        const char *end = text + skip + length;
        /* "cat" is not in "cats"; a name that ends otherwise ends wherever it does. */
        if (g_ascii_strncasecmp(text + skip, e->name, length) ||
            (is_word(g_utf8_get_char(g_utf8_prev_char(end))) && is_word(g_utf8_get_char(end))))
            continue;
        *bytes = skip + length;
        return load(e, set->width, error) ? e : NULL;
    }
    return NULL;
}

const MojiInversion *moji_inversions_whose(const MojiInversions *set, const float *vector)
{
    for (guint i = 0; i < set->entries->len; i++) {
        const MojiInversion *e = set->entries->pdata[i];
        if (e->vectors && vector >= e->vectors && vector < e->vectors + e->count * set->width)
            return e;
    }
    return NULL;
}
