#include <immintrin.h>

#include "bitmask.h"

namespace rsk {

namespace {

constexpr uint32_t kLanes = 16, kVectors = BitmaskLoop::kFilters / kLanes;
constexpr size_t kAhead = 2048;  // floats

template <uint32_t kPositions>
void add(const float* x, const int32_t* offsets, const uint64_t* masks, size_t rows, const float* values, const uint32_t* positions, float* sums) {
  __m512 sum[kPositions][kVectors];
  float* to[kPositions];
  const float* from[kPositions];
#pragma GCC unroll 8
  for (uint32_t p = 0; p < kPositions; ++p) {
    to[p] = sums + size_t{BitmaskLoop::kFilters} * positions[p];
    from[p] = x + positions[p];
#pragma GCC unroll 4
    for (uint32_t i = 0; i < kVectors; ++i) sum[p][i] = _mm512_loadu_ps(to[p] + kLanes * i);
  }
  for (size_t row = 0; row < rows; ++row) {
    const uint64_t mask = masks[row];
    __m512 in[kPositions];
#pragma GCC unroll 8
    for (uint32_t p = 0; p < kPositions; ++p) in[p] = _mm512_set1_ps(from[p][offsets[row]]);
#pragma GCC unroll 3
    for (uint32_t line = 0; line < 3; ++line) __builtin_prefetch(values + kAhead + kLanes * line);
#pragma GCC unroll 4
    for (uint32_t i = 0; i < kVectors; ++i) {
      auto kept = static_cast<__mmask16>(mask >> kLanes * i);
      asm("" : "+Yk"(kept));  // else it moves to a mask register for each use, through a port that expansions need
      const uint64_t before = mask & ((uint64_t{1} << kLanes * i) - 1);
      // In place: expanded to another register it would wait for that one's last use, whether or not lanes become zero.
      const __m512 packed = _mm512_loadu_ps(values + __builtin_popcountll(before)), weights = _mm512_mask_expand_ps(packed, kept, packed);
#pragma GCC unroll 8
      for (uint32_t p = 0; p < kPositions; ++p) sum[p][i] = _mm512_mask3_fmadd_ps(weights, in[p], sum[p][i], kept);
    }
    values += __builtin_popcountll(mask);
  }
#pragma GCC unroll 8
  for (uint32_t p = 0; p < kPositions; ++p) {
#pragma GCC unroll 4
    for (uint32_t i = 0; i < kVectors; ++i) _mm512_storeu_ps(to[p] + kLanes * i, sum[p][i]);
  }
}

}  // namespace

constexpr BitmaskLoop kBitmaskAvx512 = {{nullptr, add<1>, add<2>, add<3>, add<4>, add<5>, add<6>}};

}  // namespace rsk
