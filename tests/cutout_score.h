/* cutout_score.h: how good a cut-out is, against art whose alpha is known.
 *
 * The test and the benchmark measure with this one piece of code: compose puts the art on a flat
 * colour as a model might have painted it, measure cuts it out again and compares. */
#pragma once
#include "cutout.h"

typedef enum {
    SCORE_CLEAN,
    SCORE_NOISE,  /* noise of sigma 2 and a linear gradient of +-6 */
    SCORE_BLUR,   /* a 3x3 box blur twice, then the noise */
    SCORE_SHADOW, /* a soft 35 % drop shadow that is not in the true alpha, then the noise */
} ScoreCondition;

typedef struct {
    gboolean cut;  /* FALSE: refused as not flat; then the measures are of an untouched picture */
    double iou;    /* intersection over union of the areas with alpha above one half */
    double sad;    /* sum of absolute alpha differences, in thousands */
    double fringe; /* mean colour error, 0 to 255, at the edge on black, white and yellow */
    double seconds;
    MojiCutout report;
} Score;

/* The art on the colour, opaque; the same arguments give the same picture. Caller frees. */
MojiImage *score_compose(const MojiImage *art, const guint8 colour[3], ScoreCondition condition,
                         guint32 seed);

/* Cuts `composed` (which is changed) and compares with the art. options as moji_cutout. */
Score score_measure(const MojiImage *art, MojiImage *composed, const MojiCutoutOptions *options);

typedef struct {
    int pieces;
    double iou, fringe, sad, seconds; /* means */
    double poor;                      /* share of pieces with an IoU below 0.95 */
} ScoreMean;

/* The mean over pieces of art; seeds 1, 2, ... Each piece below 0.95 is told to `poor`, if any. */
ScoreMean score_mean(GPtrArray *art, const guint8 colour[3], ScoreCondition condition,
                     void (*poor)(int piece, double iou, gpointer data), gpointer data);

/* Every .png of a folder, sorted by name; names[i] tells which. Aborts if one cannot be read. */
GPtrArray *score_read_folder(const char *folder, GPtrArray **names);

/* The colours that the project promises figures for. */
enum { SCORE_GREEN, SCORE_MAGENTA, SCORE_BLUE, SCORE_WHITE, SCORE_COLOURS };
extern const guint8 score_colour[SCORE_COLOURS][3];
extern const char *const score_colour_name[SCORE_COLOURS];
