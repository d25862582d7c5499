/* sampler.h: the steps from noise to latents, as pure functions on host arrays.
 *
 *     MojiSampler *s = moji_sampler_new(&config, "ddim", 20, &error);
 *     moji_sampler_start(s, x, count);                       // noise *= initial sigma
 *     for (int i = 0; i < moji_sampler_calls(s); i++) {
 *         moji_sampler_input(s, i, x, input, count);         // what the UNet is given
 *         unet(input, moji_sampler_timestep(s, i), output);
 *         moji_sampler_step(s, i, output, x, count, &random); // x <- next x
 *     }
 *
 * Names: "pndm", "ddim", "euler", "euler-a", "dpm++2m", "dpm++2m-karras", "lcm". Numerics follow
 * diffusers' PNDMScheduler (skip_prk_steps), DDIMScheduler, EulerDiscreteScheduler,
 * EulerAncestralDiscreteScheduler, DPMSolverMultistepScheduler (dpmsolver++, midpoint) and
 * LCMScheduler as made by Scheduler.from_config(pipe.scheduler.config), all in fp32. */
#pragma once
#include "error.h"
#include "random.h"

/* diffusers' scheduler_config.json. A field the file lacks is MOJI_SPACING_UNSET, 0 for a beta, or
 * MOJI_ABSENT where marked; sampler.c knows which default each class has for it. */
#define MOJI_ABSENT (-1)

typedef enum {
    MOJI_SPACING_UNSET,
    MOJI_SPACING_LEADING,
    MOJI_SPACING_LINSPACE,
    MOJI_SPACING_TRAILING,
} MojiSpacing;

typedef struct {
    int train_steps; /* num_train_timesteps, 1000 */
    double beta_start, beta_end;
    gboolean scaled_linear;    /* beta_schedule: "scaled_linear" or "linear"; MOJI_ABSENT */
    gboolean v_prediction;     /* prediction_type: "epsilon" or "v_prediction" */
    gboolean zero_snr;         /* rescale_betas_zero_snr */
    gboolean karras;           /* use_karras_sigmas, of the model's own sampler only */
    gboolean set_alpha_to_one; /* MOJI_ABSENT */
    gboolean clip_sample;      /* MOJI_ABSENT */
    double clip_sample_range;
    int steps_offset;
    MojiSpacing spacing;
    char class_name[64];  /* _class_name: the model's own sampler */
    char unsupported[64]; /* a member that asks its own class for what we lack, or "" */
} MojiSamplerConfig;

/* MOJI_ERROR_FILE for a file that no sampler here could follow (its betas, its prediction type). */
gboolean moji_sampler_config_read(const char *path, MojiSamplerConfig *config, GError **error);

typedef struct MojiSampler MojiSampler;

const char *const *moji_sampler_names(void); /* NULL-terminated */
/* name: one of the above, or NULL for the config's own class. steps: 1 to train_steps.
 * MOJI_ERROR_USAGE for an unknown name, steps out of range, an own class that is none of the above,
 * or a combination that cannot work (as PNDM with zero_snr), saying what can. */
MojiSampler *moji_sampler_new(const MojiSamplerConfig *config, const char *name, int steps,
                              GError **error);
void moji_sampler_free(MojiSampler *s);

const char *moji_sampler_name(const MojiSampler *s); /* one of the names */
int moji_sampler_calls(const MojiSampler *s); /* UNet evaluations; steps + 1 for PNDM from 2 on */
float moji_sampler_timestep(const MojiSampler *s, int call); /* may be fractional (Euler) */
float moji_sampler_initial_sigma(const MojiSampler *s);
void moji_sampler_start(MojiSampler *s, float *x, gsize count);
/* To draw from a picture's latents: the loop begins at this call instead of 0, as in diffusers'
 * img2img. strength 0 to 1 is the share of the steps that are taken, rounded down;
 * moji_sampler_calls if that leaves none. At 1 all are, and the picture still shows through as far
 * as the first call's noise lets it. */
int moji_sampler_first_call(const MojiSampler *s, double strength);
/* x, a picture's latents, gets noise (same layout) as strong as call `call` expects it; at
 * moji_sampler_calls, none. May be called between steps: a blend over the untouched part of a
 * picture wants it at the call that follows. */
void moji_sampler_add_noise(const MojiSampler *s, int call, const float *noise, float *x,
                            gsize count);
/* Instead of start, to begin with call `call`: adds noise as above. */
void moji_sampler_start_at(MojiSampler *s, int call, const float *noise, float *x, gsize count);
void moji_sampler_input(MojiSampler *s, int call, const float *x, float *input, gsize count);
/* random: the generator that made the initial noise; used by "euler-a" and "lcm" only. The noise
 * is drawn in torch's NCHW order: shape is [1,C,h,w] of x, which is NHWC; channels tells C. */
void moji_sampler_step(MojiSampler *s, int call, const float *output, float *x, gsize count,
                       int channels, MojiRandom *random);
/* The sampler's current estimate of the finished latents, for previews; valid after a step and
 * until the next, owned by the sampler. */
const float *moji_sampler_estimate(const MojiSampler *s);
