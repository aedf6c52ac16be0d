// Straight-line code for a sparse matrix: for every row that a filter of the block uses, load it once, then one
// multiply-add a nonzero. The positions of the nonzeros are in the instructions, the weights in a stream beside them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "conv.h"
#include "cpu.h"

namespace rsk {

// How many filters and how many 16-float vectors the registers hold, after how many bytes of code a piece ends, and whether so many
// tiles run it that it is made for all but the first.
struct RegisterTile {
  uint32_t filters, vectors;
  uint32_t piece_bytes = 16384;
  bool reused = false;
};

struct UnrolledRequest {
  Matrix matrix;
  const int32_t* offsets;          // less than 2²⁹ away from 0
  uint32_t vectors;                // of a tile
  int32_t phase = -1;              // as in ConvRequest
  const uint8_t* sides = nullptr;  // as in ConvRequest; for AVX-512 alone
  uint32_t tiles = 1;              // that follow each other in a piece
  const Epilogue* epilogue = nullptr;

  // Whether generated code applies the epilogue itself.
  bool finishes() const;
};

// What a call of a piece takes beside its numbers.
struct UnrolledCall {
  // What it prefetches: code and weights that are used soon, as many lines of 64 bytes as GeneratedCode says.
  const uint8_t* code_ahead = nullptr;
  const float* weights_ahead = nullptr;
  // Where a block that is finished goes: filter `i` of it to out + i·stride; strides are in bytes.
  float* out = nullptr;
  size_t stride = 0;
  const float* residual = nullptr;
  size_t residual_stride = 0;
  uint64_t keep = 0;
  uint64_t inside[2] = {};  // as in Tile, if the request has sides
};

// A piece of a block's code, a function of the machine's usual C calling convention (System V, AAPCS64) that may lie anywhere:
//   void piece(const float* weights, const float* x, float* sums, const UnrolledCall* call)
// It adds to (the first piece: sets) sums[filter][16·tile.vectors], which are aligned to 64 bytes; `weights` is where its own
// begin, aligned to 4 bytes. If the code `finishes`, the last piece applies the epilogue and stores where `call` says.
struct CodePiece {
  size_t entry = 0;         // in `code`, a multiple of 64
  size_t first_weight = 0;  // in `weights`
};

struct GeneratedCode {
  std::vector<uint8_t> code;
  std::vector<float> weights;
  std::vector<CodePiece> pieces;
  bool finishes = false;
  uint32_t code_lines_ahead = 0, weight_lines_ahead = 0;  // of a call
};

constexpr int64_t kUnrolledReach = (1 << 29) - 64;  // how far from 0 an offset may be: 32-bit displacements in bytes

// Filters whose sums are in registers together, and their pieces, which run one after the other.
struct UnrolledBlock {
  std::vector<uint32_t> filters;
  size_t first = 0, last = 0;  // pieces
};

struct UnrolledLayer {
  RegisterTile tile;
  GeneratedCode generated;
  std::vector<UnrolledBlock> blocks;
};

// The code of a layer for any machine, this one or not. A tile that has more vectors than the code's is passed over in steps of
// `tile.vectors`. With an epilogue the code finishes if it can.
UnrolledLayer unrolled_layer(const UnrolledRequest& request, Isa isa);

RegisterTile unrolled_tile_avx512(const UnrolledRequest& request);
RegisterTile unrolled_tile_avx2(const UnrolledRequest& request);
RegisterTile unrolled_tile_neon(const UnrolledRequest& request);

// Appends the code of `filters` (at most the tile's) to `out`.
using GenerateUnrolled = void(const UnrolledRequest& request, std::span<const uint32_t> filters, RegisterTile tile, GeneratedCode& out);
GenerateUnrolled generate_unrolled_avx512, generate_unrolled_avx2, generate_unrolled_neon;

}  // namespace rsk
