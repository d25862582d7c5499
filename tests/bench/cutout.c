/* cutout.c: the background removal's figures over a folder of art with alpha (make bench-cutout).
 *
 *     cutout FOLDER [clean|noise|blur|shadow]
 *
 * One line a colour: mean IoU, share of pieces below 0.95, fringe, milliseconds; the pieces below
 * are named. Exits with 1 if, with noise, a figure falls short of what the project promises. */
#include "cutout_score.h"
#include <stdio.h>
#include <string.h>

static void name_poor(int piece, double iou, gpointer names)
{
    printf("  %.3f %s\n", iou, (char *)((GPtrArray *)names)->pdata[piece]);
}

int main(int argc, char **argv)
{
    static const char *const word[] = {"clean", "noise", "blur", "shadow"};
    ScoreCondition condition = SCORE_NOISE;
    gboolean good = TRUE;
    if (argc < 2) {
        fprintf(stderr, "usage: %s FOLDER [clean|noise|blur|shadow]\n", argv[0]);
        return 2;
    }
    for (int i = 0; argc > 2 && i < 4; i++)
        if (!strcmp(argv[2], word[i]))
            condition = i;
    g_autoptr(GPtrArray) names = NULL;
    g_autoptr(GPtrArray) art = score_read_folder(argv[1], &names);
    printf("%u pieces of art, condition: %s\n", art->len, word[condition]);
    for (int colour = 0; colour < SCORE_COLOURS; colour++) {
        ScoreMean m = score_mean(art, score_colour[colour], condition, name_poor, names);
        gboolean white = colour == SCORE_WHITE;
        printf("%-8s mean IoU %.4f, below 0.95: %.1f %%, SAD %.2f, fringe %.2f, %.1f ms\n",
               score_colour_name[colour], m.iou, 100 * m.poor, m.sad, m.fringe, 1e3 * m.seconds);
        if (condition == SCORE_NOISE)
            good &= m.iou >= (white ? 0.97 : 0.99) && (white || m.poor <= 0.03);
    }
    return good ? 0 : 1;
}
