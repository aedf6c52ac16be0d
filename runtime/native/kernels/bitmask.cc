// Bitmask: filters in the lanes, for maps of so few positions that they would leave lanes empty. For each row a bit for every filter of a
// block, and the weights kept behind each other: 4 bytes a nonzero and a bit a weight.
//
//   sum[p][f] += w[f][r] · x[offset[r] + p]        an expansion spreads the weights of 16 filters, and feeds an FMA for each position
//
// Rows that reach the same positions follow each other: what lies in the padding costs no product. An FMA leaves the lanes without a weight as
// they are; with 0, an infinite input would give NaN.
//
// Bound by the stream, or by the pipes that an expansion (two of its parts), the move of its mask and the FMAs share: 0.54, 0.60, 0.72 and
// 0.83 ns for 16 weights and 1, 2, 4 and 6 positions at 4 GHz, however many are kept. Zen 5, 512 channels, 3×3, weights from memory, in µs beside
// the table kernel: 4 of 9 at 1² 20 (242), 2² 120 (243), 3² 155 (250), 4² 355 (245); 2 of 9 15 (130), 92 (130), 138 (133), 330 (128); 10 % at 2² 90
// (75). Dense 2² 295, and 410 for shared taps. From memory the 4.5 MB of 4 of 9 take 100 µs at the 45 GB/s of a stream.
#include "bitmask.h"

#include <algorithm>
#include <bit>
#include <map>

#include "prepare.h"
#include "shelf.h"
#include "tiles.h"

namespace rsk {

namespace {

constexpr uint32_t kFilters = BitmaskLoop::kFilters, kLanes = 16, kMostPositions = kLanes * Tiles::kMaxVectors;
constexpr size_t kFetched = 8192;  // bytes of values before a run begins: as far as the loop asks ahead

// The numbers of the bits set.
struct Positions {
  uint32_t numbers[kMostPositions], count = 0;

  explicit Positions(uint64_t bits) {
    for (; bits != 0; bits &= bits - 1) numbers[count++] = static_cast<uint32_t>(std::countr_zero(bits));
  }
  const uint32_t* begin() const { return numbers; }
  const uint32_t* end() const { return numbers + count; }
};

// The rows of a block's matrix that reach the same positions.
struct Part {
  uint64_t reach;
  size_t rows, first_offset, first_mask, first_value;
};

class BitmaskKernel final : public ConvKernel {
 public:
  BitmaskKernel(const ConvRequest& request, const BitmaskLoop& loop, const Tiles& tiles, const char* name)
      : loop_(loop), tiles_(tiles), name_(name), vectors_(request.vectors), filters_(request.matrix.filters), epilogue_(request.epilogue, filters_) {
    for (uint32_t filter = 0; filter < filters_; ++filter) numbers_.push_back(filter);
    values_ = Memory((request.matrix.start[filters_] + kLanes) * sizeof(float));
    float* next = values_.floats();
    KnownRows known;
    for (uint32_t first = 0; first < filters_; first += kFilters) {
      blocks_.push_back({parts_.size(), 0});
      next = append(request, first, std::min(first + kFilters, filters_), next, known);
      blocks_.back().parts = parts_.size() - blocks_.back().first_part;
    }
  }

  void settle(Shelf& shelf) override { shelf.weights.settle(values_); }

  void run(const Tile& tile, uint32_t number) const override {
    const Block& block = blocks_[number];
    const uint32_t width = kLanes * vectors_, first = kFilters * number, count = std::min(kFilters, filters_ - first);
    const Positions kept(tile.keep & all_positions());
    alignas(64) float sums[kMostPositions * kFilters], turned[kMostPositions * kFilters];
    for (const uint32_t position : kept) std::fill_n(sums + size_t{kFilters} * position, kFilters, 0.0F);
    for (size_t i = 0; i < block.parts; ++i) add(parts_[block.first_part + i], tile, sums);
    std::fill_n(turned, size_t{width} * count, 0.0F);
    for (const uint32_t position : kept) {
      for (uint32_t filter = 0; filter < count; ++filter) turned[width * filter + position] = sums[kFilters * position + filter];
    }
    tiles_.finish(epilogue_.get(), tile, numbers_.data() + first, count, vectors_, turned);
  }
  void fetch(uint32_t number) const override {
    const Block& block = blocks_[number];
    if (block.parts == 0) return;
    const Part& part = parts_[block.first_part];
    fetch_lines(values_.floats() + part.first_value, kFetched);
    fetch_lines(masks_.data() + part.first_mask, kFetched / 4);
  }
  uint32_t blocks() const override { return static_cast<uint32_t>(blocks_.size()); }
  size_t weight_bytes() const override { return values_.own_bytes() + masks_.size() * sizeof(uint64_t) + offsets_.size() * sizeof(int32_t); }
  const char* name() const override { return name_; }

 private:
  struct Block {
    size_t first_part, parts;
  };

  using KnownRows = std::map<std::vector<uint32_t>, size_t>;  // and where their offsets start

  uint64_t all_positions() const { return ~uint64_t{0} >> (kMostPositions - kLanes * vectors_); }

  // A part's products with all positions that it reaches, some of them at a time.
  void add(const Part& part, const Tile& tile, float* sums) const {
    const Positions reached(part.reach & tile.keep);
    const uint32_t turns = (reached.count + BitmaskLoop::kMaxPositions - 1) / BitmaskLoop::kMaxPositions;
    for (uint32_t turn = 0; turn < turns; ++turn) {
      const auto [first, last] = share_of(reached.count, turns, turn);
      loop_.add[last - first](tile.x, offsets_.data() + part.first_offset, masks_.data() + part.first_mask, part.rows, values_.floats() + part.first_value,
                              reached.numbers + first, sums);
    }
  }

  // The parts of the filters [first, last), and their values at `to`.
  float* append(const ConvRequest& request, uint32_t first, uint32_t last, float* to, KnownRows& known) {
    const Matrix& matrix = request.matrix;
    std::vector<uint64_t> masks(matrix.rows);
    for (uint32_t filter = first; filter < last; ++filter) {
      for (uint32_t i = matrix.start[filter]; i < matrix.start[filter + 1]; ++i) masks[matrix.columns[i]] |= uint64_t{1} << (filter - first);
    }
    std::map<uint64_t, std::vector<uint32_t>> alike;
    for (uint32_t row = 0; row < matrix.rows; ++row) {
      const uint64_t reach = all_positions() & (request.reach != nullptr ? request.reach[row] : ~uint64_t{0});
      if (masks[row] != 0 && reach != 0) alike[reach].push_back(row);
    }
    std::vector<float*> next(matrix.rows);
    for (const auto& [reach, rows] : alike) {
      parts_.push_back({reach, rows.size(), offsets_of(request, rows, known), masks_.size(), static_cast<size_t>(to - values_.floats())});
      for (const uint32_t row : rows) {
        masks_.push_back(masks[row]);
        next[row] = to;
        to += std::popcount(masks[row]);
      }
    }
    for (uint32_t filter = first; filter < last; ++filter) {
      for (uint32_t i = matrix.start[filter]; i < matrix.start[filter + 1]; ++i) {
        if (float*& place = next[matrix.columns[i]]; place != nullptr) *place++ = matrix.values[i];
      }
    }
    return to;
  }

  // Where the rows' offsets start; most blocks have the same ones.
  size_t offsets_of(const ConvRequest& request, const std::vector<uint32_t>& rows, KnownRows& known) {
    const auto [found, fresh] = known.try_emplace(rows, offsets_.size());
    for (size_t i = 0; fresh && i < rows.size(); ++i) offsets_.push_back(request.offsets[rows[i]]);
    return found->second;
  }

  const BitmaskLoop& loop_;
  const Tiles& tiles_;
  const char* name_;
  uint32_t vectors_, filters_;
  OwnedEpilogue epilogue_;
  std::vector<uint32_t> numbers_;
  std::vector<Block> blocks_;
  std::vector<Part> parts_;
  std::vector<int32_t> offsets_;
  std::vector<uint64_t> masks_;
  Memory values_;
};

template <uint32_t kPositions>
void add(const float* x, const int32_t* offsets, const uint64_t* masks, size_t rows, const float* values, const uint32_t* positions, float* sums) {
  for (size_t row = 0; row < rows; ++row) {
    for (uint64_t left = masks[row]; left != 0; left &= left - 1, ++values) {
      for (uint32_t p = 0; p < kPositions; ++p) {
        sums[size_t{kFilters} * positions[p] + static_cast<uint32_t>(std::countr_zero(left))] += *values * x[offsets[row] + static_cast<int64_t>(positions[p])];
      }
    }
  }
}

}  // namespace

constexpr BitmaskLoop kBitmaskPortable = {{nullptr, add<1>, add<2>, add<3>, add<4>, add<5>, add<6>}};

#if defined(__x86_64__)
std::unique_ptr<ConvKernel> make_bitmask_avx512(const ConvRequest& request) {
  return std::make_unique<BitmaskKernel>(request, kBitmaskAvx512, kTilesAvx512, "avx512/bitmask");
}
#endif
std::unique_ptr<ConvKernel> make_bitmask_portable(const ConvRequest& request) {
  return std::make_unique<BitmaskKernel>(request, kBitmaskPortable, kTilesPortable, "portable/bitmask");
}

}  // namespace rsk
