// Table: for each filter a list of (row, weight), 6 bytes a nonzero in one stream, read once for each tile.
//
//   sum[v] += weight · x[row + v]
//
// Rows go in chunks that keep their part of a packed panel in the first-level cache; a chunk is used by all filters of a block.
// A chunk's list is a multiple of 16 long. Padding repeats its last row with a weight that no sum sees; with 0, an infinite input
// would give NaN.
#include <algorithm>

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

// Greedy: rows in order, as long as the chunk fits the cache and its offsets the 16 bits.
std::vector<Chunk> chunks_of(const ConvRequest& request) {
  std::vector<Chunk> chunks;
  const uint32_t most = kChunkRows / request.vectors;
  int64_t low = 0, high = 0;
  for (uint32_t row = 0; row < request.matrix.rows; ++row) {
    const int64_t offset = request.offsets[row];
    const int64_t new_low = std::min(low, offset), new_high = std::max(high, offset);
    if (chunks.empty() || row - chunks.back().first == most || new_high - new_low > kReach) {
      chunks.push_back({row, row, 0});
      low = high = offset;
    } else {
      low = new_low, high = new_high;
    }
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
    size_t groups = 0;
    for (uint32_t number = 0; number < blocks; ++number) {
      const auto [first, last] = share_of(filters_, blocks, number);
      blocks_.push_back({first, last, groups, counts_.size()});
      for (const Chunk& chunk : chunks_) {
        for (uint32_t filter = first; filter < last; ++filter) {
          const auto [begin, end] = within(request.matrix, filter, chunk);
          counts_.push_back(static_cast<uint16_t>((end - begin + 15) / 16));
          groups += counts_.back();
        }
      }
    }
    stream_ = Memory(groups * sizeof(TableGroup));
    fill(request);
  }

  void run(const Tile& tile, uint32_t number) const override {
    const Block& block = blocks_[number];
    const uint32_t count = block.last - block.first;
    alignas(64) float sums[size_t{16} * Tiles::kMaxVectors * kBlockFilters];
    std::fill_n(sums, size_t{16} * vectors_ * count, 0.0F);
    const TableGroup* groups = stream() + block.first_group;
    const uint16_t* counts = counts_.data() + block.first_count;
    for (const Chunk& chunk : chunks_) {
      groups = tiles_.table[vectors_](tile.x + chunk.base, groups, counts, count, sums);
      counts += count;
    }
    tiles_.finish(epilogue_.get(), tile, numbers_.data() + block.first, count, vectors_, sums);
  }
  uint32_t blocks() const override { return static_cast<uint32_t>(blocks_.size()); }
  size_t weight_bytes() const override { return stream_.bytes() + counts_.size() * sizeof(uint16_t); }
  const char* name() const override { return name_; }

 private:
  struct Block {
    uint32_t first, last;  // filters
    size_t first_group, first_count;
  };

  // The entries of a filter in a chunk, as positions in the matrix.
  static std::pair<uint32_t, uint32_t> within(const Matrix& matrix, uint32_t filter, const Chunk& chunk) {
    const uint32_t* begin = matrix.columns + matrix.start[filter];
    const uint32_t* end = matrix.columns + matrix.start[filter + 1];
    const auto position = [&](uint32_t row) { return static_cast<uint32_t>(std::lower_bound(begin, end, row) - matrix.columns); };
    return {position(chunk.first), position(chunk.last)};
  }

  void fill(const ConvRequest& request) {
    const Matrix& matrix = request.matrix;
    TableGroup* group = stream();
    for (const Block& block : blocks_) {
      for (const Chunk& chunk : chunks_) {
        for (uint32_t filter = block.first; filter < block.last; ++filter) {
          const auto [begin, end] = within(matrix, filter, chunk);
          for (uint32_t at = begin; at < end; at += 16, ++group) {
            for (uint32_t lane = 0; lane < 16; ++lane) {
              const uint32_t entry = std::min(at + lane, end - 1);
              group->weights[lane] = matrix.values[entry] * (at + lane < end ? 1.0F : kUnseen);
              group->rows[lane] = static_cast<uint16_t>(request.offsets[matrix.columns[entry]] - chunk.base);
            }
          }
        }
      }
    }
  }

  TableGroup* stream() const { return reinterpret_cast<TableGroup*>(stream_.floats()); }

  const Tiles& tiles_;
  const char* name_;
  uint32_t vectors_, filters_;
  OwnedEpilogue epilogue_;
  std::vector<Chunk> chunks_;
  std::vector<uint32_t> numbers_;
  std::vector<Block> blocks_;
  std::vector<uint16_t> counts_;
  Memory stream_;
};

}  // namespace

std::unique_ptr<ConvKernel> make_table_avx512(const ConvRequest& request) { return std::make_unique<TableKernel>(request, kTilesAvx512, "avx512/table"); }
std::unique_ptr<ConvKernel> make_table_avx2(const ConvRequest& request) { return std::make_unique<TableKernel>(request, kTilesAvx2, "avx2/table"); }

}  // namespace rsk
