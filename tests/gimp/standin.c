/* standin.c: an engine for the plug-in's tests: moji's own server and wire, with a drawing whose
 * every pixel is known in place of the model. Used as `standin serve [--stdio]`.
 *
 * It draws a disc of one colour on green, 64 px; what it redraws becomes that colour, and cut out
 * again the left half of it is kept. Words of the prompt make it behave: "slow" takes
 * three seconds, "uneven" keeps the background with a warning, "crash" ends the process in
 * mid-drawing, "fail" is an error. The model's facts come from the card in MOJI_MODEL, by the
 * engine's own code. */
#include "cutout.h"
#include "draw.h"
#include "serve.h"
#include <json-glib/json-glib.h>
#include <stdlib.h>
#include <string.h>

#define SIZE 64
#define STEPS 20

struct MojiEngine {
    gboolean previews;
};

MojiEngine *moji_engine_new(const char *backend, int threads, GError **error)
{
    (void)backend;
    (void)threads;
    (void)error;
    return g_new0(MojiEngine, 1);
}

void moji_engine_free(MojiEngine *e)
{
    g_free(e);
}

const char *moji_engine_describe(MojiEngine *e)
{
    (void)e;
    return "stand-in";
}

void moji_engine_set_previews(MojiEngine *e, gboolean previews)
{
    e->previews = previews;
}

void moji_engine_set_memory(MojiEngine *e, guint64 bytes)
{
    (void)e;
    (void)bytes;
}

/* Hard edges: every pixel is exactly one of the two colours, which layer.scm knows too. */
static void disc(guint8 *pixels, int size, int channels)
{
    const guint8 green[] = {0, 177, 64, 255}, red[] = {171, 35, 62, 255};

    for (int y = 0; y < size; y++)
        for (int x = 0; x < size; x++) {
            int u = 2 * x + 1 - size, v = 2 * y + 1 - size;
            gboolean inside = (u * u + v * v) * 4 < size * size * 3;

            memcpy(pixels + (gsize)(y * size + x) * channels, inside ? red : green, channels);
        }
}

static char *recipe(const MojiRequest *r, const char *warning)
{
    g_autoptr(JsonNode) root = json_node_new(JSON_NODE_OBJECT);
    JsonObject *object = json_object_new();

    json_object_set_string_member(object, "prompt", r->prompt);
    json_object_set_int_member(object, "seed", r->seed < 0 ? 7 : r->seed);
    json_object_set_int_member(object, "steps", r->steps);
    json_object_set_double_member(object, "guidance", r->guidance);
    json_object_set_string_member(object, "style", r->style ? r->style : "");
    json_object_set_string_member(object, "background", r->background ? r->background : "");
    json_object_set_string_member(object, "negative", r->negative ? r->negative : "");
    if (r->loras) {
        g_autofree char *loras = moji_request_join_loras(r->loras);
        json_object_set_string_member(object, "loras", loras);
    }
    if (r->transparent)
        json_object_set_boolean_member(object, "transparent", TRUE);
    if (r->image)
        json_object_set_double_member(object, "strength", r->strength);
    if (warning)
        json_object_set_string_member(object, "warning", warning);
    json_node_take_object(root, object);
    return json_to_string(root, FALSE);
}

static MojiImage *redrawn(const MojiRequest *r)
{
    MojiImage *image = moji_image_copy(r->image);
    gsize pixels = (gsize)image->width * image->height;

    g_clear_pointer(&image->mask, g_free);
    if (r->transparent)
        image->mask = g_malloc(pixels);
    for (gsize i = 0; i < pixels; i++) {
        gboolean kept = r->image->mask && !r->image->mask[i];

        if (!kept)
            memcpy(image->rgba + 4 * i, (guint8[]){171, 35, 62, 255}, r->transparent ? 4 : 3);
        if (image->mask)
            image->mask[i] = kept || (int)(i % image->width) < image->width / 2 ? 255 : 0;
    }
    g_free(image->recipe);
    image->recipe = recipe(r, NULL);
    return image;
}

static MojiImage *finished(const MojiRequest *r, GError **error)
{
    if (r->image)
        return redrawn(r);
    MojiImage *image = moji_image_new(SIZE, SIZE);
    gboolean uneven = strstr(r->prompt, "uneven") != NULL;

    disc(image->rgba, SIZE, 4);
    if (r->transparent && !uneven && !moji_cutout(image, NULL, NULL, error)) {
        moji_image_free(image);
        return NULL;
    }
    image->recipe =
        recipe(r, uneven ? "The background was kept: only 40 % of the frame has one colour" : NULL);
    return image;
}

GPtrArray *moji_engine_draw(MojiEngine *e, const MojiRequest *r, MojiProgressFn progress,
                            gpointer user_data, GCancellable *cancellable, GError **error)
{
    guint8 rough[16 * 16 * 3];
    gulong pause = strstr(r->prompt, "slow") ? 150000 : 5000;
    MojiProgress p = {.phase = MOJI_PHASE_LOADING, .images = 1};
    MojiImage *image;
    GPtrArray *images;

    progress(&p, user_data);
    disc(rough, 16, 3);
    for (p.step = 1, p.steps = STEPS, p.phase = MOJI_PHASE_STEP; p.step <= STEPS; p.step++) {
        g_usleep(pause);
        if (g_cancellable_is_cancelled(cancellable)) {
            g_set_error(error, MOJI_ERROR, MOJI_ERROR_CANCELLED, "Cancelled");
            return NULL;
        }
        if (p.step == STEPS / 2 && strstr(r->prompt, "crash"))
            abort();
        p.preview = e->previews ? rough : NULL;
        p.preview_width = p.preview_height = e->previews ? 16 : 0;
        progress(&p, user_data);
    }
    if (strstr(r->prompt, "fail")) {
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_MEMORY, "8 GiB are needed, 2 GiB are free");
        return NULL;
    }
    image = finished(r, error);
    if (!image)
        return NULL;
    images = g_ptr_array_new_with_free_func((GDestroyNotify)moji_image_free);
    g_ptr_array_add(images, image);
    return images;
}

int main(int argc, char *argv[])
{
    MojiServeOptions options = {.stdio = argc > 2 && !strcmp(argv[2], "--stdio"), .idle = 300};
    g_autoptr(GError) error = NULL;

    if (moji_serve(&options, &error))
        return 0;
    g_printerr("standin: %s\n", error->message);
    return 1;
}
