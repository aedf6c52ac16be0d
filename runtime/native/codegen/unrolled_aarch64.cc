// NEON: 14 filters × 8 positions in 28 registers; a piece runs twice, for the halves of 16 positions. Of the shapes that fill the
// registers this one takes the fewest loads for a multiply-add: two of the input for a row and one for four weights, 0.29 at
// 4 of 9 (6 × 16: 0.44, 28 × 4: 0.33).
#include <algorithm>
#include <bit>
#include <cstddef>

#include "aarch64.h"
#include "entries.h"
#include "unrolled.h"

namespace rsk {

namespace {

using aarch64::Address;
using aarch64::kStackPointer;

constexpr int kWeights = 0, kX = 1, kSums = 2, kCall = 3;  // the arguments
constexpr int kPasses = 4, kBase = 5, kDistance = 6;       // passes that are left, from where rows are addressed, scratch
constexpr int kOut = 7, kStride = 8, kResidual = 9, kResidualStride = 10, kKeep = 11, kAt = 12, kCodeAhead = 13, kWeightsAhead = 14;
constexpr uint32_t kFilters = 14;
constexpr int kIn = 2 * kFilters, kQuads = kIn + 2;  // vector registers: two of the input, two of weights; the sums before them
constexpr int kStep = 32;                            // bytes of a pass's positions
constexpr uint32_t kLine = 64;

class Piece {
 public:
  Piece(const UnrolledRequest& request, std::span<const uint32_t> filters, RegisterTile tile, GeneratedCode& out)
      : epilogue_(request.epilogue),
        finishes_(request.finishes()),
        filters_(filters),
        bytes_(tile.piece_bytes),
        out_(out),
        weights_(out.weights),
        first_weight_(weights_.size()) {}

  void begin(bool first) {
    assembler_.add_immediate(kBase, kX, 0);
    const bool biased = first && finishes_ && epilogue_->bias != nullptr;
    each_sum([&](int number, Address at) {
      if (biased) {
        const Lane bias = next(epilogue_->bias[filters_[static_cast<size_t>(number / 2)]]);
        for (const int half : {0, 1}) assembler_.broadcast128(number + half, bias.quad, bias.lane);
      } else if (first) {
        for (const int half : {0, 1}) assembler_.zero128(number + half);
      } else {
        assembler_.load_pair128(number, number + 1, at);
      }
    });
  }

  bool full() const { return assembler_.size() >= bytes_; }

  void end(bool last) {
    aarch64::Assembler entry;
    entry.push_pair64({kStackPointer, -64}, 8, 9);
    for (int pair = 1; pair < 4; ++pair) entry.store_pair64({kStackPointer, 16 * pair}, 8 + 2 * pair, 9 + 2 * pair);
    entry.move(kPasses, 2);
    load_call(entry, last && finishes_);
    if (last && finishes_) {
      finish();
    } else {
      each_sum([&](int number, Address at) { assembler_.store_pair128(at, number, number + 1); });
    }
    assembler_.add_immediate(kSums, kSums, kStep);
    assembler_.add_immediate(kX, kX, kStep);
    add(kCodeAhead, kLine * out_.code_lines_ahead / 2);
    add(kWeightsAhead, kLine * out_.weight_lines_ahead / 2);
    assembler_.subtract_immediate(kPasses, kPasses, 1);
    assembler_.branch_if_not_zero(kPasses, 0);
    for (int pair = 1; pair < 4; ++pair) assembler_.load_pair64(8 + 2 * pair, 9 + 2 * pair, {kStackPointer, 16 * pair});
    assembler_.pop_pair64(8, 9, {kStackPointer, 64});
    assembler_.leave();
    align();
    for (const aarch64::Assembler* part : {&entry, &assembler_}) out_.code.insert(out_.code.end(), part->code().begin(), part->code().end());
    out_.code.resize((out_.code.size() + 63) / 64 * 64);
  }

  // `at` in bytes.
  void load_row(int64_t at) {
    if (!reaches(at - base_)) move_base(at + 256);
    const auto displacement = static_cast<int32_t>(at - base_);
    if (displacement % 16 == 0) return assembler_.load_pair128(kIn, kIn + 1, {kBase, displacement});
    for (const int half : {0, 1}) assembler_.load128_unscaled(kIn + half, {kBase, displacement + 16 * half});
  }

  void multiply(uint32_t filter, float weight) {
    const Lane from = next(weight);
    for (const int half : {0, 1}) assembler_.fma_by_lane(static_cast<int>(2 * filter) + half, kIn + half, from.quad, from.lane);
  }

  // As much as the piece has advanced: prefetches in a row are dropped.
  void fetch_ahead() {
    const auto lines = out_.code_lines_ahead / 2, weight_lines = out_.weight_lines_ahead / 2;
    for (; fetched_ < std::min(lines, static_cast<uint32_t>(lines * assembler_.size() / bytes_)); ++fetched_) {
      assembler_.prefetch({kCodeAhead, static_cast<int32_t>(kLine * fetched_)});
      if (fetched_ % 2 == 0 && fetched_ / 2 < weight_lines) assembler_.prefetch({kWeightsAhead, static_cast<int32_t>(kLine * fetched_ / 2)});
    }
  }

 private:
  struct Lane {
    int quad, lane;
  };

  // The next weight of the stream, in a register; every fourth is loaded with the three behind it.
  Lane next(float weight) {
    const size_t number = weights_.size() - first_weight_;
    const Lane at{kQuads + static_cast<int>(number / 4 % 2), static_cast<int>(number % 4)};
    if (at.lane == 0) assembler_.load128(at.quad, {kWeights, static_cast<int32_t>(4 * number)});
    weights_.push_back(weight);
    return at;
  }
  void align() { weights_.resize((weights_.size() + 3) / 4 * 4); }

  template <class Use>
  void each_sum(Use use) {
    for (int filter = 0; filter < static_cast<int>(filters_.size()); ++filter) use(2 * filter, Address{kSums, 64 * filter});
  }

  static bool reaches(int64_t displacement) {
    return displacement % 16 == 0 ? displacement >= -1024 && displacement <= 1008 : displacement >= -256 && displacement + 16 <= 255;
  }

  void move_base(int64_t to) {
    const bool back = to < base_;
    const auto distance = static_cast<uint32_t>(back ? base_ - to : to - base_);
    base_ = to;
    if (distance >= 1U << 24) {
      assembler_.move(kDistance, distance);
      return back ? assembler_.subtract(kBase, kBase, kDistance) : assembler_.add(kBase, kBase, kDistance);
    }
    each_part(distance, [&](uint32_t part) { back ? assembler_.subtract_immediate(kBase, kBase, part) : assembler_.add_immediate(kBase, kBase, part); });
  }

  // A number below 2²⁴ as the immediates of one or two additions.
  template <class Use>
  static void each_part(uint32_t value, Use use) {
    for (const uint32_t part : {value & ~4095U, value & 4095U}) {
      if (part != 0) use(part);
    }
  }
  void add(int target, uint32_t value) {
    each_part(value, [&](uint32_t part) { assembler_.add_immediate(target, target, part); });
  }

  void load_call(aarch64::Assembler& entry, bool finishes) const {
    const auto load = [&](int target, size_t offset) { entry.load64(target, {kCall, static_cast<int32_t>(offset)}); };
    load(kCodeAhead, offsetof(UnrolledCall, code_ahead));
    load(kWeightsAhead, offsetof(UnrolledCall, weights_ahead));
    if (!finishes) return;
    load(kOut, offsetof(UnrolledCall, out));
    load(kStride, offsetof(UnrolledCall, stride));
    load(kKeep, offsetof(UnrolledCall, keep));
    if (!epilogue_->residual) return;
    load(kResidual, offsetof(UnrolledCall, residual));
    load(kResidualStride, offsetof(UnrolledCall, residual_stride));
  }

  void finish() {
    if (epilogue_->residual) add_residual();
    activate();
    int masks[2];
    assembler_.broadcast128_general(kIn, kKeep);
    align();
    for (int bit = 0; bit < 8; ++bit) {
      const Lane at = next(std::bit_cast<float>(1 << bit));
      if (at.lane == 0) masks[bit / 4] = at.quad, assembler_.test128(at.quad, at.quad, kIn);
    }
    assembler_.add_immediate(kAt, kOut, 0);
    each_sum([&](int number, Address) {
      for (const int half : {0, 1}) assembler_.and128(number + half, number + half, masks[half]);
      assembler_.store_pair128({kAt, 0}, number, number + 1);
      assembler_.add(kAt, kAt, kStride);
    });
    assembler_.add_immediate(kOut, kOut, kStep);
    assembler_.shift_right(kKeep, kKeep, 8);
  }

  void add_residual() {
    assembler_.add_immediate(kAt, kResidual, 0);
    each_sum([&](int number, Address) {
      assembler_.load_pair128(kIn, kIn + 1, {kAt, 0});
      for (const int half : {0, 1}) assembler_.add128(number + half, number + half, kIn + half);
      assembler_.add(kAt, kAt, kResidualStride);
    });
    assembler_.add_immediate(kResidual, kResidual, kStep);
  }

  void activate() {
    constexpr int kLow = kIn, kHigh = kIn + 1;
    const bool clips = epilogue_->activation == Activation::kClip;
    if (epilogue_->activation == Activation::kNone) return;
    if (clips) {
      const Lane low = next(epilogue_->alpha), high = next(epilogue_->beta);
      assembler_.broadcast128(kLow, low.quad, low.lane);
      assembler_.broadcast128(kHigh, high.quad, high.lane);
    } else {
      assembler_.zero128(kLow);
    }
    for (int number = 0; number < static_cast<int>(2 * filters_.size()); ++number) {
      assembler_.maximum128(number, number, kLow);
      if (clips) assembler_.minimum128(number, number, kHigh);
    }
  }

  const Epilogue* epilogue_;
  bool finishes_;
  std::span<const uint32_t> filters_;
  size_t bytes_;
  GeneratedCode& out_;
  std::vector<float>& weights_;
  size_t first_weight_;
  uint32_t fetched_ = 0;  // lines of code, in a pass
  aarch64::Assembler assembler_;
  int64_t base_ = 0;  // bytes from x
};

}  // namespace

RegisterTile unrolled_tile_neon(const UnrolledRequest&) { return {kFilters, 1}; }

void generate_unrolled_neon(const UnrolledRequest& request, std::span<const uint32_t> filters, RegisterTile tile, GeneratedCode& out) {
  const RowOrder order(request.matrix.rows, request.offsets);
  const std::vector<Entry> entries = entries_of(request.matrix, filters, order);
  auto entry = entries.begin();
  out.finishes = request.finishes();
  out.code_lines_ahead = 2 * (tile.piece_bytes / kLine / std::max(2 * request.tiles, 2U) + 1);  // in two passes
  out.weight_lines_ahead = 2 * (out.code_lines_ahead / 4 + 1);                                  // a nonzero takes 8 bytes of code or more
  do {
    out.pieces.push_back({out.code.size(), out.weights.size()});
    Piece piece(request, filters, tile, out);
    piece.begin(entry == entries.begin());
    while (entry != entries.end() && !piece.full()) {
      const uint32_t rank = entry->rank;
      piece.load_row(int64_t{4} * order.offsets[rank]);
      piece.fetch_ahead();
      for (; entry != entries.end() && entry->rank == rank; ++entry) piece.multiply(entry->filter, entry->weight);
    }
    piece.end(entry == entries.end());
  } while (entry != entries.end());
}

}  // namespace rsk
