/* Convolution of 8-bit integers with 32-bit sums. The panel has 16-bit cells: products of two need no more. */
#ifndef RSK_CONV_S8_H
#define RSK_CONV_S8_H

#include "rsk_eight.h"
#include "rsk_panel.h"
#include "rsk_weight.h"

#define RSK_INPUT int8_t
#define RSK_CELL int16_t
#define RSK_PACK_ROW rsk_pack_row_s8
#define RSK_PACK_CHANNEL rsk_pack_channel_s8
#include "rsk_panel.inl"
#undef RSK_INPUT
#undef RSK_CELL
#undef RSK_PACK_ROW
#undef RSK_PACK_CHANNEL

struct rsk_conv_s8 {
  struct rsk_weight weight;
  const int32_t* bias;
  struct rsk_panel panel;
  uint32_t sums_at, list_at, table_at; /* in the work space, in units of four bytes; the panel comes first */
  struct rsk_requant requant;
};

/* Four kept weights at a time: their sums are loaded and stored once. */
RSK_FUNCTION void rsk_sum_s8(const int16_t* panel, const rsk_place* list, uint32_t kept, const int8_t* values, int32_t bias, int32_t* restrict sums,
                             uint32_t positions) {
  uint32_t k = 0;
  for (uint32_t p = 0; p < positions; p++) sums[p] = bias;
  for (; k + 4 <= kept; k += 4) {
    const int16_t *a = panel + list[k], *b = panel + list[k + 1], *c = panel + list[k + 2], *d = panel + list[k + 3];
    const int16_t v = values[k], w = values[k + 1], x = values[k + 2], y = values[k + 3];
    for (uint32_t p = 0; p < positions; p++) sums[p] += v * a[p] + w * b[p] + x * c[p] + y * d[p];
  }
  for (; k < kept; k++) {
    const int16_t* a = panel + list[k];
    const int16_t v = values[k];
    for (uint32_t p = 0; p < positions; p++) sums[p] += v * a[p];
  }
}

RSK_FUNCTION void rsk_strip_s8(const struct rsk_conv_s8* c, struct rsk_cursor* cursor, uint32_t filter, const int8_t* residual, void* out, size_t at,
                               uint32_t rows, float* work) {
  const size_t size = (size_t)c->panel.out_height * c->panel.out_width;
  const uint32_t positions = (rows - 1) * c->panel.pitch + c->panel.out_width;
  int32_t* sums = (int32_t*)(void*)(work + c->sums_at);
  rsk_place* list = (rsk_place*)(void*)(work + c->list_at);
  for (uint32_t part = 0; part < c->weight.parts; part++) {
    const struct rsk_rows found = c->weight.decode(&c->weight, work + c->table_at, c->panel.plane, part, cursor, list);
    for (uint32_t number = 0; number < found.count; number++) {
      const uint32_t own = found.first + number * found.step;
      const int8_t* values = (const int8_t*)c->weight.values + found.value + number * found.pitch;
      rsk_sum_s8((const int16_t*)(void*)work, list, found.kept, values, c->bias[filter + own], sums, positions);
      for (uint32_t row = 0; row < rows; row++)
        rsk_requantise(&c->requant, filter + own, sums + row * c->panel.pitch, residual, out, at + own * size + row * (size_t)c->panel.out_width,
                       c->panel.out_width);
    }
  }
}

/* out = requantised(conv(in) + bias) + residual */
RSK_FUNCTION void rsk_conv_s8(const struct rsk_conv_s8* c, const int8_t* in, const int8_t* residual, void* out, float* work) {
  const uint32_t groups = c->weight.groups, channels = c->weight.channels, filters = c->weight.filters / groups;
  const size_t in_size = (size_t)c->panel.height * c->panel.width, out_size = (size_t)c->panel.out_height * c->panel.out_width;
  int16_t* panel = (int16_t*)(void*)work;
  size_t at = 0;
  memset(work, 0, c->sums_at * sizeof *work); /* what is read behind the last channel is zero */
  if (c->weight.prepare) c->weight.prepare(&c->weight, work + c->table_at);
  for (uint32_t image = 0; image < c->panel.batch; image++) {
    struct rsk_cursor start = {0, 0, 0}, cursor = start;
    for (uint32_t group = 0; group < groups; group++, start = cursor, in += channels * in_size, at += filters * out_size)
      for (uint32_t top = 0; top < c->panel.out_height; top += c->panel.strip) {
        const uint32_t rows = c->panel.out_height - top < c->panel.strip ? c->panel.out_height - top : c->panel.strip;
        for (uint32_t channel = 0; channel < channels; channel++)
          rsk_pack_channel_s8(&c->panel, in + channel * in_size, top, panel + (size_t)channel * c->panel.plane);
        cursor = start;
        rsk_strip_s8(c, &cursor, group * filters, residual, out, at + top * (size_t)c->panel.out_width, rows, work);
      }
  }
}

#endif
