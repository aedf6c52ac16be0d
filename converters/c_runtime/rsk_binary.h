/* Element-wise functions of two values; an axis that one of them does not have has step 0 there. */
#ifndef RSK_BINARY_H
#define RSK_BINARY_H

#include "rsk_base.h"

enum rsk_binary_kind { RSK_ADD, RSK_SUB, RSK_MUL, RSK_DIV, RSK_MAX, RSK_MIN, RSK_POW };

static inline float rsk_apply(enum rsk_binary_kind kind, float a, float b) {
  switch (kind) {
    case RSK_ADD:
      return a + b;
    case RSK_SUB:
      return a - b;
    case RSK_MUL:
      return a * b;
    case RSK_DIV:
      return a / b;
    case RSK_MAX:
      return a > b ? a : b;
    case RSK_MIN:
      return a < b ? a : b;
    case RSK_POW:
      return powf(a, b);
  }
  return a;
}

/* Returns the place after the last element written. */
RSK_FUNCTION float* rsk_binary(enum rsk_binary_kind kind, float* to, const float* a, const uint32_t* a_steps, const float* b, const uint32_t* b_steps,
                               const uint32_t* sizes, uint32_t rank) {
  const uint32_t a_step = a_steps[0], b_step = b_steps[0];
  if (rank > 1) {
    for (uint32_t i = 0; i < sizes[0]; i++)
      to = rsk_binary(kind, to, a + (size_t)i * a_step, a_steps + 1, b + (size_t)i * b_step, b_steps + 1, sizes + 1, rank - 1);
    return to;
  }
  if (kind == RSK_ADD && a_step == 1 && b_step == 1)
    for (uint32_t i = 0; i < sizes[0]; i++) to[i] = a[i] + b[i];
  else
    for (uint32_t i = 0; i < sizes[0]; i++) to[i] = rsk_apply(kind, a[(size_t)i * a_step], b[(size_t)i * b_step]);
  return to + sizes[0];
}

#endif
