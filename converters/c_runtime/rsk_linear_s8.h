/* A matrix of 8-bit integers over the last axis, with 32-bit sums. */
#ifndef RSK_LINEAR_S8_H
#define RSK_LINEAR_S8_H

#include "rsk_eight.h"
#include "rsk_weight.h"

struct rsk_linear_s8 {
  struct rsk_weight weight;
  const int32_t* bias;
  uint32_t rows;
  uint32_t list_at, table_at; /* in the work space, in units of four bytes */
  struct rsk_requant requant;
};

/* gcc makes as much of the plain loop for NEON (sdot, where the machine has it). */
RSK_FUNCTION int32_t rsk_dot_s8(const int8_t* values, const int8_t* in, uint32_t count, int32_t sum) {
  uint32_t k = 0;
#if RSK_HELIUM
  for (; k + 16 <= count; k += 16) sum = vmladavaq_s8(sum, vldrbq_s8(values + k), vldrbq_s8(in + k));
#elif defined(RSK_DSP)
  for (; k + 4 <= count; k += 4) {
    const uint32_t v = rsk_word(values + k), x = rsk_word(in + k);
    sum = __smlad(__sxtb16((int8x4_t)v), __sxtb16((int8x4_t)x), sum);
    sum = __smlad(__sxtb16((int8x4_t)(v >> 8)), __sxtb16((int8x4_t)(x >> 8)), sum);
  }
#endif
  for (; k < count; k++) sum += values[k] * in[k];
  return sum;
}

RSK_FUNCTION int32_t rsk_dot_kept_s8(const int8_t* values, const int8_t* in, const rsk_place* list, uint32_t kept, int32_t sum) {
  uint32_t k = 0;
#if RSK_HELIUM && !defined(RSK_WIDE_PLACES)
  for (; k + 8 <= kept; k += 8) sum = vmladavaq_s16(sum, vldrbq_s16(values + k), vldrbq_gather_offset_s16(in, vldrhq_u16(list + k)));
#endif
  for (; k < kept; k++) sum += values[k] * in[list[k]];
  return sum;
}

RSK_FUNCTION void rsk_linear_s8(const struct rsk_linear_s8* l, const int8_t* in, void* out, float* work) {
  const uint32_t inputs = l->weight.channels, outputs = l->weight.filters;
  rsk_place* list = (rsk_place*)(void*)(work + l->list_at);
  struct rsk_cursor cursor = {0, 0, 0};
  if (l->weight.prepare) l->weight.prepare(&l->weight, work + l->table_at);
  for (uint32_t part = 0; part < l->weight.parts; part++) {
    const struct rsk_rows found = l->weight.decode(&l->weight, work + l->table_at, 1, part, &cursor, list);
    for (uint32_t number = 0; number < found.count; number++) {
      const int8_t* values = (const int8_t*)l->weight.values + found.value + number * found.pitch;
      const uint32_t output = found.first + number * found.step;
      for (uint32_t row = 0; row < l->rows; row++) {
        const int8_t* x = in + (size_t)row * inputs;
        const int32_t bias = l->bias[output];
        const int32_t sum = found.kept == inputs ? rsk_dot_s8(values, x, inputs, bias) : rsk_dot_kept_s8(values, x, list, found.kept, bias);
        rsk_requantise(&l->requant, output, &sum, NULL, out, (size_t)row * outputs + output, 1);
      }
    }
  }
}

#endif
