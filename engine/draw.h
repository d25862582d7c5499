/* draw.h: the whole way from a prompt to pixels. Start here to use libmoji.
 *
 *     MojiEngine *engine = moji_engine_new("auto", 0, &error);
 *     g_autoptr(MojiRequest) r = moji_request_new();
 *     r->prompt = g_strdup("grinning cat");
 *     r->seed = 1;
 *     GPtrArray *images = moji_engine_draw(engine, r, NULL, NULL, NULL, &error);
 *     moji_image_write_png(images->pdata[0], "cat.png", &error);
 *     g_ptr_array_unref(images);
 *     moji_engine_free(engine);
 *
 * The engine keeps the last model loaded and its tapes prepared, so the second drawing starts at
 * once. One engine draws one request at a time; it may be used from any one thread at a time. */
#pragma once
#include <gio/gio.h>
#include "request.h"
#include "image.h"

typedef struct MojiEngine MojiEngine;

/* backend: "auto", "cpu" or "cuda"; threads 0: one a core. */
MojiEngine *moji_engine_new(const char *backend, int threads, GError **error);
void moji_engine_free(MojiEngine *e); /* NULL is fine */
/* One line about the backend; owned by the engine, never changes. */
const char *moji_engine_describe(MojiEngine *e);
/* Why "auto" took no faster backend, a line for people; NULL if there is nothing to say. */
const char *moji_engine_note(MojiEngine *e);
/* "f32", "bf16", "f16" or NULL for the backend's preferred type; takes effect with the next
 * drawing. */
void moji_engine_set_type(MojiEngine *e, const char *type);
/* NULL, or a folder where every arrow of the next drawings is written as .npy, channels last:
 * ids i32 [B,n] and embeddings f32 [B,n,C], the negative prompt's first, n of all chunks
 * (prompt.h); noise f32 [1,h,w,c]; latents_01 ... after each call of the U-Net; decoded f32
 * [1,H,W,3], about -1..1. The second and further pictures of one drawing go to folders 2, 3, ... in
 * it. */
void moji_engine_set_dump(MojiEngine *e, const char *folder);
/* TRUE: progress carries previews, at the price of a little time. FALSE at first. */
void moji_engine_set_previews(MojiEngine *e, gboolean previews);
/* Bytes that drawings may take, of which models and their networks are most; 0, as at first: what
 * the machine has left. With less than all networks need fewer pictures are drawn at once, networks
 * are held one at a time, and the decoder draws in tiles. */
void moji_engine_set_memory(MojiEngine *e, guint64 bytes);
/* Pictures of one request that are drawn at once at most, memory allowing: each is the one that its
 * seed gives alone. 0, as at first: as many as make it faster on this backend. */
void moji_engine_set_at_once(MojiEngine *e, int pictures);
void moji_engine_unload(MojiEngine *e); /* drop the model, keep the engine */

typedef enum {
    MOJI_PHASE_LOADING, /* reading the model and preparing: step 0 of 0 */
    MOJI_PHASE_TEXT,
    MOJI_PHASE_STEP, /* step of steps done */
    MOJI_PHASE_DECODING,
    MOJI_PHASE_CUTOUT,
} MojiPhase;
const char *moji_phase_name(MojiPhase phase); /* "loading", "text", "step", ... */

typedef struct {
    MojiPhase phase;
    int step, steps;   /* across one picture; steps are calls of the U-Net */
    int image, images; /* which of `count`, from 0; of those drawn at once, the first */
    /* A small RGB picture of its present estimate, or NULL; valid during the call only. */
    const guint8 *preview;
    int preview_width, preview_height;
} MojiProgress;

/* Called on the drawing thread. */
typedef void (*MojiProgressFn)(const MojiProgress *progress, gpointer user_data);

typedef struct { /* of the last drawing, in seconds */
    double load, text, unet, vae, cutout, total;
    int unet_calls;
} MojiTimes;
const MojiTimes *moji_engine_times(MojiEngine *e);
/* Bytes of a GPU's memory in use at most since the engine was made (backend.h: peak); 0: no GPU. */
guint64 moji_engine_device_peak(MojiEngine *e);

/* MojiImage* elements with recipes (order.h says what is in one), freed with the array; NULL on
 * error. A background that is not flat is no error: that picture comes without a mask, and its
 * recipe has a "warning". */
GPtrArray *moji_engine_draw(MojiEngine *e, const MojiRequest *request, MojiProgressFn progress,
                            gpointer user_data, GCancellable *cancellable, GError **error);
