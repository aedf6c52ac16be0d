// Included by one file for each instruction set, which defines RSK_TILES and RSK_LANES. Everything here has internal linkage
// and no template of the standard library is used: the linker may otherwise keep this copy for another machine's code.
#include "tiles.h"

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

template <uint32_t kFilters, uint32_t kVectors>
void shared_tile(const float* x, const int32_t* offsets, size_t rows, const float* weights, float* sums) {
  constexpr uint32_t kWidth = kLanes == 16 ? kVectors : 1;  // vectors in registers at a time
  constexpr uint32_t kRegisters = kWidth * kParts;
  for (uint32_t vector = 0; vector < kVectors; vector += kWidth, x += 16 * kWidth, sums += 16 * kWidth) {
    Floats sum[kFilters][kRegisters] = {};
    const float* weight = weights;
    for (size_t row = 0; row < rows; ++row, weight += kFilters) {
      const float* from = x + offsets[row];
      Floats in[kRegisters];
#pragma GCC unroll 8
      for (uint32_t part = 0; part < kRegisters; ++part) in[part] = load(from + kLanes * part);
#pragma GCC unroll 32
      for (uint32_t filter = 0; filter < kFilters; ++filter) {
        const Floats factor = all(weight[filter]);
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

#if RSK_LANES == 16
// One load for sixteen weights; the shuffle takes a port that FMAs leave free, a broadcast from memory would take a load.
template <int kLane>
inline Floats broadcast(const TableGroup& group) {
  return __builtin_shuffle(load(group.weights), Ints{} + kLane);
}
#else
template <int kLane>
inline Floats broadcast(const TableGroup& group) {
  return all(group.weights[kLane]);
}
#endif

template <uint32_t kVectors>
struct Sums {
  static constexpr uint32_t kSets = kVectors * kParts <= 2 ? 4 : 2;  // FMAs of one chain wait four cycles for each other
  Floats part[kSets][kVectors * kParts] = {};

  template <int kLane>
  inline __attribute__((always_inline)) void add(const float* x, const TableGroup& group) {
    const Floats factor = broadcast<kLane>(group);
    const float* from = x + group.rows[kLane];
#pragma GCC unroll 8
    for (uint32_t i = 0; i < kVectors * kParts; ++i) part[kLane % kSets][i] += factor * load(from + kLanes * i);
  }
};

template <uint32_t kVectors>
const TableGroup* table_tile(const float* x, const TableGroup* groups, const uint16_t* counts, uint32_t filters, float* sums) {
  // Bytes. 512@4², 4 of 9, weights from memory, 5 runs each interleaved: median 333 µs with 8192, 389 with 2048, 510 without.
  constexpr size_t kAhead = 8192;
  for (uint32_t filter = 0; filter < filters; ++filter, sums += 16 * kVectors) {
    Sums<kVectors> sum;
    for (const TableGroup* end = groups + counts[filter]; groups != end; ++groups) {
      const char* ahead = reinterpret_cast<const char*>(groups) + kAhead;
      __builtin_prefetch(ahead);
      __builtin_prefetch(ahead + 64);
      const TableGroup& group = *groups;
      sum.template add<0>(x, group), sum.template add<1>(x, group), sum.template add<2>(x, group), sum.template add<3>(x, group);
      sum.template add<4>(x, group), sum.template add<5>(x, group), sum.template add<6>(x, group), sum.template add<7>(x, group);
      sum.template add<8>(x, group), sum.template add<9>(x, group), sum.template add<10>(x, group), sum.template add<11>(x, group);
      sum.template add<12>(x, group), sum.template add<13>(x, group), sum.template add<14>(x, group), sum.template add<15>(x, group);
    }
#pragma GCC unroll 8
    for (uint32_t i = 0; i < kVectors * kParts; ++i) {
      Floats total = sum.part[0][i];
#pragma GCC unroll 4
      for (uint32_t set = 1; set < Sums<kVectors>::kSets; ++set) total += sum.part[set][i];
      store(sums + kLanes * i, load(sums + kLanes * i) + total);
    }
  }
  return groups;
}

// ---- epilogue

inline Floats at_least(Floats x, float low) { return x < low ? all(low) : x; }  // keeps NaN
inline Floats at_most(Floats x, float high) { return x > high ? all(high) : x; }

// eˣ for x in [-87, 88], error below 2 units in the last place: eˣ = 2ⁿ·eʳ with |r| ≤ ln2 / 2, and the polynomial of Cephes for eʳ.
inline Floats exponential(Floats x) {
  constexpr float kRound = 12582912.0F;  // 1.5·2²³: adding it rounds to an integer, which then stands in the low bits
  const Floats clipped = at_most(at_least(x, -87.0F), 88.0F);
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

// ---- tables of the instances

template <uint32_t kVectors>
constexpr uint32_t most_filters() {
  return kLanes == 16 ? 28 / kVectors : 6;
}

template <uint32_t kVectors, uint32_t kFilters = most_filters<kVectors>()>
constexpr void fill_shared(Tiles& tiles) {
  if constexpr (kFilters > 0) {
    tiles.shared[kVectors][kFilters] = shared_tile<kFilters, kVectors>;
    fill_shared<kVectors, kFilters - 1>(tiles);
  }
}

template <uint32_t kVectors>
constexpr void fill(Tiles& tiles) {
  tiles.shared_filters[kVectors] = most_filters<kVectors>();
  tiles.table[kVectors] = table_tile<kVectors>;
  fill_shared<kVectors>(tiles);
}

constexpr Tiles make_tiles() {
  Tiles tiles = {};
  fill<1>(tiles);
  fill<2>(tiles);
  fill<3>(tiles);
  fill<4>(tiles);
  tiles.finish = finish;
  return tiles;
}

}  // namespace

constexpr Tiles RSK_TILES = make_tiles();

}  // namespace rsk
