// The inner loops of Winograd layers (winograd.h), compiled once for each instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "conv.h"

namespace rsk {

constexpr uint32_t kWinogradPoints = 36;

// Where tiles of one row of tiles are written: pixel 0 of the first for filter 0 of a panel; at most four rows.
struct WinogradTarget {
  float* out;
  const float* residual;  // or null
  int64_t plane, row, residual_plane, residual_row;
  uint32_t rows, columns;
};

// The loops for one instruction set.
struct WinogradTiles {
  static constexpr uint32_t kMaxVectors = 4, kMaxTiles = 14;

  uint32_t lanes;    // of a vector
  uint32_t vectors;  // of filters, in a panel
  uint32_t tiles;    // in registers beside them

  // u[c][f] of the 36 points, `step` floats apart, from weights[f][c][9]: `count` filters, the others of the panel 0.
  void (*weights)(const float* weights, size_t channels, uint32_t count, uint32_t vectors, float* u, size_t step);

  // Rows [first, first + count) of a plane as the transform reads them: column dx of tile t of row i is at
  // to[((i % 4) · 6 + dx) · step + i / 4 · tiles + t], pixel 4t + dx - left, 0 outside the plane. One float before and a vector
  // behind each list may be touched.
  void (*split)(const float* plane, int64_t row, int64_t high, int64_t first, int64_t count, int64_t left, int64_t width, int64_t tiles, float* to,
                size_t step);

  // to[point · point_step + t] from split rows, `down` tiles in each row of tiles. Writes whole vectors where `room` floats allow it.
  void (*input)(const float* from, size_t step, size_t down, size_t count, size_t room, float* to, size_t point_step);

  // m[t][vector][point][f] = Σ_c u[c][f] · v[c · pitch + t], for `vectors` of filters and `tiles`; m stands at a point. Fetches a cache line of every next[c].
  using Product = void (*)(const float* u, const float* v, size_t pitch, size_t channels, float* m, const float* next);
  Product product[kMaxVectors + 1][kMaxTiles + 1];

  // Up to lanes / 4 tiles of m[t][vector][point][f], finished: `count` filters from `first` on.
  void (*output)(const Epilogue& epilogue, const float* m, uint32_t tiles, uint32_t vectors, uint32_t first, uint32_t count, const WinogradTarget& target);
};

extern const WinogradTiles kWinogradAvx512;
extern const WinogradTiles kWinogradAvx2;
extern const WinogradTiles kWinogradNeon;
extern const WinogradTiles kWinogradPortable;

}  // namespace rsk
