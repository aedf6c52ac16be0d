/* The panel of a convolution: the input rows that a strip of output rows reads, with their pads, so that every tap is one offset for
   all positions.

   A stride splits the panel's rows and columns into phases, so that neighbouring positions always read neighbouring inputs. A
   transposed convolution spreads its input instead. Positions of a row that hang over its end are computed and dropped; where they
   are many, each column of the kernel is a phase as wide as the output, and there are none. */
#ifndef RSK_PANEL_H
#define RSK_PANEL_H

#include "rsk_base.h"

struct rsk_panel {
  uint32_t batch, height, width, out_height, out_width;
  int32_t pad_y, pad_x;
  uint32_t stride_y, stride_x, spread_y, spread_x;
  uint32_t phases_y, phases_x, shift; /* that a tap reads; columns from one phase to the next */
  uint32_t strip, rows, pitch, plane; /* output rows at a time; rows of a phase, cells of a row and of a channel in the panel */
};

static inline uint32_t rsk_up(int32_t value, int32_t step) { return value <= 0 ? 0 : (uint32_t)((value + step - 1) / step); }

/* What a phase holds along one axis: `count` inputs from `start` on, a stride apart, in cells from `first` on, the spread apart. */
struct rsk_span {
  uint32_t first, count, start;
};

/* The phase's first input lies `pad` inputs before the first there is; `size` inputs and `cells` there are. */
static inline struct rsk_span rsk_span(int32_t pad, uint32_t stride, uint32_t spread, uint32_t size, uint32_t cells) {
  const uint32_t first = rsk_up(pad, (int32_t)stride), start = rsk_up(-pad, (int32_t)spread);
  struct rsk_span span = {first, rsk_up((int32_t)size + pad, (int32_t)stride), (uint32_t)((int32_t)(first * stride) - pad)};
  if (spread > 1) span.first = (uint32_t)(pad + (int32_t)(start * spread)), span.count = span.first + (size - start) * spread, span.start = start;
  if (span.count > cells) span.count = cells;
  span.count = span.count > span.first ? (span.count - span.first + spread - 1) / spread : 0;
  return span;
}

#endif
