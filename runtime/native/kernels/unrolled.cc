// Unrolled: the structure of the matrix as straight-line code (codegen/unrolled.h), weights in a stream beside it.
//
//   sum[r][v] += weight · x[offset + v]        one instruction a nonzero (two and a broadcast for two vectors)
//
// Code from beyond the first-level cache arrives slower than the multipliers take it, so a block's code is run in pieces: each
// for a group of tiles, with the sums in memory in between, while the next piece is fetched as data. Without that fetch, code
// beyond the second-level cache runs at the latency of a line: 512@7², 4 of 9, 28×1: 725–769 µs with, 758–5563 without (5 runs).
// AMD EPYC, family 26 (Zen 5), peak 130 GMAC/s, 4 of 9: 113 (64@32², 13×2), 109 (64@56², 13×2), 102 (128@16², 28×1).
#include "codegen/unrolled.h"

#include <algorithm>
#include <bit>

#include "codegen/pages.h"
#include "prepare.h"
#include "tiles.h"

namespace rsk {

namespace {

constexpr uint32_t kGroup = 48;             // tiles for which a piece's code stays; their sums take 84 KB
constexpr int64_t kReach = (1 << 29) - 64;  // offsets are 32-bit displacements in bytes
constexpr size_t kSumsOfTile = size_t{16} * Tiles::kMaxFilters;

using Generate = void (*)(const Matrix&, const int32_t*, std::span<const uint32_t>, RegisterTile, GeneratedCode&);
using Run = void (*)(const float* weights, const float* x, float* sums);

struct Block {
  std::vector<uint32_t> filters;
  size_t first = 0, last = 0;  // pieces
};

struct Layer {
  GeneratedCode generated;
  std::vector<Block> blocks;
};

Layer generate_layer(const ConvRequest& request, RegisterTile tile, Generate generate) {
  Layer layer;
  const uint32_t filters = request.matrix.filters, blocks = (filters + tile.filters - 1) / tile.filters;
  for (uint32_t number = 0; number < blocks; ++number) {
    const auto [first, last] = share_of(filters, blocks, number);
    Block block;
    for (uint32_t filter = first; filter < last; ++filter) block.filters.push_back(filter);
    block.first = layer.generated.pieces.size();
    generate(request.matrix, request.offsets, block.filters, tile, layer.generated);
    block.last = layer.generated.pieces.size();
    layer.blocks.push_back(std::move(block));
  }
  return layer;
}

class UnrolledKernel final : public ConvKernel {
 public:
  UnrolledKernel(const ConvRequest& request, Layer layer, RegisterTile tile, const Tiles& tiles, const char* name)
      : tiles_(tiles),
        name_(name),
        width_(tile.vectors),
        parts_(request.vectors / tile.vectors),
        epilogue_(request.epilogue, request.matrix.filters),
        code_(layer.generated.code),
        weights_(layer.generated.weights.size() * sizeof(float)),
        pieces_(std::move(layer.generated.pieces)),
        blocks_(std::move(layer.blocks)) {
    std::copy(layer.generated.weights.begin(), layer.generated.weights.end(), weights_.floats());
    pieces_.push_back({code_.bytes(), weights_.bytes() / sizeof(float)});
  }

  bool valid() const { return code_.valid(); }

  void run(const Tile& tile, uint32_t number) const override { run_all({&tile, 1}, number); }

  void run_all(std::span<const Tile> tiles, uint32_t number) const override {
    const uint32_t count = static_cast<uint32_t>(tiles.size()), most = kGroup / parts_, groups = (count + most - 1) / most;
    for (uint32_t group = 0; group < groups; ++group) {
      const auto [first, last] = share_of(count, groups, group);
      run_group(tiles.subspan(first, last - first), blocks_[number]);
    }
  }

  uint32_t blocks() const override { return static_cast<uint32_t>(blocks_.size()); }
  size_t weight_bytes() const override { return weights_.bytes(); }
  size_t code_bytes() const override { return code_.bytes(); }
  const char* name() const override { return name_; }

 private:
  void run_group(std::span<const Tile> tiles, const Block& block) const {
    alignas(64) float sums[kGroup * kSumsOfTile];
    const size_t count = tiles.size() * parts_;
    for (size_t piece = block.first; piece < block.last; ++piece) {
      const Run run = std::bit_cast<Run>(code_.data() + pieces_[piece].entry);
      const float* weights = weights_.floats() + pieces_[piece].first_weight;
      for (size_t i = 0; i < count; ++i) {
        if (piece + 2 < pieces_.size()) fetch(piece + 1, i, count);
        run(weights, tiles[i / parts_].x + 16 * width_ * (i % parts_), sums + kSumsOfTile * i);
      }
    }
    for (size_t i = 0; i < count; ++i) {
      const Tile part = part_of(tiles[i / parts_], static_cast<uint32_t>(i % parts_), width_);
      tiles_.finish(epilogue_.get(), part, block.filters.data(), block.filters.size(), width_, sums + kSumsOfTile * i);
    }
  }

  // Part `number` of `count` of a piece's code and weights, into the second-level cache.
  void fetch(size_t piece, size_t number, size_t count) const {
    const CodePiece &from = pieces_[piece], &to = pieces_[piece + 1];
    fetch(code_.data() + from.entry, to.entry - from.entry, number, count);
    fetch(reinterpret_cast<const uint8_t*>(weights_.floats() + from.first_weight), (to.first_weight - from.first_weight) * sizeof(float), number, count);
  }
  static void fetch(const uint8_t* data, size_t bytes, size_t number, size_t count) {
    // Not __builtin_prefetch: gcc 12 finds a function of nothing else to have no effect, and leaves its calls out.
    for (size_t at = bytes * number / count; at < bytes * (number + 1) / count; at += 64) asm volatile("prefetcht0 %0" : : "m"(data[at]));
  }

  const Tiles& tiles_;
  const char* name_;
  uint32_t width_, parts_;
  OwnedEpilogue epilogue_;
  CodePages code_;
  Memory weights_;
  std::vector<CodePiece> pieces_;  // and one past the last
  std::vector<Block> blocks_;
};

std::unique_ptr<ConvKernel> make(const ConvRequest& request, RegisterTile tile, Generate generate, const Tiles& tiles, const char* name) {
  if (!request.generate_code) return refuse(request, "generated code is switched off");
  const int32_t* offsets = request.offsets;
  if (std::any_of(offsets, offsets + request.matrix.rows, [](int32_t offset) { return std::abs(int64_t{offset}) > kReach; })) {
    return refuse(request, "the input is larger than an instruction can address");
  }
  auto kernel = std::make_unique<UnrolledKernel>(request, generate_layer(request, tile, generate), tile, tiles, name);
  if (!kernel->valid()) return refuse(request, "pages cannot be made executable here");
  return kernel;
}

}  // namespace

std::unique_ptr<ConvKernel> make_unrolled_avx512(const ConvRequest& request) {
  return make(request, unrolled_tile_avx512(request.vectors), generate_unrolled_avx512, kTilesAvx512, "avx512/unrolled");
}
std::unique_ptr<ConvKernel> make_unrolled_avx2(const ConvRequest& request) {
  return make(request, unrolled_tile_avx2(request.vectors), generate_unrolled_avx2, kTilesAvx2, "avx2/unrolled");
}

}  // namespace rsk
