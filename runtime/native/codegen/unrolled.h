// Straight-line code for a sparse matrix: for every row that a filter of the block uses, load it once, then one
// multiply-add a nonzero. The positions of the nonzeros are in the instructions, the weights in a stream beside them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "conv.h"

namespace rsk {

// How many filters and how many 16-float vectors the registers hold.
struct RegisterTile {
  uint32_t filters, vectors;
};

// A piece of a block's code: void(const float* weights, const float* x, float* sums). It adds to (the first piece: sets)
// sums[filter][16·vectors], which are aligned to 64 bytes.
struct CodePiece {
  size_t entry = 0;         // in `code`, a multiple of 64
  size_t first_weight = 0;  // in `weights`
};

struct GeneratedCode {
  std::vector<uint8_t> code;
  std::vector<float> weights;
  std::vector<CodePiece> pieces;
};

constexpr size_t kPieceBytes = 16384;  // a piece that is run for many tiles stays in the caches for instructions

RegisterTile unrolled_tile_avx512(uint32_t vectors);
RegisterTile unrolled_tile_avx2(uint32_t vectors);

// Appends the code of `filters` (at most the tile's) to `out`. Offsets are less than 2²⁹ away from 0.
void generate_unrolled_avx512(const Matrix& matrix, const int32_t* offsets, std::span<const uint32_t> filters, RegisterTile tile, GeneratedCode& out);
void generate_unrolled_avx2(const Matrix& matrix, const int32_t* offsets, std::span<const uint32_t> filters, RegisterTile tile, GeneratedCode& out);

}  // namespace rsk
