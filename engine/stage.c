/* stage.c: see stage.h. The only place that knows which network gets which inputs. */
#include "stage.h"
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static MojiStage *stage_new(const char *name, MojiType type, MojiWeights *weights)
{
    MojiStage *s = g_new0(MojiStage, 1);
    s->tape = moji_tape_new(type);
    s->name = name;
    s->weights = weights;
    return s;
}

static MojiStage *stage_end(MojiStage *s, MojiTensor *out)
{
    s->out = moji_output(s->tape, out);
    moji_tape_plan(s->tape);
    return s;
}

int moji_stage_tokens(const MojiModel *m)
{
    return m->tokenizer ? moji_tokenizer_length(m->tokenizer) : m->clip.positions;
}

MojiStage *moji_stage_text(const MojiModel *m, MojiType type, int batch, int clip_skip,
                           gboolean words)
{
    MojiClipConfig clip = m->clip;
    g_assert(clip_skip >= 1 && clip_skip <= clip.layers);
    clip.layers -= clip_skip - 1; /* the final norm comes after whatever layer is last */
    MojiStage *s = stage_new("text", type, m->clip_weights);
    const gint64 shape[] = {batch, moji_stage_tokens(m), clip.hidden_size};
    s->in[0] = words ? moji_input(s->tape, "words", MOJI_F32, 3, shape)
                     : moji_input(s->tape, "ids", MOJI_I32, 2, shape);
    s->in[1] = moji_input(s->tape, "positions", MOJI_I32, 2, shape);
    return stage_end(
        s, (words ? moji_clip_from_words : moji_clip)(s->tape, &clip, s->in[0], s->in[1]));
}

MojiStage *moji_stage_unet(const MojiModel *m, MojiType type, int batch, int h, int w)
{
    MojiStage *s = stage_new("unet", type, m->unet_weights);
    const gint64 sample[] = {batch, h, w, m->unet.in_channels};
    const gint64 context[] = {batch, moji_stage_tokens(m), m->unet.cross_attention_dim};
    s->in[0] = moji_input(s->tape, "sample", MOJI_F32, 4, sample);
    s->in[1] = moji_steady(s->tape, moji_input(s->tape, "timestep", MOJI_F32, 1, sample));
    s->in[2] = moji_steady(s->tape, moji_input(s->tape, "context", MOJI_F32, 3, context));
    return stage_end(s, moji_unet(s->tape, &m->unet, s->in[0], s->in[1], NULL, s->in[2]));
}

int moji_stage_timesteps(int calls)
{
    return 1 << g_bit_storage(calls - 1);
}

MojiStage *moji_stage_step(const MojiModel *m, MojiType type, int prompts, int chunks, int pictures,
                           int calls, int h, int w)
{
    MojiStage *s = stage_new("unet", type, m->unet_weights);
    const gint64 batch = prompts * pictures, c = m->vae.latent_channels;
    const gint64 planes[] = {MOJI_PLANES, pictures, h * w * c},
                 said[] = {prompts, pictures, h * w * c};
    const gint64 sample[] = {batch, h, w, c}, holes[] = {batch, h, w, m->unet.in_channels - c};
    const gint64 look[] = {prompts, MOJI_PLANES + 1}, number[] = {batch, 1};
    const gint64 take[] = {MOJI_PLANES, MOJI_PLANES + prompts + 1};
    const gint64 timesteps[] = {moji_stage_timesteps(calls)};
    const gint64 context[] = {prompts, chunks * moji_stage_tokens(m), m->unet.cross_attention_dim};
    MojiTape *t = s->tape;
    MojiTensor **in = s->in;
    in[MOJI_STEP_PLANES] = moji_input(t, "planes", MOJI_F32, 3, planes);
    in[MOJI_STEP_LOOK] = moji_input(t, "look", MOJI_F32, 2, look);
    in[MOJI_STEP_TAKE] = moji_input(t, "take", MOJI_F32, 2, take);
    in[MOJI_STEP_NUMBER] = moji_input(t, "number", MOJI_I32, 2, number);
    in[MOJI_STEP_TIMESTEPS] = moji_steady(t, moji_input(t, "timesteps", MOJI_F32, 1, timesteps));
    in[MOJI_STEP_CONTEXT] = moji_steady(t, moji_input(t, "context", MOJI_F32, 3, context));
    MojiTensor *x = moji_mix(t, in[MOJI_STEP_PLANES], NULL, in[MOJI_STEP_LOOK]);
    x = moji_reshape(t, x, 4, sample);
    if (holes[3] > 0) {
        in[MOJI_STEP_HOLES] = moji_steady(t, moji_input(t, "holes", MOJI_F32, 4, holes));
        x = moji_concat(t, x, in[MOJI_STEP_HOLES]);
    }
    x = moji_unet(t, &m->unet, x, in[MOJI_STEP_TIMESTEPS], in[MOJI_STEP_NUMBER],
                  in[MOJI_STEP_CONTEXT]);
    x = moji_reshape(t, x, 3, said);
    stage_end(s, moji_mix(t, in[MOJI_STEP_PLANES], x, in[MOJI_STEP_TAKE]));
    g_assert(s->out->offset == in[MOJI_STEP_PLANES]->offset);
    return s;
}

MojiStage *moji_stage_step_card(const MojiModel *m, MojiType type, int pictures, int steps,
                                int side)
{
    MojiSampler *sampler = moji_sampler_new(&m->sampler, m->card.sampler, steps, NULL);
    int calls = sampler ? moji_sampler_calls(sampler) : steps;
    moji_sampler_free(sampler);
    return moji_stage_step(m, type, 2, 1, pictures, calls, side, side);
}

MojiStage *moji_stage_vae(const MojiModel *m, MojiType type, int batch, int h, int w)
{
    MojiStage *s = stage_new("vae", type, m->vae_weights);
    const gint64 shape[] = {batch, h, w, m->vae.latent_channels};
    s->in[0] = moji_input(s->tape, "latents", MOJI_F32, 4, shape);
    return stage_end(s, moji_vae_decoder(s->tape, &m->vae, s->in[0]));
}

MojiStage *moji_stage_encode(const MojiModel *m, MojiType type, int batch, int h, int w)
{
    MojiStage *s = stage_new("encode", type, m->vae_weights);
    int f = moji_vae_factor(&m->vae);
    const gint64 shape[] = {batch, (gint64)f * h, (gint64)f * w, m->vae.in_channels};
    s->in[0] = moji_input(s->tape, "pixels", MOJI_F32, 4, shape);
    return stage_end(s, moji_vae_encoder(s->tape, &m->vae, s->in[0]));
}

void moji_stage_free(MojiStage *s)
{
    if (!s)
        return;
    moji_tape_free(s->tape);
    g_free(s);
}

/* The first number after `key` in a file of /proc; G_MAXUINT64 if it is not there. */
static guint64 read_number(const char *path, const char *key)
{
    g_autofree char *text = NULL;
    if (!g_file_get_contents(path, &text, NULL, NULL))
        return G_MAXUINT64;
    const char *at = strstr(text, key);
    return at ? g_ascii_strtoull(at + strlen(key), NULL, 10) : G_MAXUINT64;
}

guint64 moji_stage_memory_left(MojiBackend *backend)
{
    if (backend && backend->available)
        return backend->available(backend);
    guint64 kib = read_number("/proc/meminfo", "MemAvailable:");
    guint64 machine = kib == G_MAXUINT64 ? kib : kib * 1024;
    struct rlimit limit;
    if (getrlimit(RLIMIT_AS, &limit) || limit.rlim_cur == RLIM_INFINITY)
        return machine;
    guint64 used = read_number("/proc/self/statm", "") * sysconf(_SC_PAGESIZE);
    return MIN(machine, limit.rlim_cur > used ? limit.rlim_cur - used : 0);
}

static guint64 memory_of(const MojiStage *s, gboolean all)
{
    guint64 bytes = moji_tape_block_bytes(s->tape);
    for (int i = 0; i < moji_tape_tensors(s->tape); i++) {
        MojiTensor *t = moji_tape_tensor(s->tape, i);
        if (t->kind != MOJI_PARAMETER || t->view_of)
            continue;
        MojiWeight *w = s->weights ? moji_weights_find(s->weights, t->name) : NULL;
        if (w && (all || !w->prepared))
            bytes += moji_tensor_bytes(t);
    }
    return bytes;
}

guint64 moji_stage_memory(const MojiStage *s)
{
    return s->prepared ? 0 : memory_of(s, FALSE);
}

guint64 moji_stage_memory_all(const MojiStage *s)
{
    return memory_of(s, TRUE);
}

gboolean moji_stage_forecast(MojiStage *const *stages, int n, MojiBackend *backend, MojiForecast *f,
                             GError **error)
{
    g_autofree MojiTape **tapes = g_new(MojiTape *, n);
    *f = (MojiForecast){0};
    for (int i = 0; i < n; i++)
        tapes[i] = stages[i]->tape;
    if (backend->forecast)
        return backend->forecast(backend, tapes, n, f, error);
    for (int i = 0; i < n; i++) {
        f->activations += moji_tape_block_bytes(tapes[i]);
        for (int k = 0; k < moji_tape_tensors(tapes[i]); k++) {
            const MojiTensor *t = moji_tape_tensor(tapes[i], k);
            f->weights += t->kind == MOJI_PARAMETER ? moji_tensor_bytes(t) : 0;
        }
    }
    return TRUE;
}

gboolean moji_stage_prepare(MojiStage *s, MojiBackend *backend, GError **error)
{
    if (!s->prepared)
        s->prepared = moji_tape_prepare(s->tape, backend, s->weights, error);
    return s->prepared;
}

int moji_stage_size_unit(const MojiModel *m)
{
    return moji_vae_factor(&m->vae) << (m->unet.levels - 1);
}
