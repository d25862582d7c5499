/* product_tiles.h: conv2d and linear in bf16 where the processor has matrix tiles. */
#pragma once
#include "cpu.h"

/* TRUE if `moji_cpu_tiles` can do this conv2d or linear, and sooner than oneDNN. */
gboolean moji_cpu_tiles_fit(const CpuPlan *plan, const MojiRecord *record);
extern const CpuOp moji_cpu_tiles;
