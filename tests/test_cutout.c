/* test_cutout.c: background removal against art whose alpha is known, and drawn cases.
 *
 * The drawn pictures are plain discs, so that what must be kept can be told from the geometry. */
#include "cutout_score.h"
#include "test.h"
#include <math.h>
#include <string.h>

static GPtrArray *sample, *sample_names;

static void check_mean(int colour, double iou, double poor)
{
    ScoreMean m = score_mean(sample, score_colour[colour], SCORE_NOISE, NULL, NULL);
    MOJI_CHECK(m.pieces == 20, "%d pieces of art, expected 20", m.pieces);
    MOJI_CHECK(m.iou >= iou, "mean IoU %.4f, expected at least %.2f", m.iou, iou);
    MOJI_CHECK(m.poor <= poor, "%.0f %% of the pieces below 0.95, expected at most %.0f %%",
               100 * m.poor, 100 * poor);
    MOJI_CHECK(m.fringe <= (colour == SCORE_WHITE ? 6 : 3), "edge colours are off by %.1f",
               m.fringe);
}

static void test_green(void)
{
    check_mean(SCORE_GREEN, 0.99, 0.03);
}

static void test_magenta(void)
{
    check_mean(SCORE_MAGENTA, 0.99, 0.03);
}

static void test_blue(void)
{
    check_mean(SCORE_BLUE, 0.99, 0.03);
}

static void test_white(void)
{
    check_mean(SCORE_WHITE, 0.97, 0.10);
}

/* ---- named art ---- */

static Score named(const char *name, int colour, ScoreCondition condition,
                   const MojiCutoutOptions *options)
{
    g_autofree char *file = g_strdup_printf("cutout/named/noto--%s.png", name);
    g_autofree char *path = moji_test_path(file);
    g_autoptr(GError) error = NULL;
    g_autoptr(MojiImage) art = moji_image_read_png(path, &error);
    g_assert_no_error(error);
    g_autoptr(MojiImage) composed = score_compose(art, score_colour[colour], condition, 7);
    return score_measure(art, composed, options);
}

static void check_named(const char *name, int colour, double iou)
{
    Score s = named(name, colour, SCORE_NOISE, NULL);
    MOJI_CHECK(s.iou >= iou, "%s on %s: IoU %.4f, expected at least %.2f", name,
               score_colour_name[colour], s.iou, iou);
}

static void test_doughnut(void)
{
    MojiCutoutOptions keep = {.tolerance = 24, .holes = FALSE};
    for (int colour = 0; colour < SCORE_WHITE; colour++)
        check_named("doughnut", colour, 0.99);
    double kept = named("doughnut", SCORE_BLUE, SCORE_NOISE, &keep).report.kept,
           taken = named("doughnut", SCORE_BLUE, SCORE_NOISE, NULL).report.kept;
    MOJI_CHECK(kept > taken + 0.02, "with its hole %.3f is kept, without %.3f", kept, taken);
}

static void test_ghost(void)
{
    check_named("ghost", SCORE_WHITE, 0.98);
    check_named("egg", SCORE_WHITE, 0.98);
}

static void test_glasses(void)
{
    for (int colour = 0; colour < SCORE_WHITE; colour++)
        check_named("glasses", colour, 0.98);
}

static void test_frog(void)
{
    check_named("frog", SCORE_GREEN, 0.99);
}

static void test_shadow(void)
{
    MojiCutoutOptions tolerant = {.tolerance = 24, .holes = TRUE, .shadow = TRUE};
    for (int colour = 0; colour < SCORE_WHITE; colour++) {
        double without = named("doughnut", colour, SCORE_SHADOW, NULL).iou,
               with = named("doughnut", colour, SCORE_SHADOW, &tolerant).iou;
        MOJI_CHECK(with > 0.97 && with > without, "%s: IoU %.3f with the setting, %.3f without",
                   score_colour_name[colour], with, without);
    }
    double white = named("ghost", SCORE_WHITE, SCORE_NOISE, &tolerant).iou;
    MOJI_CHECK(white > 0.98, "on white the setting must do nothing: IoU %.3f", white);
}

/* ---- drawn pictures ---- */

/* A disc of `inner` with a ring of `outline` pixels in black, antialiased, on `ground`. */
static MojiImage *draw_disc(int size, const guint8 ground[3], const guint8 inner[3], float cx,
                            float cy, float radius, float outline)
{
    MojiImage *image = moji_image_new(size, size);
    for (int i = 0; i < size * size; i++) {
        float d = hypotf(i % size + 0.5f - cx, i / size + 0.5f - cy);
        float all = CLAMP(radius - d + 0.5f, 0, 1), in = CLAMP(radius - outline - d + 0.5f, 0, 1);
        for (int k = 0; k < 3; k++)
            image->rgba[4 * i + k] = lrintf(ground[k] * (1 - all) + inner[k] * in);
        image->rgba[4 * i + 3] = 255;
    }
    return image;
}

static const guint8 blue[3] = {0, 0, 255}, yellow[3] = {255, 220, 0}, gray[3] = {200, 200, 200},
                    black[3] = {0, 0, 0};

/* A black outline around yellow on blue is itself, not half of yellow and half of blue. */
static void test_outline(void)
{
    for (int outline = 2; outline < 6; outline++) {
        g_autoptr(MojiImage) image = draw_disc(256, blue, yellow, 128, 128, 100, outline);
        g_autoptr(GError) error = NULL;
        moji_cutout(image, NULL, NULL, &error);
        g_assert_no_error(error);
        double worst = 0;
        for (int i = 0; i < 256 * 256; i++) {
            float d = hypotf(i % 256 + 0.5f - 128, i / 256 + 0.5f - 128);
            worst = MAX(worst, fabs(255 * CLAMP(100 - d + 0.5f, 0, 1) - image->mask[i]));
        }
        MOJI_CHECK(worst <= 40, "outline of %d px: the mask is off by %.0f of 255", outline, worst);
    }
}

/* No blue is left in the edge: that is what shows on another background. */
static void test_defringe(void)
{
    g_autoptr(MojiImage) image = draw_disc(256, blue, yellow, 128, 128, 100, 0);
    moji_cutout(image, NULL, NULL, NULL);
    int worst = 0, edge = 0;
    for (int i = 0; i < 256 * 256; i++) {
        edge += image->mask[i] > 0 && image->mask[i] < 255;
        if (image->mask[i])
            worst = MAX(worst, image->rgba[4 * i + 2]);
    }
    MOJI_CHECK(edge > 200, "only %d pixels of a soft edge", edge);
    MOJI_CHECK(worst <= 8, "blue of %d is left in yellow", worst);
}

/* What the mask hides is the picture as it was, so that painting in the mask brings it back. */
static void test_hidden_colours(void)
{
    g_autoptr(MojiImage) image = draw_disc(64, blue, yellow, 32, 32, 20, 0);
    moji_cutout(image, NULL, NULL, NULL);
    const guint8 *corner = image->rgba, *middle = image->rgba + 4 * (32 * 64 + 32);
    MOJI_CHECK(image->mask[0] == 0 && !memcmp(corner, blue, 3), "corner: mask %d, blue %d",
               image->mask[0], corner[2]);
    MOJI_CHECK(image->mask[32 * 64 + 32] == 255 && !memcmp(middle, yellow, 3), "middle: mask %d",
               image->mask[32 * 64 + 32]);
}

static void expect_refused(MojiImage *image, const char *what)
{
    g_autoptr(GError) error = NULL;
    g_autofree guint8 *before = g_memdup2(image->rgba, 4 * (gsize)image->width * image->height);
    gboolean cut = moji_cutout(image, NULL, NULL, &error);
    MOJI_CHECK(!cut && g_error_matches(error, MOJI_ERROR, MOJI_ERROR_NOT_FLAT), "%s: not refused",
               what);
    MOJI_CHECK(error && strstr(error->message, "%") && strchr(error->message, '#'),
               "%s: no figures in '%s'", what, error ? error->message : "");
    MOJI_CHECK(!image->mask && !memcmp(before, image->rgba, 4 * image->width * image->height),
               "%s: changed though refused", what);
}

static void test_not_flat(void)
{
    enum { N = 64 };
    g_autoptr(MojiImage) halves = moji_image_new(N, N);
    g_autoptr(MojiImage) slope = moji_image_new(N, N);
    g_autoptr(MojiImage) grains = moji_image_new(N, N);
    guint32 state = 1;
    for (int i = 0; i < N * N; i++)
        for (int k = 0; k < 4; k++) {
            state = state * 1664525u + 1013904223u;
            halves->rgba[4 * i + k] = k == 3 || i % N < N / 2 ? 255 : 40;
            slope->rgba[4 * i + k] = k == 3 ? 255 : 3 * (i / N) + 30;
            grains->rgba[4 * i + k] = k == 3 ? 255 : state >> 24;
        }
    expect_refused(halves, "halves");
    expect_refused(slope, "slope");
    expect_refused(grains, "grains");
}

/* Strong noise leaves grains: they go, and the disc stays whole. */
static void test_noise(void)
{
    g_autoptr(MojiImage) image = draw_disc(256, blue, yellow, 128, 128, 80, 0);
    guint32 state = 3;
    for (int i = 0; i < 256 * 256; i++)
        for (int k = 0; k < 3; k++) {
            float sum = -6;
            for (int j = 0; j < 12; j++, state = state * 1664525u + 1013904223u)
                sum += (state >> 8) / 16777216.0f;
            image->rgba[4 * i + k] = CLAMP(image->rgba[4 * i + k] + 8 * sum, 0, 255);
        }
    MojiCutout report;
    MOJI_CHECK(moji_cutout(image, NULL, &report, NULL), "refused");
    MOJI_CHECK(report.specks == 0, "%d specks", report.specks);
    double disc = G_PI * 80 * 80 / 65536;
    MOJI_CHECK(fabs(report.kept - disc) < 0.01, "kept %.4f, the disc is %.4f", report.kept, disc);
}

static void test_report(void)
{
    MojiCutout report;
    g_autoptr(MojiImage) inside = draw_disc(128, blue, yellow, 64, 64, 40, 0);
    g_assert_true(moji_cutout(inside, NULL, &report, NULL));
    MOJI_CHECK(!memcmp(report.background, blue, 3), "background #%02x%02x%02x",
               report.background[0], report.background[1], report.background[2]);
    MOJI_CHECK(report.frame_flat == 1 && report.touching == 0, "flat %.3f, touching %.3f",
               report.frame_flat, report.touching);
    MOJI_CHECK(fabs(report.kept - G_PI * 1600 / 16384) < 0.005, "kept %.4f", report.kept);

    /* Cut off by the lower side, which is then not flat: still done, and told. */
    g_autoptr(MojiImage) bust = draw_disc(128, blue, yellow, 64, 128, 60, 0);
    MOJI_CHECK(moji_cutout(bust, NULL, &report, NULL), "a bust was refused");
    MOJI_CHECK(report.touching > 0.2, "touching %.3f", report.touching);

    g_autoptr(MojiImage) islands = draw_disc(256, blue, yellow, 128, 128, 60, 0);
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 64; j++)
            memcpy(islands->rgba + 4 * ((20 + j / 8) * 256 + 20 + 40 * i + j % 8), yellow, 3);
    g_assert_true(moji_cutout(islands, NULL, &report, NULL));
    MOJI_CHECK(report.specks == 3, "%d specks, expected 3", report.specks);
}

/* The eye rule: an enclosed area in the background's colour goes only if that is saturated. */
static void test_enclosed(void)
{
    for (int gray_ground = 0; gray_ground < 2; gray_ground++) {
        const guint8 *ground = gray_ground ? gray : blue;
        g_autoptr(MojiImage) image = draw_disc(128, ground, yellow, 64, 64, 50, 0);
        for (int y = 54; y < 74; y++)
            for (int x = 54; x < 74; x++)
                memcpy(image->rgba + 4 * (y * 128 + x), ground, 3);
        g_assert_true(moji_cutout(image, NULL, NULL, NULL));
        int middle = image->mask[64 * 128 + 64];
        MOJI_CHECK(middle == (gray_ground ? 255 : 0), "on %s the middle's mask is %d",
                   gray_ground ? "grey" : "blue", middle);
    }
}

/* Transparent pixels are background already, whatever colour hides under them. */
static void test_alpha(void)
{
    MojiCutout report;
    g_autoptr(MojiImage) image = draw_disc(64, blue, yellow, 32, 32, 20, 0);
    for (int i = 0; i < 64 * 64; i++)
        if (hypotf(i % 64 + 0.5f - 32, i / 64 + 0.5f - 32) > 21)
            memset(image->rgba + 4 * i, 0, 4);
    g_assert_true(moji_cutout(image, NULL, &report, NULL));
    MOJI_CHECK(image->mask[0] == 0 && image->mask[32 * 64 + 32] == 255, "mask %d and %d",
               image->mask[0], image->mask[32 * 64 + 32]);

    g_autoptr(MojiImage) partly = draw_disc(64, blue, yellow, 32, 32, 20, 0);
    for (int i = 0; i < 64 * 12; i++) /* the top was erased before */
        memset(partly->rgba + 4 * i, 0, 4);
    g_assert_true(moji_cutout(partly, NULL, &report, NULL));
    MOJI_CHECK(!memcmp(report.background, blue, 3) && partly->mask[0] == 0 &&
                   partly->mask[63 * 64] == 0,
               "mask %d and %d", partly->mask[0], partly->mask[63 * 64]);
}

static void test_sizes(void)
{
    static const int sizes[] = {16, 17, 31, 100, 640};
    for (gsize s = 0; s < G_N_ELEMENTS(sizes); s++) {
        int n = sizes[s];
        MojiCutout report;
        g_autoptr(MojiImage) image = draw_disc(n, black, yellow, n / 2.0f, n / 2.0f, n / 3.0f, 0);
        MOJI_CHECK(moji_cutout(image, NULL, &report, NULL), "%d px: refused", n);
        MOJI_CHECK(fabs(report.kept - G_PI / 9) < 0.03, "%d px: kept %.3f", n, report.kept);
    }
    g_autoptr(MojiImage) wide = moji_image_new(300, 16);
    memset(wide->rgba, 255, 4 * 300 * 16);
    MOJI_CHECK(moji_cutout(wide, NULL, NULL, NULL) && wide->mask[150] == 0, "an empty strip");
}

int main(void)
{
    g_autofree char *folder = moji_test_path("cutout/sample");
    sample = score_read_folder(folder, &sample_names);
    moji_test("cutout: 20 pieces of art on green", test_green);
    moji_test("cutout: 20 pieces of art on magenta", test_magenta);
    moji_test("cutout: 20 pieces of art on blue", test_blue);
    moji_test("cutout: 20 pieces of art on white", test_white);
    moji_test("cutout: doughnut, hole and no hole", test_doughnut);
    moji_test("cutout: ghost and egg on white", test_ghost);
    moji_test("cutout: glasses", test_glasses);
    moji_test("cutout: frog on green", test_frog);
    moji_test("cutout: soft shadow", test_shadow);
    moji_test("cutout: thin outline", test_outline);
    moji_test("cutout: edge free of the background's colour", test_defringe);
    moji_test("cutout: hidden colours stay", test_hidden_colours);
    moji_test("cutout: not flat is refused, untouched", test_not_flat);
    moji_test("cutout: strong noise", test_noise);
    moji_test("cutout: report", test_report);
    moji_test("cutout: enclosed areas", test_enclosed);
    moji_test("cutout: transparent pixels", test_alpha);
    moji_test("cutout: sizes", test_sizes);
    g_ptr_array_unref(sample);
    g_ptr_array_unref(sample_names);
    return moji_test_end();
}
