/* cmd_edit.c: `moji edit`: a picture redrawn, wholly or where a mask says. */
#include "command.h"
#include <string.h>

typedef struct {
    char *mask;
    double strength;
} Options;

/* White redraws, black keeps; what is transparent keeps too. */
static gboolean add_mask(MojiImage *image, const char *path, GError **error)
{
    g_autoptr(MojiImage) mask = moji_image_read_png(path, error);
    if (!mask)
        return FALSE;
    if (mask->width != image->width || mask->height != image->height) {
        moji_error_file(error, path, "the mask has %d x %d px, expected the picture's %d x %d",
                        mask->width, mask->height, image->width, image->height);
        return FALSE;
    }
    gsize pixels = (gsize)image->width * image->height;
    g_free(image->mask);
    image->mask = g_new(guint8, pixels);
    for (gsize i = 0; i < pixels; i++) {
        const guint8 *p = mask->rgba + 4 * i;
        image->mask[i] = (guint8)((p[0] + p[1] + p[2]) * p[3] / (3 * 255));
    }
    return TRUE;
}

static gboolean complete(MojiRequest *r, char **words, gpointer data, GError **error)
{
    const Options *o = data;
    r->image = moji_image_read_png(words[0], error);
    if (!r->image || (o->mask && !add_mask(r->image, o->mask, error)))
        return FALSE;
    r->strength = o->strength;
    r->prompt = g_strdup(words[1]);
    moji_request_take_recipe(r, r->image->recipe);
    if (r->prompt)
        return TRUE;
    moji_error_file(error, words[0], "tells no prompt of its own; say what to make of it");
    return FALSE;
}

int moji_cmd_edit(int argc, char **argv)
{
    Options o = {.strength = -1};
    const GOptionEntry entries[] = {
        {"mask", 0, 0, G_OPTION_ARG_FILENAME, &o.mask,
         "Where to redraw: white, as large as IN.png (everywhere)", "FILE.png"},
        {"strength", 0, 0, G_OPTION_ARG_DOUBLE, &o.strength,
         "How much may change, up to 1 (0.7; 1 with a model made for filling masks in)", "X"},
        G_OPTION_ENTRY_NULL};
    const MojiDrawCommand edit = {
        .usage = "IN.png [PROMPT]",
        .needs = "edit needs a picture and what to make of it; see moji edit --help",
        .entries = entries,
        .least = 1,
        .most = 2,
        .complete = complete,
        .user_data = &o};
    int code = moji_command_draw(&edit, argc, argv);
    g_free(o.mask);
    return code;
}
