/* drawing.h: what the files of one drawing share; nothing outside of them includes it.
 *
 *     load.c     the model, and stages that fit this drawing
 *     memory.c   which of them are held at once, so that they fit the machine
 *     embed.c    prompt -> embeddings
 *     pixels.c   latents <-> pixels
 *     denoise.c  noise -> latents
 *     draw.c     all of it, in order
 *
 * They are called in that order. Each returns FALSE (or NULL) with the error set. */
#pragma once
#include "draw.h"
#include "edit.h"
#include "order.h"
#include "sketch.h"
#include "stage.h"

struct MojiEngine {
    MojiBackend *backend;
    int threads;     /* asked for; 0: one a core */
    char *type_name; /* asked for, or NULL */
    char *dump;      /* or NULL */
    gboolean previews;
    guint64 memory; /* bytes that may be used; 0: what the machine has */
    int at_once;    /* pictures, at most; 0: as many as pay on the backend */

    MojiModel *model;             /* or NULL */
    char *stamp;                  /* the loaded model's folder and file times */
    char *weights;                /* moji_weights_identity */
    char *merged;                 /* which LoRAs, at which weights and type, or NULL */
    GArray *applied;              /* guint of each: tensors of theirs that were merged */
    MojiStage *text, *unet, *vae; /* prepared last, or NULL; they borrow the model's weights */
    int stage_h, stage_w, stage_prompts; /* what they were made for */
    int stage_skip, stage_chunks;        /* likewise: the text stage, the U-Net's */
    int stage_wanted, stage_pictures;    /* the U-Net's: that memory allowing, and as it is */
    int stage_timesteps;                 /* likewise */
    gboolean stage_words;                /* the text stage takes words, not ids */
    MojiType type;
    MojiSketch *sketch; /* or NULL */
    MojiTimes times;
};

/* What one drawing carries from stage to stage. */
typedef struct {
    MojiEngine *e;
    MojiOrder *order;
    MojiProgressFn progress;
    gpointer user_data;
    GCancellable *cancel;
    int image;         /* which picture; of several at once, the first */
    int pictures;      /* drawn at once */
    int prompts;       /* 2: with guidance */
    int h, w, c;       /* latents */
    gsize count;       /* h w c */
    int height, width; /* pixels, as they are decoded */
    float *context;    /* [prompts,n,C], n of all chunks */

    gboolean one_at_a_time; /* stages are dropped as soon as they are not needed */
    int tile_h, tile_w;     /* latents that are decoded or encoded at once */

    /* Where a picture is redrawn, or the model fills holes. */
    MojiEdit *edit;    /* or NULL */
    float *moments;    /* [h,w,moments]: the picture encoded, or NULL */
    float *hidden;     /* the same with its holes in gray, for a model that fills them, or NULL */
    float *cells;      /* [h,w]: 1 where redrawn, or NULL: everywhere */
    gboolean overflow; /* numbers went out of the type's range */
} MojiDrawing;

/* ---- draw.c ---- */

double moji_drawing_now(void); /* seconds */
void moji_drawing_tell(const MojiDrawing *d, MojiProgress p);
gboolean moji_drawing_cancelled(const MojiDrawing *d, GError **error); /* TRUE: error is set */
/* Writes picture `image`'s NAME.npy if the engine dumps. */
gboolean moji_drawing_dump(const MojiDrawing *d, int image, const char *name, MojiType type,
                           int rank, const gint64 *dim, const void *data, GError **error);
/* The type of numbers may overflow with a model made for another: no picture comes of that.
 * network: "text", "unet" or "vae". MOJI_ERROR_FILE if its weights are damaged. */
gboolean moji_drawing_finite(MojiDrawing *d, const float *x, gsize count, const char *network,
                             GError **error);

/* ---- load.c ---- */

/* Makes e->model the model (NULL or "": the bundled one) with the VAE that r asks for, unless it is
 * already. */
gboolean moji_drawing_load(MojiEngine *e, const MojiRequest *r, GError **error);
/* Lets go of the stages of other drawings, of another size, batch or type, and plans this one's. */
gboolean moji_drawing_begin(MojiDrawing *d, MojiType type, GError **error);
/* Makes *s ready to run, and makes it if it is NULL: &e->text, &e->unet, &e->vae, or an encoder of
 * the caller's. The others make room if they must; if there still is not enough, fewer pictures are
 * drawn at once and tiles become smaller, so read those afterwards. */
gboolean moji_drawing_ready(MojiDrawing *d, MojiStage **s, GError **error);
MojiStage *moji_drawing_unet(const MojiDrawing *d); /* a new one, as things are set */
void moji_drawing_drop_stages(MojiEngine *e);
void moji_drawing_forget_loras(MojiEngine *e); /* with the model that they were merged into */

/* ---- memory.c ---- */

/* How many pictures to draw at once if memory is no matter: as even parts of all as can be. */
int moji_drawing_wanted(const MojiDrawing *d);
/* Sets pictures, one_at_a_time and the tiles; MOJI_ERROR_MEMORY if nothing fits. */
gboolean moji_drawing_plan(MojiDrawing *d, GError **error);
/* FALSE if the tiles are as small as they get. */
gboolean moji_drawing_smaller_tiles(MojiDrawing *d);

/* ---- embed.c ---- */

/* d->order's texts -> d->context */
gboolean moji_drawing_embed(MojiDrawing *d, GError **error);

/* ---- denoise.c ---- */

/* n pictures from d->image on, at most d->pictures: their noise, on top of what they redraw, then
 * every step: x [n,h,w,c]. The U-Net must be ready. */
gboolean moji_drawing_denoise(MojiDrawing *d, int n, float *x, GError **error);

/* ---- pixels.c ---- */

/* Decodes a small picture of noise for e->sketch, where previews are wanted and there is none. */
gboolean moji_drawing_sketch(MojiDrawing *d, GError **error);
/* d->edit -> d->moments, d->hidden, d->cells; nothing where there is nothing to encode. */
gboolean moji_drawing_encode(MojiDrawing *d, GError **error);
/* x [h,w,c] -> the picture. Caller frees. */
MojiImage *moji_drawing_decode(MojiDrawing *d, const float *x, GError **error);
