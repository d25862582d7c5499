/* host.c: see host.h. The loops and the product are those of the CPU backend. */
#include "host.h"
#include "cpu.h"
#include <string.h>

void moji_host_load(float *to, const void *from, MojiType type, gsize n)
{
    const CpuKernels *k = moji_cpu_kernels();
    if (type == MOJI_F16)
        k->from_f16(to, from, n);
    else if (type == MOJI_BF16)
        k->from_bf16(to, from, n);
    else
        memcpy(to, from, n * sizeof *to);
}

void moji_host_store(void *to, MojiType type, const float *from, gsize n)
{
    if (type == MOJI_BF16)
        moji_cpu_kernels()->to_bf16(to, from, n);
    else
        memcpy(to, from, n * sizeof *from);
}

void moji_host_product(float *c, const float *a, const float *b, gsize m, gsize k, gsize n,
                       float by)
{
    dnnl_status_t status = dnnl_sgemm('N', 'N', m, n, k, by, a, k, b, n, 1, c, n);
    g_assert(status == dnnl_success); /* the sizes are ours, and it allocates nothing that counts */
}
