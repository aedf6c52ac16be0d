/* Convolution over a panel: each filter adds up its kept taps over a whole strip. */
#ifndef RSK_CONV_H
#define RSK_CONV_H

#include "rsk_activation.h"
#include "rsk_panel.h"
#include "rsk_rows.h"
#include "rsk_tile.h"

#define RSK_INPUT float
#define RSK_CELL float
#define RSK_PACK rsk_pack
#define RSK_PACK_BY rsk_pack_by
#define RSK_PACK_CELLS rsk_pack_cells
#include "rsk_panel.inl"
#undef RSK_INPUT
#undef RSK_CELL
#undef RSK_PACK
#undef RSK_PACK_BY
#undef RSK_PACK_CELLS

/* Sums of some filters over some channels without a list, each `pitch` after the one before. `residual`, if not NULL, lies as the sums do and is added,
   and none is below `low`. The kernels begin at `kernel`, those of a filter side by side. */
struct rsk_sums {
  const void* table;
  const float *panel, *bias, *residual;
  float* sums;
  size_t kernel, pitch;
  uint32_t plane, channels, filters;
  float low;
};

/* `vectors` vectors of positions. */
typedef void rsk_summer(const struct rsk_weight* weight, const struct rsk_sums* of, uint32_t vectors);

struct rsk_conv {
  struct rsk_weight weight;
  rsk_summer* sum; /* or NULL: the decoder lists the places of every filter */
  uint32_t block;  /* channels that `sum` adds up for all filters before the next ones, all of whose kernels come before theirs */
  const float* bias;
  struct rsk_panel panel;
  uint32_t sums_at, room_at, list_at, table_at; /* in the work space, in floats; the panel comes first */
  struct rsk_activation activation;
};

/* From the sums of one filter to its rows of the output, which may be the residual's places. */
RSK_FUNCTION void rsk_finish(const struct rsk_conv* c, const float* sums, const float* residual, float* out, uint32_t rows) {
  const float low = c->activation.kind == RSK_RELU ? 0.0f : -INFINITY;
  const uint32_t width = c->panel.out_width, pitch = c->panel.pitch, all = rows * width;
  const uint32_t count = pitch == width ? all : width; /* whole rows may lie side by side */
  float* to = out;
  for (uint32_t done = 0; done < all; done += count, sums += pitch, to += count) {
    uint32_t x = 0;
#if RSK_LANES > 1
    const rsk_vector least = RSK_SPLAT(low);
    if (residual)
      for (; x + RSK_LANES <= count; x += RSK_LANES) RSK_STORE(to + x, rsk_at_least(least, RSK_LOAD(sums + x) + RSK_LOAD(residual + x)));
    else
      for (; x + RSK_LANES <= count; x += RSK_LANES) RSK_STORE(to + x, rsk_at_least(least, RSK_LOAD(sums + x)));
#endif
    for (uint32_t left = count - x; left; left--, x++) {
      const float sum = residual ? sums[x] + residual[x] : sums[x];
      to[x] = sum < low ? low : sum;
    }
    if (residual) residual += count;
  }
  if (RSK_CALLED && c->activation.kind > RSK_RELU) rsk_activate(out, out, all, &c->activation);
}

/* rsk_strip without lists: straight into the output where the sums lie as it does. */
RSK_FUNCTION void rsk_strip_straight(const struct rsk_conv* c, struct rsk_cursor* cursor, const float* bias, const float* residual, float* out, uint32_t rows,
                                     float* work) {
  const uint32_t positions = (rows - 1) * c->panel.pitch + c->panel.out_width, vectors = (positions + RSK_LANES - 1) / RSK_LANES;
  const uint32_t filters = c->weight.parts, channels = c->weight.channels, sums_pitch = vectors * RSK_LANES;
  const size_t size = (size_t)c->panel.out_height * c->panel.out_width;
  struct rsk_sums of = {work + c->table_at, work, bias, NULL, work + c->sums_at, cursor->kernel, sums_pitch, c->panel.plane, channels, 4, -INFINITY};
  cursor->kernel += (size_t)filters * channels;
  if (c->panel.pitch == c->panel.out_width && sums_pitch == positions) {
    of.residual = residual, of.sums = out, of.pitch = size, of.channels = c->block, of.filters = filters;
    for (uint32_t left = channels; left; left -= of.channels) {
      if (left <= of.channels) of.channels = left, of.low = c->activation.kind == RSK_RELU ? 0.0f : -INFINITY;
      c->sum(&c->weight, &of, vectors);
      of.kernel += (size_t)filters * of.channels, of.panel += (size_t)of.channels * of.plane;
      of.bias = NULL, of.residual = out;
    }
    for (uint32_t left = RSK_CALLED && c->activation.kind > RSK_RELU ? filters : 0; left; left--, out += size)
      rsk_activate(out, out, positions, &c->activation);
    return;
  }
  for (uint32_t left = filters; left; left -= of.filters) {
    if (left < of.filters) of.filters = left;
    c->sum(&c->weight, &of, vectors);
    for (uint32_t i = 0; i < of.filters; i++, out += size) {
      rsk_finish(c, of.sums + i * sums_pitch, residual, out, rows);
      if (residual) residual += size;
    }
    of.kernel += (size_t)of.filters * channels;
    if (bias) of.bias += 4;
  }
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
      const uint32_t count = RSK_SINGLES && found.count - number < 4 ? 1 : 4;
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
        rsk_pack(&c->panel, in, channels, top, work);
        cursor = start;
        (RSK_STRAIGHT && c->sum ? rsk_strip_straight : rsk_strip)(c, &cursor, c->bias ? c->bias + group * filters : NULL, residual ? residual + at : NULL,
                                                                  out + at, rows, work);
      }
      in += channels * in_size, out += filters * out_size;
      if (residual) residual += filters * out_size;
    }
  }
}

#endif
