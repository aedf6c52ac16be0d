// Included by one file for each instruction set, which defines RSK_POOL; the rules of tiles.inl hold.
#pragma once

#include "lanes.inl"
#include "pool.h"

namespace rsk {

namespace {

namespace pool {

struct Larger {
  static constexpr float kNeutral = -__builtin_inff();
  static constexpr bool kDivides = false;
  // Each selection gives its second operand where one is NaN; else they are alike. Both are one instruction on x86.
  static Floats of(Floats a, Floats b) {
    const Floats most = a > b ? a : b, again = b > a ? b : a;
    return reinterpret_cast<Floats>(reinterpret_cast<Ints>(most) | reinterpret_cast<Ints>(again));
  }
};

struct Sum {
  static constexpr float kNeutral = 0;
  static constexpr bool kDivides = true;
  static Floats of(Floats sum, Floats value) { return sum + value; }
};

// The combination of `count` vectors that `load_one` gives for the pointers from `from` on, `step` apart.
template <class Combine, class Load>
inline Floats combined(Floats total, const float* from, int64_t count, int64_t step, const Load& load_one) {
  for (int64_t i = 0; i < count; ++i, from += step) total = Combine::of(total, load_one(from));
  return total;
}

template <class Combine>
void rows(PoolLoops::Lines lines, const float* from, int64_t pitch, int64_t count_of_rows, int64_t step, int64_t count, float* to, bool more) {
  const Floats neutral = all(Combine::kNeutral);
  for (int64_t line = 0; line < lines.count; ++line, from += lines.in, to += lines.out) {
    int64_t i = 0;
    for (; step == 1 && i + kLanes <= count; i += kLanes) store(to + i, combined<Combine>(more ? load(to + i) : neutral, from + i, count_of_rows, pitch, load));
    for (; i < count; i += kLanes) {
      const int64_t left = count - i < kLanes ? count - i : kLanes;
      const auto some = [&](const float* row) { return step == 1 ? load_first(row, left) : load_spread(row, step, left); };
      store_first(to + i, combined<Combine>(more ? load_first(to + i, left) : neutral, from + i * step, count_of_rows, pitch, some), left);
    }
  }
}

template <class Combine>
void columns(PoolLoops::Lines lines, const float* from, int64_t taps, int64_t dilation, int64_t stride, int64_t count, float* to) {
  const auto pairs = [](const float* at) { return even(load(at), load(at + kLanes), Lanes()); };
  const Floats neutral = all(Combine::kNeutral);
  for (int64_t line = 0; line < lines.count; ++line, from += lines.in, to += lines.out) {
    for (int64_t i = 0; i < count; i += kLanes) {
      const int64_t left = count - i < kLanes ? count - i : kLanes;
      const float* first = from + i * stride;
      const auto some = [&](const float* at) { return stride == 1 ? load(at) : load_spread(at, stride, left); };
      const Floats total = stride == 2 ? combined<Combine>(neutral, first, taps, dilation, pairs) : combined<Combine>(neutral, first, taps, dilation, some);
      if (left == kLanes) {
        store(to + i, total);
      } else {
        store_first(to + i, total, left);
      }
    }
  }
}

// A load of the lanes from element `first` on, to before `last`; in the others is what changes nothing.
template <class Combine>
class Loaded {
 public:
  Loaded() = default;
  Loaded(int64_t first, int64_t last) {
    const auto limit = [](int64_t at) { return static_cast<int32_t>(at < 0 ? 0 : at > kWide ? kWide : at); };
    const int32_t low = limit(first), high = limit(last);
#if RSK_LANES == 16
    chosen_ = static_cast<__mmask16>(((1U << high) - 1) & ~((1U << low) - 1));
#else
#pragma GCC unroll 8
    for (int32_t lane = 0; lane < kWide; ++lane) chosen_[lane] = lane >= low && lane < high ? -1 : 0;
    whole_ = high - low == kWide;
#endif
  }

  Floats operator()(const float* from) const {
    const Floats neutral = all(Combine::kNeutral);
#if RSK_LANES == 16
    return _mm512_mask_loadu_ps(neutral, chosen_, from);
#elif RSK_LANES == 8
    return whole_ ? load(from) : chosen_ != 0 ? _mm256_maskload_ps(from, reinterpret_cast<__m256i>(chosen_)) : neutral;
#else
    if (whole_) return load(from);
    Floats lanes = neutral;
    for (int32_t lane = 0; lane < kWide; ++lane) {
      if (chosen_[lane] != 0) lanes[lane] = from[lane];
    }
    return lanes;
#endif
  }

 private:
  static constexpr int32_t kWide = kLanes;
#if RSK_LANES == 16
  __mmask16 chosen_;
#else
  Ints chosen_;
  bool whole_;
#endif
};

// The last lanes of a and the first lane of b.
template <size_t... kLane>
inline Floats following(Floats a, Floats b, std::index_sequence<kLane...>) {
  return __builtin_shufflevector(a, b, static_cast<int>(kLane + 1)...);
}

// One vector of windows, and what may be loaded of their elements.
template <class Combine>
struct Column {
  Loaded<Combine> first, second, third;
  int64_t count;

  template <bool kThree>
  inline void halve(const float* row, int64_t pitch, int64_t rows, float divisor, float* to) const {
    Floats low = all(Combine::kNeutral), high = low, next = low;
    if (rows > 0) low = first(row), high = second(row + kLanes), next = kThree ? third(row + 2 * kLanes) : next;
    for (int64_t k = 1; k < rows; ++k) {
      row += pitch;
      low = Combine::of(low, first(row));
      high = Combine::of(high, second(row + kLanes));
      if (kThree) next = Combine::of(next, third(row + 2 * kLanes));
    }
    const Floats evens = even(low, high, Lanes());
    Floats total = Combine::of(evens, odd(low, high, Lanes()));
    if (kThree) total = Combine::of(total, following(evens, next, Lanes()));
    if (Combine::kDivides) total = total / divisor;
    if (count == kLanes) {
      store(to, total);
    } else {
      store_first(to, total, count);
    }
  }
};

// Line by line, for a row's elements lie one behind the other; a few vectors at a time, so that what is loaded of each is found once.
template <class Combine, bool kThree>
void halve_all(const PoolLoops::Planes& planes, const PoolLoops::Windows& windows, int64_t count, float divisor, float* to) {
  constexpr int64_t kColumns = 4;
  for (int64_t begin = 0; begin < count; begin += kColumns * kLanes) {
    Column<Combine> columns[kColumns];
    int64_t used = 0;
    for (int64_t i = begin; i < count && used < kColumns; i += kLanes, ++used) {
      const int64_t first = windows.first - 2 * i, last = windows.last - 2 * i;
      columns[used] = {
          {first, last}, {first - kLanes, last - kLanes}, {first - 2 * kLanes, last > 2 * kLanes ? 1 : 0}, count - i < kLanes ? count - i : kLanes};
    }
    const float* plane = windows.from + 2 * begin;
    float* result = to + begin;
    for (int64_t number = 0; number < planes.count; ++number, plane += planes.in, result += planes.out) {
      const float* line = plane;
      float* out = result;
      for (int64_t y = 0; y < planes.lines.count; ++y, line += planes.lines.in, out += planes.lines.out) {
        for (int64_t i = 0; i < used; ++i) columns[i].template halve<kThree>(line + 2 * kLanes * i, windows.pitch, windows.rows, divisor, out + kLanes * i);
      }
    }
  }
}

template <class Combine>
void halves(const PoolLoops::Planes& planes, const PoolLoops::Windows& windows, int64_t count, float divisor, float* to) {
  (windows.taps == 3 ? halve_all<Combine, true> : halve_all<Combine, false>)(planes, windows, count, divisor, to);
}

template <class Combine>
constexpr PoolLoops::Kind kKind = {rows<Combine>, columns<Combine>, halves<Combine>};

}  // namespace pool

}  // namespace

constexpr PoolLoops RSK_POOL = {pool::kKind<pool::Larger>, pool::kKind<pool::Sum>};

}  // namespace rsk
