/* test.h: the little that every test program shares.
 *
 *     int main(void)
 *     {
 *         moji_test("tokenizer: empty prompt", test_empty);
 *         return moji_test_end();
 *     }
 *
 * Each row prints "ok NAME", "FAIL NAME: why" or "skip NAME: why". moji_test_end prints
 * "# N passed, N failed, N skipped"; the runner (tests/run.sh) adds those lines up. */
#pragma once
#include <glib.h>

typedef void (*MojiTestFn)(void);

void moji_test(const char *name, MojiTestFn fn); /* where MOJI_TEST_ROWS is set: if name has it */
int moji_test_end(void); /* 0 if none failed, else 1 */

/* Inside a test: mark it failed or skipped and say why; the first failure's text is kept. Both
 * return, so the test can free what it holds. */
void moji_test_fail(const char *file, int line, const char *format, ...) G_GNUC_PRINTF(3, 4);
void moji_test_skip(const char *format, ...) G_GNUC_PRINTF(1, 2);

/* Fails the test, with the text, unless condition holds. Evaluates to condition. */
#define MOJI_CHECK(condition, ...)                                                                 \
    ((condition) ? TRUE : (moji_test_fail(__FILE__, __LINE__, __VA_ARGS__), FALSE))

/* Largest absolute difference and normalised mean square error: sum (a-b)^2 / sum b^2. */
double moji_test_max_error(const float *a, const float *b, gsize n);
double moji_test_nmse(const float *a, const float *b, gsize n);

/* A fixture of tests/fixtures (a .npy file of little-endian float32, float64, int32 or int64, C
 * order), as float or gint64; shape gets up to 4 dimensions. Aborts the program with the path if it
 * cannot be read: a missing fixture is a broken checkout. Caller frees. */
float *moji_test_npy(const char *name, gsize *count, gint64 shape[4]);
gint64 *moji_test_npy_int(const char *name, gsize *count, gint64 shape[4]);

/* tests/fixtures/NAME in the source tree (MOJI_SOURCE_DIR, where it has moved since it was built), or
 * NAME if it is an absolute path; caller frees. */
char *moji_test_path(const char *name);
char *moji_test_scratch(void);          /* a fresh empty folder, removed at the end; owned here */

/* The backend to test: MOJI_TEST_BACKEND, or `usual` where that is not set. */
const char *moji_test_backend(const char *usual);
/* A skipped row with the reason, where a backend was asked for that this machine cannot have. Fails
 * instead for "cpu", and where MOJI_TEST_BACKEND_NEEDED is set. */
void moji_test_no_backend(const char *why);
