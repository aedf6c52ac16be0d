#include <algorithm>
#include <bit>
#include <cstddef>

#include "entries.h"
#include "unrolled.h"
#include "x86.h"

namespace rsk {

namespace {

using x86::Address;
using x86::Base;

constexpr Base kWeights = Base::kRdi, kX = Base::kRsi, kSums = Base::kRdx, kCall = Base::kRcx, kCodeAhead = Base::kRax, kWeightsAhead = Base::kR8;

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

  // The next weight begins a line of sixteen, as a piece's first does.
  void align() {
    while (at_ % 64 != 0) next(0);
  }

 private:
  static constexpr int32_t kReach = 512;  // bytes; ±128 weights
  x86::Assembler& assembler_;
  std::vector<float>& weights_;
  int32_t at_ = -kReach;
};

constexpr int32_t kLineFloats = 16;
constexpr int32_t kLineLoads = 3;  // of a line at most: there are as many registers

// Loads from `base`, which is aligned, to the end of the tap at `last`.
int32_t loads_of(int32_t base, int32_t last) { return (last - base + kLineFloats - 1) / kLineFloats + 1; }

// Rows that start a few floats after each other, such as the taps of one line of a kernel.
struct Line {
  uint32_t first, end;  // ranks
};

// The rows in order, cut into lines.
struct Order : RowOrder {
  std::vector<Line> lines;
  std::vector<uint8_t> sides;  // of each rank
  int32_t reach = 0;           // floats from the start of a line's first row to that of its last, at most

  Order(const UnrolledRequest& request) : RowOrder(request.matrix.rows, request.offsets), sides(request.matrix.rows) {
    for (uint32_t row = 0; request.sides != nullptr && row < request.matrix.rows; ++row) sides[ranks[row]] = request.sides[row];
    for (uint32_t rank = 0; rank < request.matrix.rows; ++rank) {
      if (rank == 0 || !goes_on(request.phase, rank)) lines.push_back({rank, rank});
      lines.back().end = rank + 1;
      reach = std::max(reach, offsets[rank] - offsets[lines.back().first]);
    }
  }

 private:
  bool goes_on(int32_t phase, uint32_t rank) const {
    const int32_t first = offsets[lines.back().first], before = offsets[rank - 1], at = offsets[rank];
    if (at == before || at - before >= kLineFloats) return false;
    return phase < 0 ? at - first < kLineFloats : loads_of(first - ((first + phase) & (kLineFloats - 1)), at) <= kLineLoads;
  }
};

// What is loaded of a line, for its taps to be shifted out of: `loads` vectors from `base` on, the last of them only as far as
// the last tap needs it if `partial`.
struct Window {
  int32_t base = 0;
  int32_t loads = 0;
  bool partial = false;
};

// Where finished sums go.
constexpr Base kOut = Base::kRax, kStride = Base::kRsi, kResidual = Base::kRdx, kResidualStride = Base::kRdi;

void load_output(x86::Assembler& assembler, bool residual) {
  const auto load = [&](Base target, size_t field) { assembler.load(target, {kCall, static_cast<int32_t>(field)}); };
  load(kOut, offsetof(UnrolledCall, out));
  load(kStride, offsetof(UnrolledCall, stride));
  if (!residual) return;
  load(kResidual, offsetof(UnrolledCall, residual));
  load(kResidualStride, offsetof(UnrolledCall, residual_stride));
}

struct Avx512 {
  x86::Assembler& assembler;
  const UnrolledRequest& request;
  uint32_t filters;
  bool reused;
  int32_t reach;      // mask 1 is what a partial load reads
  int in = kTap;      // register of the tap
  int owed = 0;       // loads of rows that no quad has made up for
  bool quad = false;  // the weights come from one

  static constexpr uint32_t kFilters = 26, kPiecesAhead = 1;
  static constexpr int kWeight = 26, kQuad = 27, kTap = 28, kLine = 31;  // a line: downwards to the tap
  static constexpr int kLow = 31, kHigh = 30, kZero = 31, kMaskPartial = 1, kMaskKeep = 2, kMaskInside = 3;

  void begin(bool first, std::span<const uint32_t> numbers, Stream& stream) {
    if (request.phase < 0 && reach > 0) assembler.set_mask(kMaskPartial, (1U << reach) - 1);
    for (int side = 0; request.sides != nullptr && side < 2; ++side) {
      assembler.load_mask(kMaskInside + side, {kCall, static_cast<int32_t>(offsetof(UnrolledCall, inside)) + 8 * side});
    }
    const bool biased = request.finishes() && request.epilogue->bias != nullptr;
    for (int filter = 0; filter < static_cast<int>(filters); ++filter) {
      if (!first)
        assembler.load512(filter, {kSums, 64 * filter});
      else if (biased)
        assembler.broadcast512(filter, stream.next(request.epilogue->bias[numbers[static_cast<size_t>(filter)]]));
      else
        assembler.zero512(filter);
    }
    stream.align();
  }

  void end(bool last, Stream& stream) {
    if (last && request.finishes()) {
      finish(stream);
    } else {
      for (int filter = 0; filter < static_cast<int>(filters); ++filter) assembler.store512({kSums, 64 * filter}, filter);
    }
    assembler.leave();
  }

  void finish(Stream& stream) {
    const auto [bias, activation, alpha, beta, residual] = *request.epilogue;
    if (activation == Activation::kRelu) assembler.zero512(kZero);
    if (activation == Activation::kClip) assembler.broadcast512(kLow, stream.next(alpha)), assembler.broadcast512(kHigh, stream.next(beta));
    load_output(assembler, residual);
    assembler.load_mask(kMaskKeep, {kCall, offsetof(UnrolledCall, keep)});
    for (int filter = 0; filter < static_cast<int>(filters); ++filter) {
      if (residual) assembler.add512(filter, filter, {kResidual, 0}), assembler.add(kResidual, kResidualStride);
      if (activation == Activation::kRelu) assembler.maximum512(filter, kZero, filter);
      if (activation == Activation::kClip) assembler.maximum512(filter, kLow, filter), assembler.minimum512(filter, kHigh, filter);
      assembler.move512_masked(filter, kMaskKeep, filter);
      assembler.store512({kOut, 0}, filter);
      assembler.add(kOut, kStride);
    }
  }

  // The loads of a line that take fewer slots than loads of its taps would, if there are such. A load that crosses a cache line
  // takes two of the slots that the weights need; a shift takes none. 128@16², 4 of 9: 86 % of the peak, and 79 without a phase.
  Window window(std::span<const int32_t> taps) const {
    const auto count = static_cast<int32_t>(taps.size());
    if (request.phase < 0) return count > 2 && taps.back() - taps.front() == reach ? Window{taps.front(), 2, true} : Window{};
    const auto within = [&](int32_t offset) { return (offset + request.phase) & (kLineFloats - 1); };
    const int32_t base = taps.front() - within(taps.front()), loads = loads_of(base, taps.back());
    const auto aligned = static_cast<int32_t>(std::count_if(taps.begin(), taps.end(), [&](int32_t tap) { return within(tap) == 0; }));
    return loads < 2 * count - aligned ? Window{base, loads, false} : Window{};
  }

  void load_window(const Window& window) {
    owed += window.loads;
    for (int32_t i = 0; i < window.loads; ++i) {
      const Address from{kX, 4 * (window.base + 16 * i)};
      if (window.partial && i + 1 == window.loads)
        assembler.load512_masked(kLine - i, kMaskPartial, from);
      else
        assembler.load512(kLine - i, from);
    }
  }

  void load_tap(int32_t offset, uint8_t side, const Window& window) {
    const int32_t shift = offset - window.base;
    const int low = kLine - shift / 16, mask = side == 0 ? 0 : kMaskInside + side - 1;
    in = window.loads > 0 && shift % 16 == 0 && side == 0 ? low : kTap;
    if (window.loads == 0)
      assembler.load512_masked(kTap, mask, {kX, 4 * offset}), ++owed;
    else if (shift % 16 != 0)
      assembler.align512_masked(kTap, mask, low - 1, low, static_cast<uint8_t>(shift % 16));
    else if (side != 0)
      assembler.move512_masked(kTap, mask, low);
  }

  // A multiply-add takes its weight from memory, and with it the slot of a load: as many loads as there are multiply-adds are free.
  // A quad of weights takes one load and a shuffle each, for which there is a port of its own: it makes up for three loads of rows.
  void multiply(uint32_t filter, Address from) {
    const auto sum = static_cast<int>(filter);
    const uint32_t lane = static_cast<uint32_t>(from.displacement) / 4 % 4;
    if (lane == 0) {
      quad = reused && owed >= 3;
      if (quad) assembler.broadcast_quad512(kQuad, from), owed -= 3;
    }
    if (!quad) return assembler.fma512_broadcast(sum, in, from);
    assembler.permute512(kWeight, kQuad, static_cast<uint8_t>(lane * 0x55));
    assembler.fma512(sum, in, kWeight);
  }
};

struct Avx2 {
  x86::Assembler& assembler;
  const UnrolledRequest& request;
  uint32_t filters;
  bool reused;
  int32_t reach;

  static constexpr uint32_t kPiecesAhead = 2;  // 128@16², 4 of 9: 83 % of the peak, and 78 with one
  static constexpr int kTap = 12, kWeight = 14, kQuad = 15;
  static constexpr int kKeep = 12, kLow = 14, kHigh = 15, kZero = 14;

  void begin(bool first, std::span<const uint32_t> numbers, Stream& stream) {
    const bool biased = request.finishes() && request.epilogue->bias != nullptr;
    for (size_t filter = 0; filter < filters; ++filter) {
      const Address bias = first && biased ? stream.next(request.epilogue->bias[numbers[filter]]) : Address{};
      for (int half = 0; half < 2; ++half) {
        const int number = static_cast<int>(2 * filter) + half;
        if (!first)
          assembler.load256(number, {kSums, 32 * number});
        else if (biased)
          assembler.broadcast256(number, bias);
        else
          assembler.zero256(number);
      }
    }
    stream.align();
  }

  void end(bool last, Stream& stream) {
    if (last && request.finishes()) {
      finish(stream);
    } else {
      for (int number = 0; number < static_cast<int>(2 * filters); ++number) assembler.store256({kSums, 32 * number}, number);
    }
    assembler.leave();
  }

  void finish(Stream& stream) {
    const auto [bias, activation, alpha, beta, residual] = *request.epilogue;
    load_keep(stream);
    if (activation == Activation::kRelu) assembler.zero256(kZero);
    if (activation == Activation::kClip) assembler.broadcast256(kLow, stream.next(alpha)), assembler.broadcast256(kHigh, stream.next(beta));
    load_output(assembler, residual);
    for (int number = 0; number < static_cast<int>(2 * filters); ++number) {
      const int half = number % 2;
      if (residual) assembler.add256(number, number, {kResidual, 32 * half});
      if (activation == Activation::kRelu) assembler.maximum256(number, kZero, number);
      if (activation == Activation::kClip) assembler.maximum256(number, kLow, number), assembler.minimum256(number, kHigh, number);
      assembler.and256(number, number, kKeep + half);
      assembler.store256({kOut, 32 * half}, number);
      if (half == 1) assembler.add(kOut, kStride);
      if (half == 1 && residual) assembler.add(kResidual, kResidualStride);
    }
  }

  // The bits to keep as masks of lanes: those of a lane's bit, which stands in the stream, that equal it.
  void load_keep(Stream& stream) {
    stream.align();
    const Address bits = stream.next(std::bit_cast<float>(1));
    for (int32_t bit = 1; bit < 16; ++bit) stream.next(std::bit_cast<float>(1 << bit));
    assembler.broadcast256(kLow, {kCall, offsetof(UnrolledCall, keep)});
    for (int half = 0; half < 2; ++half) {
      assembler.load256(kKeep + half, {bits.base, bits.displacement + 32 * half});
      assembler.and256(kHigh, kKeep + half, kLow);
      assembler.equal256(kKeep + half, kHigh, kKeep + half);
    }
  }

  Window window(std::span<const int32_t>) const { return {}; }
  void load_window(const Window&) {}
  void load_tap(int32_t offset, uint8_t, const Window&) {
    for (int half = 0; half < 2; ++half) assembler.load256(kTap + half, {kX, 4 * offset + 32 * half});
  }
  void multiply(uint32_t filter, Address from) {
    const int32_t lane = from.displacement / 4 & 3;
    if (lane == 0) assembler.broadcast_quad256(kQuad, from);
    assembler.permute256(kWeight, kQuad, static_cast<uint8_t>(lane * 0x55));
    for (int half = 0; half < 2; ++half) assembler.fma256(static_cast<int>(2 * filter) + half, kTap + half, kWeight);
  }
};

template <class Isa>
class Generator {
 public:
  Generator(const UnrolledRequest& request, std::span<const uint32_t> filters, RegisterTile tile, GeneratedCode& out)
      : request_(request), filters_(filters), tile_(tile), order_(request), entries_(entries_of(request.matrix, filters, order_)), out_(out) {}

  void run() {
    out_.finishes = request_.finishes();
    out_.code_lines_ahead = Isa::kPiecesAhead * tile_.piece_bytes / kLine / std::max(request_.tiles, 1U) + 1;
    out_.weight_lines_ahead = out_.code_lines_ahead / 2 + 1;  // a nonzero takes 7 bytes of code or more
    auto line = order_.lines.begin();
    do {
      x86::Assembler assembler;
      Isa isa{assembler, request_, static_cast<uint32_t>(filters_.size()), tile_.reused, order_.reach};
      out_.pieces.push_back({out_.code.size(), out_.weights.size()});
      Stream stream(assembler, out_.weights);
      isa.begin(at_ == 0, filters_, stream);
      assembler.load(kCodeAhead, {kCall, offsetof(UnrolledCall, code_ahead)});
      assembler.load(kWeightsAhead, {kCall, offsetof(UnrolledCall, weights_ahead)});
      fetched_ = 0;
      jumped_ = 0;
      for (; line != order_.lines.end() && assembler.size() < tile_.piece_bytes; ++line) emit(isa, stream, *line);
      isa.end(at_ == entries_.size(), stream);
      stream.align();
      out_.code.insert(out_.code.end(), assembler.code().begin(), assembler.code().end());
      out_.code.resize((out_.code.size() + 63) / 64 * 64, kTrap);
    } while (at_ < entries_.size());
  }

 private:
  static constexpr uint8_t kTrap = 0xCC;
  static constexpr uint32_t kLine = 64, kStraight = 1024;

  void emit(Isa& isa, Stream& stream, const Line& line) {
    std::vector<int32_t> taps;  // those that the block uses
    for (size_t i = at_; i < entries_.size() && entries_[i].rank < line.end; ++i) {
      const int32_t offset = order_.offsets[entries_[i].rank];
      if (taps.empty() || taps.back() != offset) taps.push_back(offset);
    }
    if (taps.empty()) return;
    const Window window = isa.window(taps);
    isa.load_window(window);
    for (const int32_t tap : taps) {
      isa.load_tap(tap, order_.sides[entries_[at_].rank], window);
      fetch_ahead(isa.assembler);
      jump(isa.assembler);
      for (; at_ < entries_.size() && order_.offsets[entries_[at_].rank] == tap; ++at_) isa.multiply(entries_[at_].filter, stream.next(entries_[at_].weight));
    }
  }

  // As much as the piece has advanced. Spread over the code: all at once they would hold up its own loads.
  void fetch_ahead(x86::Assembler& assembler) {
    const auto due = static_cast<uint32_t>(out_.code_lines_ahead * assembler.size() / tile_.piece_bytes);
    for (; fetched_ < std::min(due, out_.code_lines_ahead); ++fetched_) {
      assembler.prefetch({kCodeAhead, static_cast<int32_t>(kLine * fetched_)});
      if (fetched_ % 2 == 0) assembler.prefetch({kWeightsAhead, static_cast<int32_t>(kLine * fetched_ / 2)});
    }
  }

  // After one instruction that is missing from the cache of decoded ones, the processor decodes all that follow, up to a jump that is
  // taken: only there it looks into that cache again. 128@16², 4 of 9: 94 % of the peak, and 89 without; AVX2: 92 and 83.
  void jump(x86::Assembler& assembler) {
    if (!tile_.reused || assembler.size() - jumped_ < kStraight) return;
    assembler.jump();
    jumped_ = assembler.size();
  }

  const UnrolledRequest& request_;
  std::span<const uint32_t> filters_;
  RegisterTile tile_;
  Order order_;
  std::vector<Entry> entries_;
  GeneratedCode& out_;
  size_t at_ = 0;
  uint32_t fetched_ = 0;  // lines
  size_t jumped_ = 0;     // where the last jump ends
};

}  // namespace

// Pieces that stay in the cache of decoded instructions, so that all tiles but the first find them there; the first takes them from
// the second-level cache at 16 bytes a cycle. With few tiles what makes the others faster costs more than it saves: 256@8², 4 of 9,
// code from memory: 168 µs, and 185 with jumps.
bool reused(const UnrolledRequest& request) { return request.tiles >= 8; }

RegisterTile unrolled_tile_avx512(const UnrolledRequest& request) {
  const uint32_t piece_bytes = reused(request) ? 32768 : request.tiles > 1 ? 24576 : 65536;
  return {Avx512::kFilters, 1, piece_bytes, reused(request)};
}

// All weights by quads, for 6×1 has three loads a tap as it is: 64@32², 4 of 9: 91 % of the peak, and 86 with a load for each weight.
RegisterTile unrolled_tile_avx2(const UnrolledRequest& request) { return {6, 1, reused(request) ? 16384U : 8192U, reused(request)}; }

void generate_unrolled_avx512(const UnrolledRequest& request, std::span<const uint32_t> filters, RegisterTile tile, GeneratedCode& out) {
  Generator<Avx512>(request, filters, tile, out).run();
}

void generate_unrolled_avx2(const UnrolledRequest& request, std::span<const uint32_t> filters, RegisterTile tile, GeneratedCode& out) {
  Generator<Avx2>(request, filters, tile, out).run();
}

}  // namespace rsk
