/* Sums over kept places of 8-bit integers, as rsk_tile.h has them of floats: sum[f][p] = bias[f] + Σ value[f][k] · panel[place[k] + p].

   Inputs and weights lie between -127 and 127: two products fit 16 bits, and 512 fit 24. Taps are taken four at a time. */
#ifndef RSK_TILE_S8_H
#define RSK_TILE_S8_H

#include "rsk_panel_s8.h"
#include "rsk_tile.h"

#if defined(__GNUC__)
#define RSK_INLINE static inline __attribute__((always_inline))
#else
#define RSK_INLINE static inline
#endif

/* Every machine says: positions of a block, and blocks that are summed at once; what a block's sums are and how they begin; four weights; how two of
   a quartet are added to the sums of blocks of filters, whose numbers are constants; how sums end. */
#if defined(__SSE2__)
#include <emmintrin.h>

#define RSK_BLOCK_S8 4
#define RSK_TILE_S8 8
typedef __m128i rsk_sums_s8, rsk_weights_s8;
#define RSK_ZERO_S8 _mm_setzero_si128()

RSK_INLINE __m128i rsk_eight_cells(const int16_t* from) { return _mm_loadu_si128((const __m128i*)(const void*)from); }

/* As 16 bits, in the lower half. */
#define RSK_WEIGHTS_S8(values) rsk_four_weights(values)
RSK_INLINE __m128i rsk_four_weights(const int8_t* values) {
  int32_t four;
  memcpy(&four, values, sizeof four);
  return _mm_srai_epi16(_mm_unpacklo_epi8(_mm_setzero_si128(), _mm_cvtsi32_si128(four)), 8);
}

/* a + b now: gcc adds up products of several pairs first, for which there are no registers. */
RSK_INLINE __m128i rsk_added(__m128i a, __m128i b) {
  __m128i sum = _mm_add_epi32(a, b);
#if defined(__GNUC__)
  __asm__("" : "+x"(sum));
#endif
  return sum;
}

/* Neighbouring products are added: two taps side by side are one. */
RSK_INLINE void rsk_add_pair(__m128i sums[2][RSK_TILE_S8], const int16_t* panel, const rsk_place* places, const __m128i* weights, int second, uint32_t filters,
                             uint32_t blocks) {
  const int16_t *x = panel + places[0], *y = panel + places[1];
  __m128i pairs[2];
  for (uint32_t f = 0; f < filters; f++) pairs[f] = second ? _mm_shuffle_epi32(weights[f], 0x55) : _mm_shuffle_epi32(weights[f], 0x00);
  for (uint32_t b = 0; b < blocks; b += 2) {
    const __m128i even = rsk_eight_cells(x + 4 * b), odd = rsk_eight_cells(y + 4 * b);
    const __m128i lower = _mm_unpacklo_epi16(even, odd), upper = _mm_unpackhi_epi16(even, odd);
    for (uint32_t f = 0; f < filters; f++) {
      sums[f][b] = rsk_added(sums[f][b], _mm_madd_epi16(lower, pairs[f]));
      if (b + 1 < blocks) sums[f][b + 1] = rsk_added(sums[f][b + 1], _mm_madd_epi16(upper, pairs[f]));
    }
  }
}

RSK_INLINE void rsk_put_s8(int32_t* to, __m128i sums, int32_t bias) { _mm_storeu_si128((__m128i*)(void*)to, _mm_add_epi32(sums, _mm_set1_epi32(bias))); }
#else
#if defined(RSK_DSP) && RSK_NEIGHBOURS
#define RSK_BLOCK_S8 2
#define RSK_TILE_S8 4
typedef int64_t rsk_sums_s8;
typedef const int8_t* rsk_weights_s8;
#define RSK_ALONE_S8 1                 /* filters do not share registers */
#define RSK_LONGEST_S8 504             /* taps whose sums fit, whole patterns and runs */
#define RSK_ZERO_S8 ((int64_t)1 << 23) /* the lower sum is never negative */

/* In this order, in which cells take one register: gcc's own takes more than there are. */
#define RSK_TWO(i) "ldr %[cells], [%[from], #8 * " #i "]\n\tsmlal %Q[sum" #i "], %R[sum" #i "], %[cells], %[weight]\n\t"
#define RSK_SUM(i) [sum##i] "+&r"(sums[i])
#define RSK_TAP(TWOS, ...) __asm__ volatile(TWOS : [cells] "=&r"(cells), __VA_ARGS__ : [from] "r"(from), [weight] "r"(weight) : "memory")

RSK_INLINE void rsk_add_tap(int64_t* sums, const int32_t* from, int32_t weight, uint32_t blocks) {
  int32_t cells;
  if (blocks == 1) RSK_TAP(RSK_TWO(0), RSK_SUM(0));
  if (blocks == 2) RSK_TAP(RSK_TWO(0) RSK_TWO(1), RSK_SUM(0), RSK_SUM(1));
  if (blocks == 4) RSK_TAP(RSK_TWO(0) RSK_TWO(1) RSK_TWO(2) RSK_TWO(3), RSK_SUM(0), RSK_SUM(1), RSK_SUM(2), RSK_SUM(3));
}
#define RSK_ADD_TAP_S8(from, k) \
  for (uint32_t f = 0; f < filters; f++) rsk_add_tap(sums[f], from, weights[f][k], blocks);

/* Three taps side by side: the first and the third share most of their cells. Then the second, in whose register the first was. */
#define RSK_OUTER_FIRST "ldrsb %[weight], [%[values]]\n\tldrsb %[third], [%[values], #2]\n\tldr %[cells], [%[from]]\n\t" RSK_TIMES(0, weight)
#define RSK_TIMES(i, by) "smlal %Q[sum" #i "], %R[sum" #i "], %[cells], %[" #by "]\n\t"
#define RSK_OUTER(i, next) "ldr %[cells], [%[from], #8 * " #next "]\n\t" RSK_TIMES(i, third) RSK_TIMES(next, weight)
#define RSK_OUTER_LAST(i) "ldr %[cells], [%[from], #8 * " #i " + 8]\n\t" RSK_TIMES(i, third) "ldrsb %[weight], [%[values], #1]\n\t"
#define RSK_INNER(i) "ldr %[cells], [%[from], #8 * " #i " + 4]\n\t" RSK_TIMES(i, weight)
#define RSK_RUN(CODE, ...) \
  __asm__ volatile(CODE : [cells] "=&r"(cells), [weight] "=&r"(weight), [third] "=&r"(third), __VA_ARGS__ : [from] "r"(from), [values] "r"(values) : "memory")

RSK_INLINE void rsk_add_run(int64_t* sums, const int32_t* from, const int8_t* values, uint32_t blocks) {
#if defined(__OPTIMIZE__) /* otherwise a register is missing */
  int32_t cells, weight, third;
  if (blocks == 1) RSK_RUN(RSK_OUTER_FIRST RSK_OUTER_LAST(0) RSK_INNER(0), RSK_SUM(0));
  if (blocks == 2) RSK_RUN(RSK_OUTER_FIRST RSK_OUTER(0, 1) RSK_OUTER_LAST(1) RSK_INNER(0) RSK_INNER(1), RSK_SUM(0), RSK_SUM(1));
  if (blocks == 4)
    RSK_RUN(RSK_OUTER_FIRST RSK_OUTER(0, 1) RSK_OUTER(1, 2) RSK_OUTER(2, 3) RSK_OUTER_LAST(3) RSK_INNER(0) RSK_INNER(1) RSK_INNER(2) RSK_INNER(3), RSK_SUM(0),
            RSK_SUM(1), RSK_SUM(2), RSK_SUM(3));
#else
  for (uint32_t k = 0; k < 3; k++) rsk_add_tap(sums, from + k, values[k], blocks);
#endif
}

RSK_INLINE void rsk_put_s8(int32_t* to, int64_t sums, int32_t bias) {
  to[0] = bias - (1 << 23) + (int32_t)((uint32_t)sums & 0xffffff);
  to[1] = bias + (int32_t)(sums >> 24);
}
#elif RSK_HELIUM
#define RSK_BLOCK_S8 4
#define RSK_TILE_S8 4
typedef int32x4_t rsk_sums_s8;
typedef const int8_t* rsk_weights_s8;
#define RSK_ZERO_S8 vdupq_n_s32(0)
#define RSK_CELLS_S8(from, block) vldrhq_s32((from) + 4 * (block))
#define RSK_PLUS_S8(sum, cells, weights, k) vmlaq_n_s32(sum, cells, (weights)[k])

RSK_INLINE void rsk_put_s8(int32_t* to, int32x4_t sums, int32_t bias) { vstrwq_s32(to, vaddq_n_s32(sums, bias)); }
#elif defined(__ARM_NEON) && defined(__aarch64__)
#include <arm_neon.h>

#define RSK_BLOCK_S8 4
#define RSK_TILE_S8 8
typedef int32x4_t rsk_sums_s8;
typedef int16x4_t rsk_weights_s8;
#define RSK_ZERO_S8 vdupq_n_s32(0)
#define RSK_CELLS_S8(from, block) vld1_s16((from) + 4 * (block))
#define RSK_PLUS_S8(sum, cells, weights, k) vmlal_lane_s16(sum, cells, weights, k)
#define RSK_WEIGHTS_S8(values) rsk_four_weights(values)

RSK_INLINE int16x4_t rsk_four_weights(const int8_t* values) {
  uint32_t four;
  memcpy(&four, values, sizeof four);
  return vget_low_s16(vmovl_s8(vcreate_s8(four)));
}

RSK_INLINE void rsk_put_s8(int32_t* to, int32x4_t sums, int32_t bias) { vst1q_s32(to, vaddq_s32(sums, vdupq_n_s32(bias))); }
#else
#define RSK_BLOCK_S8 1
#define RSK_TILE_S8 8
typedef int32_t rsk_sums_s8;
typedef const int8_t* rsk_weights_s8;
#define RSK_ZERO_S8 0
#define RSK_CELLS_S8(from, block) ((from)[block])
#define RSK_PLUS_S8(sum, cells, weights, k) ((sum) + (cells) * (weights)[k])

RSK_INLINE void rsk_put_s8(int32_t* to, int32_t sums, int32_t bias) { *to = sums + bias; }
#endif
#if !defined(RSK_WEIGHTS_S8)
#define RSK_WEIGHTS_S8(values) (values)
#endif

#if !defined(RSK_ADD_TAP_S8)
#define RSK_ADD_TAP_S8(from, k)         \
  for (uint32_t b = 0; b < blocks; b++) \
    for (uint32_t f = 0; f < filters; f++) sums[f][b] = RSK_PLUS_S8(sums[f][b], RSK_CELLS_S8(from, b), weights[f], k);
#endif

RSK_INLINE void rsk_add_pair(rsk_sums_s8 sums[2][RSK_TILE_S8], const rsk_cell_s8* panel, const rsk_place* places, const rsk_weights_s8* weights, int second,
                             uint32_t filters, uint32_t blocks) {
  if (second) {
    RSK_ADD_TAP_S8(panel + places[0], 2) RSK_ADD_TAP_S8(panel + places[1], 3)
  } else {
    RSK_ADD_TAP_S8(panel + places[0], 0) RSK_ADD_TAP_S8(panel + places[1], 1)
  }
}
#endif

#if !defined(RSK_ALONE_S8)
#define RSK_ALONE_S8 0
#endif

enum { RSK_LISTED = 0, RSK_RUNS = 3 };

/* Where the taps of one filter, or of two with one list, lie: in a list, or as patterns of a table by the ids of their kernels. */
struct rsk_taps_s8 {
  const rsk_cell_s8* panel;
  const rsk_place* places;
  const uint8_t* ids;
  const int8_t* values[2];
  uint32_t kept, plane;
};

/* `blocks` blocks from position `at` on; `taps` of a pattern, or RSK_LISTED, with places for whole quartets, or RSK_RUNS: a list of three taps side by
   side each, and rows `plane` apart instead of filters. Called with constants. */
RSK_INLINE void rsk_tile_s8(const struct rsk_taps_s8* of, uint32_t at, const int32_t* bias, int32_t* to, uint32_t pitch, uint32_t taps, uint32_t filters,
                            uint32_t blocks) {
  const uint32_t rest = taps ? 0 : of->kept & 3;
  const rsk_place *table = of->places, *places = table;
  const rsk_cell_s8* panel = of->panel + at;
  const uint8_t* ids = of->ids;
  const size_t plane = of->plane;
  const int8_t* values[2] = {of->values[0], of->values[1]};
  int8_t tail[2][4] = {{0}};
  rsk_sums_s8 sums[2][RSK_TILE_S8];
  uint32_t turns = of->kept / 4, ended = 0;
  for (uint32_t f = 0; f < filters && rest; f++) memcpy(tail[f], values[f] + 4 * turns, rest);
  for (uint32_t f = 0; f < filters; f++)
    for (uint32_t b = 0; b < blocks; b++) sums[f][b] = RSK_ZERO_S8;
#if RSK_ALONE_S8
  RSK_UNKNOWN(panel) /* one register */
  for (uint32_t run = taps == RSK_RUNS ? of->kept / RSK_RUNS : 0; run; run--, values[0] += RSK_RUNS) {
    const rsk_cell_s8* from = panel + *places++;
    for (uint32_t f = 0; f < filters; f++) rsk_add_run(sums[f], from + f * plane, values[0], blocks);
  }
#endif
  for (; taps != RSK_RUNS; turns = 1) {
    for (; turns; turns--) {
      rsk_weights_s8 weights[2];
      for (uint32_t f = 0; f < filters; f++) weights[f] = RSK_WEIGHTS_S8(values[f]), values[f] += 4;
      if (taps) places = table + taps * *ids++;
      rsk_add_pair(sums, panel, places, weights, 0, filters, blocks);
      if (taps == 2) places = table + taps * *ids++, panel += plane;
      rsk_add_pair(sums, panel, taps == 2 ? places : places + 2, weights, 1, filters, blocks);
      if (taps)
        panel += plane;
      else
        places += 4;
    }
    if (!rest || ended++) break;
    for (uint32_t f = 0; f < filters; f++) values[f] = tail[f];
  }
  for (uint32_t f = 0; f < filters; f++) {
    const int32_t start = bias[taps == RSK_RUNS ? 0 : f];
    for (uint32_t b = 0; b < blocks; b++) rsk_put_s8(to + f * pitch + RSK_BLOCK_S8 * b, sums[f][b], start);
  }
}

/* `blocks` blocks of each filter; the sums of a second one lie `pitch` after those of the first. */
RSK_INLINE void rsk_tiles_s8(const struct rsk_taps_s8* of, const int32_t* bias, int32_t* sums, uint32_t pitch, uint32_t blocks, uint32_t taps,
                             uint32_t filters) {
#define RSK_TILE_CASE(SIZE)                                                                              \
  case SIZE:                                                                                             \
    if (SIZE * filters <= RSK_TILE_S8) rsk_tile_s8(of, at, bias, sums + at, pitch, taps, filters, SIZE); \
    break;
  for (uint32_t at = 0, size; blocks; blocks -= size, at += RSK_BLOCK_S8 * size) {
    size = rsk_next_tile(blocks, RSK_TILE_S8 / filters);
    if (size > 1) size &= ~1u;
    switch (size) { RSK_EVEN_SIZES(RSK_TILE_S8, RSK_TILE_CASE) }
  }
#undef RSK_TILE_CASE
}

typedef void rsk_summer_s8(const struct rsk_taps_s8* of, const int32_t* bias, int32_t* sums, uint32_t pitch, uint32_t blocks);

#define RSK_DEFINE_SUM_S8(NAME, TAPS, FILTERS)                                                                                \
  RSK_FUNCTION void NAME(const struct rsk_taps_s8* of, const int32_t* bias, int32_t* sums, uint32_t pitch, uint32_t blocks) { \
    rsk_tiles_s8(of, bias, sums, pitch, blocks, TAPS, FILTERS);                                                               \
  }

RSK_DEFINE_SUM_S8(rsk_sum_s8, RSK_LISTED, 1)
RSK_DEFINE_SUM_S8(rsk_sum_2_s8, RSK_LISTED, 2)
RSK_DEFINE_SUM_S8(rsk_sum_kernels_2_s8, 2, 1)
RSK_DEFINE_SUM_S8(rsk_sum_kernels_4_s8, 4, 1)
#if RSK_ALONE_S8
RSK_DEFINE_SUM_S8(rsk_sum_runs_s8, RSK_RUNS, 1)
RSK_DEFINE_SUM_S8(rsk_sum_runs_2_s8, RSK_RUNS, 2)

/* `sum` of as many taps at once as fit; `each` take one place or id. Behind the `extent` sums there is room for as many. */
RSK_FUNCTION void rsk_sum_parts_s8(rsk_summer_s8* sum, struct rsk_taps_s8 taps, uint32_t each, const int32_t* bias, int32_t* sums, uint32_t extent,
                                   uint32_t pitch, uint32_t blocks) {
  const int32_t none = 0;
  int32_t* to = sums;
  for (uint32_t left = taps.kept; to == sums || left; left -= taps.kept, to = sums + extent) {
    taps.kept = left < RSK_LONGEST_S8 ? left : RSK_LONGEST_S8;
    sum(&taps, to == sums ? bias : &none, to, pitch, blocks);
    for (uint32_t i = 0; i < extent && to != sums; i++) sums[i] += to[i];
    taps.values[0] += taps.kept;
    if (taps.ids)
      taps.ids += taps.kept / each, taps.panel += taps.kept / each * (size_t)taps.plane;
    else
      taps.places += taps.kept / each;
  }
}
#else
/* Runs on a machine that they are not for: what is made for a Cortex-M4 can be verified here. */
#define RSK_DEFINE_RUNS_S8(NAME, LINES)                                                                                       \
  RSK_FUNCTION void NAME(const struct rsk_taps_s8* of, const int32_t* bias, int32_t* sums, uint32_t pitch, uint32_t blocks) { \
    for (uint32_t line = 0; line < LINES; line++)                                                                             \
      for (uint32_t at = 0; at < RSK_BLOCK_S8 * blocks; at++) {                                                               \
        const rsk_cell_s8* panel = of->panel + line * (size_t)of->plane + at;                                                 \
        int32_t sum = *bias;                                                                                                  \
        for (uint32_t k = 0; k < of->kept; k++) sum += of->values[0][k] * panel[of->places[k / RSK_RUNS] + k % RSK_RUNS];     \
        sums[line * pitch + at] = sum;                                                                                        \
      }                                                                                                                       \
  }

RSK_DEFINE_RUNS_S8(rsk_sum_runs_s8, 1)
RSK_DEFINE_RUNS_S8(rsk_sum_runs_2_s8, 2)
#endif

#endif
