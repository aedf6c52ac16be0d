// The inner loop of the kernel of bitmask.cc, for one instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rsk {

struct BitmaskLoop {
  static constexpr uint32_t kFilters = 64, kMaxPositions = 6;

  // sums[positions[p]][f] += Σ_i w[i][f] · x[offsets[i] + positions[p]]: row i keeps the weights of the filters whose bits masks[i] has, packed
  // in `values`, behind which sixteen more can be read.
  using Add = void (*)(const float* x, const int32_t* offsets, const uint64_t* masks, size_t rows, const float* values, const uint32_t* positions, float* sums);
  Add add[kMaxPositions + 1];  // [how many positions]
};

extern const BitmaskLoop kBitmaskAvx512;
extern const BitmaskLoop kBitmaskPortable;

}  // namespace rsk
