/* Convolution by code of its own, which lies in an assembly file: the places of the kept taps are in its instructions, the values in a stream.

   Some filters at a time are a block; its code is cut into pieces, each of which runs for every sixteen positions before the next does. */
#ifndef RSK_GENERATED_H
#define RSK_GENERATED_H

#include "rsk_conv.h"

#define RSK_CODE_POSITIONS 16

/* What a piece reads beside its numbers. It prefetches from `*_ahead`; a block's last piece stores filter f at out + f * stride bytes. */
struct rsk_code_call {
  const unsigned char* code_ahead;
  const float* values_ahead;
  float* out;
  size_t stride;
  const float* residual;
  size_t residual_stride;
  uint64_t keep; /* a bit for each position that is not to be zero */
};

/* Adds to (a block's first piece: sets) sums[filter][RSK_CODE_POSITIONS]. */
typedef void rsk_code(const float* values, const float* x, float* sums, const struct rsk_code_call* call);

struct rsk_piece {
  rsk_code* run;
  const unsigned char* code; /* where `run` lies */
  const float* values;
};

struct rsk_block {
  uint32_t filters, pieces;
};

/* Of `conv` all but the weight's structure; the code adds the bias. Bytes of code and floats that a call prefetches are `*_ahead`. */
struct rsk_generated {
  struct rsk_conv conv;
  const struct rsk_block* blocks;
  const struct rsk_piece* pieces;
  uint32_t count, partial_at, code_ahead, values_ahead;
};

/* All filters over one packed strip, as rsk_strip. */
RSK_FUNCTION void rsk_generated_strip(const struct rsk_generated* g, const float* residual, float* out, uint32_t rows, float* work) {
  const struct rsk_conv* c = &g->conv;
  const uint32_t positions = (rows - 1) * c->panel.pitch + c->panel.out_width, tiles = (positions + RSK_CODE_POSITIONS - 1) / RSK_CODE_POSITIONS;
  const size_t pitch = (size_t)tiles * RSK_CODE_POSITIONS, size = (size_t)c->panel.out_height * c->panel.out_width;
  float *sums = work + c->sums_at, *partial = work + g->partial_at;
  const struct rsk_piece* piece = g->pieces;
  for (uint32_t block = 0; block < g->count; block++) {
    const uint32_t filters = g->blocks[block].filters;
    for (uint32_t number = 0; number < g->blocks[block].pieces; number++, piece++) {
      const struct rsk_piece* next = block + 1 == g->count && number + 1 == g->blocks[block].pieces ? g->pieces : piece + 1;
      struct rsk_code_call call = {next->code, next->values, sums, pitch * sizeof(float), NULL, 0, UINT64_MAX};
      for (uint32_t tile = 0; tile < tiles; tile++) {
        const size_t at = (size_t)tile * RSK_CODE_POSITIONS;
        piece->run(piece->values, work + at, partial + at * filters, &call);
        call.code_ahead += g->code_ahead, call.values_ahead += g->values_ahead, call.out += RSK_CODE_POSITIONS;
      }
    }
    for (uint32_t filter = 0; filter < filters; filter++, out += size) {
      rsk_finish(c, sums + filter * pitch, residual, out, rows);
      if (residual) residual += size;
    }
  }
}

/* out = activation(conv(in) + bias + residual); `residual` may be `out`, or NULL. */
RSK_FUNCTION void rsk_conv_generated(const struct rsk_generated* g, const float* in, const float* residual, float* out, float* work) {
  const struct rsk_panel* panel = &g->conv.panel;
  const uint32_t channels = g->conv.weight.channels;
  const size_t in_size = (size_t)panel->height * panel->width, out_size = (size_t)panel->out_height * panel->out_width;
  const size_t cells = (size_t)channels * panel->plane;
  memset(work + cells, 0, (g->conv.sums_at - cells) * sizeof *work); /* read behind the last channel */
  for (uint32_t image = 0; image < panel->batch; image++) {
    for (uint32_t top = 0; top < panel->out_height; top += panel->strip) {
      const uint32_t rows = panel->out_height - top < panel->strip ? panel->out_height - top : panel->strip;
      const size_t at = top * (size_t)panel->out_width;
      rsk_pack(panel, in, channels, top, work);
      rsk_generated_strip(g, residual ? residual + at : NULL, out + at, rows, work);
    }
    in += channels * in_size, out += g->conv.weight.filters * out_size;
    if (residual) residual += g->conv.weight.filters * out_size;
  }
}

#endif
