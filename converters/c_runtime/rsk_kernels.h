/* Sums over kernels of four taps each, or of two in pairs, straight from their patterns: where the map is small, listing the places first costs as much as
   using them. */
#ifndef RSK_KERNELS_H
#define RSK_KERNELS_H

#include "rsk_pattern.h"
#include "rsk_tile.h"

#define RSK_PLACES_4 const float *x = panel + first[0], *y = panel + first[1], *z = panel + first[2], *w = panel + first[3];
#define RSK_PLACES_2                                     \
  const rsk_place* second = places + (size_t)ids[1] * 2; \
  const float *x = panel + first[0], *y = panel + first[1], *z = next + second[0], *w = next + second[1];
#define RSK_START_ON(i) rsk_vector sum##i = residual ? RSK_SPLAT(bias) + RSK_LOAD(RSK_AT(residual, i)) : RSK_SPLAT(bias);
#define RSK_PUT_AT_LEAST(i) RSK_STORE(RSK_AT(sums, i), rsk_at_least(RSK_SPLAT(low), sum##i));

#define RSK_DEFINE_KERNELS(SIZE, TAPS)                                                                                                        \
  static void rsk_kernels_##TAPS##_##SIZE(const float* panel, uint32_t plane, const rsk_place* places, const uint8_t* ids, uint32_t channels, \
                                          const float* values, float bias, const float* residual, float low, float* sums) {                   \
    const uint32_t step = 4 / TAPS;                                                                                                           \
    const size_t turn = (size_t)step * plane;                                                                                                 \
    const float* next = panel + plane;                                                                                                        \
    (void)next;                                                                                                                               \
    RSK_EACH_##SIZE(RSK_START_ON);                                                                                                            \
    for (uint32_t channel = 0; channel < channels; channel += step, ids += step, panel += turn, next += turn, values += 4) {                  \
      const rsk_place* first = places + (size_t)ids[0] * TAPS;                                                                                \
      RSK_PLACES_##TAPS RSK_SCALES(values) RSK_ADD_ALL(SIZE, RSK_ADD_FIRST, RSK_ADD_IN_TURN)                                                  \
    }                                                                                                                                         \
    RSK_EACH_##SIZE(RSK_PUT_AT_LEAST)                                                                                                         \
  }
#define RSK_DEFINE_KERNELS_4(SIZE) RSK_DEFINE_KERNELS(SIZE, 4)
#define RSK_DEFINE_KERNELS_2(SIZE) RSK_DEFINE_KERNELS(SIZE, 2)

typedef void rsk_kernels_tile(const float* panel, uint32_t plane, const rsk_place* places, const uint8_t* ids, uint32_t channels, const float* values,
                              float bias, const float* residual, float low, float* sums);

/* One filter, whose kernels begin at `kernel`; `vectors` vectors of positions. */
#define RSK_DEFINE_SUM(TAPS, ENTRY)                                                                                                                           \
  RSK_EVEN_SIZES(RSK_TILE, RSK_DEFINE_KERNELS_##TAPS)                                                                                                         \
  RSK_FUNCTION void rsk_sum_kernels_##TAPS(const struct rsk_weight* weight, const void* table, size_t kernel, uint32_t plane, const float* panel, float bias, \
                                           const float* residual, float low, float* sums, uint32_t vectors) {                                                 \
    static rsk_kernels_tile* const tiles[] = {RSK_EVEN_SIZES(RSK_TILE, ENTRY)};                                                                               \
    const uint8_t* ids = (const uint8_t*)weight->index + kernel;                                                                                              \
    const float* values = (const float*)weight->values + kernel * TAPS;                                                                                       \
    while (vectors) {                                                                                                                                         \
      const uint32_t next = rsk_next_tile(vectors, RSK_TILE), size = next > 1 ? next / 2 * 2 : 1;                                                             \
      tiles[size / 2](panel, plane, (const rsk_place*)table, ids, weight->channels, values, bias, residual, low, sums);                                       \
      panel += size * RSK_LANES, sums += size * RSK_LANES, vectors -= size;                                                                                   \
      if (residual) residual += size * RSK_LANES;                                                                                                             \
    }                                                                                                                                                         \
  }

#define RSK_ENTRY(SIZE) rsk_kernels_4_##SIZE,
RSK_DEFINE_SUM(4, RSK_ENTRY)
#undef RSK_ENTRY
#define RSK_ENTRY(SIZE) rsk_kernels_2_##SIZE,
RSK_DEFINE_SUM(2, RSK_ENTRY)
#undef RSK_ENTRY

#endif
