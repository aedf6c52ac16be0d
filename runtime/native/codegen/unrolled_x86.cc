#include <algorithm>
#include <numeric>
#include <utility>

#include "unrolled.h"
#include "x86.h"

namespace rsk {

namespace {

using x86::Address;
using x86::Base;

constexpr Base kWeights = Base::kRdi, kX = Base::kRsi, kSums = Base::kRdx;

// One nonzero of the block.
struct Entry {
  uint32_t rank;    // of its row, by offset
  uint32_t filter;  // in the block
  float weight;
};

// The stream of weights: a pointer that moves so that one-byte displacements reach the next 256 weights.
class Stream {
 public:
  Stream(x86::Assembler& assembler, std::vector<float>& weights) : assembler_(assembler), weights_(weights) { assembler.add(kWeights, kReach); }

  Address next(float weight) {
    if (at_ == kReach) {
      assembler_.add(kWeights, 2 * kReach);
      at_ = -kReach;
    }
    weights_.push_back(weight);
    const Address address{kWeights, at_};
    at_ += 4;
    return address;
  }

 private:
  static constexpr int32_t kReach = 512;  // bytes; ±128 weights
  x86::Assembler& assembler_;
  std::vector<float>& weights_;
  int32_t at_ = -kReach;
};

// Rows that start a few floats after the first of them, such as the taps of one line of a kernel.
struct Line {
  uint32_t first, end;  // ranks
  int32_t reach;        // floats from the first row's start to the last's
};

// The rows in order of where they start, so that the rows of a line are neighbours however the input is laid out.
struct Order {
  std::vector<uint32_t> ranks;   // of each row
  std::vector<int32_t> offsets;  // of each rank
  std::vector<Line> lines;
  int32_t reach = 0;  // the largest of a line

  Order(uint32_t rows, const int32_t* offset_of_row) : ranks(rows) {
    std::vector<uint32_t> order(rows);
    std::iota(order.begin(), order.end(), 0U);
    std::stable_sort(order.begin(), order.end(), [&](uint32_t left, uint32_t right) { return offset_of_row[left] < offset_of_row[right]; });
    for (uint32_t rank = 0; rank < rows; ++rank) {
      ranks[order[rank]] = rank;
      offsets.push_back(offset_of_row[order[rank]]);
      const bool goes_on = rank > 0 && offsets[rank] > offsets[rank - 1] && offsets[rank] - offsets[lines.back().first] < 16;
      if (!goes_on) lines.push_back({rank, rank, 0});
      lines.back().end = rank + 1;
      lines.back().reach = offsets[rank] - offsets[lines.back().first];
      reach = std::max(reach, lines.back().reach);
    }
  }
};

// By rank, and by filter within a rank: counted, not compared, for this is most of what generating takes.
std::vector<Entry> entries_of(const Matrix& matrix, std::span<const uint32_t> filters, const Order& order) {
  const auto each = [&](auto use) {
    for (uint32_t i = 0; i < filters.size(); ++i) {
      for (uint32_t at = matrix.start[filters[i]]; at < matrix.start[filters[i] + 1]; ++at) use(Entry{order.ranks[matrix.columns[at]], i, matrix.values[at]});
    }
  };
  std::vector<size_t> next(size_t{matrix.rows} + 1);
  each([&](const Entry& entry) { ++next[entry.rank + 1]; });
  std::partial_sum(next.begin(), next.end(), next.begin());
  std::vector<Entry> entries(next.back());
  each([&](const Entry& entry) { entries[next[entry.rank]++] = entry; });
  return entries;
}

struct Avx512 {
  x86::Assembler& assembler;
  RegisterTile tile;
  uint32_t filters;
  int32_t reach;  // of the lines whose taps are shifted out of one load: mask 1 reads what the last tap has beyond the first

  static constexpr bool kShifts = true;
  int sum(uint32_t filter, uint32_t vector) const { return static_cast<int>(filter * tile.vectors + vector); }
  int line(uint32_t vector) const { return 31 - static_cast<int>(vector); }                // tile.vectors + 1 of them
  int tap(uint32_t vector) const { return 30 - static_cast<int>(tile.vectors + vector); }  // tile.vectors of them
  int weight() const { return 30 - static_cast<int>(2 * tile.vectors); }                   // free where tile.vectors > 1

  void begin(bool first) {
    if (reach > 0) assembler.set_mask(1, (1U << reach) - 1);
    each_sum([&](int number, Address at) { first ? assembler.zero512(number) : assembler.load512(number, at); });
  }
  void end() {
    each_sum([&](int number, Address at) { assembler.store512(at, number); });
    assembler.leave();
  }
  template <class Use>
  void each_sum(Use use) {
    for (int number = 0; number < static_cast<int>(filters * tile.vectors); ++number) use(number, {kSums, 64 * number});
  }

  void load_tap(int32_t offset) {
    for (uint32_t v = 0; v < tile.vectors; ++v) assembler.load512(tap(v), {kX, 4 * offset + 64 * static_cast<int32_t>(v)});
  }
  void load_line(int32_t offset) {
    for (uint32_t v = 0; v < tile.vectors; ++v) assembler.load512(line(v), {kX, 4 * offset + 64 * static_cast<int32_t>(v)});
    assembler.load512_masked(line(tile.vectors), 1, {kX, 4 * offset + 64 * static_cast<int32_t>(tile.vectors)});
  }
  void shift_tap(int32_t lanes) {
    for (uint32_t v = 0; v < tile.vectors; ++v) assembler.align512(tap(v), line(v + 1), line(v), static_cast<uint8_t>(lanes));
  }
  void multiply(uint32_t filter, Address from, bool from_line) {
    const auto in = [&](uint32_t v) { return from_line ? line(v) : tap(v); };
    if (tile.vectors == 1) return assembler.fma512_broadcast(sum(filter, 0), in(0), from);
    assembler.broadcast512(weight(), from);
    for (uint32_t v = 0; v < tile.vectors; ++v) assembler.fma512(sum(filter, v), in(v), weight());
  }
};

struct Avx2 {
  x86::Assembler& assembler;
  RegisterTile tile;
  uint32_t filters;
  int32_t reach;

  static constexpr bool kShifts = false;
  static constexpr int kTap = 12, kWeight = 14;

  void begin(bool first) {
    each_sum([&](int number, Address at) { first ? assembler.zero256(number) : assembler.load256(number, at); });
  }
  void end() {
    each_sum([&](int number, Address at) { assembler.store256(at, number); });
    assembler.leave();
  }
  template <class Use>
  void each_sum(Use use) {
    for (int number = 0; number < static_cast<int>(2 * filters); ++number) use(number, {kSums, 32 * number});
  }

  void load_tap(int32_t offset) {
    for (int half = 0; half < 2; ++half) assembler.load256(kTap + half, {kX, 4 * offset + 32 * half});
  }
  void multiply(uint32_t filter, Address from, bool) {
    assembler.broadcast256(kWeight, from);
    for (int half = 0; half < 2; ++half) assembler.fma256(static_cast<int>(2 * filter) + half, kTap + half, kWeight);
  }
};

template <class Isa>
class Generator {
 public:
  Generator(const Matrix& matrix, const int32_t* offsets, std::span<const uint32_t> filters, RegisterTile tile, GeneratedCode& out)
      : filters_(static_cast<uint32_t>(filters.size())), tile_(tile), order_(matrix.rows, offsets), entries_(entries_of(matrix, filters, order_)), out_(out) {}

  void run() {
    auto line = order_.lines.begin();
    do {
      x86::Assembler assembler;
      Isa isa{assembler, tile_, filters_, order_.reach};
      out_.pieces.push_back({out_.code.size(), out_.weights.size()});
      isa.begin(at_ == 0);
      Stream stream(assembler, out_.weights);
      for (; line != order_.lines.end() && assembler.size() < kPieceBytes; ++line) emit(isa, stream, *line);
      isa.end();
      out_.code.insert(out_.code.end(), assembler.code().begin(), assembler.code().end());
      out_.code.resize((out_.code.size() + 63) / 64 * 64, kTrap);
    } while (at_ < entries_.size());
  }

 private:
  static constexpr uint8_t kTrap = 0xCC;

  void emit(Isa& isa, Stream& stream, const Line& line) {
    const bool shifts = loads_less(line);
    if constexpr (Isa::kShifts) {
      if (shifts) isa.load_line(order_.offsets[line.first]);
    }
    while (at_ < entries_.size() && entries_[at_].rank < line.end) {
      const uint32_t rank = entries_[at_].rank;
      const int32_t lanes = order_.offsets[rank] - order_.offsets[line.first];
      if constexpr (Isa::kShifts) {
        if (shifts && lanes > 0) isa.shift_tap(lanes);
      }
      if (!shifts) isa.load_tap(order_.offsets[rank]);
      for (; at_ < entries_.size() && entries_[at_].rank == rank; ++at_)
        isa.multiply(entries_[at_].filter, stream.next(entries_[at_].weight), shifts && lanes == 0);
    }
  }

  // Whether the line's vectors and its tail are fewer loads than the taps that the block uses. A load of a tap crosses a
  // cache line and takes two of the slots that the weights need; a shift takes none. Medians of 5 interleaved runs with and
  // without: 79 and 92 µs (64@32², 2 of 9, 13×2), 156 and 188 (128@28², 90 %, 13×2), 165 and 173 (128@16², 4 of 9, 28×1),
  // 150 and 152 (64@32², 4 of 9, 13×2: not bound by loads).
  bool loads_less(const Line& line) const {
    if (!Isa::kShifts || line.reach == 0 || line.reach != order_.reach) return false;
    uint32_t taps = 0, last = ~0U;
    for (size_t i = at_; i < entries_.size() && entries_[i].rank < line.end; ++i) taps += std::exchange(last, entries_[i].rank) != entries_[i].rank;
    return taps * tile_.vectors > tile_.vectors + 1;
  }

  uint32_t filters_;
  RegisterTile tile_;
  Order order_;
  std::vector<Entry> entries_;
  GeneratedCode& out_;
  size_t at_ = 0;
};

}  // namespace

// 28×1 takes its weights from memory in the multiply-add; 13×2 loads a weight once for two and needs five registers for a line.
RegisterTile unrolled_tile_avx512(uint32_t vectors) { return vectors % 2 == 0 ? RegisterTile{13, 2} : RegisterTile{28, 1}; }
RegisterTile unrolled_tile_avx2(uint32_t) { return {6, 1}; }

void generate_unrolled_avx512(const Matrix& matrix, const int32_t* offsets, std::span<const uint32_t> filters, RegisterTile tile, GeneratedCode& out) {
  Generator<Avx512>(matrix, offsets, filters, tile, out).run();
}

void generate_unrolled_avx2(const Matrix& matrix, const int32_t* offsets, std::span<const uint32_t> filters, RegisterTile tile, GeneratedCode& out) {
  Generator<Avx2>(matrix, offsets, filters, tile, out).run();
}

}  // namespace rsk
