// Table: for each filter a list of (row, weight), 6 bytes a nonzero in one stream, read once for all tiles.
//
//   sum[v] += weight · x[row + v]
//
// Rows go in chunks that keep their part of a packed panel in the first-level cache; a chunk is passed by the blocks of filters that
// run together before the next one is read. Filters with lists of nearly one length go in bundles, whose sums are in registers
// together. Padding repeats a filter's last row with a weight that no sum sees; with 0, an infinite input would give NaN. Where some
// rows are zero in a tile's last vector, a bundle has a second list, of these, which leaves it out: 512@7², where one position of 49
// has a vector of its own and five taps of nine do not reach it, 56 % of the peak without that and 61 with it (2 of 9: 51 and 54).
//
// Bound by load slots: a vector of x for each multiply-add, in the panel (aligned; a load that crosses a cache line takes two
// slots), and the rows: a load of 8 bytes takes as long as one of 64. With one vector the shuffles that broadcast weights share
// pipes with the multiply-adds, too: 5.9 cycles for eight nonzeros in a loop, of which the loads alone take 5.7; weights by quads, in
// one load of sixteen, or rows of one byte take as long. Zen 5, share of the peak of 128 GMAC/s in a loop over a chunk, tiles of 1
// and 4 vectors: rows loaded one by one 52 and 68 %, four in a load 65 and 79 %, that load one group ahead 66 and 88 %. Weights
// broadcast from memory: 47 and 74 %. Layers with their packing, weights from the third-level cache and (second figure) from memory:
// 256@8² 181 µs (71 %) for 4 of 9 and 100 µs for 2 of 9; 512@4² 240, 255 and 120, 130 µs; 512@7² 650, 705 and 355, 400 µs. Of the
// latter packing takes 5 %. Blocks one after the other, each with all chunks, read the panel from the second-level cache again for
// each: 512@7² 53 and 47 % of the peak, 56 and 51 with 512 filters together. More rows in a chunk gain nothing.
#include <algorithm>
#include <bit>

#include "prepare.h"
#include "shelf.h"
#include "tiles.h"

namespace rsk {

namespace {

constexpr uint32_t kBlockFilters = 64;
constexpr uint32_t kMostSums = 32;    // vectors for each filter of a block that run together: 133 KB
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
    count_ = (filters_ + kBlockFilters - 1) / kBlockFilters;
    together_ = std::clamp(kMostSums / (vectors_ * std::clamp(request.tiles, 1U, kMostSums / vectors_)), 1U, std::max(count_, 1U));
    parts_.resize(count_ * chunks_.size());
    std::vector<TableGroup> groups;
    for (uint32_t first = 0; first < count_; first += together_) {
      for (size_t chunk = 0; chunk < chunks_.size(); ++chunk) {
        for (uint32_t block = first; block < std::min(count_, first + together_); ++block) {
          Part& part = parts_[block * chunks_.size() + chunk];
          part = {groups.size(), bundles_.size(), 0};
          fill(request, chunks_[chunk], block, groups);
          part.bundles = bundles_.size() - part.first_bundle;
        }
      }
    }
    stream_ = Memory((groups.size() + 1) * sizeof(TableGroup));
    std::copy(groups.begin(), groups.end(), stream());
  }

  void settle(Shelf& shelf) override { shelf.weights.settle(stream_); }

  void run(const Tile& tile, uint32_t number) const override { run_all({&tile, 1}, number); }

  void run_all(std::span<const Tile> tiles, uint32_t number) const override { run_blocks(tiles, number, number + 1); }

  void run_blocks(std::span<const Tile> tiles, uint32_t first, uint32_t last) const override {
    for (uint32_t end = 0; first < last; first = end) {
      end = std::min(last, (first / together_ + 1) * together_);
      const size_t most = kMostSums / (vectors_ * (end - first));
      for (size_t at = 0; at < tiles.size(); at += most) run_some(tiles.subspan(at, std::min(most, tiles.size() - at)), first, end);
    }
  }
  uint32_t blocks() const override { return count_; }
  size_t weight_bytes() const override { return stream_.own_bytes() + bundles_.size() * sizeof(TableBundle); }
  const char* name() const override { return name_; }

 private:
  // Of a block in a chunk. Those of the blocks that run together follow each other in the stream, chunk after chunk.
  struct Part {
    size_t first_group, first_bundle, bundles;
  };
  struct Entries {  // of a filter in a chunk, as positions in the matrix: those that reach the last vector, then the others
    uint32_t filter;
    std::vector<uint32_t> all, shorts;
  };

  size_t sums_of_block() const { return size_t{16} * vectors_ * (kBlockFilters + 1); }

  void run_some(std::span<const Tile> tiles, uint32_t first, uint32_t last) const {
    const size_t each = sums_of_block(), of_tile = each * (last - first);
    alignas(64) float sums[size_t{16} * (kBlockFilters + 1) * kMostSums];
    std::fill_n(sums, of_tile * tiles.size(), 0.0F);
    for (size_t chunk = 0; chunk < chunks_.size(); ++chunk) {
      for (uint32_t block = first; block < last; ++block) {
        const Part& part = parts_[block * chunks_.size() + chunk];
        for (size_t i = 0; i < tiles.size(); ++i) {
          const float* x = tiles[i].x + chunks_[chunk].base;
          float* to = sums + of_tile * i + each * (block - first);
          tiles_.table[vectors_][used(tiles[i])](x, stream() + part.first_group, bundles_.data() + part.first_bundle, part.bundles, to);
        }
      }
    }
    for (size_t i = 0; i < tiles.size(); ++i) {
      for (uint32_t block = first; block < last; ++block) {
        const auto [begin, end] = share_of(filters_, count_, block);
        tiles_.finish(epilogue_.get(), tiles[i], numbers_.data() + begin, end - begin, vectors_, sums + of_tile * i + each * (block - first));
      }
    }
  }

  // How many vectors of a tile have a position that is kept.
  uint32_t used(const Tile& tile) const { return std::clamp(vectors_of(tile.keep), uint32_t{1}, vectors_); }
  static uint32_t vectors_of(uint64_t positions) { return (static_cast<uint32_t>(std::bit_width(positions)) + 15) / 16; }

  // The lists of a block's filters, with the last vector left out where that saves more than the padding of two lists costs.
  void fill(const ConvRequest& request, const Chunk& chunk, uint32_t block, std::vector<TableGroup>& groups) {
    const auto [first, last] = share_of(filters_, count_, block);
    std::vector<Entries> whole, cut;
    for (uint32_t filter = first; filter < last; ++filter) {
      const auto [begin, end] = within(request.matrix, filter, chunk);
      Entries in_whole{filter - first, {}, {}}, in_cut = in_whole;
      for (uint32_t entry = begin; entry < end; ++entry) {
        const bool is_short = request.reach != nullptr && vectors_of(request.reach[request.matrix.columns[entry]]) < vectors_;
        in_whole.all.push_back(entry);
        (is_short ? in_cut.shorts : in_cut.all).push_back(entry);
      }
      if (begin < end) whole.push_back(std::move(in_whole)), cut.push_back(std::move(in_cut));
    }
    const auto by_length = [](const Entries& left, const Entries& right) {
      return std::pair(left.all.size(), left.shorts.size()) < std::pair(right.all.size(), right.shorts.size());
    };
    std::stable_sort(whole.begin(), whole.end(), by_length);
    std::stable_sort(cut.begin(), cut.end(), by_length);
    std::vector<Entries>& filters = vectors_ > 1 && products(cut) < products(whole) ? cut : whole;
    for (size_t at = 0; at < filters.size(); at += bundled()) append(request, chunk, last - first, bundle_at(filters, at), groups);
  }

  uint32_t bundled() const { return tiles_.table_filters[vectors_]; }
  uint32_t turns() const { return TableGroup::kSize / bundled(); }  // of a bundle's filters in a group

  std::span<const Entries> bundle_at(const std::vector<Entries>& filters, size_t at) const {
    return std::span(filters).subspan(at, std::min<size_t>(bundled(), filters.size() - at));
  }

  uint16_t groups_of(std::span<const Entries> bundle, std::vector<uint32_t> Entries::*list) const {
    size_t longest = 0;
    for (const Entries& filter : bundle) longest = std::max(longest, (filter.*list).size());
    return static_cast<uint16_t>((longest + turns() - 1) / turns());
  }

  // Of all bundles, in vectors.
  size_t products(const std::vector<Entries>& filters) const {
    size_t count = 0;
    for (size_t at = 0; at < filters.size(); at += bundled()) {
      const auto bundle = bundle_at(filters, at);
      count += size_t{groups_of(bundle, &Entries::all)} * vectors_ + size_t{groups_of(bundle, &Entries::shorts)} * (vectors_ - 1);
    }
    return count;
  }

  // Where filters are missing, a bundle adds to the sums behind the block's last.
  void append(const ConvRequest& request, const Chunk& chunk, uint32_t none, std::span<const Entries> filters, std::vector<TableGroup>& groups) {
    TableBundle bundle{groups_of(filters, &Entries::all), groups_of(filters, &Entries::shorts), {}};
    for (uint32_t i = 0; i < bundled(); ++i) bundle.filters[i] = static_cast<uint16_t>(i < filters.size() ? filters[i].filter : none);
    bundles_.push_back(bundle);
    for (uint32_t at = 0; at < bundle.groups; ++at) groups.push_back(group_of(request, chunk, filters, &Entries::all, at));
    for (uint32_t at = 0; at < bundle.shorts; ++at) groups.push_back(group_of(request, chunk, filters, &Entries::shorts, at));
  }

  TableGroup group_of(const ConvRequest& request, const Chunk& chunk, std::span<const Entries> filters, std::vector<uint32_t> Entries::*list,
                      uint32_t number) const {
    TableGroup group{};
    for (uint32_t lane = 0; lane < TableGroup::kSize; ++lane) {
      if (lane % bundled() >= filters.size()) continue;
      const Entries& filter = filters[lane % bundled()];
      const std::vector<uint32_t>& entries = filter.*list;
      const size_t wanted = number * turns() + lane / bundled();
      const uint32_t entry = wanted < entries.size() ? entries[wanted] : last_of(filter);
      group.weights[lane] = request.matrix.values[entry] * (wanted < entries.size() ? 1.0F : kUnseen);
      group.rows[lane] = static_cast<uint16_t>(request.offsets[request.matrix.columns[entry]] - chunk.base);
    }
    return group;
  }

  static uint32_t last_of(const Entries& filter) { return filter.shorts.empty() ? filter.all.back() : filter.shorts.back(); }

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
  uint32_t count_ = 0, together_ = 1;  // blocks; those that pass a chunk before the next one is read
  OwnedEpilogue epilogue_;
  std::vector<Chunk> chunks_;
  std::vector<uint32_t> numbers_;
  std::vector<Part> parts_;  // [block][chunk]
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
