/* Sums over kernels of four taps each, or of two, straight from their patterns: where the map is small, listing the places first costs as much as
   using them. */
#ifndef RSK_KERNELS_H
#define RSK_KERNELS_H

#include "rsk_pattern.h"
#include "rsk_tile.h"

/* Turns of a loop as one. A turn for one vector is 122 bytes: a third of its speed hangs on where they begin (Zen 5, which reads 64 at a time). */
#if defined(__GNUC__) && !defined(__clang__) && defined(__SSE2__)
#define RSK_TURNS_1 _Pragma("GCC unroll 2")
#else
#define RSK_TURNS_1
#endif
#define RSK_TURNS_2
#define RSK_TURNS_4
#define RSK_TURNS_6
#define RSK_TURNS_8

/* A turn adds four taps of one kernel, or two of each of two; of an odd number of these the first comes before all turns. */
#define RSK_TAPS_4 4
#define RSK_TAPS_2 2
#define RSK_TAPS_2_odd 2
#define RSK_PLACES_4 const float *x = panel + first[0], *y = panel + first[1], *z = panel + first[2], *w = panel + first[3];
#define RSK_PLACES_2                                     \
  const rsk_place* second = places + (size_t)ids[1] * 2; \
  const float *x = panel + first[0], *y = panel + first[1], *z = next + second[0], *w = next + second[1];
#define RSK_PLACES_2_odd RSK_PLACES_2
#define RSK_BEFORE_4(SIZE)
#define RSK_BEFORE_2(SIZE)
#define RSK_BEFORE_2_odd(SIZE)                                          \
  {                                                                     \
    const rsk_place* first = places + (size_t)ids[0] * 2;               \
    const float *x = panel + first[0], *y = panel + first[1];           \
    const rsk_scale a = RSK_SCALE(values[0]), b = RSK_SCALE(values[1]); \
    RSK_EACH_##SIZE(RSK_ADD_X) RSK_EACH_##SIZE(RSK_ADD_Y);              \
    ids++, panel = next, next += plane, values += 2;                    \
  }
#define RSK_START_ON(i) rsk_vector sum##i = residual ? RSK_SPLAT(bias) + RSK_LOAD(RSK_AT(residual, i)) : RSK_SPLAT(bias);
#define RSK_PUT_AT_LEAST(i) RSK_STORE(RSK_AT(sums, i), rsk_at_least(least, sum##i));

/* Of each filter the positions from `at` on. There is a turn: a loop that could have no turn would be code for all filters twice. */
#define RSK_DEFINE_KERNELS(SIZE, KIND)                                                                                   \
  static void rsk_kernels_##KIND##_##SIZE(const struct rsk_weight* weight, const struct rsk_sums* of, size_t at) {       \
    enum { TAPS = RSK_TAPS_##KIND, TURN = 4 / TAPS };                                                                    \
    const size_t channels = of->channels, plane = of->plane, turn = TURN * plane, pitch = of->pitch;                     \
    const rsk_place* places = (const rsk_place*)of->table;                                                               \
    const uint8_t* ids = (const uint8_t*)weight->index + of->kernel;                                                     \
    const float *values = (const float*)weight->values + of->kernel * TAPS, *biases = of->bias, *start = of->panel + at; \
    const float* residual = of->residual ? of->residual + at : NULL;                                                     \
    const rsk_vector least = RSK_SPLAT(of->low);                                                                         \
    float* sums = of->sums + at;                                                                                         \
    for (uint32_t left = of->filters; left; left--, sums += pitch) {                                                     \
      const float *panel = start, *next = start + plane, bias = biases ? *biases++ : 0;                                  \
      (void)next;                                                                                                        \
      RSK_EACH_##SIZE(RSK_START_ON);                                                                                     \
      if (residual) residual += pitch;                                                                                   \
      const uint8_t* end = ids + channels;                                                                               \
      RSK_BEFORE_##KIND(SIZE) RSK_TURNS_##SIZE do {                                                                      \
        const rsk_place* first = places + (size_t)ids[0] * TAPS;                                                         \
        RSK_PLACES_##KIND RSK_SCALES(values);                                                                            \
        RSK_ADD_TAPS(SIZE);                                                                                              \
        ids += TURN, panel += turn, next += turn, values += 4;                                                           \
      }                                                                                                                  \
      while (ids != end);                                                                                                \
      RSK_EACH_##SIZE(RSK_PUT_AT_LEAST)                                                                                  \
    }                                                                                                                    \
  }
#define RSK_DEFINE_KERNELS_4(SIZE) RSK_DEFINE_KERNELS(SIZE, 4)
#define RSK_DEFINE_KERNELS_2(SIZE) RSK_DEFINE_KERNELS(SIZE, 2)
#define RSK_DEFINE_KERNELS_2_odd(SIZE) RSK_DEFINE_KERNELS(SIZE, 2_odd)

typedef void rsk_kernels_tile(const struct rsk_weight* weight, const struct rsk_sums* of, size_t at);

#define RSK_DEFINE_SUM(KIND, ENTRY)                                                                                        \
  RSK_EVEN_SIZES(RSK_TILE, RSK_DEFINE_KERNELS_##KIND)                                                                      \
  RSK_FUNCTION void rsk_sum_kernels_##KIND(const struct rsk_weight* weight, const struct rsk_sums* of, uint32_t vectors) { \
    static rsk_kernels_tile* const tiles[] = {RSK_EVEN_SIZES(RSK_TILE, ENTRY)};                                            \
    for (size_t at = 0; vectors;) {                                                                                        \
      const uint32_t next = rsk_next_tile(vectors, RSK_TILE), size = next > 1 ? next / 2 * 2 : 1;                          \
      tiles[size / 2](weight, of, at);                                                                                     \
      at += (size_t)size * RSK_LANES, vectors -= size;                                                                     \
    }                                                                                                                      \
  }

#define RSK_ENTRY(SIZE) rsk_kernels_4_##SIZE,
RSK_DEFINE_SUM(4, RSK_ENTRY)
#undef RSK_ENTRY
#define RSK_ENTRY(SIZE) rsk_kernels_2_##SIZE,
RSK_DEFINE_SUM(2, RSK_ENTRY)
#undef RSK_ENTRY
#define RSK_ENTRY(SIZE) rsk_kernels_2_odd_##SIZE,
RSK_DEFINE_SUM(2_odd, RSK_ENTRY)
#undef RSK_ENTRY

#endif
