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

#define RSK_START(i) rsk_vector sum##i = RSK_SPLAT(bias);
#if defined(__SSE2__) && !defined(__FMA__) /* without fused products, two of them first: the sums wait half as often */
#define RSK_ADD_TAPS(i) sum##i += v * RSK_LOAD(x + (i) * RSK_LANES) + w * RSK_LOAD(y + (i) * RSK_LANES);
#else
#define RSK_ADD_TAPS(i) sum##i = (sum##i + v * RSK_LOAD(x + (i) * RSK_LANES)) + w * RSK_LOAD(y + (i) * RSK_LANES);
#endif
#define RSK_ADD_TAP(i) sum##i += v * RSK_LOAD(x + (i) * RSK_LANES);
#define RSK_PUT(i) RSK_STORE(sums + (i) * RSK_LANES, sum##i);

#define RSK_DEFINE_TILE(SIZE)                                                                                                           \
  static void rsk_tile_##SIZE(const float* panel, const rsk_place* list, uint32_t kept, const float* values, float bias, float* sums) { \
    RSK_EACH_##SIZE(RSK_START);                                                                                                         \
    uint32_t k = 0;                                                                                                                     \
    for (; k + 2 <= kept; k += 2) {                                                                                                     \
      const float *x = panel + list[k], *y = panel + list[k + 1];                                                                       \
      const rsk_vector v = RSK_SPLAT(values[k]), w = RSK_SPLAT(values[k + 1]);                                                          \
      RSK_EACH_##SIZE(RSK_ADD_TAPS)                                                                                                     \
    }                                                                                                                                   \
    if (k < kept) {                                                                                                                     \
      const float* x = panel + list[k];                                                                                                 \
      const rsk_vector v = RSK_SPLAT(values[k]);                                                                                        \
      RSK_EACH_##SIZE(RSK_ADD_TAP)                                                                                                      \
    }                                                                                                                                   \
    RSK_EACH_##SIZE(RSK_PUT)                                                                                                            \
  }

RSK_DEFINE_TILE(1)
RSK_DEFINE_TILE(2)
RSK_DEFINE_TILE(3)
RSK_DEFINE_TILE(4)
RSK_DEFINE_TILE(5)
RSK_DEFINE_TILE(6)
RSK_DEFINE_TILE(7)
RSK_DEFINE_TILE(8)

typedef void rsk_tile(const float* panel, const rsk_place* list, uint32_t kept, const float* values, float bias, float* sums);

#define RSK_START_4(i) rsk_vector sum0##i = RSK_SPLAT(bias[0]), sum1##i = RSK_SPLAT(bias[1]), sum2##i = RSK_SPLAT(bias[2]), sum3##i = RSK_SPLAT(bias[3]);
#define RSK_ADD_TAP_4(i)                                    \
  {                                                         \
    const rsk_vector input = RSK_LOAD(x + (i) * RSK_LANES); \
    sum0##i += a * input;                                   \
    sum1##i += b * input;                                   \
    sum2##i += c * input;                                   \
    sum3##i += d * input;                                   \
  }
#define RSK_PUT_4(i)                                      \
  RSK_STORE(sums + (i) * RSK_LANES, sum0##i);             \
  RSK_STORE(sums + pitch + (i) * RSK_LANES, sum1##i);     \
  RSK_STORE(sums + 2 * pitch + (i) * RSK_LANES, sum2##i); \
  RSK_STORE(sums + 3 * pitch + (i) * RSK_LANES, sum3##i);

#define RSK_DEFINE_SHARED_TILE(SIZE)                                                                                                                           \
  static void rsk_shared_tile_##SIZE(const float* panel, const rsk_place* list, uint32_t kept, const float* const values[4], const float bias[4], float* sums, \
                                     uint32_t pitch) {                                                                                                         \
    RSK_EACH_##SIZE(RSK_START_4) const float *va = values[0], *vb = values[1], *vc = values[2], *vd = values[3];                                               \
    for (uint32_t k = 0; k < kept; k++) {                                                                                                                      \
      const float* x = panel + list[k];                                                                                                                        \
      const rsk_vector a = RSK_SPLAT(va[k]), b = RSK_SPLAT(vb[k]), c = RSK_SPLAT(vc[k]), d = RSK_SPLAT(vd[k]);                                                 \
      RSK_EACH_##SIZE(RSK_ADD_TAP_4)                                                                                                                           \
    }                                                                                                                                                          \
    RSK_EACH_##SIZE(RSK_PUT_4)                                                                                                                                 \
  }

RSK_DEFINE_SHARED_TILE(1)
#if RSK_SHARED_TILE >= 2
RSK_DEFINE_SHARED_TILE(2)
#endif
#if RSK_SHARED_TILE >= 3
RSK_DEFINE_SHARED_TILE(3)
#endif
#if RSK_SHARED_TILE >= 4
RSK_DEFINE_SHARED_TILE(4)
#endif
#if RSK_SHARED_TILE >= 5
RSK_DEFINE_SHARED_TILE(5)
#endif
#if RSK_SHARED_TILE >= 6
RSK_DEFINE_SHARED_TILE(6)
#endif

typedef void rsk_shared_tile(const float* panel, const rsk_place* list, uint32_t kept, const float* const values[4], const float bias[4], float* sums,
                             uint32_t pitch);

/* Vectors of the next tile, so that `left` vectors are cut into as few tiles as can be, of nearly one size. */
static inline uint32_t rsk_next_tile(uint32_t left, uint32_t most) {
  const uint32_t tiles = (left + most - 1) / most;
  return (left + tiles - 1) / tiles;
}

/* One filter; `vectors` vectors of positions. */
RSK_FUNCTION void rsk_sum(const float* panel, const rsk_place* list, uint32_t kept, const float* values, float bias, float* sums, uint32_t vectors) {
  static rsk_tile* const tiles[RSK_TILE] = {rsk_tile_1, rsk_tile_2, rsk_tile_3, rsk_tile_4, rsk_tile_5, rsk_tile_6, rsk_tile_7, rsk_tile_8};
  while (vectors) {
    const uint32_t size = rsk_next_tile(vectors, RSK_TILE);
    tiles[size - 1](panel, list, kept, values, bias, sums);
    panel += size * RSK_LANES, sums += size * RSK_LANES, vectors -= size;
  }
}

/* Four filters with one list; the sums of each lie `pitch` after those of the one before. */
RSK_FUNCTION void rsk_sum_4(const float* panel, const rsk_place* list, uint32_t kept, const float* const values[4], const float bias[4], float* sums,
                            uint32_t pitch, uint32_t vectors) {
  static rsk_shared_tile* const tiles[RSK_SHARED_TILE] = {
      rsk_shared_tile_1,
#if RSK_SHARED_TILE >= 2
      rsk_shared_tile_2,
#endif
#if RSK_SHARED_TILE >= 3
      rsk_shared_tile_3,
#endif
#if RSK_SHARED_TILE >= 4
      rsk_shared_tile_4,
#endif
#if RSK_SHARED_TILE >= 5
      rsk_shared_tile_5,
#endif
#if RSK_SHARED_TILE >= 6
      rsk_shared_tile_6,
#endif
  };
  while (vectors) {
    const uint32_t size = rsk_next_tile(vectors, RSK_SHARED_TILE);
    tiles[size - 1](panel, list, kept, values, bias, sums, pitch);
    panel += size * RSK_LANES, sums += size * RSK_LANES, vectors -= size;
  }
}

#endif
