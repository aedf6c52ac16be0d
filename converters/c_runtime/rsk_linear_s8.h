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

#if defined(RSK_DSP)
/* Four bytes from anywhere. */
static inline uint32_t rsk_word(const void* from) {
  uint32_t word;
  memcpy(&word, from, sizeof word);
  return word;
}
#endif

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

/* Outputs whose products with the same inputs are added up at once. */
#if defined(__SSE2__)
#define RSK_DOTS_S8 4

static inline __m128i rsk_sixteen_bytes(const int8_t* from) { return _mm_loadu_si128((const __m128i*)(const void*)from); }
static inline __m128i rsk_even_bytes(__m128i bytes) { return _mm_srai_epi16(_mm_slli_epi16(bytes, 8), 8); }
static inline __m128i rsk_odd_bytes(__m128i bytes) { return _mm_srai_epi16(bytes, 8); }

RSK_FUNCTION void rsk_dots_s8(const int8_t* values, size_t pitch, const int8_t* in, uint32_t count, int32_t* sums) {
  __m128i lanes[RSK_DOTS_S8] = {_mm_setzero_si128(), _mm_setzero_si128(), _mm_setzero_si128(), _mm_setzero_si128()};
  uint32_t k = 0;
  for (; k + 16 <= count; k += 16) {
    const __m128i x = rsk_sixteen_bytes(in + k), even = rsk_even_bytes(x), odd = rsk_odd_bytes(x);
    RSK_PREFETCH(values + RSK_DOTS_S8 * (pitch + k)) /* of the next ones */
    for (uint32_t i = 0; i < RSK_DOTS_S8; i++) {
      const __m128i v = rsk_sixteen_bytes(values + i * pitch + k);
      lanes[i] = _mm_add_epi32(lanes[i], _mm_madd_epi16(rsk_even_bytes(v), even));
      lanes[i] = _mm_add_epi32(lanes[i], _mm_madd_epi16(rsk_odd_bytes(v), odd));
    }
  }
  for (uint32_t i = 0; i < RSK_DOTS_S8; i++) {
    int32_t four[4];
    _mm_storeu_si128((__m128i*)(void*)four, lanes[i]);
    sums[i] = rsk_dot_s8(values + i * pitch + k, in + k, count - k, sums[i] + four[0] + four[1] + four[2] + four[3]);
  }
}
#else
#define RSK_DOTS_S8 1

static inline void rsk_dots_s8(const int8_t* values, size_t pitch, const int8_t* in, uint32_t count, int32_t* sums) {
  (void)pitch;
  *sums = rsk_dot_s8(values, in, count, *sums);
}
#endif

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
    for (uint32_t number = 0, count; number < found.count; number += count) {
      const int8_t* values = (const int8_t*)l->weight.values + found.value + number * found.pitch;
      const uint32_t output = found.first + number * found.step;
      const int whole = found.kept == inputs;
      count = whole && found.count - number >= RSK_DOTS_S8 ? RSK_DOTS_S8 : 1;
      for (uint32_t row = 0; row < l->rows; row++) {
        const int8_t* x = in + (size_t)row * inputs;
        int32_t sums[RSK_DOTS_S8];
        for (uint32_t i = 0; i < count; i++) sums[i] = l->bias[output + i * found.step];
        if (!whole)
          sums[0] = rsk_dot_kept_s8(values, x, list, found.kept, sums[0]);
        else if (count == RSK_DOTS_S8)
          rsk_dots_s8(values, found.pitch, x, inputs, sums);
        else
          sums[0] = rsk_dot_s8(values, x, inputs, sums[0]);
        for (uint32_t i = 0; i < count; i++)
          rsk_requantise(&l->requant, output + i * found.step, sums + i, 1, NULL, out, (size_t)row * outputs + output + i * found.step, 1, 1);
      }
    }
  }
}

#endif
