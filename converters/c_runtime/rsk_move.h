/* Moving elements: strided copies, copies by index along one axis, and interpolation between neighbours of one axis. */
#ifndef RSK_MOVE_H
#define RSK_MOVE_H

#include "rsk_base.h"

/* `rank` axes of `sizes`; neighbours of an axis lie `to_steps` and `from_steps` apart. */
RSK_FUNCTION void rsk_move(float* to, const uint32_t* to_steps, const float* from, const uint32_t* from_steps, const uint32_t* sizes, uint32_t rank) {
  if (rank > 1) {
    for (uint32_t i = 0; i < sizes[0]; i++)
      rsk_move(to + (size_t)i * to_steps[0], to_steps + 1, from + (size_t)i * from_steps[0], from_steps + 1, sizes + 1, rank - 1);
  } else if (to_steps[0] == 1 && from_steps[0] == 1) {
    memcpy(to, from, sizes[0] * sizeof *to);
  } else {
    for (uint32_t i = 0; i < sizes[0]; i++) to[(size_t)i * to_steps[0]] = from[(size_t)i * from_steps[0]];
  }
}

RSK_FUNCTION void rsk_fill(float* to, size_t count, float value) {
  for (size_t i = 0; i < count; i++) to[i] = value;
}

/* An axis of `size` between `outer` and `inner` others: element i of the new axis is element indices[i] of the old. */
RSK_FUNCTION void rsk_take(float* to, const float* from, uint32_t outer, uint32_t size, uint32_t inner, const uint32_t* indices, uint32_t count) {
  for (uint32_t o = 0; o < outer; o++, from += (size_t)size * inner)
    for (uint32_t i = 0; i < count; i++, to += inner) memcpy(to, from + (size_t)indices[i] * inner, inner * sizeof *to);
}

/* Element i of the new axis lies share[i] of the way from element below[i] of the old to its neighbour. */
RSK_FUNCTION void rsk_interpolate(float* to, const float* from, uint32_t outer, uint32_t size, uint32_t inner, const uint32_t* below, const float* share,
                                  uint32_t count) {
  for (uint32_t o = 0; o < outer; o++, from += (size_t)size * inner)
    for (uint32_t i = 0; i < count; i++, to += inner) {
      const float *low = from + (size_t)below[i] * inner, *high = below[i] + 1 < size ? low + inner : low;
      for (uint32_t k = 0; k < inner; k++) to[k] = low[k] * (1 - share[i]) + high[k] * share[i];
    }
}

#endif
