/* Convolution of 8-bit integers with 32-bit sums. The panel has 16-bit cells: products of two need no more. */
#ifndef RSK_CONV_S8_H
#define RSK_CONV_S8_H

#include "rsk_eight.h"
#include "rsk_panel.h"
#include "rsk_weight.h"

#define RSK_INPUT int8_t
#define RSK_CELL int16_t
#define RSK_PACK rsk_pack_s8
#define RSK_PACK_BY rsk_pack_s8_by
#define RSK_PACK_CELLS rsk_pack_s8_cells
#include "rsk_panel.inl"
#undef RSK_INPUT
#undef RSK_CELL
#undef RSK_PACK
#undef RSK_PACK_BY
#undef RSK_PACK_CELLS

struct rsk_conv_s8 {
  struct rsk_weight weight;
  const int32_t* bias;
  struct rsk_panel panel;
  uint32_t sums_at, list_at, table_at; /* in the work space, in units of four bytes; the panel comes first */
  struct rsk_requant requant;
};

#if RSK_HELIUM || defined(RSK_DSP)
#if RSK_HELIUM
enum { RSK_BLOCK = 4, RSK_BLOCKS = 4 }; /* positions in a block, and blocks that the registers hold */

/* The sums of `blocks` blocks, in registers. They have room for whole blocks. */
static inline void rsk_blocks_s8(const int16_t* panel, const rsk_place* list, uint32_t kept, const int8_t* values, int32_t bias, int32_t* sums,
                                 uint32_t blocks) {
  int32x4_t sum[RSK_BLOCKS];
  for (uint32_t i = 0; i < blocks; i++) sum[i] = vdupq_n_s32(bias);
  for (uint32_t k = 0; k < kept; k++)
    for (uint32_t i = 0; i < blocks; i++) sum[i] = vmlaq_n_s32(sum[i], vldrhq_s32(panel + list[k] + 4 * i), values[k]);
  for (uint32_t i = 0; i < blocks; i++) vstrwq_s32(sums + 4 * i, sum[i]);
}
#else
enum { RSK_BLOCK = 2, RSK_BLOCKS = 3 };

static inline void rsk_blocks_s8(const int16_t* panel, const rsk_place* list, uint32_t kept, const int8_t* values, int32_t bias, int32_t* sums,
                                 uint32_t blocks) {
  int32_t even[RSK_BLOCKS], odd[RSK_BLOCKS];
  for (uint32_t i = 0; i < blocks; i++) even[i] = odd[i] = bias;
  for (uint32_t k = 0; k < kept; k += 2) {
    const uint32_t next = k + 1 < kept ? k + 1 : k;
    const int16_t *x = panel + list[k], *y = panel + list[next];
    const int16x2_t pair = rsk_lower((uint32_t)values[k], next > k ? (uint32_t)values[next] : 0);
    for (uint32_t i = 0; i < blocks; i++) {
      const uint32_t a = rsk_word(x + 2 * i), b = rsk_word(y + 2 * i);
      even[i] = __smlad(rsk_lower(a, b), pair, even[i]);
      odd[i] = __smlad(rsk_upper(a, b), pair, odd[i]);
    }
  }
  for (uint32_t i = 0; i < blocks; i++) sums[2 * i] = even[i], sums[2 * i + 1] = odd[i];
}
#endif

RSK_FUNCTION void rsk_sum_s8(const int16_t* panel, const rsk_place* list, uint32_t kept, const int8_t* values, int32_t bias, int32_t* restrict sums,
                             uint32_t positions) {
  for (uint32_t left = (positions + RSK_BLOCK - 1) / RSK_BLOCK, blocks; left; left -= blocks, panel += RSK_BLOCK * blocks, sums += RSK_BLOCK * blocks) {
    blocks = left < RSK_BLOCKS ? left : RSK_BLOCKS;
    switch (blocks) {
      case 1:
        rsk_blocks_s8(panel, list, kept, values, bias, sums, 1);
        break;
      case 2:
        rsk_blocks_s8(panel, list, kept, values, bias, sums, 2);
        break;
      case 3:
        rsk_blocks_s8(panel, list, kept, values, bias, sums, 3);
        break;
      default:
        rsk_blocks_s8(panel, list, kept, values, bias, sums, RSK_BLOCKS);
    }
  }
}
#else
/* Four kept weights at a time: their sums are loaded and stored once. gcc makes smlal of it for NEON. */
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
#endif

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
        rsk_pack_s8(&c->panel, in, channels, top, panel);
        cursor = start;
        rsk_strip_s8(c, &cursor, group * filters, residual, out, at + top * (size_t)c->panel.out_width, rows, work);
      }
  }
}

#endif
