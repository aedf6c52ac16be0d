/* Convolution of 8-bit integers with 32-bit sums. */
#ifndef RSK_CONV_S8_H
#define RSK_CONV_S8_H

#include "rsk_eight.h"
#include "rsk_tile_s8.h"

/* `run` taps of a list are side by side; `lines` output rows are summed at once, or 0: all of a strip. `sum`, if not NULL, sums one filter at a time:
   without `decode` of patterns by their ids, otherwise of runs, whose rows it keeps apart. */
struct rsk_conv_s8 {
  struct rsk_weight weight;
  rsk_summer_s8* sum;
  uint32_t run, lines;
  const int32_t* bias;
  struct rsk_panel panel;
  uint32_t sums_at, list_at, table_at; /* in the work space, in units of four bytes; the panel comes first */
  struct rsk_requant requant;
};

/* All filters of one group over one packed strip. The strip's first row in the group's first filter begins at element `at` of the output. */
RSK_FUNCTION_ONCE void rsk_strip_s8(const struct rsk_conv_s8* c, struct rsk_cursor* cursor, uint32_t group, const int8_t* residual, void* out, size_t at,
                                    uint32_t rows, float* work) {
  const struct rsk_weight* weight = &c->weight;
  const size_t size = (size_t)c->panel.out_height * c->panel.out_width;
  const uint32_t run = c->run, width = c->panel.out_width, lines = c->lines ? c->lines : rows;
  const uint32_t positions = run > 1 ? width : (lines - 1) * c->panel.pitch + width, blocks = (positions + RSK_BLOCK_S8 - 1) / RSK_BLOCK_S8;
  const uint32_t pitch = blocks * RSK_BLOCK_S8, row_pitch = run > 1 ? pitch : c->panel.pitch;
  int32_t* sums = (int32_t*)(void*)(work + c->sums_at);
  rsk_place* list = (rsk_place*)(void*)(work + c->list_at);
  const rsk_cell_s8* panel = (const rsk_cell_s8*)(const void*)work;
  struct rsk_taps_s8 taps = {panel, list, NULL, {NULL, NULL}, 0, run > 1 ? c->panel.pitch : c->panel.plane};
  for (uint32_t part = 0; part < weight->parts; part++) {
    struct rsk_rows found = {part, 1, 1, weight->channels * weight->params[0], cursor->value, 0};
    if (RSK_STRAIGHT && !weight->decode) {
      taps.places = (const rsk_place*)(const void*)(work + c->table_at);
      taps.ids = (const uint8_t*)weight->index + cursor->kernel;
      cursor->kernel += weight->channels, cursor->value += found.kept;
    } else {
      found = weight->decode(weight, work + c->table_at, c->panel.plane, part, cursor, list);
      memset(list + found.kept, 0, 3 * sizeof *list);
    }
    taps.kept = run * found.kept;
    for (uint32_t number = 0, count; number < found.count; number += count) {
      const int one = RSK_ALONE_S8 || (RSK_STRAIGHT && c->sum) || (RSK_SINGLES && found.count - number < 2);
      rsk_summer_s8* sum = RSK_STRAIGHT && c->sum ? c->sum : one ? rsk_sum_s8 : rsk_sum_2_s8;
      int32_t bias[2];
      count = one ? 1 : 2;
      for (uint32_t i = 0; i < count; i++) {
        taps.values[i] = (const int8_t*)weight->values + run * (found.value + (number + i) * found.pitch);
        bias[i] = c->bias[group + found.first + (number + i) * found.step];
      }
      for (uint32_t line = 0; line < rows; line += lines) {
        taps.panel = panel + line * c->panel.pitch;
#if RSK_ALONE_S8
        if (taps.kept > RSK_LONGEST_S8)
          rsk_sum_parts_s8(sum, taps, taps.ids ? weight->params[0] : run, bias, sums, run > 1 ? lines * pitch : pitch, pitch, blocks);
        else
#endif
          sum(&taps, bias, sums, pitch, blocks);
        for (uint32_t i = 0; i < count; i++) {
          const uint32_t own = found.first + (number + i) * found.step;
          rsk_requantise(&c->requant, group + own, sums + i * pitch, row_pitch, residual, out, at + own * size + line * width, lines, width);
        }
      }
    }
  }
}

/* out = requantised(conv(in) + bias) + residual */
RSK_FUNCTION_ONCE void rsk_conv_s8(const struct rsk_conv_s8* c, const int8_t* in, const int8_t* residual, void* out, float* work) {
  const uint32_t groups = c->weight.groups, channels = c->weight.channels, filters = c->weight.filters / groups;
  const size_t in_size = (size_t)c->panel.height * c->panel.width, out_size = (size_t)c->panel.out_height * c->panel.out_width;
  rsk_cell_s8* panel = (rsk_cell_s8*)(void*)work;
  size_t at = 0;
  memset(panel + channels * (size_t)c->panel.plane, 0,
         c->sums_at * sizeof *work - channels * (size_t)c->panel.plane * sizeof *panel); /* read behind the last */
  if (c->weight.prepare) c->weight.prepare(&c->weight, work + c->table_at);
  for (uint32_t image = 0; image < c->panel.batch; image++) {
    struct rsk_cursor start = {0, 0, 0}, cursor = start;
    for (uint32_t group = 0; group < groups; group++, start = cursor, in += channels * in_size, at += filters * out_size)
      for (uint32_t top = 0; top < c->panel.out_height; top += c->panel.strip) {
        const uint32_t rows = c->panel.out_height - top < c->panel.strip ? c->panel.out_height - top : c->panel.strip;
        rsk_pack_s8(&c->panel, in, channels, top, panel);
        cursor = start;
        rsk_strip_s8(c, &cursor, group * filters, residual, out, at + top * (size_t)c->panel.out_width, rows, work);
      }
  }
}

#endif
