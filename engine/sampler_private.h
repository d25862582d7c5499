/* sampler_private.h: what the sampler_*.c files share; nothing outside of them includes it.
 *
 *     sampler_config.c    scheduler_config.json
 *     sampler_schedule.c  alphas, sigmas and timesteps: everything that is known beforehand
 *     sampler_alpha.c     steps by alpha bar: PNDM, DDIM, LCM, TCD
 *     sampler_sigma.c     steps by sigma over x / alpha: Euler, Euler a, Heun, DPM++ SDE
 *     sampler_lambda.c    multistep in log(alpha / sigma): DPM++ 2M, DPM++ 2M SDE, UniPC
 *     sampler.c           the table of samplers; making, starting, stepping
 *
 * The surprising rule: everything that touches the latents is single precision, in the order of the
 * reference, and everything that places the timesteps is double precision, as numpy's; mixing the
 * two moves timesteps by one and pictures with them.
 *
 * Letters: a is the cumulative product of (1 - beta), "alpha bar", at one timestep; sigma is
 * sqrt((1 - a) / a); e is predicted noise, v predicted velocity, x0 the finished latents. */
#pragma once
#include "sampler.h"

enum { MOJI_SAMPLER_HISTORY = 4, MOJI_SAMPLER_DISTILLED_STEPS = 50 };

/* What a sampler's latents are, and so what is known of each of its calls. */
typedef enum {
    MOJI_FORM_ALPHA,  /* sqrt(a) x0 + sqrt(1 - a) noise, a from the table: no sigmas */
    MOJI_FORM_SIGMA,  /* x0 + sigma noise */
    MOJI_FORM_LAMBDA, /* (x0 + sigma noise) / sqrt(sigma^2 + 1) */
} MojiSamplerForm;

typedef struct {
    const char *name, *class_name; /* diffusers' class */
    MojiSamplerForm form;
    MojiSigmas sigmas;   /* the only ones it takes; MOJI_SIGMAS_UNSET: it takes all */
    int evaluations;     /* of the UNet a step, but for the last, which takes one */
    gboolean stochastic; /* the form of its class that draws noise (dpm++2m-sde) */
    void (*place)(MojiSampler *s);
    void (*step)(MojiSampler *s, int call, const float *output, float *x);
    /* What its class takes for a member that the file lacks. */
    MojiSpacing spacing;
    gboolean set_alpha_to_one, clip_sample;
    double beta_start, beta_end;
    gboolean scaled_linear;
} MojiSamplerMethod;

struct MojiSampler {
    const MojiSamplerMethod *method;
    MojiSamplerConfig config; /* with every default filled in */
    int steps, calls;
    float *timesteps; /* calls */
    float *sigmas;    /* calls + 1, the last 0; NULL in MOJI_FORM_ALPHA */
    float *alphas;    /* train_steps */
    float final_alpha;
    int done; /* calls since start: what the multistep forms go by */

    gsize count; /* elements in each of the following, allocated by the first step */
    float *history[MOJI_SAMPLER_HISTORY]; /* newest first: PNDM's noise, others' x0 */
    float *held;                          /* the latents that a later call goes back to */
    float *estimate;
    float *work; /* the step's fresh noise, or PNDM's combined prediction */
    int order;   /* UniPC: of the step before */

    int channels; /* of the step at hand, as is the generator */
    MojiRandom *random;
};

/* sampler_config.c */
void moji_sampler_fill_defaults(MojiSamplerConfig *c, const MojiSamplerMethod *method);

/* sampler_schedule.c; one of the place functions makes calls, timesteps and sigmas */
void moji_sampler_make_alphas(MojiSampler *s);
float moji_sampler_alpha_at(const MojiSampler *s, int t); /* t below 0: the end's */
void moji_sampler_place_pndm(MojiSampler *s);
void moji_sampler_place_ddim(MojiSampler *s);
void moji_sampler_place_distilled(MojiSampler *s); /* LCM, TCD */
void moji_sampler_place_sigma(MojiSampler *s);     /* one evaluation a step, or two at one sigma */
void moji_sampler_place_middle(MojiSampler *s);    /* the second half way down in log sigma */
void moji_sampler_place_lambda(MojiSampler *s);

/* The steps. */
void moji_sampler_step_pndm(MojiSampler *s, int call, const float *output, float *x);
void moji_sampler_step_ddim(MojiSampler *s, int call, const float *output, float *x);
void moji_sampler_step_lcm(MojiSampler *s, int call, const float *output, float *x);
void moji_sampler_step_tcd(MojiSampler *s, int call, const float *output, float *x);
void moji_sampler_step_euler(MojiSampler *s, int call, const float *output, float *x);
void moji_sampler_step_euler_a(MojiSampler *s, int call, const float *output, float *x);
void moji_sampler_step_heun(MojiSampler *s, int call, const float *output, float *x);
void moji_sampler_step_dpm_sde(MojiSampler *s, int call, const float *output, float *x);
void moji_sampler_step_dpm_2m(MojiSampler *s, int call, const float *output, float *x);
void moji_sampler_step_unipc(MojiSampler *s, int call, const float *output, float *x);

/* The sigma that a call's latents have: between two table entries for DPM++ SDE's second. */
float moji_sampler_sigma(const MojiSampler *s, int call);
/* A sigma as a pair: x = alpha x0 + sigma noise with alpha^2 + sigma^2 = 1. */
void moji_sampler_split(float ratio, float *alpha, float *sigma);
/* Makes room at the front of the history; the oldest is forgotten. */
float *moji_sampler_push(MojiSampler *s);
/* Fills s->work with noise, drawn in torch's order [C, h w], in the latents' order [h w, C]. */
void moji_sampler_draw_noise(MojiSampler *s);
