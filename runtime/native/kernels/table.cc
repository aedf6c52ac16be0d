// Table: for each filter a list of (row, weight), 6 bytes a nonzero in one stream, read once for all tiles.
//
//   sum[v] += weight · x[row + v]
//
// Rows go in chunks that keep their part of a packed panel in the first-level cache; a chunk is used by all filters of a block.
// Filters with lists of nearly one length go in bundles, whose sums are in registers together. Padding repeats a filter's last
// row with a weight that no sum sees; with 0, an infinite input would give NaN.
//
// Bound by load slots: a vector of x for each multiply-add, in the panel (aligned; a load that crosses a cache line takes two
// slots), and the rows. Zen 5, share of the peak of 125 GMAC/s in a loop over a chunk, tiles of 1 and 4 vectors: rows loaded one by
// one 52 and 68 %, four in a load 65 and 79 %, that load one group ahead 66 and 88 %; one byte a row gains nothing more.
// Weights broadcast from memory: 47 and 74 %. Whole layers, weights from memory: 256@8² 190 µs (70 %) for 4 of 9 and 100 µs for 2
// of 9, 512@4² 255 and 130 µs (25 GB/s), 512@7² 770 and 440 µs. More rows in a chunk (144 of 4 vectors) lose 15 %.
#include <algorithm>
#include <bit>

#include "prepare.h"
#include "tiles.h"

namespace rsk {

namespace {

constexpr uint32_t kBlockFilters = 64;
constexpr uint32_t kChunkRows = 432;  // of one vector, 27 KB; 16·27: no padding where every 3×3 kernel has y taps
constexpr float kUnseen = 0x1p-40F;   // of the last weight; it underflows to 0 only below 2⁻¹⁰⁹
constexpr int64_t kReach = 65535;     // floats that a 16-bit row can be away from the chunk's start

struct Chunk {
  uint32_t first = 0, last = 0;  // rows
  int32_t base = 0;              // the smallest offset
};

// Greedy: rows in order, as long as the chunk fits the cache and its offsets the 16 bits. Rows at one place count once.
std::vector<Chunk> chunks_of(const ConvRequest& request) {
  std::vector<Chunk> chunks;
  const uint32_t most = kChunkRows / request.vectors;
  uint32_t count = 0;
  int64_t low = 0, high = 0;
  for (uint32_t row = 0; row < request.matrix.rows; ++row) {
    const int64_t offset = request.offsets[row];
    const bool again = row > 0 && offset == request.offsets[row - 1];
    const int64_t new_low = std::min(low, offset), new_high = std::max(high, offset);
    if (chunks.empty() || (count == most && !again) || new_high - new_low > kReach) {
      chunks.push_back({row, row, 0});
      low = high = offset;
      count = 0;
    } else {
      low = new_low, high = new_high;
    }
    count += again && count > 0 ? 0 : 1;
    chunks.back().last = row + 1;
    chunks.back().base = static_cast<int32_t>(low);
  }
  return chunks;
}

class TableKernel final : public ConvKernel {
 public:
  TableKernel(const ConvRequest& request, const Tiles& tiles, const char* name)
      : tiles_(tiles),
        name_(name),
        vectors_(request.vectors),
        filters_(request.matrix.filters),
        epilogue_(request.epilogue, filters_),
        chunks_(chunks_of(request)) {
    for (uint32_t filter = 0; filter < filters_; ++filter) numbers_.push_back(filter);
    const uint32_t blocks = (filters_ + kBlockFilters - 1) / kBlockFilters;
    std::vector<TableGroup> groups;
    for (uint32_t number = 0; number < blocks; ++number) {
      const auto [first, last] = share_of(filters_, blocks, number);
      blocks_.push_back({first, last, groups.size(), parts_.size()});
      for (const Chunk& chunk : chunks_) {
        const size_t before = bundles_.size();
        fill(request, chunk, blocks_.back(), groups);
        parts_.push_back({before, bundles_.size() - before});
      }
    }
    stream_ = Memory((groups.size() + 1) * sizeof(TableGroup));
    std::copy(groups.begin(), groups.end(), stream());
  }

  void run(const Tile& tile, uint32_t number) const override { run_all({&tile, 1}, number); }

  void run_all(std::span<const Tile> tiles, uint32_t number) const override {
    for (; tiles.size() > kMostTiles; tiles = tiles.subspan(kMostTiles)) run_some(tiles.first(kMostTiles), number);
    run_some(tiles, number);
  }
  uint32_t blocks() const override { return static_cast<uint32_t>(blocks_.size()); }
  size_t weight_bytes() const override { return stream_.bytes() + bundles_.size() * sizeof(TableBundle); }
  const char* name() const override { return name_; }

 private:
  static constexpr size_t kMostTiles = 8;

  struct Block {
    uint32_t first, last;  // filters
    size_t first_group, first_part;
  };
  struct Part {  // of a block in a chunk
    size_t first_bundle, bundles;
  };
  struct Entries {  // of a filter in a chunk, as positions in the matrix
    uint32_t filter, begin, end;
  };

  void run_some(std::span<const Tile> tiles, uint32_t number) const {
    const Block& block = blocks_[number];
    const size_t filters = block.last - block.first, each = size_t{16} * vectors_ * (filters + 1);
    alignas(64) float sums[size_t{16} * Tiles::kMaxVectors * (kBlockFilters + 1) * kMostTiles];
    std::fill_n(sums, each * tiles.size(), 0.0F);
    const TableGroup* groups = stream() + block.first_group;
    for (size_t number_of_chunk = 0; number_of_chunk < chunks_.size(); ++number_of_chunk) {
      const Part& part = parts_[block.first_part + number_of_chunk];
      const TableGroup* end = groups;
      for (size_t i = 0; i < tiles.size(); ++i) {
        const float* x = tiles[i].x + chunks_[number_of_chunk].base;
        end = tiles_.table[vectors_][used(tiles[i])](x, groups, bundles_.data() + part.first_bundle, part.bundles, sums + each * i);
      }
      groups = end;
    }
    for (size_t i = 0; i < tiles.size(); ++i) {
      tiles_.finish(epilogue_.get(), tiles[i], numbers_.data() + block.first, filters, vectors_, sums + each * i);
    }
  }

  // How many vectors of a tile have a position that is kept.
  uint32_t used(const Tile& tile) const { return std::clamp((static_cast<uint32_t>(std::bit_width(tile.keep)) + 15) / 16, uint32_t{1}, vectors_); }

  // Bundles filters with nearly as many entries; where some are missing, a bundle adds to the sums behind the block's last.
  void fill(const ConvRequest& request, const Chunk& chunk, const Block& block, std::vector<TableGroup>& groups) {
    std::vector<Entries> filters;
    for (uint32_t filter = block.first; filter < block.last; ++filter) {
      const auto [begin, end] = within(request.matrix, filter, chunk);
      if (begin < end) filters.push_back({filter - block.first, begin, end});
    }
    std::stable_sort(filters.begin(), filters.end(), [](const Entries& left, const Entries& right) { return left.end - left.begin < right.end - right.begin; });
    const uint32_t together = tiles_.table_filters[vectors_], turns = TableGroup::kSize / together;
    for (size_t first = 0; first < filters.size(); first += together) {
      const std::span<const Entries> bundled = std::span(filters).subspan(first, std::min<size_t>(together, filters.size() - first));
      const uint32_t longest = bundled.back().end - bundled.back().begin, count = (longest + turns - 1) / turns;
      TableBundle bundle{static_cast<uint16_t>(count), {}};
      for (uint32_t i = 0; i < together; ++i) bundle.filters[i] = static_cast<uint16_t>(i < bundled.size() ? bundled[i].filter : block.last - block.first);
      bundles_.push_back(bundle);
      for (uint32_t at = 0; at < count; ++at) groups.push_back(group_of(request, chunk, bundled, at * turns));
    }
  }

  TableGroup group_of(const ConvRequest& request, const Chunk& chunk, std::span<const Entries> bundled, uint32_t turn) const {
    const uint32_t together = tiles_.table_filters[vectors_];
    TableGroup group{};
    for (uint32_t lane = 0; lane < TableGroup::kSize; ++lane) {
      if (lane % together >= bundled.size()) continue;
      const Entries& entries = bundled[lane % together];
      const uint32_t wanted = entries.begin + turn + lane / together, entry = std::min(wanted, entries.end - 1);
      group.weights[lane] = request.matrix.values[entry] * (wanted == entry ? 1.0F : kUnseen);
      group.rows[lane] = static_cast<uint16_t>(request.offsets[request.matrix.columns[entry]] - chunk.base);
    }
    return group;
  }

  static std::pair<uint32_t, uint32_t> within(const Matrix& matrix, uint32_t filter, const Chunk& chunk) {
    const uint32_t* begin = matrix.columns + matrix.start[filter];
    const uint32_t* end = matrix.columns + matrix.start[filter + 1];
    const auto position = [&](uint32_t row) { return static_cast<uint32_t>(std::lower_bound(begin, end, row) - matrix.columns); };
    return {position(chunk.first), position(chunk.last)};
  }

  TableGroup* stream() const { return reinterpret_cast<TableGroup*>(stream_.floats()); }

  const Tiles& tiles_;
  const char* name_;
  uint32_t vectors_, filters_;
  OwnedEpilogue epilogue_;
  std::vector<Chunk> chunks_;
  std::vector<uint32_t> numbers_;
  std::vector<Block> blocks_;
  std::vector<Part> parts_;
  std::vector<TableBundle> bundles_;
  Memory stream_;
};

}  // namespace

#if defined(__x86_64__)
std::unique_ptr<ConvKernel> make_table_avx512(const ConvRequest& request) { return std::make_unique<TableKernel>(request, kTilesAvx512, "avx512/table"); }
std::unique_ptr<ConvKernel> make_table_avx2(const ConvRequest& request) { return std::make_unique<TableKernel>(request, kTilesAvx2, "avx2/table"); }
#elif defined(__aarch64__)
std::unique_ptr<ConvKernel> make_table_neon(const ConvRequest& request) { return std::make_unique<TableKernel>(request, kTilesNeon, "neon/table"); }
#endif
std::unique_ptr<ConvKernel> make_table_portable(const ConvRequest& request) { return std::make_unique<TableKernel>(request, kTilesPortable, "portable/table"); }

}  // namespace rsk
