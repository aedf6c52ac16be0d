/* Packing inputs of type RSK_INPUT into a panel of RSK_CELL, as function RSK_PACK: of each channel the rows that output rows from `top` on read. */
RSK_FUNCTION void RSK_PACK(const struct rsk_panel* c, const RSK_INPUT* in, uint32_t channels, uint32_t top, RSK_CELL* panel) {
  const uint32_t phases = c->phases_y * c->phases_x;
  const size_t stride = c->stride_x, spread = c->spread_x, plane = c->plane, size = (size_t)c->height * c->width;
  const size_t in_pitch = (size_t)c->stride_y * c->width, pitch = (size_t)c->spread_y * c->pitch;
  for (uint32_t phase = 0; phase < phases; phase++, panel += c->rows * c->pitch) {
    const int32_t above = c->pad_y - (int32_t)(phase / c->phases_x + top * c->stride_y), start = c->pad_x - (int32_t)(phase % c->phases_x * c->shift);
    const struct rsk_span rows = rsk_span(above, c->stride_y, c->spread_y, c->height, c->rows);
    const struct rsk_span columns = rsk_span(start, c->stride_x, c->spread_x, c->width, c->pitch);
    const uint32_t fours = stride * spread == 1 ? columns.count / 4 * 4 : 0;
    const RSK_INPUT* from_channel = in + rows.start * c->width + columns.start;
    RSK_CELL* to_channel = panel + rows.first * c->pitch + columns.first;
    for (uint32_t channel = 0; channel < channels; channel++, from_channel += size, to_channel += plane) {
      const RSK_INPUT* from = from_channel;
      RSK_CELL* to = to_channel;
      if (phase == 0) memset(panel + (size_t)channel * plane, 0, plane * sizeof *panel);
      for (uint32_t row = 0; row < rows.count; row++, from += in_pitch, to += pitch) {
        const RSK_INPUT* input = from + fours;
        RSK_CELL* cell = to + fours;
        for (size_t x = 0; x < fours; x += 4) RSK_PACK_FOUR(to + x, from + x);
        for (uint32_t left = columns.count - fours; left; left--, input += stride, cell += spread) *cell = *input;
      }
    }
  }
}
