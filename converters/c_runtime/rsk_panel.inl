/* Packing inputs of type RSK_INPUT into a panel of RSK_CELL, as functions RSK_PACK_ROW and RSK_PACK_CHANNEL. */
/* One input row into the phases of one row of the panel. */
RSK_FUNCTION void RSK_PACK_ROW(const struct rsk_panel* c, const RSK_INPUT* in, RSK_CELL* to) {
  const int32_t stride = (int32_t)c->stride_x, width = (int32_t)c->width;
  for (int32_t phase = 0; phase < (int32_t)c->phases_x; phase++, to += (size_t)c->rows * c->pitch) {
    if (c->spread_x > 1) {
      for (int32_t x = 0, at = c->pad_x; x < width; x++, at += (int32_t)c->spread_x)
        if (at >= 0 && at < (int32_t)c->pitch) to[at] = in[x];
      continue;
    }
    const uint32_t end = rsk_up(width + c->pad_x - phase, stride), last = end < c->pitch ? end : c->pitch;
    uint32_t at = rsk_up(c->pad_x - phase, stride);
    const RSK_INPUT* from = in + ((int32_t)at * stride + phase - c->pad_x);
    if (stride == 1)
      for (uint32_t x = 0; at < last; at++, x++) to[at] = from[x];
    else
      for (; at < last; at++, from += stride) to[at] = *from;
  }
}

/* The rows of one channel that output rows from `top` on read. */
RSK_FUNCTION void RSK_PACK_CHANNEL(const struct rsk_panel* c, const RSK_INPUT* in, uint32_t top, RSK_CELL* panel) {
  memset(panel, 0, c->plane * sizeof *panel);
  for (uint32_t phase = 0; phase < c->phases_y; phase++)
    for (uint32_t row = 0; row < c->rows; row++) {
      const int32_t y = (int32_t)((top + row) * c->stride_y + phase) - c->pad_y;
      const int32_t source = y / (int32_t)c->spread_y;
      if (y >= 0 && y % (int32_t)c->spread_y == 0 && source < (int32_t)c->height)
        RSK_PACK_ROW(c, in + (size_t)source * c->width, panel + ((size_t)phase * c->phases_x * c->rows + row) * c->pitch);
    }
}
