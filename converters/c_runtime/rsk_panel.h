/* The panel of a convolution: the input rows that a strip of output rows reads, with their pads, so that every tap is one offset for
   all positions.

   A stride splits the panel's rows and columns into phases, so that neighbouring positions always read neighbouring inputs. A
   transposed convolution spreads its input instead. Positions of a row that hang over its end are computed and dropped. */
#ifndef RSK_PANEL_H
#define RSK_PANEL_H

#include "rsk_base.h"

struct rsk_panel {
  uint32_t batch, height, width, out_height, out_width;
  int32_t pad_y, pad_x;
  uint32_t stride_y, stride_x, spread_y, spread_x;
  uint32_t phases_y, phases_x;        /* that a tap reads */
  uint32_t strip, rows, pitch, plane; /* output rows at a time; rows of a phase, cells of a row and of a channel in the panel */
};

static inline uint32_t rsk_up(int32_t value, int32_t step) { return value <= 0 ? 0 : (uint32_t)((value + step - 1) / step); }

#endif
