/* host.h: arithmetic on host arrays outside of any tape, whatever the backend: what merging needs.
 *
 * To be called within an OpenMP loop of the caller's: each call uses one thread there. */
#pragma once
#include "tape.h"

/* n values of F32, F16 or BF16, at any alignment, as floats. */
void moji_host_load(float *to, const void *from, MojiType type, gsize n);
/* n floats as F32 or BF16. */
void moji_host_store(void *to, MojiType type, const float *from, gsize n);
/* c [m,n] += by * a [m,k] b [k,n]; rows of each follow one another. */
void moji_host_product(float *c, const float *a, const float *b, gsize m, gsize k, gsize n,
                       float by);
