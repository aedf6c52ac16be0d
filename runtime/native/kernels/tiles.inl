// Included by one file for each instruction set, which defines RSK_TILES, RSK_LANES and RSK_REGISTERS. Everything here has internal linkage
// and no template of the standard library is used: the linker may otherwise keep this copy for another machine's code.
#pragma once

#include "tiles.h"

#if RSK_LANES > 4
#include <immintrin.h>
#endif

namespace rsk {

namespace {

constexpr uint32_t kLanes = RSK_LANES;
constexpr uint32_t kParts = 16 / kLanes;  // registers of 16 positions
using Floats = float __attribute__((vector_size(4 * kLanes)));
using Ints = int32_t __attribute__((vector_size(4 * kLanes)));

struct __attribute__((packed, may_alias)) AnyFloats {
  Floats value;
};

inline Floats load(const float* from) { return reinterpret_cast<const AnyFloats*>(from)->value; }
inline void store(float* to, Floats value) { reinterpret_cast<AnyFloats*>(to)->value = value; }
inline Floats all(float value) { return value - Floats{}; }

// ---- shared taps

// Weight `index` of `kCount`, in all lanes. NEON multiplies by a lane of a register, so four weights take one load.
template <uint32_t kCount>
inline Floats broadcast_of(const float* weights, uint32_t index) {
  if (kLanes == 4 && index / 4 < kCount / 4) return all(load(weights + index / 4 * 4)[index % 4]);
  return all(weights[index]);
}

template <uint32_t kFilters, uint32_t kVectors>
void shared_tile(const float* x, const int32_t* offsets, size_t rows, const float* weights, float* sums) {
  constexpr uint32_t kRegisters = kLanes == 16 ? kVectors : 2;  // of one filter at a time
  constexpr uint32_t kWidth = kRegisters * kLanes;
  constexpr size_t kAhead = 2048;  // floats; NEON has not been measured
  for (uint32_t position = 0; position < 16 * kVectors; position += kWidth, x += kWidth, sums += kWidth) {
    Floats sum[kFilters][kRegisters] = {};
    const float* weight = weights;
    for (size_t row = 0; row < rows; ++row, weight += kFilters) {
      const float* from = x + offsets[row];
#pragma GCC unroll 2
      for (uint32_t line = 0; line < kFilters && kLanes > 4; line += 16) __builtin_prefetch(weight + kAhead + line);
      Floats in[kRegisters];
#pragma GCC unroll 8
      for (uint32_t part = 0; part < kRegisters; ++part) in[part] = load(from + kLanes * part);
#pragma GCC unroll 32
      for (uint32_t filter = 0; filter < kFilters; ++filter) {
        const Floats factor = broadcast_of<kFilters>(weight, filter);
#pragma GCC unroll 8
        for (uint32_t part = 0; part < kRegisters; ++part) sum[filter][part] += factor * in[part];
      }
    }
#pragma GCC unroll 32
    for (uint32_t filter = 0; filter < kFilters; ++filter) {
#pragma GCC unroll 8
      for (uint32_t part = 0; part < kRegisters; ++part) store(sums + 16 * kVectors * filter + kLanes * part, sum[filter][part]);
    }
  }
}

// ---- table

// Four rows in one load: beside vector loads, a load of one row takes half as long as a load of a vector.
struct Rows {
  uint64_t four[2];
};
struct __attribute__((may_alias)) AnyRows {
  Rows value;
};
inline Rows rows_of(const TableGroup& group) { return reinterpret_cast<const AnyRows*>(group.rows)->value; }

#if RSK_LANES == 16
// One load for eight weights; the shuffle takes a port that FMAs leave free, a broadcast from memory would take a load.
struct Weights {
  Floats all_eight;

  explicit Weights(const TableGroup& group) {
    using Eight = float __attribute__((vector_size(32), may_alias, aligned(16)));
    const Eight eight = *reinterpret_cast<const Eight*>(group.weights);
    all_eight = __builtin_shufflevector(eight, eight, 0, 1, 2, 3, 4, 5, 6, 7, -1, -1, -1, -1, -1, -1, -1, -1);
  }
  template <int kLane>
  Floats get() const {
    return _mm512_maskz_permutexvar_ps(0xffff, _mm512_set1_epi32(kLane), all_eight);  // without a mask, gcc warns of its own header
  }
};
#else
struct Weights {
  const float* eight;

  explicit Weights(const TableGroup& group) : eight(group.weights) {}
  template <int kLane>
  Floats get() const {
    return broadcast_of<TableGroup::kSize>(eight, kLane);
  }
};
#endif

// The first that is not below `least`.
constexpr uint32_t power_of_two(uint32_t least) { return least <= 1 ? 1 : 2 * power_of_two((least + 1) / 2); }

// FMAs of one sum wait four cycles for each other: for two pipes eight sums or more, for NEON's four sixteen.
template <uint32_t kVectors>
constexpr uint32_t bundled_filters() {
  constexpr uint32_t kRegisters = kVectors * kParts, kWanted = kLanes == 16 ? 12 : kLanes == 4 && RSK_REGISTERS == 32 ? 16 : 8;
  constexpr uint32_t kFilters = power_of_two((kWanted + kRegisters - 1) / kRegisters);
  return kFilters < TableGroup::kSize ? kFilters : TableGroup::kSize;
}

// Of a tile of kVectors, the first kUsed: a map's last tile is seldom full.
template <uint32_t kVectors, uint32_t kUsed>
struct Sums {
  static constexpr uint32_t kRegisters = kUsed * kParts, kFilters = bundled_filters<kVectors>();
  static constexpr uint32_t kSets = kFilters * kRegisters <= 2 ? 4 : kFilters * kRegisters <= 4 ? 2 : 1;
  Floats part[kFilters * kSets][kRegisters] = {};

  // A group's products with the first `kCount` vectors.
  template <uint32_t kCount>
  inline __attribute__((always_inline)) void add(const float* x, const TableGroup& group, const Rows& rows) {
    const Weights weights(group);
    add_lane<kCount, 0>(x, weights, rows), add_lane<kCount, 1>(x, weights, rows), add_lane<kCount, 2>(x, weights, rows);
    add_lane<kCount, 3>(x, weights, rows), add_lane<kCount, 4>(x, weights, rows), add_lane<kCount, 5>(x, weights, rows);
    add_lane<kCount, 6>(x, weights, rows), add_lane<kCount, 7>(x, weights, rows);
  }

  template <uint32_t kCount, int kLane>
  inline __attribute__((always_inline)) void add_lane(const float* x, const Weights& weights, const Rows& rows) {
    const Floats factor = weights.template get<kLane>();
    const float* from = x + static_cast<uint16_t>(rows.four[kLane / 4] >> kLane % 4 * 16);
#pragma GCC unroll 16
    for (uint32_t i = 0; i < kCount * kParts; ++i) part[kLane % (kFilters * kSets)][i] += factor * load(from + kLanes * i);
  }

  inline __attribute__((always_inline)) void add_to(const TableBundle& bundle, float* sums) const {
    float* to[kFilters];
#pragma GCC unroll 8
    for (uint32_t filter = 0; filter < kFilters; ++filter) to[filter] = sums + size_t{16} * kVectors * bundle.filters[filter];
#pragma GCC unroll 8
    for (uint32_t filter = 0; filter < kFilters; ++filter) {
#pragma GCC unroll 16
      for (uint32_t i = 0; i < kRegisters; ++i) {
        Floats total = part[filter][i];
#pragma GCC unroll 4
        for (uint32_t set = 1; set < kSets; ++set) total += part[filter + set * kFilters][i];
        store(to[filter] + kLanes * i, load(to[filter] + kLanes * i) + total);
      }
    }
  }
};

template <uint32_t kVectors, uint32_t kUsed>
const TableGroup* table_tile(const float* x, const TableGroup* groups, const TableBundle* bundles, size_t count, float* sums) {
  constexpr size_t kAhead = kVectors == 1 ? 8192 : 4096;  // bytes; 512@4², 4 of 9, weights from memory: 265 µs, with 4096 270, 2048 330, 1024 380
  constexpr uint32_t kShort = kUsed < kVectors || kVectors == 1 ? kUsed : kVectors - 1;
  Rows next = rows_of(*groups);
  const auto advance = [&] {
    const Rows rows = next;
    next = rows_of(groups[1]);  // long before it is needed: rows that arrive late leave load slots empty
    __builtin_prefetch(reinterpret_cast<const char*>(groups) + kAhead);
    return rows;
  };
  for (const TableBundle* last = bundles + count; bundles != last; ++bundles) {
    Sums<kVectors, kUsed> sum;
    for (const TableGroup* end = groups + bundles->groups; groups != end; ++groups) sum.template add<kUsed>(x, *groups, advance());
    for (const TableGroup* end = groups + bundles->shorts; groups != end; ++groups) sum.template add<kShort>(x, *groups, advance());
    sum.add_to(*bundles, sums);
  }
  return groups;
}

// ---- epilogue

inline Floats at_least(Floats x, float low) { return x < low ? all(low) : x; }  // keeps NaN
inline Floats at_most(Floats x, float high) { return x > high ? all(high) : x; }

// eˣ for x in [-87, 88], error below 2 units in the last place: eˣ = 2ⁿ·eʳ with |r| ≤ ln2 / 2, and the polynomial of Cephes for eʳ.
// Beyond 88.4 it is infinite (2¹²⁸ is), so that x · sigmoid(x) is 0 for very negative x, and NaN for -∞ as in the reference.
inline Floats exponential(Floats x) {
  constexpr float kRound = 12582912.0F;  // 1.5·2²³: adding it rounds to an integer, which then stands in the low bits
  const Floats clipped = at_most(at_least(x, -87.0F), 89.0F);
  const Floats shifted = clipped * 1.44269504F + kRound;
  const Floats n = shifted - kRound;
  const Floats r = clipped - n * 0.693359375F - n * -2.12194440e-4F;
  Floats polynomial = all(1.9875691500e-4F);
  polynomial = polynomial * r + 1.3981999507e-3F;
  polynomial = polynomial * r + 8.3334519073e-3F;
  polynomial = polynomial * r + 4.1665795894e-2F;
  polynomial = polynomial * r + 1.6666665459e-1F;
  polynomial = polynomial * r + 5.0000001201e-1F;
  polynomial = polynomial * r * r + r + 1.0F;
  const Ints power = (reinterpret_cast<Ints>(shifted) - reinterpret_cast<Ints>(all(kRound)) + 127) << 23;
  return polynomial * reinterpret_cast<Floats>(power);
}

inline Floats sigmoid(Floats x) { return 1.0F / (1.0F + exponential(-x)); }

template <Activation kActivation>
inline Floats activate(const Epilogue& epilogue, Floats x) {
  if constexpr (kActivation == Activation::kRelu) return at_least(x, 0.0F);
  if constexpr (kActivation == Activation::kClip) return at_most(at_least(x, epilogue.alpha), epilogue.beta);
  if constexpr (kActivation == Activation::kLeakyRelu) return x < 0.0F ? x * epilogue.alpha : x;
  if constexpr (kActivation == Activation::kHardSwish) return x * at_most(at_least(x * (1.0F / 6.0F) + 0.5F, 0.0F), 1.0F);
  if constexpr (kActivation == Activation::kSilu) return x * sigmoid(x);
  if constexpr (kActivation == Activation::kSigmoid) return sigmoid(x);
  return x;
}

inline Floats keep_lanes(Floats x, uint64_t bits) {
  Ints lane = {};
#pragma GCC unroll 16
  for (uint32_t i = 0; i < kLanes; ++i) lane[i] = int32_t{1} << i;
  const Ints chosen = (lane & static_cast<int32_t>(bits)) != 0;
  return reinterpret_cast<Floats>(reinterpret_cast<Ints>(x) & chosen);
}

// The switch on the activation stays out of this loop: inside, it takes about 100 cycles more for a tile of 28 registers.
template <Activation kActivation>
void finish_with(const Epilogue& epilogue, const Tile& tile, const uint32_t* filters, size_t count, uint32_t vectors, const float* sums) {
  const uint32_t positions = 16 * vectors;
  const bool whole = (~tile.keep << (64 - positions)) == 0;
  for (size_t i = 0; i < count; ++i, sums += positions) {
    const uint32_t filter = filters[i];
    const float bias = epilogue.bias != nullptr ? epilogue.bias[filter] : 0.0F;
    float* out = tile.out + filter * tile.out_stride;
    const float* residual = epilogue.residual ? tile.residual + filter * tile.residual_stride : nullptr;
    for (uint32_t at = 0; at < positions; at += kLanes) {
      Floats value = load(sums + at) + bias;
      if (residual != nullptr) value += load(residual + at);
      value = activate<kActivation>(epilogue, value);
      if (!whole) value = keep_lanes(value, tile.keep >> at);
      store(out + at, value);
    }
  }
}

void finish(const Epilogue& epilogue, const Tile& tile, const uint32_t* filters, size_t count, uint32_t vectors, const float* sums) {
  const auto with = [&](auto finish_one) { finish_one(epilogue, tile, filters, count, vectors, sums); };
  switch (epilogue.activation) {
    case Activation::kNone:
      return with(finish_with<Activation::kNone>);
    case Activation::kRelu:
      return with(finish_with<Activation::kRelu>);
    case Activation::kClip:
      return with(finish_with<Activation::kClip>);
    case Activation::kLeakyRelu:
      return with(finish_with<Activation::kLeakyRelu>);
    case Activation::kHardSwish:
      return with(finish_with<Activation::kHardSwish>);
    case Activation::kSilu:
      return with(finish_with<Activation::kSilu>);
    case Activation::kSigmoid:
      return with(finish_with<Activation::kSigmoid>);
  }
}

// ---- panels

#if RSK_LANES == 4
constexpr Pack pack = pack_portable;
#else
#if RSK_LANES == 8
// Picks lanes from a window of 32 floats.
inline Floats pick_lanes(const float* window, Ints index) {
  const auto pick_of = [&](const float* eight) { return Floats(_mm256_permutevar8x32_ps(load(eight), reinterpret_cast<__m256i>(index))); };  // counts mod 8
  const Floats low = (index & 8) == 0 ? pick_of(window) : pick_of(window + 8), high = (index & 8) == 0 ? pick_of(window + 16) : pick_of(window + 24);
  return (index & 16) == 0 ? low : high;
}
#endif

// The lanes of sixteen positions that one tap reads.
struct Picked {
#if RSK_LANES == 16
  Ints index;
  __mmask16 chosen;

  Picked(const Ints* unmoved, const PackedTap& tap) : index(unmoved[0] - static_cast<int32_t>(tap.moved)), chosen(tap.lanes) {}  // a shuffle counts mod kWindow

  void copy(const float* from, float* to, bool add) const {
    const Floats low = load(from), high = load(from + kLanes);
    if (add) {
      _mm512_mask_storeu_ps(to, chosen, _mm512_permutex2var_ps(low, reinterpret_cast<__m512i>(index), high));
    } else {
      store(to, _mm512_maskz_permutex2var_ps(chosen, low, reinterpret_cast<__m512i>(index), high));
    }
  }
#else
  Ints index[kParts], chosen[kParts];

  Picked(const Ints* unmoved, const PackedTap& tap) {
    Ints bit = {};
#pragma GCC unroll 8
    for (uint32_t lane = 0; lane < kLanes; ++lane) bit[lane] = int32_t{1} << lane;
#pragma GCC unroll 2
    for (uint32_t part = 0; part < kParts; ++part) {
      index[part] = (unmoved[part] - static_cast<int32_t>(tap.moved)) & static_cast<int32_t>(kWindow - 1);
      chosen[part] = (bit & (tap.lanes >> kLanes * part)) != 0;
    }
  }

  void copy(const float* from, float* to, bool add) const {
#pragma GCC unroll 2
    for (uint32_t part = 0; part < kParts; ++part) {
      Ints lanes = reinterpret_cast<Ints>(pick_lanes(from, index[part])) & chosen[part];
      if (add) lanes |= reinterpret_cast<Ints>(load(to + kLanes * part)) & ~chosen[part];
      store(to + kLanes * part, reinterpret_cast<Floats>(lanes));
    }
  }
#endif
};

template <uint32_t kChannels>
void pack_channels(const Ints* unmoved, bool add, const PackedTap* taps, size_t tap_count, const float* from, ptrdiff_t from_step, float* to,
                   ptrdiff_t to_step) {
  for (const PackedTap* tap = taps; tap != taps + tap_count; ++tap) {
    const Picked picked(unmoved, *tap);
    const float* source = from + tap->from;
    float* target = to + tap->to;
#pragma GCC unroll 4
    for (uint32_t channel = 0; channel < kChannels; ++channel, source += from_step, target += to_step) picked.copy(source, target, add);
  }
}

// All taps of a few channels: what they read and write stays in the first-level cache, however far apart the channels are. Two cycles a copy; 16 with the taps
// of 64 channels one after the other (64 channels, 3×3 of stride 2).
void pack(const PackedLanes& pick, const PackedTap* taps, size_t tap_count, const float* from, ptrdiff_t from_step, float* to, ptrdiff_t to_step,
          size_t count) {
  using Bytes = uint8_t __attribute__((vector_size(kLanes), may_alias, aligned(1)));
  constexpr size_t kMost = 4;
  constexpr decltype(&pack_channels<1>) kPack[kMost + 1] = {nullptr, pack_channels<1>, pack_channels<2>, pack_channels<3>, pack_channels<4>};
  Ints unmoved[kParts];
#pragma GCC unroll 2
  for (uint32_t part = 0; part < kParts; ++part) {
    unmoved[part] = __builtin_convertvector(*reinterpret_cast<const Bytes*>(&pick.index[kLanes * part]), Ints);
  }
  for (size_t first = 0; first < count; first += kMost) {
    const size_t channels = count - first < kMost ? count - first : kMost;
    const auto at = static_cast<ptrdiff_t>(first);
    kPack[channels](unmoved, pick.add, taps, tap_count, from + at * from_step, from_step, to + at * to_step, to_step);
  }
}
#endif

// ---- tables of the instances

template <uint32_t kVectors>
constexpr uint32_t most_filters() {
  return kLanes == 16 ? 28 / kVectors : RSK_REGISTERS == 32 ? 12 : 6;
}

template <uint32_t kVectors, uint32_t kFilters = most_filters<kVectors>()>
constexpr void fill_shared(Tiles& tiles) {
  if constexpr (kFilters > 0) {
    tiles.shared[kVectors][kFilters] = shared_tile<kFilters, kVectors>;
    fill_shared<kVectors, kFilters - 1>(tiles);
  }
}

template <uint32_t kVectors, uint32_t kUsed = kVectors>
constexpr void fill_table(Tiles& tiles) {
  if constexpr (kUsed > 0) {
    tiles.table[kVectors][kUsed] = table_tile<kVectors, kUsed>;
    fill_table<kVectors, kUsed - 1>(tiles);
  }
}

template <uint32_t kVectors>
constexpr void fill(Tiles& tiles) {
  tiles.shared_filters[kVectors] = most_filters<kVectors>();
  fill_table<kVectors>(tiles);
  tiles.table_filters[kVectors] = bundled_filters<kVectors>();
  fill_shared<kVectors>(tiles);
}

constexpr Tiles make_tiles() {
  Tiles tiles = {};
  fill<1>(tiles);
  fill<2>(tiles);
  fill<3>(tiles);
  fill<4>(tiles);
  tiles.finish = finish;
  tiles.pack = pack;
  return tiles;
}

}  // namespace

constexpr Tiles RSK_TILES = make_tiles();

}  // namespace rsk
