// Loads, stores and shuffles of the vectors of tiles.inl; the same rules hold.
#pragma once

#include <utility>

#include "tiles.inl"

#if RSK_LANES > 4
#include <immintrin.h>
#endif

namespace rsk {

namespace {

using Lanes = std::make_index_sequence<kLanes>;

// Loads and stores of the first lanes: nothing beside them is touched, and what is not loaded is 0.
#if RSK_LANES == 16
inline Floats load_first(const float* from, int64_t count) { return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1U << count) - 1), from); }
inline void store_first(float* to, Floats value, int64_t count) { _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1U << count) - 1), value); }
#else
inline Floats load_between(const float* from, int64_t first, int64_t last) {
#if RSK_LANES == 8
  constexpr Ints kLane = {0, 1, 2, 3, 4, 5, 6, 7};
  const Ints chosen = (kLane >= static_cast<int32_t>(first)) & (kLane < static_cast<int32_t>(last));
  return _mm256_maskload_ps(from, reinterpret_cast<__m256i>(chosen));
#else
  float lanes[kLanes] = {};
  for (int64_t i = first; i < last; ++i) lanes[i] = from[i];
  return load(lanes);
#endif
}
inline Floats load_first(const float* from, int64_t count) { return load_between(from, 0, count); }
inline void store_first(float* to, Floats value, int64_t count) {
  float lanes[kLanes];
  store(lanes, value);
  for (int64_t i = 0; i < count; ++i) to[i] = lanes[i];
}
#endif

inline Floats load_spread(const float* from, int64_t step, int64_t count) {
  float lanes[kLanes] = {};
  for (int64_t i = 0; i < count; ++i) lanes[i] = from[i * step];
  return load(lanes);
}

// Four vectors that are loaded from element `first` on, to before `last`; the others are 0.
#if RSK_LANES == 16
class Part {
 public:
  Part(int64_t first, int64_t last) {
    const uint64_t below = last >= 64 ? ~uint64_t{0} : (uint64_t{1} << last) - 1, bits = below & ~uint64_t{0} << first;
    for (uint32_t i = 0; i < 4; ++i) masks_[i] = static_cast<__mmask16>(bits >> 16 * i);
  }
  void load_four(const float* from, Floats (&to)[4]) const {
#pragma GCC unroll 4
    for (uint32_t i = 0; i < 4; ++i) to[i] = _mm512_maskz_loadu_ps(masks_[i], from + 16 * i);
  }

 private:
  __mmask16 masks_[4];
};
#else
class Part {
 public:
  Part(int64_t first, int64_t last) : first_(first), last_(last) {}
  void load_four(const float* from, Floats (&to)[4]) const {
#pragma GCC unroll 4
    for (int64_t begin = 0; begin < 4 * kWide; begin += kWide) {
      const int64_t low = begin < first_ ? first_ - begin : 0, high = begin + kWide > last_ ? last_ - begin : kWide;
      to[begin / kWide] = high - low == kWide ? load(from + begin) : load_between(from + begin, low, high);
    }
  }

 private:
  static constexpr int64_t kWide = kLanes;
  int64_t first_, last_;
};
#endif

template <size_t... kLane>
inline Floats even(Floats a, Floats b, std::index_sequence<kLane...>) {
  return __builtin_shufflevector(a, b, static_cast<int>(2 * kLane)...);
}
template <size_t... kLane>
inline Floats odd(Floats a, Floats b, std::index_sequence<kLane...>) {
  return __builtin_shufflevector(a, b, static_cast<int>(2 * kLane + 1)...);
}

template <size_t... kLane>
inline Floats next(Floats a, std::index_sequence<kLane...>) {
  return __builtin_shufflevector(a, a, static_cast<int>((kLane + 1) % kLanes)...);
}

// Of each four lanes, element kFirst and the one behind it, of a and b in turn; then pairs of elements in the same way.
template <size_t kFirst, size_t... kLane>
inline Floats zip(Floats a, Floats b, std::index_sequence<kLane...>) {
  return __builtin_shufflevector(a, b, static_cast<int>(kLane / 4 * 4 + kFirst + kLane % 4 / 2 + kLane % 2 * kLanes)...);
}
template <size_t kFirst, size_t... kLane>
inline Floats zip_pairs(Floats a, Floats b, std::index_sequence<kLane...>) {
  return __builtin_shufflevector(a, b, static_cast<int>(kLane / 4 * 4 + kFirst + kLane % 2 + kLane % 4 / 2 * kLanes)...);
}

// Groups of four lanes: the first half of the result is from a, `kStep` apart from group kFirst on, the second from b.
template <size_t kFirst, size_t kStep, size_t... kLane>
inline Floats groups(Floats a, Floats b, std::index_sequence<kLane...>) {
  constexpr size_t kHalf = kLanes / 2;
  return __builtin_shufflevector(a, b, static_cast<int>((kFirst + kLane % kHalf / 4 * kStep) * 4 + kLane % 4 + kLane / kHalf * kLanes)...);
}

// Element i of row j becomes element j of row i. Fours first: each shuffle stays inside them or moves them whole, and is one instruction.
inline void transpose(Floats (&rows)[kLanes]) {
#pragma GCC unroll 4
  for (size_t i = 0; i < kLanes; i += 4) {
    const Floats a = zip<0>(rows[i], rows[i + 1], Lanes()), b = zip<2>(rows[i], rows[i + 1], Lanes());
    const Floats c = zip<0>(rows[i + 2], rows[i + 3], Lanes()), d = zip<2>(rows[i + 2], rows[i + 3], Lanes());
    rows[i] = zip_pairs<0>(a, c, Lanes()), rows[i + 1] = zip_pairs<2>(a, c, Lanes());
    rows[i + 2] = zip_pairs<0>(b, d, Lanes()), rows[i + 3] = zip_pairs<2>(b, d, Lanes());
  }
#pragma GCC unroll 4
  for (size_t i = 0; i < 4; ++i) {
    if constexpr (kLanes == 8) {
      const Floats a = rows[i], b = rows[i + 4];
      rows[i] = groups<0, 1>(a, b, Lanes()), rows[i + 4] = groups<1, 1>(a, b, Lanes());
    } else if constexpr (kLanes == 16) {
      const Floats a = groups<0, 1>(rows[i], rows[i + 4], Lanes()), b = groups<2, 1>(rows[i], rows[i + 4], Lanes());
      const Floats c = groups<0, 1>(rows[i + 8], rows[i + 12], Lanes()), d = groups<2, 1>(rows[i + 8], rows[i + 12], Lanes());
      rows[i] = groups<0, 2>(a, c, Lanes()), rows[i + 4] = groups<1, 2>(a, c, Lanes());
      rows[i + 8] = groups<0, 2>(b, d, Lanes()), rows[i + 12] = groups<1, 2>(b, d, Lanes());
    }
  }
}

}  // namespace

}  // namespace rsk
