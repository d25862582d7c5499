/* test.c: see test.h. Linked into every test program. */
#include "test.h"
#include <glib/gstdio.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static int passed, failed, skipped;
static char *failure, *skip;
static char *scratch;

void moji_test_fail(const char *file, int line, const char *format, ...)
{
    if (failure)
        return;
    va_list args;
    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    failure = g_strdup_printf("%s:%d: %s", file, line, text);
}

void moji_test_skip(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_free(skip);
    skip = g_strdup_vprintf(format, args);
    va_end(args);
}

void moji_test(const char *name, MojiTestFn fn)
{
    const char *words = g_getenv("MOJI_TEST_ROWS");
    if (words && !strstr(name, words))
        return;
    g_clear_pointer(&failure, g_free);
    g_clear_pointer(&skip, g_free);
    fn();
    if (failure) {
        printf("FAIL %s: %s\n", name, failure);
        failed++;
    } else if (skip) {
        printf("skip %s: %s\n", name, skip);
        skipped++;
    } else {
        printf("ok %s\n", name);
        passed++;
    }
    fflush(stdout);
}

static void remove_tree(const char *path)
{
    if (g_file_test(path, G_FILE_TEST_IS_DIR) && !g_file_test(path, G_FILE_TEST_IS_SYMLINK)) {
        GDir *dir = g_dir_open(path, 0, NULL);
        const char *name;
        while (dir && (name = g_dir_read_name(dir))) {
            g_autofree char *child = g_build_filename(path, name, NULL);
            remove_tree(child);
        }
        if (dir)
            g_dir_close(dir);
    }
    g_remove(path);
}

int moji_test_end(void)
{
    if (scratch)
        remove_tree(scratch);
    g_clear_pointer(&scratch, g_free);
    g_clear_pointer(&failure, g_free);
    g_clear_pointer(&skip, g_free);
    printf("# %d passed, %d failed, %d skipped\n", passed, failed, skipped);
    return failed ? 1 : 0;
}

double moji_test_max_error(const float *a, const float *b, gsize n)
{
    double worst = 0;
    for (gsize i = 0; i < n; i++) {
        double d = fabs((double)a[i] - b[i]);
        if (!(d <= worst)) /* so that NaN counts as the worst */
            worst = d;
    }
    return worst;
}

double moji_test_nmse(const float *a, const float *b, gsize n)
{
    double error = 0, power = 0;
    for (gsize i = 0; i < n; i++) {
        double d = (double)a[i] - b[i];
        error += d * d;
        power += (double)b[i] * b[i];
    }
    return error / (power > 0 ? power : 1);
}

char *moji_test_path(const char *name)
{
    if (g_path_is_absolute(name))
        return g_strdup(name);
    const char *source = g_getenv("MOJI_SOURCE_DIR");
    return g_build_filename(source ? source : MOJI_SOURCE_DIR, "tests", "fixtures", name, NULL);
}

char *moji_test_scratch(void)
{
    if (!scratch)
        scratch = g_dir_make_tmp("moji-test-XXXXXX", NULL);
    g_assert(scratch);
    return scratch;
}

/* Reads the header of a version 1 or 2 .npy file; returns its data and type ("<f4", ...). */
static char *npy_open(const char *name, char type[8], gsize *count, gint64 shape[4], char **data)
{
    g_autofree char *path = moji_test_path(name);
    char *bytes;
    gsize length;
    GError *error = NULL;
    if (!g_file_get_contents(path, &bytes, &length, &error))
        g_error("fixture %s: %s", path, error->message);
    if (length < 12 || memcmp(bytes, "\x93NUMPY", 6) != 0)
        g_error("fixture %s: not a .npy file", path);
    gsize header = (guint8)bytes[8] | (guint8)bytes[9] << 8, start = 10;
    if (bytes[6] >= 2) {
        header |= (gsize)(guint8)bytes[10] << 16 | (gsize)(guint8)bytes[11] << 24;
        start = 12;
    }
    g_autofree char *text = g_strndup(bytes + start, header);
    const char *descr = strstr(text, "'descr': '"), *dims = strstr(text, "'shape': (");
    if (!descr || !dims || strstr(text, "'fortran_order': True"))
        g_error("fixture %s: header %s", path, text);
    g_strlcpy(type, descr + 10, 4);
    dims += 10;
    *count = 1;
    for (int i = 0; i < 4; i++) {
        shape[i] = 1;
        if (*dims && *dims != ')') {
            shape[i] = g_ascii_strtoll(dims, (char **)&dims, 10);
            *count *= shape[i];
            dims += strspn(dims, ", ");
        }
    }
    *data = bytes + start + header;
    if (*count * (type[2] - '0') != length - start - header)
        g_error("fixture %s: %" G_GSIZE_FORMAT " bytes of data for %s", path,
                length - start - header, text);
    return bytes;
}

float *moji_test_npy(const char *name, gsize *count, gint64 shape[4])
{
    char type[8], *data;
    g_autofree char *bytes = npy_open(name, type, count, shape, &data);
    float *out = g_new(float, MAX(*count, 1));
    for (gsize i = 0; i < *count; i++) {
        if (strcmp(type, "<f4") == 0) {
            memcpy(&out[i], data + 4 * i, 4);
        } else if (strcmp(type, "<f8") == 0) {
            double d;
            memcpy(&d, data + 8 * i, 8);
            out[i] = (float)d;
        } else {
            g_error("fixture %s: type %s where a float was expected", name, type);
        }
    }
    return out;
}

gint64 *moji_test_npy_int(const char *name, gsize *count, gint64 shape[4])
{
    char type[8], *data;
    g_autofree char *bytes = npy_open(name, type, count, shape, &data);
    gint64 *out = g_new(gint64, MAX(*count, 1));
    for (gsize i = 0; i < *count; i++) {
        if (strcmp(type, "<i8") == 0) {
            memcpy(&out[i], data + 8 * i, 8);
        } else if (strcmp(type, "<i4") == 0) {
            gint32 v;
            memcpy(&v, data + 4 * i, 4);
            out[i] = v;
        } else {
            g_error("fixture %s: type %s where an integer was expected", name, type);
        }
    }
    return out;
}

const char *moji_test_backend(const char *usual)
{
    const char *asked = g_getenv("MOJI_TEST_BACKEND");
    return asked ? asked : usual;
}

static const char *no_backend;

static void skip_backend(void)
{
    if (g_getenv("MOJI_TEST_BACKEND_NEEDED") || !strcmp(moji_test_backend("cpu"), "cpu"))
        moji_test_fail(__FILE__, __LINE__, "%s", no_backend);
    else
        moji_test_skip("%s", no_backend);
}

void moji_test_no_backend(const char *why)
{
    no_backend = why;
    moji_test("the backend", skip_backend);
}
