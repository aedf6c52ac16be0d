// The inner loops, compiled once for each instruction set. They hold no memory and know no layer: kernels prepare what they read.
#pragma once

#include <cstddef>
#include <cstdint>

#include "conv.h"
#include "pack.h"

namespace rsk {

// Eight weights, of a bundle's filters in turn, and the rows that they multiply, as floats from the start of a chunk of rows.
struct alignas(16) TableGroup {
  static constexpr uint32_t kSize = 8;
  float weights[kSize];
  uint16_t rows[kSize];
};

// Filters whose sums are in registers together, for `groups` groups: that hides the latency of a multiply-add. Then `shorts` groups
// of rows that are zero in a tile's last vector, which is left out.
struct TableBundle {
  uint16_t groups, shorts;
  uint16_t filters[TableGroup::kSize];  // numbers of sums
};

struct Tiles {
  static constexpr uint32_t kMaxVectors = 4, kMaxFilters = 28;

  // sums[r][p] = Σ_i weights[i][r] · x[offsets[i] + p] for `filters` filters and 16·vectors positions.
  using Shared = void (*)(const float* x, const int32_t* offsets, size_t rows, const float* weights, float* sums);
  Shared shared[kMaxVectors + 1][kMaxFilters + 1];  // [vectors][filters]
  uint32_t shared_filters[kMaxVectors + 1];         // how many filters fill the registers

  // sums[f][p] += Σ_i weight_i · x[row_i + p], bundle after bundle. Returns the end of the groups, behind which one more can be read.
  using Table = const TableGroup* (*)(const float* x, const TableGroup* groups, const TableBundle* bundles, size_t count, float* sums);
  Table table[kMaxVectors + 1][kMaxVectors + 1];  // [vectors of a tile][of them that it computes]
  uint32_t table_filters[kMaxVectors + 1];        // of a bundle, a divisor of a group's size

  // Applies the epilogue to sums[r][16·vectors] of the filters listed and stores them at tile.out.
  using Finish = void (*)(const Epilogue& epilogue, const Tile& tile, const uint32_t* filters, size_t count, uint32_t vectors, const float* sums);
  Finish finish;

  Pack pack;
};

extern const Tiles kTilesAvx512;
extern const Tiles kTilesAvx2;
extern const Tiles kTilesNeon;
extern const Tiles kTilesPortable;

}  // namespace rsk
