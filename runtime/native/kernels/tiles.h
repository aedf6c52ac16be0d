// The inner loops, compiled once for each instruction set. They hold no memory and know no layer: kernels prepare what they read.
#pragma once

#include <cstddef>
#include <cstdint>

#include "conv.h"

namespace rsk {

// Sixteen weights of one filter and the rows that they multiply, as floats from the start of a chunk of rows.
struct alignas(32) TableGroup {
  float weights[16];
  uint16_t rows[16];
};

struct Tiles {
  static constexpr uint32_t kMaxVectors = 4, kMaxFilters = 28;

  // sums[r][p] = Σ_i weights[i][r] · x[offsets[i] + p] for `filters` filters and 16·vectors positions.
  using Shared = void (*)(const float* x, const int32_t* offsets, size_t rows, const float* weights, float* sums);
  Shared shared[kMaxVectors + 1][kMaxFilters + 1];  // [vectors][filters]
  uint32_t shared_filters[kMaxVectors + 1];         // how many filters fill the registers

  // sums[r][p] += Σ_i weight_i · x[row_i + p], where filter r has the next counts[r] groups. Returns the end of the groups.
  using Table = const TableGroup* (*)(const float* x, const TableGroup* groups, const uint16_t* counts, uint32_t filters, float* sums);
  Table table[kMaxVectors + 1];  // [vectors]

  // Applies the epilogue to sums[r][16·vectors] of the filters listed and stores them at tile.out.
  using Finish = void (*)(const Epilogue& epilogue, const Tile& tile, const uint32_t* filters, size_t count, uint32_t vectors, const float* sums);
  Finish finish;
};

extern const Tiles kTilesAvx512;
extern const Tiles kTilesAvx2;

}  // namespace rsk
