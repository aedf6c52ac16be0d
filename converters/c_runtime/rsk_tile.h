/* Sums over kept places: sum[f][p] = bias[f] + Σ value[f][k] · panel[list[k] + p] for positions p side by side.

   One filter takes RSK_TILE vectors of positions at a time: each kept weight is loaded once for all of them. Four filters
   that keep the same places take RSK_SHARED_TILE vectors: each input is loaded once for the four. */
#ifndef RSK_TILE_H
#define RSK_TILE_H

#include "rsk_base.h"

#define RSK_EACH_1(DO) DO(0)
#define RSK_EACH_2(DO) RSK_EACH_1(DO) DO(1)
#define RSK_EACH_3(DO) RSK_EACH_2(DO) DO(2)
#define RSK_EACH_4(DO) RSK_EACH_3(DO) DO(3)
#define RSK_EACH_5(DO) RSK_EACH_4(DO) DO(4)
#define RSK_EACH_6(DO) RSK_EACH_5(DO) DO(5)
#define RSK_EACH_7(DO) RSK_EACH_6(DO) DO(6)
#define RSK_EACH_8(DO) RSK_EACH_7(DO) DO(7)

/* Every size of a tile. */
#define RSK_SIZES_1(DO) DO(1)
#define RSK_SIZES_2(DO) RSK_SIZES_1(DO) DO(2)
#define RSK_SIZES_3(DO) RSK_SIZES_2(DO) DO(3)
#define RSK_SIZES_4(DO) RSK_SIZES_3(DO) DO(4)
#define RSK_SIZES_5(DO) RSK_SIZES_4(DO) DO(5)
#define RSK_SIZES_6(DO) RSK_SIZES_5(DO) DO(6)
#define RSK_SIZES_8(DO) RSK_SIZES_6(DO) DO(7) DO(8)
#define RSK_EVEN_SIZES_4(DO) DO(1) DO(2) DO(4)
#define RSK_EVEN_SIZES_8(DO) RSK_EVEN_SIZES_4(DO) DO(6) DO(8)
#define RSK_JOINED(a, b) a##b
#define RSK_SIZES(MOST, DO) RSK_JOINED(RSK_SIZES_, MOST)(DO)
#define RSK_EVEN_SIZES(MOST, DO) RSK_JOINED(RSK_EVEN_SIZES_, MOST)(DO) /* and 1 */

/* Four values as scales: from a register where that is cheaper than from memory. */
#if RSK_LANES == 4 && !RSK_HELIUM
#define RSK_SCALES(values)                     \
  const rsk_vector quartet = RSK_LOAD(values); \
  const rsk_scale a = RSK_LANE(0), b = RSK_LANE(1), c = RSK_LANE(2), d = RSK_LANE(3);
#if defined(__SSE2__) /* one instruction for integers, two for floats */
#define RSK_LANE(i) (rsk_vector) __builtin_shufflevector((rsk_flags)quartet, (rsk_flags)quartet, i, i, i, i)
#else
#define RSK_LANE(i) __builtin_shufflevector(quartet, quartet, i, i, i, i)
#endif
#else
#define RSK_SCALES(values) const rsk_scale a = RSK_SCALE((values)[0]), b = RSK_SCALE((values)[1]), c = RSK_SCALE((values)[2]), d = RSK_SCALE((values)[3]);
#endif

/* Up to this many sums the products of four taps are added up first: the next taps do not wait for them. More sums take one tap after the other: what is
   loaded lies side by side, and comes from different banks of the cache (measured: 5 % less at 8 sums). */
#if defined(__SSE2__) && !defined(__FMA__)
#define RSK_FEW 4
#elif RSK_LANES > 1 && !RSK_HELIUM
#define RSK_FEW 2
#else
#define RSK_FEW 0
#endif

#define RSK_AT(from, i) ((from) + (i) * RSK_LANES)
#define RSK_START(i) rsk_vector sum##i = RSK_SPLAT(bias);
#define RSK_PAIR(i, x, a, y, b) RSK_PLUS((a) * RSK_LOAD(RSK_AT(x, i)), RSK_AT(y, i), b)
#define RSK_ADD_ALL(i) sum##i += RSK_PAIR(i, x, a, y, b) + RSK_PAIR(i, z, c, w, d);
#define RSK_ADD_X(i) sum##i = RSK_PLUS(sum##i, RSK_AT(x, i), a);
#define RSK_ADD_Y(i) sum##i = RSK_PLUS(sum##i, RSK_AT(y, i), b);
#define RSK_ADD_Z(i) sum##i = RSK_PLUS(sum##i, RSK_AT(z, i), c);
#define RSK_ADD_W(i) sum##i = RSK_PLUS(sum##i, RSK_AT(w, i), d);
#define RSK_ADD_TAPS(SIZE)                                                                                      \
  if (SIZE <= RSK_FEW) {                                                                                        \
    RSK_EACH_##SIZE(RSK_ADD_ALL)                                                                                \
  } else {                                                                                                      \
    RSK_EACH_##SIZE(RSK_ADD_X) RSK_EACH_##SIZE(RSK_ADD_Y) RSK_EACH_##SIZE(RSK_ADD_Z) RSK_EACH_##SIZE(RSK_ADD_W) \
  }
#define RSK_PUT(i) RSK_STORE(RSK_AT(sums, i), sum##i);

#define RSK_DEFINE_TILE(SIZE)                                                                                                           \
  static void rsk_tile_##SIZE(const float* panel, const rsk_place* list, uint32_t kept, const float* values, float bias, float* sums) { \
    RSK_EACH_##SIZE(RSK_START);                                                                                                         \
    for (; kept >= 4; kept -= 4, list += 4, values += 4) {                                                                              \
      const float *x = panel + list[0], *y = panel + list[1], *z = panel + list[2], *w = panel + list[3];                               \
      RSK_SCALES(values)                                                                                                                \
      RSK_ADD_TAPS(SIZE)                                                                                                                \
    }                                                                                                                                   \
    RSK_UNKNOWN(kept)                                                                                                                   \
    for (; kept; kept--, list++, values++) {                                                                                            \
      const float* x = panel + list[0];                                                                                                 \
      const rsk_scale a = RSK_SCALE(values[0]);                                                                                         \
      RSK_EACH_##SIZE(RSK_ADD_X)                                                                                                        \
    }                                                                                                                                   \
    RSK_EACH_##SIZE(RSK_PUT)                                                                                                            \
  }

RSK_SIZES(RSK_TILE, RSK_DEFINE_TILE)

typedef void rsk_tile(const float* panel, const rsk_place* list, uint32_t kept, const float* values, float bias, float* sums);

#define RSK_START_4(i) rsk_vector sum0##i = RSK_SPLAT(bias[0]), sum1##i = RSK_SPLAT(bias[1]), sum2##i = RSK_SPLAT(bias[2]), sum3##i = RSK_SPLAT(bias[3]);
#define RSK_ADD_TAP_4(i)                   \
  {                                        \
    const float* input = RSK_AT(x, i);     \
    sum0##i = RSK_PLUS(sum0##i, input, a); \
    sum1##i = RSK_PLUS(sum1##i, input, b); \
    sum2##i = RSK_PLUS(sum2##i, input, c); \
    sum3##i = RSK_PLUS(sum3##i, input, d); \
  }
#define RSK_PUT_4(i)                               \
  RSK_STORE(RSK_AT(sums, i), sum0##i);             \
  RSK_STORE(RSK_AT(sums + pitch, i), sum1##i);     \
  RSK_STORE(RSK_AT(sums + 2 * pitch, i), sum2##i); \
  RSK_STORE(RSK_AT(sums + 3 * pitch, i), sum3##i);

#define RSK_DEFINE_SHARED_TILE(SIZE)                                                                                                                           \
  static void rsk_shared_tile_##SIZE(const float* panel, const rsk_place* list, uint32_t kept, const float* const values[4], const float bias[4], float* sums, \
                                     uint32_t pitch) {                                                                                                         \
    RSK_EACH_##SIZE(RSK_START_4) const float *va = values[0], *vb = values[1], *vc = values[2], *vd = values[3];                                               \
    for (uint32_t k = 0; k < kept; k++) {                                                                                                                      \
      const float* x = panel + list[k];                                                                                                                        \
      const rsk_scale a = RSK_SCALE(va[k]), b = RSK_SCALE(vb[k]), c = RSK_SCALE(vc[k]), d = RSK_SCALE(vd[k]);                                                  \
      RSK_EACH_##SIZE(RSK_ADD_TAP_4)                                                                                                                           \
    }                                                                                                                                                          \
    RSK_EACH_##SIZE(RSK_PUT_4)                                                                                                                                 \
  }

RSK_SIZES(RSK_SHARED_TILE, RSK_DEFINE_SHARED_TILE)

typedef void rsk_shared_tile(const float* panel, const rsk_place* list, uint32_t kept, const float* const values[4], const float bias[4], float* sums,
                             uint32_t pitch);

/* Vectors of the next tile, so that `left` vectors are cut into as few tiles as can be, of nearly one size. */
static inline uint32_t rsk_next_tile(uint32_t left, uint32_t most) {
  const uint32_t tiles = (left + most - 1) / most;
  return (left + tiles - 1) / tiles;
}

/* One filter; `vectors` vectors of positions. */
RSK_FUNCTION void rsk_sum(const float* panel, const rsk_place* list, uint32_t kept, const float* values, float bias, float* sums, uint32_t vectors) {
#define RSK_ENTRY(SIZE) rsk_tile_##SIZE,
  static rsk_tile* const tiles[] = {RSK_SIZES(RSK_TILE, RSK_ENTRY)};
#undef RSK_ENTRY
  while (vectors) {
    const uint32_t size = rsk_next_tile(vectors, RSK_TILE);
    tiles[size - 1](panel, list, kept, values, bias, sums);
    panel += size * RSK_LANES, sums += size * RSK_LANES, vectors -= size;
  }
}

/* Four filters with one list; the sums of each lie `pitch` after those of the one before. */
RSK_FUNCTION void rsk_sum_4(const float* panel, const rsk_place* list, uint32_t kept, const float* const values[4], const float bias[4], float* sums,
                            uint32_t pitch, uint32_t vectors) {
#define RSK_ENTRY(SIZE) rsk_shared_tile_##SIZE,
  static rsk_shared_tile* const tiles[] = {RSK_SIZES(RSK_SHARED_TILE, RSK_ENTRY)};
#undef RSK_ENTRY
  while (vectors) {
    const uint32_t size = rsk_next_tile(vectors, RSK_SHARED_TILE);
    tiles[size - 1](panel, list, kept, values, bias, sums, pitch);
    panel += size * RSK_LANES, sums += size * RSK_LANES, vectors -= size;
  }
}

#endif
