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
#define RSK_PACK_FOUR(to, from) memcpy(to, from, 4 * sizeof(float))
#include "rsk_panel.inl"
#undef RSK_INPUT
#undef RSK_CELL
#undef RSK_PACK
#undef RSK_PACK_FOUR

/* The sums of the filter whose kernels begin at `kernel`, without a list; `residual`, if not NULL, is added, and none is below `low`. */
typedef void rsk_summer(const struct rsk_weight* weight, const void* table, size_t kernel, uint32_t plane, const float* panel, float bias,
                        const float* residual, float low, float* sums, uint32_t vectors);

struct rsk_conv {
  struct rsk_weight weight;
  rsk_summer* sum; /* or NULL: the decoder lists the places of every filter */
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
    for (; x + RSK_LANES <= count; x += RSK_LANES) {
      rsk_vector sum = RSK_LOAD(sums + x);
      if (residual) sum += RSK_LOAD(residual + x);
      RSK_STORE(to + x, rsk_at_least(RSK_SPLAT(low), sum));
    }
#endif
    for (const uint32_t end = RSK_LANES > 1 ? x + count % RSK_LANES : count; x < end; x++) {
      const float sum = residual ? sums[x] + residual[x] : sums[x];
      to[x] = sum < low ? low : sum;
    }
    if (residual) residual += count;
  }
  if (RSK_CALLED && c->activation.kind > RSK_RELU) rsk_activate(out, out, all, &c->activation);
}

/* All filters of one group over one packed strip. `out` and `residual` are at the strip's first row in the group's first filter. */
RSK_FUNCTION void rsk_strip(const struct rsk_conv* c, struct rsk_cursor* cursor, const float* bias, const float* residual, float* out, uint32_t rows,
                            float* work) {
  const uint32_t positions = (rows - 1) * c->panel.pitch + c->panel.out_width, vectors = (positions + RSK_LANES - 1) / RSK_LANES;
  const uint32_t sums_pitch = vectors * RSK_LANES;
  const size_t size = (size_t)c->panel.out_height * c->panel.out_width;
  const int whole = c->panel.pitch == c->panel.out_width && sums_pitch == positions; /* the sums lie as the output does */
  const float low = whole && c->activation.kind == RSK_RELU ? 0.0f : -INFINITY;
  float *sums = work + c->sums_at, *room = work + c->room_at;
  rsk_place* list = (rsk_place*)(void*)(work + c->list_at);
  for (uint32_t part = 0; part < c->weight.parts; part++) {
    if (c->sum) {
      const float* add = residual ? residual + part * size : NULL;
      float* to = out + part * size;
      c->sum(&c->weight, work + c->table_at, cursor->kernel, c->panel.plane, work, bias ? bias[part] : 0, whole ? add : NULL, low, whole ? to : sums, vectors);
      if (!whole)
        rsk_finish(c, sums, add, to, rows);
      else if (RSK_CALLED && c->activation.kind > RSK_RELU)
        rsk_activate(to, to, positions, &c->activation);
      cursor->kernel += c->weight.channels;
      continue;
    }
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
        rsk_pack(&c->panel, in, channels, top, work);
        cursor = start;
        rsk_strip(c, &cursor, c->bias ? c->bias + group * filters : NULL, residual ? residual + at : NULL, out + at, rows, work);
      }
      in += channels * in_size, out += filters * out_size;
      if (residual) residual += filters * out_size;
    }
  }
}

#endif
