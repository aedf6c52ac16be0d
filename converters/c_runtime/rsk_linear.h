/* A matrix over the last axis: the kept values of each output times the inputs they meet. */
#ifndef RSK_LINEAR_H
#define RSK_LINEAR_H

#include "rsk_activation.h"
#include "rsk_rows.h"

struct rsk_linear {
  struct rsk_weight weight;
  const float* bias;
  uint32_t rows;
  uint32_t room_at, list_at, table_at; /* in the work space, in floats */
  struct rsk_activation activation;
};

/* Four sums side by side: additions do not wait for one another. */
RSK_FUNCTION float rsk_dot_kept(const float* values, const float* in, const rsk_place* list, uint32_t kept) {
  float sums[4] = {0, 0, 0, 0};
  uint32_t k = 0;
#if RSK_HELIUM & 2 && !defined(RSK_WIDE_PLACES)
  float32x4_t four = vdupq_n_f32(0);
  for (; k + 4 <= kept; k += 4) four = vfmaq_f32(four, vldrwq_f32(values + k), vldrwq_gather_shifted_offset_f32(in, vldrhq_u32(list + k)));
  vstrwq_f32(sums, four);
#endif
  for (; k + 4 <= kept; k += 4)
    for (uint32_t i = 0; i < 4; i++) sums[i] += values[k + i] * in[list[k + i]];
  for (; k < kept; k++) sums[0] += values[k] * in[list[k]];
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

RSK_FUNCTION float rsk_dot(const float* values, const float* in, uint32_t count) {
  rsk_vector a = RSK_SPLAT(0.0f), b = a, c = a, d = a;
  float lanes[RSK_LANES], sum = 0;
  uint32_t k = 0;
  for (; k + 4 * RSK_LANES <= count; k += 4 * RSK_LANES) {
    RSK_PREFETCH(values + k + RSK_AHEAD)
    a = RSK_DOT(a, values + k, in + k);
    b = RSK_DOT(b, values + k + RSK_LANES, in + k + RSK_LANES);
    c = RSK_DOT(c, values + k + 2 * RSK_LANES, in + k + 2 * RSK_LANES);
    d = RSK_DOT(d, values + k + 3 * RSK_LANES, in + k + 3 * RSK_LANES);
  }
  RSK_STORE(lanes, (a + b) + (c + d));
  for (uint32_t i = 0; i < RSK_LANES; i++) sum += lanes[i];
  for (; k < count; k++) sum += values[k] * in[k];
  return sum;
}

RSK_FUNCTION void rsk_linear(const struct rsk_linear* l, const float* in, float* out, float* work) {
  const uint32_t inputs = l->weight.channels, outputs = l->weight.filters;
  rsk_place* list = (rsk_place*)(void*)(work + l->list_at);
  struct rsk_cursor cursor = {0, 0, 0};
  if (l->weight.prepare) l->weight.prepare(&l->weight, work + l->table_at);
  for (uint32_t part = 0; part < l->weight.parts; part++) {
    const struct rsk_rows found = l->weight.decode(&l->weight, work + l->table_at, 1, part, &cursor, list);
    for (uint32_t number = 0; number < found.count; number++) {
      const float* values = rsk_values(&l->weight, &found, number, work + l->room_at);
      const uint32_t output = found.first + number * found.step;
      for (uint32_t row = 0; row < l->rows; row++) {
        const float* x = in + (size_t)row * inputs;
        const float sum = found.kept == inputs ? rsk_dot(values, x, inputs) : rsk_dot_kept(values, x, list, found.kept);
        out[(size_t)row * outputs + output] = rsk_activate_one(sum + (l->bias ? l->bias[output] : 0), &l->activation);
      }
    }
  }
}

#endif
