// Shared taps: R filters with the same list of rows, in registers, over V vectors; each row of the input is loaded once for R.
//
//   sum[r][v] += weight[i][r] · x[offset[i] + v]        for i in the list: R broadcasts and V loads feed R·V FMAs
//
// Dense and 1×1 layers have one list, a cross has one, periodic masks have one for each residue class.
//
// Weights are asked for 8 KB ahead: the first tile of a block would wait for memory. Zen 5, panel, weights from memory, in µs and without
// that: 256@8², two vectors, dense 295 (471), cross 177 (291), 4 of 9 periodic 174 (267); 512@4² 322 (429), 192 (433), 188 (450).
#include <algorithm>
#include <map>

#include "prepare.h"
#include "shelf.h"
#include "tiles.h"

namespace rsk {

namespace {

struct Block {
  std::vector<uint32_t> filters;
  size_t first_offset = 0, first_weight = 0;
  uint32_t rows = 0;
};

class SharedKernel final : public ConvKernel {
 public:
  SharedKernel(const ConvRequest& request, const Tiles& tiles, const char* name)
      : tiles_(tiles), name_(name), vectors_(request.vectors), epilogue_(request.epilogue, request.matrix.filters) {
    const Matrix& matrix = request.matrix;
    for (const auto& filters : same_rows(matrix)) {
      const uint32_t* columns = matrix.columns + matrix.start[filters[0]];
      const uint32_t rows = matrix.start[filters[0] + 1] - matrix.start[filters[0]];
      const size_t first_offset = offsets_.size();
      for (uint32_t i = 0; i < rows; ++i) offsets_.push_back(request.offsets[columns[i]]);
      const uint32_t count = static_cast<uint32_t>(filters.size()), most = tiles.shared_filters[vectors_];
      const uint32_t blocks = (count + most - 1) / most;
      for (uint32_t number = 0; number < blocks; ++number) {
        const auto [first, last] = share_of(count, blocks, number);
        blocks_.push_back({{filters.begin() + first, filters.begin() + last}, first_offset, weights_, rows});
        weights_ += size_t{last - first} * rows;
      }
    }
    stream_ = Memory(weights_ * sizeof(float));
    float* next = stream_.floats();
    for (const Block& block : blocks_) {
      for (uint32_t i = 0; i < block.rows; ++i) {
        for (const uint32_t filter : block.filters) *next++ = matrix.values[matrix.start[filter] + i];
      }
    }
  }

  // Filters with equal columns, in order of their first.
  static std::vector<std::vector<uint32_t>> same_rows(const Matrix& matrix) {
    std::map<std::vector<uint32_t>, size_t> known;
    std::vector<std::vector<uint32_t>> groups;
    for (uint32_t filter = 0; filter < matrix.filters; ++filter) {
      const auto [group, fresh] = known.try_emplace({matrix.columns + matrix.start[filter], matrix.columns + matrix.start[filter + 1]}, groups.size());
      if (fresh) groups.emplace_back();
      groups[group->second].push_back(filter);
    }
    return groups;
  }

  void settle(Shelf& shelf) override { shelf.weights.settle(stream_); }

  void run(const Tile& tile, uint32_t number) const override {
    const Block& block = blocks_[number];
    const uint32_t filters = static_cast<uint32_t>(block.filters.size());
    alignas(64) float sums[kMostSums];
    tiles_.shared[vectors_][filters](tile.x, offsets_.data() + block.first_offset, block.rows, stream_.floats() + block.first_weight, sums);
    tiles_.finish(epilogue_.get(), tile, block.filters.data(), filters, vectors_, sums);
  }
  uint32_t blocks() const override { return static_cast<uint32_t>(blocks_.size()); }
  size_t weight_bytes() const override { return stream_.own_bytes() + offsets_.size() * sizeof(int32_t); }
  const char* name() const override { return name_; }

 private:
  static constexpr size_t kMostSums = 16 * std::max(Tiles::kMaxFilters, 12 * Tiles::kMaxVectors);

  const Tiles& tiles_;
  const char* name_;
  uint32_t vectors_;
  OwnedEpilogue epilogue_;
  std::vector<Block> blocks_;
  std::vector<int32_t> offsets_;
  size_t weights_ = 0;
  Memory stream_;
};

std::unique_ptr<ConvKernel> make(const ConvRequest& request, const Tiles& tiles, const char* name) {
  // A lone filter pays a load for every FMA: the table does that without the offsets in between.
  const size_t lists = SharedKernel::same_rows(request.matrix).size();
  if (lists > 1 && request.matrix.filters < 4 * lists) return refuse(request, "fewer than 4 filters share a list of taps");
  return std::make_unique<SharedKernel>(request, tiles, name);
}

}  // namespace

#if defined(__x86_64__)
std::unique_ptr<ConvKernel> make_shared_avx512(const ConvRequest& request) { return make(request, kTilesAvx512, "avx512/shared"); }
std::unique_ptr<ConvKernel> make_shared_avx2(const ConvRequest& request) { return make(request, kTilesAvx2, "avx2/shared"); }
#elif defined(__aarch64__)
std::unique_ptr<ConvKernel> make_shared_neon(const ConvRequest& request) { return make(request, kTilesNeon, "neon/shared"); }
#endif
std::unique_ptr<ConvKernel> make_shared_portable(const ConvRequest& request) { return make(request, kTilesPortable, "portable/shared"); }

}  // namespace rsk
