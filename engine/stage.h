/* stage.h: one tape of the pipeline with its ends: text, U-Net, decoder or encoder at one size and
 * batch.
 *
 *     MojiStage *s = moji_stage_unet(model, MOJI_BF16, 2, 64, 64);
 *     puts(moji_tape_explain(s->tape));                      // needs no weights
 *     if (!moji_stage_prepare(s, backend, &error)) ...
 *     moji_tape_write(s->tape, s->in[0], latents); ...
 *     moji_stage_free(s);                                    // before the model
 *
 * B batch, n tokens, C embedding width, h w latents on a side, c latent channels, f pixels per
 * latent. */
#pragma once
#include "backend.h"
#include "model.h"

typedef struct {
    MojiTape *tape;          /* planned */
    MojiTensor *in[7], *out; /* NULL where there are fewer */
    MojiWeights *weights;    /* the model's; NULL if it was opened without */
    const char *name;        /* "text", "unet", "vae" or "encode" */
    gboolean prepared;
} MojiStage;

/* ids i32 [B,n], positions i32 [B,n] -> f32 [B,n,C]. clip_skip 1: all layers, 2: all but one, ...
 * words: TRUE for f32 [B,n,C] in place of ids, see clip.h. */
MojiStage *moji_stage_text(const MojiModel *m, MojiType type, int batch, int clip_skip,
                           gboolean words);
/* latents f32 [B,h,w,c], timestep f32 [B], context f32 [B,n,C] -> f32 [B,h,w,c]. All but the
 * latents are steady (tape.h). */
MojiStage *moji_stage_unet(const MojiModel *m, MojiType type, int batch, int h, int w);
/* A drawing's step, all of it: what the U-Net is given, the U-Net, guidance and the sampler's sums.
 * P pictures of each of G prompts (2: with guidance), which have so many chunks. The planes
 * (sampler.h) are the inputs that stay: a run makes new ones of them in their place, which out is.
 * The factors of moji_mix say how, call by call; S timesteps are enough for so many calls. */
enum {
    MOJI_STEP_PLANES,    /* f32 [MOJI_PLANES,P,h*w*c] */
    MOJI_STEP_LOOK,      /* f32 [G,MOJI_PLANES+1]: factors of what the U-Net is given */
    MOJI_STEP_TAKE,      /* f32 [MOJI_PLANES,MOJI_PLANES+G+1]: of the planes and what it says */
    MOJI_STEP_NUMBER,    /* i32 [G*P,1]: which timestep; the same for all */
    MOJI_STEP_TIMESTEPS, /* f32 [S]; steady, as all that follow */
    MOJI_STEP_CONTEXT,   /* f32 [G,chunks*n,C] */
    MOJI_STEP_HOLES,     /* f32 [G*P,h,w,..]: what else an inpainting U-Net is given; else NULL */
    MOJI_STAGE_INPUTS,
};
MojiStage *moji_stage_step(const MojiModel *m, MojiType type, int prompts, int chunks, int pictures,
                           int calls, int h, int w);
/* S for so many calls: the next power of two, so that few numbers of steps need another stage, and
 * one step no more than one. */
int moji_stage_timesteps(int calls);
/* The same for pictures as the model's card has them: with guidance, of one chunk, square, by its
 * sampler. */
MojiStage *moji_stage_step_card(const MojiModel *m, MojiType type, int pictures, int steps,
                                int side);
/* latents f32 [B,h,w,c] -> f32 [B,f*h,f*w,3]; vae.h tells what to do before and after, here and in
 * the next. */
MojiStage *moji_stage_vae(const MojiModel *m, MojiType type, int batch, int h, int w);
/* pixels f32 [B,f*h,f*w,3] -> f32 [B,h,w,moments] */
MojiStage *moji_stage_encode(const MojiModel *m, MojiType type, int batch, int h, int w);
void moji_stage_free(MojiStage *s); /* NULL is fine */

/* What the backend's device will hold with all of these prepared; nothing is allocated. */
gboolean moji_stage_forecast(MojiStage *const *stages, int n, MojiBackend *backend, MojiForecast *f,
                             GError **error);
/* Allocates and prepares, once; later calls do nothing. */
gboolean moji_stage_prepare(MojiStage *s, MojiBackend *backend, GError **error);

/* Bytes that preparing will take: the block, and a copy of each parameter that no backend has made
 * its own of yet. 0 once prepared. */
guint64 moji_stage_memory(const MojiStage *s);
/* The same if nothing had been prepared. */
guint64 moji_stage_memory_all(const MojiStage *s);
/* Bytes that the backend (or, NULL, the machine and a limit on this process) has left. Systems
 * promise memory freely and end the program when it is touched, so ask beforehand. */
guint64 moji_stage_memory_left(MojiBackend *backend);

int moji_stage_tokens(
    const MojiModel *m); /* n: what the tokenizer makes, or the text model takes */
/* Pixels on a side must be a multiple of this: the decoder's factor times the U-Net's. */
int moji_stage_size_unit(const MojiModel *m);
