/* random.h: normal noise equal to PyTorch's, that of its CPU generator or that of its CUDA one.
 *
 *     MojiRandom r;
 *     moji_random_seed(&r, 42);
 *     moji_random_normal(&r, latents, 4 * 64 * 64);   // torch.randn(..., generator) in fp32
 *
 * CPU: MT19937 (Matsumoto and Nishimura 1998) and the Box-Muller forms of
 * pytorch/pytorch:aten/src/ATen/native/cpu/DistributionTemplates.h: blocks of 16 for 16 and more
 * elements, scalar doubles below that. A generator carries on from draw to draw as torch's does.
 * Equal bit for bit to torch on x86-64 with AVX2, on whatever machine this runs; torch itself
 * differs in last bits on others.
 *
 * CUDA: Philox4x32-10 (Salmon et al. 2011) as curand_normal4 and
 * pytorch/pytorch:aten/src/ATen/native/cuda/DistributionTemplates.h lay it out: element i is the
 * first of the four numbers of thread i, a draw advances every thread by four. That holds while a
 * draw's elements fit the GPU's threads (about 40,000 on a small card, 270,000 on a large one; a
 * picture of 512 px has 16,384); beyond, torch's own numbers depend on the card, and ours are
 * those of one large enough. Equal to the last bits but for logarithm and sine, which differ. */
#pragma once
#include <glib.h>

typedef struct {
    guint32 state[624];
    int next;
    gboolean has_cached; /* second value of the last scalar pair */
    double cached;
    gboolean philox;
    guint64 key, draws; /* of philox: the seed, and how many times it was drawn from */
} MojiRandom;

/* torch.Generator().manual_seed(seed), of which only the low 32 bits count. */
void moji_random_seed(MojiRandom *r, guint64 seed);
/* The same on a CUDA device; all 64 bits count. */
void moji_random_seed_cuda(MojiRandom *r, guint64 seed);
/* torch.randn(count, generator=r), float32. */
void moji_random_normal(MojiRandom *r, float *out, gsize count);

/* One block of Philox4x32-10: counter is replaced by what it gives. */
void moji_philox(guint32 counter[4], guint64 key);
