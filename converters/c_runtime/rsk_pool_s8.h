/* The largest of 8-bit integers under each window. */
#ifndef RSK_POOL_S8_H
#define RSK_POOL_S8_H

#include "rsk_pool.h"

RSK_FUNCTION void rsk_pool_s8(const struct rsk_pool* p, const int8_t* in, int8_t* out) {
  for (uint32_t plane = 0; plane < p->planes; plane++, in += (size_t)p->height * p->width)
    for (uint32_t row = 0; row < p->out_height; row++)
      for (uint32_t column = 0; column < p->out_width; column++) {
        const int32_t top = (int32_t)(row * p->stride_y) - p->pad_y, left = (int32_t)(column * p->stride_x) - p->pad_x;
        int32_t first_y, first_x;
        const uint32_t rows = rsk_inside(top, p->size_y, p->dilation_y, 0, (int32_t)p->height, &first_y);
        const uint32_t columns = rsk_inside(left, p->size_x, p->dilation_x, 0, (int32_t)p->width, &first_x);
        int8_t best = -128;
        for (uint32_t y = 0; y < rows; y++)
          for (uint32_t x = 0; x < columns; x++) {
            const int8_t value =
                in[(size_t)(top + (first_y + (int32_t)y) * p->dilation_y) * p->width + (size_t)(left + (first_x + (int32_t)x) * p->dilation_x)];
            best = value > best ? value : best;
          }
        *out++ = best;
      }
}

#endif
