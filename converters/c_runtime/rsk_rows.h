/* What convolution and matrix share: the values of one part's filters as floats. */
#ifndef RSK_ROWS_H
#define RSK_ROWS_H

#include "rsk_weight.h"

/* Half precision to single, exactly (no NaN or infinity: a weight is finite). */
static inline float rsk_half(uint16_t half) {
  const uint32_t bits = (uint32_t)(half & 0x7fff) << 13;
  float value;
  memcpy(&value, &bits, sizeof value);
  value *= 0x1p112f;
  return half & 0x8000 ? -value : value;
}

/* Values `number` of `rows`: where they lie, or decoded into `room`. */
RSK_FUNCTION const float* rsk_values(const struct rsk_weight* weight, const struct rsk_rows* rows, uint32_t number, float* room) {
  const size_t start = rows->value + number * rows->pitch;
  if (!RSK_HALVES || !weight->halves) return (const float*)weight->values + start;
  for (uint32_t k = 0; k < rows->kept; k++) room[k] = rsk_half(((const uint16_t*)weight->values)[start + k]);
  return room;
}

#endif
