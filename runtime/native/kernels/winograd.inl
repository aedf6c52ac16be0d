// Included by one file for each instruction set, which defines RSK_WINOGRAD; the rules of tiles.inl hold.
#pragma once

#include "lanes.inl"
#include "winograd_tiles.h"

namespace rsk {

namespace {

namespace winograd {

constexpr float kA = 0.707106781F, kB = 1.41421356F;  // the points, and what else Aᵀ holds: their cubes
constexpr float kA3 = 0.353553391F, kB3 = 2.82842712F;

// ---- weights

// G · g of kLanes filters, in double precision: what Aᵀ and Bᵀ leave of the points' Lagrange factors is here.
inline void expand(const double (*g)[kLanes], size_t step, double (*to)[kLanes], size_t to_step) {
  constexpr double kThird = 1.0 / 3, kSixth = 1.0 / 6, kRoot = 1.4142135623730950488;
  for (uint32_t lane = 0; lane < kLanes; ++lane) {
    const double x = g[0][lane], y = g[step][lane], z = g[2 * step][lane];
    const double near = -kThird * (2 * x + z), near_odd = -kThird * kRoot * y, far = kSixth * (x + 2 * z), far_odd = kSixth * kRoot * y;
    to[0][lane] = x;
    to[to_step][lane] = near + near_odd, to[2 * to_step][lane] = near - near_odd;
    to[3 * to_step][lane] = far + far_odd, to[4 * to_step][lane] = far - far_odd;
    to[5 * to_step][lane] = z;
  }
}

void weights(const float* from, size_t channels, uint32_t count, uint32_t vectors, float* u, size_t step) {
  for (size_t channel = 0; channel < channels; ++channel) {
    for (uint32_t first = 0; first < vectors * kLanes; first += kLanes, u += kLanes) {
      double taps[9][kLanes] = {}, half[18][kLanes], whole[kWinogradPoints][kLanes];
      for (uint32_t lane = 0; lane < kLanes && first + lane < count; ++lane) {
        const float* kernel = from + ((first + lane) * channels + channel) * 9;
        for (size_t tap = 0; tap < 9; ++tap) taps[tap][lane] = double{kernel[tap]};
      }
      for (size_t column = 0; column < 3; ++column) expand(taps + column, 3, half + column, 3);
      for (size_t row = 0; row < 6; ++row) expand(half + 3 * row, 1, whole + 6 * row, 1);
      for (size_t point = 0; point < kWinogradPoints; ++point) {
        for (uint32_t lane = 0; lane < kLanes; ++lane) u[point * step + lane] = static_cast<float>(whole[point][lane]);
      }
    }
  }
}

// ---- inputs

void split(const float* plane, int64_t row, int64_t high, int64_t first, int64_t count, int64_t left, int64_t width, int64_t tiles, float* to, size_t step) {
  const auto part_from = [&](int64_t at) { return Part(at < 0 ? -at : 0, width > at ? width - at : 0); };
  const Part leftmost = part_from(-left);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t y = first + i;
    float* const list = to + i % 4 * 6 * static_cast<int64_t>(step) + i / 4 * tiles;
    // Columns 4 and 5 of a tile are 0 and 1 of the next, so a vector's last tile is the first of the one behind it.
    for (int64_t tile = 0; tile < tiles; tile += kLanes - 1) {
      const int64_t at = 4 * tile - left;
      Floats in[4] = {};
      if (y >= 0 && y < high) (tile == 0 ? leftmost : part_from(at)).load_four(plane + y * row + at, in);
      const Floats even0 = even(in[0], in[1], Lanes()), even1 = even(in[2], in[3], Lanes());
      const Floats odd0 = odd(in[0], in[1], Lanes()), odd1 = odd(in[2], in[3], Lanes());
      const Floats zero = even(even0, even1, Lanes()), one = even(odd0, odd1, Lanes());
      const Floats columns[6] = {zero, one, odd(even0, even1, Lanes()), odd(odd0, odd1, Lanes()), next(zero, Lanes()), next(one, Lanes())};
#pragma GCC unroll 6
      for (size_t dx = 0; dx < 6; ++dx) store(list + dx * step + tile, columns[dx]);
    }
  }
}

// Bᵀ · d
inline void spread(const Floats (&d)[6], Floats (&to)[6]) {
  const Floats near = d[4] - 2.0F * d[2], near_odd = kA * (d[3] - 2.0F * d[1]);
  const Floats far = d[4] - 0.5F * d[2], far_odd = kB * (d[3] - 0.5F * d[1]);
  to[0] = d[0] + d[4] - 2.5F * d[2];
  to[1] = near + near_odd, to[2] = near - near_odd;
  to[3] = far + far_odd, to[4] = far - far_odd;
  to[5] = d[1] + d[5] - 2.5F * d[3];
}

// Row i of Bᵀ · d for the rows that share terms: 0, then 1 and 2, 3 and 4, 5.
inline void input(const float* from, size_t step, size_t down, int64_t room, float* to, size_t point_step) {
  const auto at = [&](size_t dy, size_t dx) { return load(from + dy / 4 * down + (dy % 4 * 6 + dx) * step); };
  const auto put = [&](size_t i, const Floats(&half)[6]) {
    Floats points[6];
    spread(half, points);
#pragma GCC unroll 6
    for (size_t j = 0; j < 6; ++j) {
      float* const point = to + (6 * i + j) * point_step;
      if (room >= kLanes) {
        store(point, points[j]);
      } else {
        store_first(point, points[j], room);
      }
    }
  };
  Floats half[6], other[6];
#pragma GCC unroll 6
  for (size_t dx = 0; dx < 6; ++dx) half[dx] = at(0, dx) + at(4, dx) - 2.5F * at(2, dx);
  put(0, half);
#pragma GCC unroll 6
  for (size_t dx = 0; dx < 6; ++dx) {
    const Floats even = at(4, dx) - 2.0F * at(2, dx), odd = kA * (at(3, dx) - 2.0F * at(1, dx));
    half[dx] = even + odd, other[dx] = even - odd;
  }
  put(1, half), put(2, other);
#pragma GCC unroll 6
  for (size_t dx = 0; dx < 6; ++dx) {
    const Floats even = at(4, dx) - 0.5F * at(2, dx), odd = kB * (at(3, dx) - 0.5F * at(1, dx));
    half[dx] = even + odd, other[dx] = even - odd;
  }
  put(3, half), put(4, other);
#pragma GCC unroll 6
  for (size_t dx = 0; dx < 6; ++dx) half[dx] = at(1, dx) + at(5, dx) - 2.5F * at(3, dx);
  put(5, half);
}

void inputs(const float* from, size_t step, size_t down, size_t count, size_t room, float* to, size_t point_step) {
  for (size_t tile = 0; tile < count; tile += kLanes) input(from + tile, step, down, static_cast<int64_t>(room - tile), to + tile, point_step);
}

// ---- products

template <uint32_t kVectors, uint32_t kTiles>
void product(const float* u, const float* v, size_t pitch, size_t channels, float* m, const float* next) {
  Floats sum[kTiles][kVectors] = {};
  for (size_t channel = 0; channel < channels; ++channel, u += kVectors * kLanes, v += pitch, next += kVectors * kLanes) {
    __builtin_prefetch(next, 0, 2);
    Floats weight[kVectors];
#pragma GCC unroll 4
    for (uint32_t i = 0; i < kVectors; ++i) weight[i] = load(u + kLanes * i);
#pragma GCC unroll 16
    for (uint32_t tile = 0; tile < kTiles; ++tile) {
      const Floats factor = broadcast_of<kTiles>(v, tile);
#pragma GCC unroll 4
      for (uint32_t i = 0; i < kVectors; ++i) sum[tile][i] += factor * weight[i];
    }
  }
#pragma GCC unroll 16
  for (uint32_t tile = 0; tile < kTiles; ++tile) {
#pragma GCC unroll 4
    for (uint32_t i = 0; i < kVectors; ++i) store(m + (tile * kVectors + i) * kWinogradPoints * kLanes, sum[tile][i]);
  }
}

// ---- outputs

// Aᵀ · m
inline void gather(const Floats (&m)[6], Floats (&to)[4]) {
  const Floats near = m[1] + m[2], near_odd = m[1] - m[2], far = m[3] + m[4], far_odd = m[3] - m[4];
  to[0] = m[0] + near + far;
  to[1] = kA * near_odd + kB * far_odd;
  to[2] = 0.5F * near + 2.0F * far;
  to[3] = m[5] + kA3 * near_odd + kB3 * far_odd;
}

// rows[y][4 · tile + x] of a vector of filters.
inline void outputs_of(const float* m, Floats (&rows)[4][kLanes], uint32_t tile) {
  Floats half[4][6];
#pragma GCC unroll 6
  for (size_t j = 0; j < 6; ++j) {
    Floats column[6], gathered[4];
#pragma GCC unroll 6
    for (size_t i = 0; i < 6; ++i) column[i] = load(m + (6 * i + j) * kLanes);
    gather(column, gathered);
#pragma GCC unroll 4
    for (size_t y = 0; y < 4; ++y) half[y][j] = gathered[y];
  }
#pragma GCC unroll 4
  for (size_t y = 0; y < 4; ++y) {
    Floats gathered[4];
    gather(half[y], gathered);
#pragma GCC unroll 4
    for (size_t x = 0; x < 4; ++x) rows[y][4 * tile + x] = gathered[x];
  }
}

// One row of pixels of `count` filters, a vector of pixels each.
template <Activation kActivation>
inline void finish_row(const Epilogue& epilogue, const Floats (&pixels)[kLanes], uint32_t first, uint32_t count, const WinogradTarget& target, int64_t row) {
  const int64_t columns = target.columns;
  float* to = target.out + row * target.row;
  const float* residual = target.residual != nullptr ? target.residual + row * target.residual_row : nullptr;
  for (uint32_t filter = 0; filter < count; ++filter, to += target.plane) {
    Floats value = pixels[filter];
    if (epilogue.bias != nullptr) value += epilogue.bias[first + filter];
    if (residual != nullptr) {
      value += columns == kLanes ? load(residual) : load_first(residual, columns);
      residual += target.residual_plane;
    }
    value = activate<kActivation>(epilogue, value);
    if (columns == kLanes) {
      store(to, value);
    } else {
      store_first(to, value, columns);
    }
  }
}

template <Activation kActivation>
void output_with(const Epilogue& epilogue, const float* m, uint32_t tiles, uint32_t vectors, uint32_t first, uint32_t count, WinogradTarget target) {
  Floats rows[4][kLanes] = {};
  for (uint32_t at = 0; at < count; at += kLanes, m += kWinogradPoints * kLanes) {
    for (uint32_t tile = 0; tile < tiles; ++tile) outputs_of(m + tile * vectors * kWinogradPoints * kLanes, rows, tile);
    const uint32_t filters = count - at < kLanes ? count - at : kLanes;
    for (uint32_t row = 0; row < target.rows; ++row) {
      transpose(rows[row]);
      finish_row<kActivation>(epilogue, rows[row], first + at, filters, target, row);
    }
    target.out += kLanes * target.plane;
    if (target.residual != nullptr) target.residual += kLanes * target.residual_plane;
  }
}

void output(const Epilogue& epilogue, const float* m, uint32_t tiles, uint32_t vectors, uint32_t first, uint32_t count, const WinogradTarget& target) {
  const auto with = [&](auto output_one) { output_one(epilogue, m, tiles, vectors, first, count, target); };
  switch (epilogue.activation) {
    case Activation::kNone:
      return with(output_with<Activation::kNone>);
    case Activation::kRelu:
      return with(output_with<Activation::kRelu>);
    case Activation::kClip:
      return with(output_with<Activation::kClip>);
    case Activation::kLeakyRelu:
      return with(output_with<Activation::kLeakyRelu>);
    case Activation::kHardSwish:
      return with(output_with<Activation::kHardSwish>);
    case Activation::kSilu:
      return with(output_with<Activation::kSilu>);
    case Activation::kSigmoid:
      return with(output_with<Activation::kSigmoid>);
  }
}

// ---- the table

// Sums in registers: 28 or, with short vectors, 24 of 32; 12 of 16.
constexpr uint32_t kPanel = kLanes == 4 && RSK_REGISTERS == 32 ? 4 : 2;
constexpr uint32_t kTiles = kLanes == 16 ? 14 : 6;

template <uint32_t kVectors, uint32_t kCount = kTiles>
constexpr void fill_products(WinogradTiles& table) {
  if constexpr (kCount > 0) {
    table.product[kVectors][kCount] = product<kVectors, kCount>;
    fill_products<kVectors, kCount - 1>(table);
  }
}

template <uint32_t kVectors = kPanel>
constexpr void fill_panels(WinogradTiles& table) {
  if constexpr (kVectors > 0) {
    fill_products<kVectors>(table);
    fill_panels<kVectors - 1>(table);
  }
}

constexpr WinogradTiles make_table() {
  WinogradTiles table = {};
  table.lanes = kLanes, table.vectors = kPanel, table.tiles = kTiles;
  table.weights = weights, table.split = split, table.input = inputs, table.output = output;
  fill_panels(table);
  return table;
}

}  // namespace winograd

}  // namespace

constexpr WinogradTiles RSK_WINOGRAD = winograd::make_table();

}  // namespace rsk
