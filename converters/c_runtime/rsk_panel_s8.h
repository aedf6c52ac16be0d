/* The panel of 8-bit integers. Its cells have 16 bits, whose products need no more. */
#ifndef RSK_PANEL_S8_H
#define RSK_PANEL_S8_H

#include "rsk_panel.h"
#include "rsk_weight.h"

#if defined(RSK_DSP) && RSK_NEIGHBOURS
/* An input, and 24 bits above it the next cell's: one product of 64 bits is two. Cells are written from the last to the first. */
typedef int32_t rsk_cell_s8;

struct rsk_writer {
  int32_t *to, after;
};

static inline void rsk_write_zeros(struct rsk_writer* writer, const int32_t* until) {
  if (writer->to > until) *--writer->to = writer->after * (1 << 24), writer->after = 0;
  for (int32_t* to = writer->to; to > until; writer->to = to) {
    *--to = 0;
    RSK_UNKNOWN(to) /* a call of memset takes longer */
  }
}

/* `count` inputs, a stride apart; the last is at `from`. */
static inline void rsk_write_inputs(struct rsk_writer* writer, const int8_t* from, uint32_t stride, uint32_t count) {
  int32_t *to = writer->to, after = writer->after;
  for (; count; count--, from -= stride) *--to = *from + after * (1 << 24), after = *from;
  writer->to = to, writer->after = after;
}

RSK_FUNCTION void rsk_pack_s8(const struct rsk_panel* c, const int8_t* in, uint32_t channels, uint32_t top, int32_t* panel) {
  const uint32_t phases = c->phases_y * c->phases_x, stride = c->stride_x, spread = c->spread_x;
  const size_t in_pitch = (size_t)c->stride_y * c->width, pitch = (size_t)c->spread_y * c->pitch, cells = (size_t)c->rows * c->pitch;
  for (uint32_t phase = 0; phase < phases; phase++, panel += cells) {
    const int32_t above = c->pad_y - (int32_t)(phase / c->phases_x + top * c->stride_y), start = c->pad_x - (int32_t)(phase % c->phases_x * c->shift);
    const struct rsk_span rows = rsk_span(above, c->stride_y, c->spread_y, c->height, c->rows);
    const struct rsk_span columns = rsk_span(start, c->stride_x, c->spread_x, c->width, c->pitch);
    const int8_t* last = in + rows.start * c->width + columns.start + rows.count * in_pitch + (columns.count - 1) * stride;
    int32_t* first = panel;
    for (uint32_t channel = 0; channel < channels; channel++, last += c->height * c->width, first += c->plane) {
      struct rsk_writer writer = {first + cells, 0};
      int32_t* end = first + rows.first * c->pitch + rows.count * pitch + columns.first + (columns.count - 1) * spread + 1;
      const int8_t* from = last;
      for (uint32_t left = columns.count ? rows.count : 0; left; left--) {
        end -= pitch, from -= in_pitch;
        rsk_write_zeros(&writer, end);
        if (spread == 1)
          rsk_write_inputs(&writer, from, stride, columns.count);
        else
          for (uint32_t x = 0; x < columns.count; x++) rsk_write_zeros(&writer, end - x * spread), rsk_write_inputs(&writer, from - x, 1, 1);
      }
      rsk_write_zeros(&writer, first);
    }
  }
}
#else
typedef int16_t rsk_cell_s8;
#if defined(__SSE2__)
#include <emmintrin.h>

static inline void rsk_pack_s8_four(int16_t* to, const int8_t* from) {
  int32_t four;
  memcpy(&four, from, sizeof four);
  _mm_storel_epi64((__m128i*)(void*)to, _mm_srai_epi16(_mm_unpacklo_epi8(_mm_setzero_si128(), _mm_cvtsi32_si128(four)), 8));
}
#define RSK_PACK_FOUR rsk_pack_s8_four
#endif
#define RSK_INPUT int8_t
#define RSK_CELL int16_t
#define RSK_PACK rsk_pack_s8
#define RSK_PACK_BY rsk_pack_s8_by
#define RSK_PACK_CELLS rsk_pack_s8_cells
#include "rsk_panel.inl"
#undef RSK_INPUT
#undef RSK_CELL
#undef RSK_PACK
#undef RSK_PACK_BY
#undef RSK_PACK_CELLS
#undef RSK_PACK_FOUR
#endif

#endif
