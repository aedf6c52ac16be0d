// A convolution as a sparse matrix times rows of positions: the one contract between the plan and every kernel.
//
//   out[f][p] = epilogue(f, Σ_k w[f][k] · x[offset[k] + p])      f: filter, k: (channel, tap), p: position
//
// Row k of the input is a run of consecutive positions that starts at x + offset[k]. With planes that have a halo the offsets
// are channel·plane + dy·pitch + dx (nothing is copied); with a packed panel they are k·width of the panel, or,
// where the taps of a column share a copy, some rows of it apart.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace rsk {

struct Shelf;

// The weights, filter by filter (CSR). `columns` ascend within a filter. Dense layers have rows·filters entries.
struct Matrix {
  uint32_t filters = 0;
  uint32_t rows = 0;
  const uint32_t* start = nullptr;  // filters + 1
  const uint32_t* columns = nullptr;
  const float* values = nullptr;
};

enum class Activation : uint32_t { kNone, kRelu, kClip, kLeakyRelu, kHardSwish, kSilu, kSigmoid };
constexpr uint32_t kActivations = static_cast<uint32_t>(Activation::kSigmoid) + 1;

// What happens to a sum before it is stored: + bias, + residual, activation, zero where `keep` has no bit.
struct Epilogue {
  const float* bias = nullptr;  // one per filter, or null
  Activation activation = Activation::kNone;
  float alpha = 0, beta = 0;
  bool residual = false;
};

// One tile: 16·vectors positions of a range of filters. Full vectors are stored: positions without a bit in `keep` get 0.
// `x`, `out` and `residual` are aligned to 4 bytes only. A kernel may read x[offset[k] + 0 … 16·vectors) and, if the request has a
// phase, all of the 64-byte lines that these lie in, and no more.
struct Tile {
  const float* x = nullptr;
  float* out = nullptr;   // position 0 of filter 0 of the layer, whatever the block; the same for `residual`
  size_t out_stride = 0;  // floats from one filter's output to the next's
  const float* residual = nullptr;
  size_t residual_stride = 0;
  uint64_t keep = ~uint64_t{0};
  uint64_t inside[2] = {~uint64_t{0}, ~uint64_t{0}};  // positions that side 1 and side 2 of a request see: where others would read, there is padding
};

// A layer made ready for one machine. Immutable once built and settled: any number of threads may call it.
class ConvKernel {
 public:
  virtual ~ConvKernel() = default;
  virtual void settle(Shelf& /*shelf*/) {}                       // puts what it keeps there
  virtual void run(const Tile& tile, uint32_t block) const = 0;  // every filter of one block

  // The same for many tiles. Generated code is read from memory slower than it runs, so a kernel may take it a piece at a
  // time for all tiles: call this with as many tiles as there are.
  virtual void run_all(std::span<const Tile> tiles, uint32_t block) const {
    for (const Tile& tile : tiles) run(tile, block);
  }
  // The same for the blocks [first, last), which may share what they read.
  virtual void run_blocks(std::span<const Tile> tiles, uint32_t first, uint32_t last) const {
    for (uint32_t block = first; block < last; ++block) run_all(tiles, block);
  }

  // Told before a run begins with a block: asks for what it reads first, all at once.
  virtual void fetch(uint32_t /*block*/) const {}
  virtual uint32_t blocks() const = 0;
  virtual size_t weight_bytes() const = 0;  // what it keeps in memory for weights and index, and no other counts
  virtual size_t code_bytes() const { return 0; }
  virtual const char* name() const = 0;
};

struct ConvRequest {
  Matrix matrix;
  const int32_t* offsets = nullptr;  // in floats, one per row, of either sign
  Epilogue epilogue;
  uint32_t vectors = 1;             // 16-float vectors per tile, 1 to 4
  int32_t phase = -1;               // how many floats behind a multiple of 64 bytes the `x` of every tile is; -1: not all alike
  uint32_t tiles = 16;              // about as many as run_all() gets
  bool generate_code = true;        // false where pages must not become executable
  const uint8_t* sides = nullptr;   // of each row, whose positions see its input: 0 for all; null: all of them do. Of a kernel that heeds sides alone
  const uint64_t* reach = nullptr;  // of each row, the positions at which any tile reads more than padding; null: none known
  const char** refusal = nullptr;   // where `make` says why it returns null
};

// Copies what it keeps of the request. Returns null for a layer that the family cannot do (too many rows for its index, pages that cannot
// be made executable).
using MakeKernel = std::unique_ptr<ConvKernel> (*)(const ConvRequest&);

}  // namespace rsk
