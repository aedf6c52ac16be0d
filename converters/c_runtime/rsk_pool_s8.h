/* The largest of 8-bit integers under each window. */
#ifndef RSK_POOL_S8_H
#define RSK_POOL_S8_H

#include "rsk_pool.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

static inline int8_t rsk_larger(int8_t a, int8_t b) { return a > b ? a : b; }

/* rsk_largest_of_four of integers. */
static inline void rsk_largest_of_four_s8(const int8_t* above, const int8_t* below, uint32_t count, int8_t* restrict out) {
  uint32_t i = 0;
#if defined(__SSE2__)
  /* The upper halves of 16 bits: of those, what is below them never changes which is larger. */
  for (; i + 8 <= count; i += 8) {
    const __m128i a = _mm_loadu_si128((const __m128i*)(const void*)(above + 2 * i)), b = _mm_loadu_si128((const __m128i*)(const void*)(below + 2 * i));
    const __m128i odd = _mm_max_epi16(a, b), even = _mm_max_epi16(_mm_slli_epi16(a, 8), _mm_slli_epi16(b, 8));
    const __m128i largest = _mm_srai_epi16(_mm_max_epi16(odd, even), 8);
    _mm_storel_epi64((__m128i*)(void*)(out + i), _mm_packs_epi16(largest, largest));
  }
#endif
  for (; i < count; i++) out[i] = rsk_larger(rsk_larger(above[2 * i], above[2 * i + 1]), rsk_larger(below[2 * i], below[2 * i + 1]));
}

RSK_FUNCTION void rsk_pool_s8(const struct rsk_pool* p, const int8_t* in, int8_t* out) {
  const int halves = rsk_halves(p);
  for (uint32_t plane = 0; plane < p->planes; plane++, in += (size_t)p->height * p->width)
    for (uint32_t row = 0; row < p->out_height; row++) {
      if (halves) {
        const int8_t* above = in + (size_t)2 * row * p->width;
        rsk_largest_of_four_s8(above, above + p->width, p->out_width, out);
        out += p->out_width;
        continue;
      }
      for (uint32_t column = 0; column < p->out_width; column++) {
        const int32_t top = (int32_t)(row * p->stride_y) - p->pad_y, left = (int32_t)(column * p->stride_x) - p->pad_x;
        int32_t first_y, first_x;
        const uint32_t rows = rsk_inside(top, p->size_y, p->dilation_y, 0, (int32_t)p->height, &first_y);
        const uint32_t columns = rsk_inside(left, p->size_x, p->dilation_x, 0, (int32_t)p->width, &first_x);
        int8_t best = -127;
        for (uint32_t y = 0; y < rows; y++)
          for (uint32_t x = 0; x < columns; x++) {
            const int8_t value =
                in[(size_t)(top + (first_y + (int32_t)y) * p->dilation_y) * p->width + (size_t)(left + (first_x + (int32_t)x) * p->dilation_x)];
            best = rsk_larger(value, best);
          }
        *out++ = best;
      }
    }
}

#endif
