/* Packing inputs of type RSK_INPUT into a panel of RSK_CELL, as function RSK_PACK: of each channel the rows that output rows from `top` on read.
   RSK_PACK_FOUR(to, from), where there is one, takes four neighbours. */

static inline void RSK_PACK_CELLS(uint32_t by, RSK_CELL* to, const RSK_INPUT* from, size_t stride) {
#if defined(RSK_PACK_FOUR)
  if (by == 4 && stride == 1) {
    RSK_PACK_FOUR(to, from);
    return;
  }
#endif
  if (by == 4) {
    const RSK_INPUT first = from[0], second = from[stride], third = from[2 * stride], fourth = from[3 * stride];
    to[0] = first, to[1] = second, to[2] = third, to[3] = fourth;
  } else {
    const RSK_INPUT first = from[0], second = from[stride];
    to[0] = first, to[1] = second;
  }
}

/* `width` cells of `height` rows of each channel, `by` at a time, some twice. Called with constants. */
static inline void RSK_PACK_BY(uint32_t by, const struct rsk_panel* c, const RSK_INPUT* in, RSK_CELL* panel, uint32_t channels, size_t height, size_t width,
                               size_t stride) {
  const size_t size = (size_t)c->height * c->width, in_pitch = (size_t)c->stride_y * c->width, pitch = (size_t)c->spread_y * c->pitch;
  for (; channels; channels--, in += size, panel += c->plane) {
    const RSK_INPUT* from = in;
    RSK_CELL* to = panel;
    for (size_t row = height; row; row--, from += in_pitch, to += pitch) {
      if (by == 1)
        for (size_t x = 0; x < width; x++) to[x * c->spread_x] = from[x * stride];
      for (size_t x = 0; by > 1 && x + by < width; x += by) RSK_PACK_CELLS(by, to + x, from + x * stride, stride);
      if (by > 1) RSK_PACK_CELLS(by, to + width - by, from + (width - by) * stride, stride);
    }
  }
}

RSK_FUNCTION void RSK_PACK(const struct rsk_panel* c, const RSK_INPUT* in, uint32_t channels, uint32_t top, RSK_CELL* panel) {
  const uint32_t phases = c->phases_y * c->phases_x;
  const size_t stride = c->stride_x;
  for (uint32_t channel = 0; channel < channels; channel++) memset(panel + (size_t)channel * c->plane, 0, c->plane * sizeof *panel);
  for (uint32_t phase = 0; phase < phases; phase++, panel += c->rows * c->pitch) {
    const int32_t above = c->pad_y - (int32_t)(phase / c->phases_x + top * c->stride_y), start = c->pad_x - (int32_t)(phase % c->phases_x * c->shift);
    const struct rsk_span rows = rsk_span(above, c->stride_y, c->spread_y, c->height, c->rows);
    const struct rsk_span columns = rsk_span(start, c->stride_x, c->spread_x, c->width, c->pitch);
    const int whole = stride == 1 && c->stride_y == 1 && c->spread_x == 1 && c->spread_y == 1 && columns.count == c->width && columns.count == c->pitch;
    const size_t height = whole ? 1 : rows.count, width = whole ? rows.count * columns.count : columns.count; /* rows side by side are one */
    const RSK_INPUT* from = in + rows.start * c->width + columns.start;
    RSK_CELL* to = panel + rows.first * c->pitch + columns.first;
    if (c->spread_x > 1 || width < 2)
      RSK_PACK_BY(1, c, from, to, channels, height, width, stride);
    else if (width < 4)
      RSK_PACK_BY(2, c, from, to, channels, height, width, stride);
    else if (RSK_LANES > 1 && stride == 1)
      RSK_PACK_BY(4, c, from, to, channels, height, width, 1);
    else
      RSK_PACK_BY(4, c, from, to, channels, height, width, stride);
  }
}
