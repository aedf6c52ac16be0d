// The obvious convolution kernel: every machine has it.
#include <algorithm>
#include <cstring>
#include <vector>

#include "conv.h"
#include "ops/activations.h"
#include "ops/vectorise.h"
#include "prepare.h"

namespace rsk {
namespace {

constexpr uint32_t kBlock = 8;
constexpr size_t kLanes = 16;
constexpr size_t kMaxTile = 4 * kLanes;

// The compiler splits it into the vectors that the machine has.
typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float))));

template <size_t kVectors>
[[gnu::always_inline]] inline void accumulate(float* sums, const float* x, const int32_t* offsets, const float* values, size_t count) {
  Lanes total[kVectors];
  std::memcpy(total, sums, sizeof total);
  for (size_t at = 0; at < count; ++at) {
    for (size_t v = 0; v < kVectors; ++v) {
      Lanes row;
      std::memcpy(&row, x + offsets[at] + v * kLanes, sizeof row);
      total[v] += row * values[at];
    }
  }
  std::memcpy(sums, total, sizeof total);
}

// Adds one filter's products to the sums of a tile, which stay in registers.
RSK_VECTORISED void add_filter(float* sums, const float* x, const int32_t* offsets, const float* values, size_t count, size_t vectors) {
  switch (vectors) {
    case 1:
      return accumulate<1>(sums, x, offsets, values, count);
    case 2:
      return accumulate<2>(sums, x, offsets, values, count);
    case 3:
      return accumulate<3>(sums, x, offsets, values, count);
    default:
      return accumulate<4>(sums, x, offsets, values, count);
  }
}

class Portable final : public ConvKernel {
 public:
  explicit Portable(const ConvRequest& request)
      : start_(request.matrix.start, request.matrix.start + request.matrix.filters + 1),
        offsets_(start_.back()),
        values_(request.matrix.values, request.matrix.values + start_.back()),
        epilogue_(request.epilogue, request.matrix.filters),
        width_(kLanes * request.vectors) {
    for (size_t at = 0; at < offsets_.size(); ++at) offsets_[at] = request.offsets[request.matrix.columns[at]];
  }

  void run(const Tile& tile, uint32_t block) const override {
    const auto filters = static_cast<uint32_t>(start_.size() - 1);
    for (uint32_t filter = block * kBlock; filter < std::min(filters, (block + 1) * kBlock); ++filter) {
      alignas(64) float sums[kMaxTile];
      std::fill_n(sums, kMaxTile, epilogue_.get().bias == nullptr ? 0.0F : epilogue_.get().bias[filter]);
      const uint32_t first = start_[filter];
      add_filter(sums, tile.x, offsets_.data() + first, values_.data() + first, start_[filter + 1] - first, width_ / kLanes);
      store(tile, filter, sums);
    }
  }

  uint32_t blocks() const override { return static_cast<uint32_t>((start_.size() - 1 + kBlock - 1) / kBlock); }
  size_t weight_bytes() const override { return 4 * (start_.size() + offsets_.size() + values_.size()); }
  const char* name() const override { return "portable"; }

 private:
  void store(const Tile& tile, uint32_t filter, float* sums) const {
    float* out = tile.out + filter * tile.out_stride;
    const Epilogue& epilogue = epilogue_.get();
    const float* residual = epilogue.residual ? tile.residual + filter * tile.residual_stride : nullptr;
    for (size_t p = 0; residual != nullptr && p < width_; ++p) sums[p] += residual[p];
    with_function(unary(epilogue.activation), epilogue.alpha, epilogue.beta, [&](auto function) {
      for (size_t p = 0; p < width_; ++p) out[p] = (tile.keep >> p & 1) != 0 ? function(sums[p]) : 0.0F;
    });
  }

  std::vector<uint32_t> start_;
  std::vector<int32_t> offsets_;
  std::vector<float> values_;
  OwnedEpilogue epilogue_;
  size_t width_;
};

}  // namespace

std::unique_ptr<ConvKernel> make_portable(const ConvRequest& request) { return std::make_unique<Portable>(request); }

}  // namespace rsk
