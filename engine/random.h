/* random.h: normal noise equal to PyTorch's CPU generator.
 *
 *     MojiRandom r;
 *     moji_random_seed(&r, 42);
 *     moji_random_normal(&r, latents, 4 * 64 * 64);   // torch.randn(..., generator) in fp32
 *
 * MT19937 (Matsumoto and Nishimura 1998) and the Box-Muller forms of
 * pytorch/pytorch:aten/src/ATen/native/cpu/DistributionTemplates.h: blocks of 16 for 16 and more
 * elements, scalar doubles below that. A generator carries on from draw to draw as torch's does.
 * Equal bit for bit to torch on x86-64 with AVX2, on whatever machine this runs; torch itself
 * differs in last bits on others. */
#pragma once
#include <glib.h>

typedef struct {
    guint32 state[624];
    int next;
    gboolean has_cached; /* second value of the last scalar pair */
    double cached;
} MojiRandom;

/* torch.Generator().manual_seed(seed), of which only the low 32 bits count. */
void moji_random_seed(MojiRandom *r, guint64 seed);
/* torch.randn(count, generator=r), float32. */
void moji_random_normal(MojiRandom *r, float *out, gsize count);
