/* kernels_base.c: the loops of kernels.inc for whatever the compiler may assume everywhere. */
#define KERNELS moji_cpu_kernels_base
#define KERNELS_NAME "baseline"
#define LANES 4
#include "kernels.inc"
