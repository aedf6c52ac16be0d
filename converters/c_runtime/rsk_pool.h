/* Windows over planes: the largest element under each, or the mean. */
#ifndef RSK_POOL_H
#define RSK_POOL_H

#include "rsk_base.h"

struct rsk_pool {
  uint32_t planes, height, width, out_height, out_width, stride_y, stride_x;
  int32_t size_y, size_x, dilation_y, dilation_x, pad_y, pad_x;
  int32_t count_y, count_x; /* pads that count as zeros in a mean lie before this row and column; 0 where none do */
};

/* The taps of a window at `start` that lie in [low, size): from `first`, `count` of them. */
static inline uint32_t rsk_inside(int32_t start, int32_t taps, int32_t dilation, int32_t low, int32_t size, int32_t* first) {
  int32_t last = taps;
  *first = 0;
  if (start < low) *first = (low - start + dilation - 1) / dilation;
  if (start + (taps - 1) * dilation >= size) last = start < size ? (size - start + dilation - 1) / dilation : 0;
  return *first < last ? (uint32_t)(last - *first) : 0;
}

/* The largest of two by two, two apart: a loop that compilers make vectors of. */
static inline void rsk_largest_of_four(const float* above, const float* below, uint32_t count, float* restrict out) {
  for (uint32_t i = 0; i < count; i++, above += 2, below += 2) {
    float best = -INFINITY;
    best = above[0] > best ? above[0] : best;
    best = above[1] > best ? above[1] : best;
    best = below[0] > best ? below[0] : best;
    out[i] = below[1] > best ? below[1] : best;
  }
}

/* Whether every window is two by two, two apart, and inside. */
static inline int rsk_halves(const struct rsk_pool* p) {
  return p->size_y == 2 && p->size_x == 2 && p->stride_y == 2 && p->stride_x == 2 && p->dilation_y == 1 && p->dilation_x == 1 && p->pad_y == 0 &&
         p->pad_x == 0 && 2 * p->out_height <= p->height && 2 * p->out_width <= p->width;
}

RSK_FUNCTION void rsk_pool(const struct rsk_pool* p, const float* in, float* out, int mean) {
  const int halves = rsk_halves(p);
  for (uint32_t plane = 0; plane < p->planes; plane++, in += (size_t)p->height * p->width)
    for (uint32_t row = 0; row < p->out_height; row++) {
      if (halves && !mean) {
        const float* above = in + (size_t)2 * row * p->width;
        rsk_largest_of_four(above, above + p->width, p->out_width, out);
        out += p->out_width;
        continue;
      }
      const int32_t top = (int32_t)(row * p->stride_y) - p->pad_y;
      int32_t first_y, unused;
      const uint32_t rows = rsk_inside(top, p->size_y, p->dilation_y, 0, (int32_t)p->height, &first_y);
      const uint32_t counted = p->count_y ? rsk_inside(top, p->size_y, p->dilation_y, -p->pad_y, p->count_y, &unused) : rows;
      for (uint32_t column = 0; column < p->out_width; column++) {
        const int32_t left = (int32_t)(column * p->stride_x) - p->pad_x;
        int32_t first_x;
        const uint32_t columns = rsk_inside(left, p->size_x, p->dilation_x, 0, (int32_t)p->width, &first_x);
        const uint32_t across = p->count_x ? rsk_inside(left, p->size_x, p->dilation_x, -p->pad_x, p->count_x, &unused) : columns;
        float best = -INFINITY, sum = 0;
        for (uint32_t y = 0; y < rows; y++) {
          const size_t line = (size_t)(top + (first_y + (int32_t)y) * p->dilation_y) * p->width;
          for (uint32_t x = 0; x < columns; x++) {
            const float value = in[line + (size_t)(left + (first_x + (int32_t)x) * p->dilation_x)];
            best = value > best ? value : best;
            sum += value;
          }
        }
        *out++ = !mean ? best : counted && across ? sum / (float)(counted * across) : 0;
      }
    }
}

#endif
