// Included by one file for each instruction set, which defines RSK_POOL; the rules of tiles.inl hold.
#pragma once

#include "lanes.inl"
#include "pool.h"

namespace rsk {

namespace {

namespace pool {

struct Larger {
  static constexpr float kNeutral = -__builtin_inff();
  // Each selection gives its second operand where one is NaN; else they are alike. Both are one instruction on x86.
  static Floats of(Floats a, Floats b) {
    const Floats most = a > b ? a : b, again = b > a ? b : a;
    return reinterpret_cast<Floats>(reinterpret_cast<Ints>(most) | reinterpret_cast<Ints>(again));
  }
};

struct Sum {
  static constexpr float kNeutral = 0;
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

template <class Combine>
constexpr PoolLoops::Kind kKind = {rows<Combine>, columns<Combine>};

}  // namespace pool

}  // namespace

constexpr PoolLoops RSK_POOL = {pool::kKind<pool::Larger>, pool::kKind<pool::Sum>};

}  // namespace rsk
