// How a panel is filled: sixteen positions of one tap, for channel after channel.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "cpu.h"

namespace rsk {

constexpr size_t kWindow = 32;  // floats of the input that one copy can pick from

// What sixteen positions read, one tap like the other but for the padding.
struct PackedLanes {
  std::array<uint8_t, 16> index;  // below kWindow
  uint16_t lanes;                 // the positions that there are
  bool add;                       // the other lanes stay what they are; else they are 0
};

// A tap: where its window starts in `from` and its lanes in `to`, how far the window lies behind the one of `index`, the lanes that read it.
struct PackedTap {
  int64_t from, to;
  uint32_t moved;
  uint16_t lanes;
};

// For every tap, and `count` channels a step apart: lane i of `to` is from[(index[i] - moved) mod kWindow]. Reads the whole window, but for the portable one:
// that reads the lanes alone.
using Pack = void (*)(const PackedLanes& pick, const PackedTap* taps, size_t tap_count, const float* from, ptrdiff_t from_step, float* to, ptrdiff_t to_step,
                      size_t count);

void pack_portable(const PackedLanes& pick, const PackedTap* taps, size_t tap_count, const float* from, ptrdiff_t from_step, float* to, ptrdiff_t to_step,
                   size_t count);
Pack pack_of(Isa isa);

}  // namespace rsk
