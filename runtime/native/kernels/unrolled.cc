// Unrolled: the structure of the matrix as straight-line code (codegen/unrolled.h), weights in a stream beside it.
//
//   sum[r] += weight · x[offset]        one instruction a nonzero, or two
//
// A block's code is run in pieces, each for a group of tiles, with the sums in memory in between: what many tiles run stays in the
// caches for instructions. The code prefetches the next piece, a few lines each call and far from each other: 25×1, four tiles,
// code from the third-level cache: 108 GMAC/s, 92 with the same prefetches in a row before the call, 89 without.
//
// AMD EPYC, family 26 (Zen 5), 512 bits, 26×1, planes without room between rows, shares of the peak of 130 GMAC/s with 4 of 9, 2 of 9
// and 10 % nonzeros: 64@32² 94, 86–91, 76 · 64@56² 92, 85, 74 · 128@28² 94, 90, 82 · 128@16² 94, 91, 79 · 256@14² 89, 86, 79 · 256@8²
// 83, 79, 64. 256 bits, 6×1, 4 of 9: 95, 93, 91, 92 (128@16²).
// After the first, a tile takes 1.00 to 1.02 of a slot a multiply-add; the first 1.25 to 1.6, for its code comes from the second-level
// cache, of which the decoders take 16 bytes a cycle (9 a multiply-add). 14² has partial vectors besides (6 %), and four tiles no jumps,
// which are mispredicted where code is not run again soon. Asking for the lines of the output beforehand changes nothing. Two vectors
// for each weight (13×2) have fewer loads and 3.2 instructions a cycle: 88 % at 64@32², 65 at 128@16².
// The first piece of a layer is asked for at once before it runs: 2 of 9, code and weights from memory, 64@32² 90 and 88 µs,
// 128@16² 93 and 90, 256@8² 118 and 115.
#include "codegen/unrolled.h"

#include <algorithm>
#include <bit>

#include "codegen/pages.h"
#include "prepare.h"
#include "shelf.h"
#include "tiles.h"

namespace rsk {

namespace {

constexpr uint32_t kGroup = 64;  // tiles for which a piece's code stays; their sums take 112 KB
constexpr size_t kSumsOfTile = size_t{16} * Tiles::kMaxFilters;

using Run = void (*)(const float* weights, const float* x, float* sums, const UnrolledCall* call);

class UnrolledKernel final : public ConvKernel {
 public:
  UnrolledKernel(const ConvRequest& request, UnrolledLayer layer, const Tiles& tiles, const char* name)
      : tiles_(tiles),
        name_(name),
        width_(layer.tile.vectors),
        parts_(request.vectors / layer.tile.vectors),
        finishes_(layer.generated.finishes),
        code_ahead_(size_t{64} * layer.generated.code_lines_ahead),
        weights_ahead_(size_t{16} * layer.generated.weight_lines_ahead),
        epilogue_(request.epilogue, request.matrix.filters),
        code_(layer.generated.code),
        weights_(layer.generated.weights.size() * sizeof(float)),
        pieces_(std::move(layer.generated.pieces)),
        blocks_(std::move(layer.blocks)) {
    std::copy(layer.generated.weights.begin(), layer.generated.weights.end(), weights_.floats());
    pieces_.push_back({code_.bytes(), weights_.bytes() / sizeof(float)});
  }

  bool valid() const { return code_.valid(); }

  void settle(Shelf& shelf) override {
    shelf.code.settle(code_);
    shelf.weights.settle(weights_);
  }

  void run(const Tile& tile, uint32_t number) const override { run_all({&tile, 1}, number); }

  void run_all(std::span<const Tile> tiles, uint32_t number) const override {
    const uint32_t count = static_cast<uint32_t>(tiles.size()), most = kGroup / parts_, groups = (count + most - 1) / most;
    for (uint32_t group = 0; group < groups; ++group) {
      const auto [first, last] = share_of(count, groups, group);
      run_group(tiles.subspan(first, last - first), blocks_[number]);
    }
  }

  // The first piece, which no other one asks for. Instructions that are missing are waited for line by line.
  void fetch(uint32_t number) const override {
    const CodePiece &first = pieces_[blocks_[number].first], &next = pieces_[blocks_[number].first + 1];
    fetch_lines(code_.data() + first.entry, next.entry - first.entry);
    fetch_lines(weights_.floats() + first.first_weight, (next.first_weight - first.first_weight) * sizeof(float));
  }

  uint32_t blocks() const override { return static_cast<uint32_t>(blocks_.size()); }
  size_t weight_bytes() const override { return weights_.own_bytes(); }
  size_t code_bytes() const override { return code_.own_bytes(); }
  const char* name() const override { return name_; }

 private:
  void run_group(std::span<const Tile> tiles, const UnrolledBlock& block) const {
    alignas(64) float sums[kGroup * kSumsOfTile];
    for (size_t piece = block.first; piece < block.last; ++piece) {
      const Run run = std::bit_cast<Run>(code_.data() + pieces_[piece].entry);
      const float* weights = weights_.floats() + pieces_[piece].first_weight;
      const bool last = piece + 1 == block.last;
      UnrolledCall call;
      call.code_ahead = code_.data() + pieces_[piece + 1].entry;
      call.weights_ahead = weights_.floats() + pieces_[piece + 1].first_weight;
      float* sum = sums;
      for (const Tile& tile : tiles) {
        for (uint32_t number = 0; number < parts_; ++number, sum += kSumsOfTile) {
          const Tile part = part_of(tile, number, width_);
          set_inside(part, call);
          if (last) set_output(part, block.filters[0], call);
          run(weights, part.x, sum, &call);
          call.code_ahead += code_ahead_;
          call.weights_ahead += weights_ahead_;
          if (last && !finishes_) tiles_.finish(epilogue_.get(), part, block.filters.data(), block.filters.size(), width_, sum);
        }
      }
    }
  }

  static void set_output(const Tile& tile, uint32_t filter, UnrolledCall& call) {
    call.out = tile.out + filter * tile.out_stride;
    call.stride = tile.out_stride * sizeof(float);
    if (tile.residual != nullptr) call.residual = tile.residual + filter * tile.residual_stride;
    call.residual_stride = tile.residual_stride * sizeof(float);
    call.keep = tile.keep;
  }

  static void set_inside(const Tile& tile, UnrolledCall& call) {
    call.inside[0] = tile.inside[0];
    call.inside[1] = tile.inside[1];
  }

  const Tiles& tiles_;
  const char* name_;
  uint32_t width_, parts_;
  bool finishes_;
  size_t code_ahead_, weights_ahead_;  // of a call, in bytes and floats
  OwnedEpilogue epilogue_;
  CodePages code_;
  Memory weights_;
  std::vector<CodePiece> pieces_;  // and one past the last
  std::vector<UnrolledBlock> blocks_;
};

std::unique_ptr<ConvKernel> make(const ConvRequest& request, Isa isa, const Tiles& tiles, const char* name) {
  if (!request.generate_code) return refuse(request, "generated code is switched off");
  const int32_t* offsets = request.offsets;
  if (std::any_of(offsets, offsets + request.matrix.rows, [](int32_t offset) { return std::abs(int64_t{offset}) > kUnrolledReach; })) {
    return refuse(request, "the input is larger than an instruction can address");
  }
  const UnrolledRequest unrolled{request.matrix, offsets, request.vectors, request.phase, request.sides, std::min(request.tiles, kGroup), &request.epilogue};
  auto kernel = std::make_unique<UnrolledKernel>(request, unrolled_layer(unrolled, isa), tiles, name);
  if (!kernel->valid()) return refuse(request, "pages cannot be made executable here");
  return kernel;
}

}  // namespace

#if defined(__x86_64__)
std::unique_ptr<ConvKernel> make_unrolled_avx512(const ConvRequest& request) { return make(request, Isa::kAvx512, kTilesAvx512, "avx512/unrolled"); }
std::unique_ptr<ConvKernel> make_unrolled_avx2(const ConvRequest& request) { return make(request, Isa::kAvx2, kTilesAvx2, "avx2/unrolled"); }
#elif defined(__aarch64__)
std::unique_ptr<ConvKernel> make_unrolled_neon(const ConvRequest& request) { return make(request, Isa::kNeon, kTilesNeon, "neon/unrolled"); }
#endif

}  // namespace rsk
