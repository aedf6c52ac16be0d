/* Convolution over a panel: each filter adds up its kept taps over a whole strip. */
#ifndef RSK_CONV_H
#define RSK_CONV_H

#include "rsk_activation.h"
#include "rsk_panel.h"
#include "rsk_rows.h"
#include "rsk_tile.h"

#define RSK_INPUT float
#define RSK_CELL float
#define RSK_PACK_ROW rsk_pack_row
#define RSK_PACK_CHANNEL rsk_pack_channel
#include "rsk_panel.inl"
#undef RSK_INPUT
#undef RSK_CELL
#undef RSK_PACK_ROW
#undef RSK_PACK_CHANNEL

struct rsk_conv {
  struct rsk_weight weight;
  const float* bias;
  struct rsk_panel panel;
  uint32_t sums_at, room_at, list_at, table_at; /* in the work space, in floats; the panel comes first */
  struct rsk_activation activation;
};

/* From the sums of one filter to its rows of the output. */
RSK_FUNCTION void rsk_finish(const struct rsk_conv* c, const float* sums, const float* residual, float* out, uint32_t rows) {
  const size_t size = (size_t)rows * c->panel.out_width;
  float* to = out;
  for (uint32_t row = 0; row < rows; row++, sums += c->panel.pitch)
    for (uint32_t x = 0; x < c->panel.out_width; x++, to++) *to = residual ? sums[x] + *residual++ : sums[x];
  rsk_activate(out, out, size, &c->activation);
}

/* All filters of one group over one packed strip. `out` and `residual` are at the strip's first row in the group's first filter. */
RSK_FUNCTION void rsk_strip(const struct rsk_conv* c, struct rsk_cursor* cursor, const float* bias, const float* residual, float* out, uint32_t rows,
                            float* work) {
  const uint32_t positions = (rows - 1) * c->panel.pitch + c->panel.out_width, vectors = (positions + RSK_LANES - 1) / RSK_LANES;
  const uint32_t sums_pitch = vectors * RSK_LANES;
  const size_t size = (size_t)c->panel.out_height * c->panel.out_width;
  float *sums = work + c->sums_at, *room = work + c->room_at;
  rsk_place* list = (rsk_place*)(void*)(work + c->list_at);
  for (uint32_t part = 0; part < c->weight.parts; part++) {
    const struct rsk_rows found = c->weight.decode(&c->weight, work + c->table_at, c->panel.plane, part, cursor, list);
    for (uint32_t number = 0; number < found.count;) {
      const uint32_t count = found.count - number < 4 ? 1 : 4;
      const float* values[4];
      float biases[4];
      for (uint32_t i = 0; i < count; i++) {
        values[i] = rsk_values(&c->weight, &found, number + i, room + i * found.kept);
        biases[i] = bias ? bias[found.first + (number + i) * found.step] : 0;
      }
      if (count == 4)
        rsk_sum_4(work, list, found.kept, values, biases, sums, sums_pitch, vectors);
      else
        rsk_sum(work, list, found.kept, values[0], biases[0], sums, vectors);
      for (uint32_t i = 0; i < count; i++) {
        const size_t at = (found.first + (number + i) * found.step) * size;
        rsk_finish(c, sums + i * sums_pitch, residual ? residual + at : NULL, out + at, rows);
      }
      number += count;
    }
  }
}

/* out = activation(conv(in) + bias + residual); `residual` may be `out`, or NULL. */
RSK_FUNCTION void rsk_conv(const struct rsk_conv* c, const float* in, const float* residual, float* out, float* work) {
  const uint32_t groups = c->weight.groups, channels = c->weight.channels, filters = c->weight.filters / groups;
  const size_t in_size = (size_t)c->panel.height * c->panel.width, out_size = (size_t)c->panel.out_height * c->panel.out_width;
  memset(work + (size_t)channels * c->panel.plane, 0, (c->sums_at - (size_t)channels * c->panel.plane) * sizeof *work); /* read behind the last channel */
  if (c->weight.prepare) c->weight.prepare(&c->weight, work + c->table_at);
  for (uint32_t image = 0; image < c->panel.batch; image++) {
    struct rsk_cursor start = {0, 0, 0}, cursor = start;
    for (uint32_t group = 0; group < groups; group++, start = cursor) {
      for (uint32_t top = 0; top < c->panel.out_height; top += c->panel.strip) {
        const uint32_t rows = c->panel.out_height - top < c->panel.strip ? c->panel.out_height - top : c->panel.strip;
        const size_t at = top * (size_t)c->panel.out_width;
        for (uint32_t channel = 0; channel < channels; channel++)
          rsk_pack_channel(&c->panel, in + channel * in_size, top, work + (size_t)channel * c->panel.plane);
        cursor = start;
        rsk_strip(c, &cursor, c->bias ? c->bias + group * filters : NULL, residual ? residual + at : NULL, out + at, rows, work);
      }
      in += channels * in_size, out += filters * out_size;
      if (residual) residual += filters * out_size;
    }
  }
}

#endif
