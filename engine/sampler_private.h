/* sampler_private.h: what the sampler_*.c files share; nothing outside of them includes it.
 *
 *     sampler_config.c    scheduler_config.json
 *     sampler_schedule.c  alphas, sigmas and timesteps: everything that is known beforehand
 *     sampler_alpha.c     steps by alpha bar: PNDM, DDIM, LCM, TCD
 *     sampler_sigma.c     steps by sigma over x / alpha: Euler, Euler a, Heun, DPM++ SDE
 *     sampler_lambda.c    multistep in log(alpha / sigma): DPM++ 2M, DPM++ 2M SDE, UniPC
 *     sampler.c           the table of samplers; making, starting, stepping
 *
 * The surprising rule: no file here sees latents. A step is a table of factors (sampler.h), written
 * in double precision as the papers write it; whoever holds the latents applies it. Timesteps and
 * sigmas are rounded where the reference rounds them: otherwise they, and pictures with them, move.
 *
 * Letters: a is the cumulative product of (1 - beta), "alpha bar", at one timestep; sigma is
 * sqrt((1 - a) / a); e is predicted noise, v predicted velocity, x0 the finished latents. */
#pragma once
#include "sampler.h"

enum { MOJI_SAMPLER_DISTILLED_STEPS = 50 };

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
    void (*step)(const MojiSampler *s, int call, int done, MojiSamplerStep *step);
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

/* How much of a picture and of noise is in latents. */
typedef struct {
    double alpha, sigma;
} MojiNoise;

/* The steps: step is all zero and without a range before. */
void moji_sampler_step_pndm(const MojiSampler *s, int call, int done, MojiSamplerStep *step);
void moji_sampler_step_ddim(const MojiSampler *s, int call, int done, MojiSamplerStep *step);
void moji_sampler_step_lcm(const MojiSampler *s, int call, int done, MojiSamplerStep *step);
void moji_sampler_step_tcd(const MojiSampler *s, int call, int done, MojiSamplerStep *step);
void moji_sampler_step_euler(const MojiSampler *s, int call, int done, MojiSamplerStep *step);
void moji_sampler_step_euler_a(const MojiSampler *s, int call, int done, MojiSamplerStep *step);
void moji_sampler_step_heun(const MojiSampler *s, int call, int done, MojiSamplerStep *step);
void moji_sampler_step_dpm_sde(const MojiSampler *s, int call, int done, MojiSamplerStep *step);
void moji_sampler_step_dpm_2m(const MojiSampler *s, int call, int done, MojiSamplerStep *step);
void moji_sampler_step_unipc(const MojiSampler *s, int call, int done, MojiSamplerStep *step);

/* The sigma that a call's latents have: between two table entries for DPM++ SDE's second. */
double moji_sampler_sigma(const MojiSampler *s, int call);
/* A sigma over x / alpha as a pair with alpha^2 + sigma^2 = 1. */
MojiNoise moji_sampler_split(double ratio);
/* The estimate by what the U-Net says of latents (of an alpha^2 + sigma^2 = 1). */
void moji_sampler_predict(const MojiSampler *s, MojiNoise here, MojiSamplerStep *step);
/* This plane is the newest past; the oldest is forgotten. */
void moji_sampler_push(MojiSamplerStep *step, MojiPlane newest);
/* to += factor * terms */
void moji_sampler_add(double to[MOJI_TERMS], double factor, const double terms[MOJI_TERMS]);
