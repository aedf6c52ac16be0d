// The loops of pooling for one instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rsk {

struct PoolLoops {
  // Lines that lie `in` and `out` elements apart.
  struct Lines {
    int64_t count, in, out;
  };

  // to[i] of each line = the combination of from[row · pitch + i · step], i < count; with `more`, and of to[i].
  using Rows = void (*)(Lines lines, const float* from, int64_t pitch, int64_t rows, int64_t step, int64_t count, float* to, bool more);

  // to[i] of each line = the combination of line[i · stride + tap · dilation], i < count. Touches kSlack elements behind a line's last.
  using Columns = void (*)(Lines lines, const float* line, int64_t taps, int64_t dilation, int64_t stride, int64_t count, float* to);

  // Planes of lines; they lie `in` and `out` elements apart.
  struct Planes {
    int64_t count, in, out;
    Lines lines;
  };

  // What the windows of a line combine: from[row · pitch + 2 · i + tap] for all rows and taps, as far as `2 · i + tap` is in [first, last).
  struct Windows {
    const float* from;
    int64_t pitch, rows, taps, first, last;
  };

  // to[i] of each line of each plane = the combination of window i, i < count; of a sum, divided by `divisor`. Two or three taps.
  using Halves = void (*)(const Planes& planes, const Windows& windows, int64_t count, float divisor, float* to);

  struct Kind {
    Rows rows;
    Columns columns;
    Halves halves;
  };
  static constexpr int64_t kSlack = 48;
  Kind largest, sum;  // a NaN is largest
};

extern const PoolLoops kPoolAvx512;
extern const PoolLoops kPoolAvx2;
extern const PoolLoops kPoolNeon;
extern const PoolLoops kPoolPortable;

const PoolLoops& pool_loops();  // of the best instruction set of this machine

}  // namespace rsk
