/* The product of two computed values, (m, k) times (k, n), over leading axes of which either may lack some (step 0). */
#ifndef RSK_MATMUL_H
#define RSK_MATMUL_H

#include "rsk_base.h"

struct rsk_matmul {
  uint32_t m, k, n, rank;
  const uint32_t *sizes, *a_steps, *b_steps;
};

RSK_FUNCTION float* rsk_matmul(const struct rsk_matmul* p, float* out, const float* a, const float* b, uint32_t axis) {
  if (axis < p->rank) {
    for (uint32_t i = 0; i < p->sizes[axis]; i++) out = rsk_matmul(p, out, a + (size_t)i * p->a_steps[axis], b + (size_t)i * p->b_steps[axis], axis + 1);
    return out;
  }
  for (uint32_t row = 0; row < p->m; row++, a += p->k, out += p->n) {
    for (uint32_t column = 0; column < p->n; column++) out[column] = 0;
    for (uint32_t k = 0; k < p->k; k++)
      for (uint32_t column = 0; column < p->n; column++) out[column] += a[k] * b[(size_t)k * p->n + column];
  }
  return out;
}

#endif
