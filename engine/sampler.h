/* sampler.h: the steps from noise to latents, as arithmetic for whoever holds the latents.
 *
 *     MojiSampler *s = moji_sampler_new(&config, "ddim", 20, &error);
 *     moji_sampler_start(s, x, count);                       // noise *= initial sigma
 *     for (int i = 0; i < moji_sampler_calls(s); i++) {
 *         input = moji_sampler_scale(s, i) * x;              // what the UNet is given
 *         unet(input, moji_sampler_timestep(s, i), output);
 *         moji_sampler_step(s, i, i, &step);                 // next x = sums of planes, see below
 *     }
 *
 * A sampler has no state: what it keeps from call to call is in the planes.
 *
 * Names, and the classes of diffusers whose numerics each follows, in fp32, as made by
 * Scheduler.from_config(pipe.scheduler.config):
 *
 *     pndm            PNDMScheduler (skip_prk_steps)
 *     ddim            DDIMScheduler, eta 0
 *     euler, euler-a  EulerDiscreteScheduler, EulerAncestralDiscreteScheduler
 *     heun            HeunDiscreteScheduler; two calls a step, one for the last
 *     dpm++2m         DPMSolverMultistepScheduler (dpmsolver++, midpoint); dpm++2m-karras is the
 *                     same with Karras sigmas
 *     dpm++2m-sde     DPMSolverMultistepScheduler (sde-dpmsolver++, midpoint): plain noise from the
 *                     generator, so a seed gives diffusers' picture
 *     dpm++sde        DPMSolverSDEScheduler; two calls a step, one for the last. Its noise is a
 *                     Brownian path drawn from the generator in order: the same law as
 *                     torchsde's tree, other numbers, so a seed does not give diffusers' picture
 *     unipc           UniPCMultistepScheduler (order 2, bh2, predict_x0)
 *     lcm             LCMScheduler
 *     tcd             TCDScheduler, eta (the paper's gamma) 0.3, the scheduler's own default; a
 *                     diffusers pipeline passes 0 unless told
 *
 * heun and dpm++sde heed rescale_betas_zero_snr, which diffusers' classes of them do not know. */
#pragma once
#include "error.h"

/* diffusers' scheduler_config.json. A field the file lacks is MOJI_SPACING_UNSET, 0 for a beta, or
 * MOJI_ABSENT where marked; sampler.c knows which default each class has for it. */
#define MOJI_ABSENT (-1)

typedef enum {
    MOJI_SPACING_UNSET,
    MOJI_SPACING_LEADING,
    MOJI_SPACING_LINSPACE,
    MOJI_SPACING_TRAILING, /* also known as sgm_uniform */
} MojiSpacing;

/* Where between the highest and the lowest sigma the steps are; only for samplers that go by sigma:
 * euler, heun, dpm++2m, dpm++2m-sde, dpm++sde, unipc. */
typedef enum {
    MOJI_SIGMAS_UNSET,
    MOJI_SIGMAS_PLAIN, /* at the timesteps of the spacing */
    MOJI_SIGMAS_KARRAS,
    MOJI_SIGMAS_EXPONENTIAL,
} MojiSigmas;

typedef struct {
    int train_steps; /* num_train_timesteps, 1000 */
    double beta_start, beta_end;
    gboolean scaled_linear;  /* beta_schedule: "scaled_linear" or "linear"; MOJI_ABSENT */
    gboolean v_prediction;   /* prediction_type: "epsilon" or "v_prediction" */
    gboolean zero_snr;       /* rescale_betas_zero_snr */
    MojiSigmas own_sigmas;   /* use_karras_sigmas, use_exponential_sigmas: of its own class only */
    gboolean own_stochastic; /* algorithm_type "sde-dpmsolver++", likewise */
    gboolean set_alpha_to_one; /* MOJI_ABSENT */
    gboolean clip_sample;      /* MOJI_ABSENT */
    double clip_sample_range;
    int steps_offset;
    MojiSpacing spacing;
    MojiSigmas sigmas;    /* not of the file: a caller's own choice, as spacing may be too */
    char class_name[64];  /* _class_name: the model's own sampler */
    char unsupported[64]; /* a member that asks its own class for what we lack, or "" */
} MojiSamplerConfig;

/* MOJI_ERROR_FILE for a file that no sampler here could follow (its betas, its prediction type). */
gboolean moji_sampler_config_read(const char *path, MojiSamplerConfig *config, GError **error);

typedef struct MojiSampler MojiSampler;

const char *const *moji_sampler_names(void); /* NULL-terminated, as the next two */
const char *const *moji_spacing_names(void); /* "leading", "linspace", "trailing", "sgm_uniform" */
const char *const *moji_sigmas_names(void);  /* "plain", "karras", "exponential" */
/* FALSE for a word that is none of them. */
gboolean moji_spacing_from_name(const char *name, MojiSpacing *spacing);
gboolean moji_sigmas_from_name(const char *name, MojiSigmas *sigmas);
/* name: one of the above, or NULL for the config's own class. steps: 1 to train_steps.
 * MOJI_ERROR_USAGE for an unknown name, steps out of range, an own class that is none of the above,
 * or a combination that cannot work (as PNDM with zero_snr), saying what can. */
MojiSampler *moji_sampler_new(const MojiSamplerConfig *config, const char *name, int steps,
                              GError **error);
void moji_sampler_free(MojiSampler *s);

const char *moji_sampler_name(const MojiSampler *s);    /* one of the names */
MojiSpacing moji_sampler_spacing(const MojiSampler *s); /* never unset */
MojiSigmas moji_sampler_sigmas(const MojiSampler *s);   /* never unset */
/* UNet evaluations: steps, but steps + 1 for pndm from 2 on, 2 steps - 1 for heun and dpm++sde. */
int moji_sampler_calls(const MojiSampler *s);
float moji_sampler_timestep(const MojiSampler *s, int call); /* may be fractional (Euler) */
float moji_sampler_initial_sigma(const MojiSampler *s);
void moji_sampler_start(const MojiSampler *s, float *x, gsize count);
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
/* The UNet is given x times this. */
double moji_sampler_scale(const MojiSampler *s, int call);

/* Latents, and what a sampler keeps of earlier calls, are planes of as many numbers. */
enum { MOJI_SAMPLER_PAST = 3 };
typedef enum {
    MOJI_PLANE_ESTIMATE, /* of the finished latents, also for previews */
    MOJI_PLANE_X,        /* the latents */
    MOJI_PLANE_HELD,     /* latents that a later call goes back to */
    MOJI_PLANE_PAST,     /* three, newest first, each sampler's own */
    MOJI_PLANE_NOISE = MOJI_PLANE_PAST + MOJI_SAMPLER_PAST, /* fresh, written before the step */
    MOJI_PLANES,                                            /* so many are kept */
    MOJI_PLANE_OUTPUT = MOJI_PLANES,                        /* what the UNet says */
    MOJI_TERMS,
} MojiPlane;

/* Every sampler's step is linear: each number of a plane becomes a sum of the numbers at its place
 * in all planes. The estimate comes first; the other sums have the new one. */
typedef struct {
    double to[MOJI_PLANES][MOJI_TERMS]; /* factors: of the second plane, in what the first becomes.
                                           A plane whose factor is 0 may hold anything */
    double range;                       /* the estimate is clipped to +-range; INFINITY: not */
    gboolean draws; /* MOJI_PLANE_NOISE must have been drawn, from the generator that made the
                       initial noise, in torch's NCHW order; without, it is not used */
} MojiSamplerStep;

/* done: how many calls came before, since start or, from a picture, since its first. */
void moji_sampler_step(const MojiSampler *s, int call, int done, MojiSamplerStep *step);
