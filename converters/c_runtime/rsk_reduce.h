/* Reductions: for each element of the axes that stay, over all of the axes that go. */
#ifndef RSK_REDUCE_H
#define RSK_REDUCE_H

#include "rsk_base.h"

enum rsk_reduce_kind { RSK_SUM_OF, RSK_LARGEST, RSK_SMALLEST, RSK_SQUARES, RSK_PRODUCT };

RSK_FUNCTION float rsk_reduce_one(enum rsk_reduce_kind kind, float sum, const float* in, const uint32_t* steps, const uint32_t* sizes, uint32_t rank) {
  for (uint32_t i = 0; i < sizes[0]; i++, in += steps[0]) {
    if (rank > 1)
      sum = rsk_reduce_one(kind, sum, in, steps + 1, sizes + 1, rank - 1);
    else if (kind == RSK_SUM_OF)
      sum += *in;
    else if (kind == RSK_LARGEST)
      sum = *in > sum ? *in : sum;
    else if (kind == RSK_SMALLEST)
      sum = *in < sum ? *in : sum;
    else
      sum = kind == RSK_SQUARES ? sum + *in * *in : sum * *in;
  }
  return sum;
}

/* The first `kept` axes stay, `gone` more are reduced; what comes out is multiplied by `scale` (the sum of squares: its root is taken). */
RSK_FUNCTION float* rsk_reduce(enum rsk_reduce_kind kind, float* to, const float* in, const uint32_t* steps, const uint32_t* sizes, uint32_t kept,
                               uint32_t gone, float scale) {
  if (kept) {
    for (uint32_t i = 0; i < sizes[0]; i++) to = rsk_reduce(kind, to, in + (size_t)i * steps[0], steps + 1, sizes + 1, kept - 1, gone, scale);
    return to;
  }
  const float start = kind == RSK_LARGEST ? -INFINITY : kind == RSK_SMALLEST ? INFINITY : kind == RSK_PRODUCT ? 1.0f : 0.0f;
  const float result = rsk_reduce_one(kind, start, in, steps, sizes, gone);
  *to = kind == RSK_SQUARES ? sqrtf(result) : result * scale;
  return to + 1;
}

#endif
