#include "ops/panel.h"

#include <algorithm>

#include "refusal.h"

namespace rsk {
namespace {

constexpr int64_t kLanes = 16;
constexpr int64_t kMaxFloats = int64_t{1} << 29;

}  // namespace

Panel::Panel(const Tensor& x, const std::array<ConvAxis, 3>& axes, int64_t width, const std::vector<bool>& used)
    : axes_(axes), before_(x.before), after_(x.after), batch_(x.dims[0]), channels_(x.dims[1]), width_(width) {
  std::copy_n(x.strides.begin(), 5, strides_.begin());
  kernel_ = axes[0].kernel * axes[1].kernel * axes[2].kernel;
  rank_.assign(static_cast<size_t>(kernel_), -1);
  for (int64_t number = 0; number < kernel_; ++number) {
    bool needed = false;
    for (int64_t channel = 0; channel < channels_ && !needed; ++channel) needed = used[static_cast<size_t>(channel * kernel_ + number)];
    if (!needed) continue;
    rank_[static_cast<size_t>(number)] = static_cast<int64_t>(taps_.size());
    const std::array<int64_t, 3> at = {number / axes[2].kernel / axes[1].kernel, number / axes[2].kernel % axes[1].kernel, number % axes[2].kernel};
    int64_t offset = 0;
    for (size_t axis = 0; axis < 3; ++axis) offset += (at[axis] * axes[axis].dilation - axes[axis].pad) * strides_[axis + 2];
    taps_.push_back({at, offset});
    lowest_tap_ = std::min(lowest_tap_, offset);
    highest_tap_ = std::max(highest_tap_, offset);
  }
  expect(static_cast<int64_t>(taps_.size()) <= kMaxFloats / width / channels_, "a convolution needs a panel that is too large");
  const int64_t positions = batch_ * axes[0].out * axes[1].out * axes[2].out;
  for (int64_t at = 0; at < (positions + width - 1) / width * width; at += kLanes) add_vector(at);
}

Panel::Place Panel::place_of(int64_t position) const {
  const int64_t row = position / axes_[2].out, plane = row / axes_[1].out;
  return {plane / axes_[0].out, plane % axes_[0].out, row % axes_[1].out, position % axes_[2].out};
}

// Cuts sixteen positions into pieces whose elements lie in one window.
void Panel::add_vector(int64_t position) {
  Vector vector{pieces_.size(), pieces_.size(), inside_.size(), false};
  const auto inside = [&](size_t axis, int64_t tap) -> uint16_t& {
    const int64_t before = (axis > 0 ? axes_[0].kernel : 0) + (axis > 1 ? axes_[1].kernel : 0);
    return inside_[vector.first_inside + static_cast<size_t>(before + tap)];
  };
  inside_.resize(inside_.size() + static_cast<size_t>(axes_[0].kernel + axes_[1].kernel + axes_[2].kernel));
  pieces_.push_back({0, {{}, 0, false}});
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    const Place place = place_of(position + lane);
    if (place[0] >= batch_) break;
    const auto bit = static_cast<uint16_t>(1U << lane);
    int64_t from = place[0] * strides_[0];
    for (size_t axis = 0; axis < 3; ++axis) {
      const ConvAxis& along = axes_[axis];
      from += place[axis + 1] * along.stride * strides_[axis + 2];
      for (int64_t tap = 0; tap < along.kernel; ++tap) {
        const int64_t element = place[axis + 1] * along.stride + tap * along.dilation - along.pad;
        if (element >= 0 && element < along.in) inside(axis, tap) |= bit;
      }
    }
    const bool fresh = pieces_.back().pick.lanes == 0, near = from >= pieces_.back().from && from - pieces_.back().from < static_cast<int64_t>(kWindow);
    if (!fresh && !near) pieces_.push_back({0, {{}, 0, true}});
    Piece& piece = pieces_.back();
    if (piece.pick.lanes == 0) piece.from = from;
    piece.pick.index[static_cast<size_t>(lane)] = static_cast<uint8_t>(from - piece.from);
    piece.pick.lanes |= bit;
  }
  vector.last_piece = pieces_.size();
  vector.whole = vector.last_piece == vector.first_piece + 1 && std::all_of(inside_.begin() + static_cast<ptrdiff_t>(vector.first_inside), inside_.end(),
                                                                            [](uint16_t lanes) { return lanes == static_cast<uint16_t>(~0U); });
  vectors_.push_back(vector);
}

uint16_t Panel::inside(const Vector& vector, const Tap& tap) const {
  const uint16_t* masks = inside_.data() + vector.first_inside;
  return masks[tap.at[0]] & masks[axes_[0].kernel + tap.at[1]] & masks[axes_[0].kernel + axes_[1].kernel + tap.at[2]];
}

std::vector<int32_t> Panel::offsets() const {
  std::vector<int32_t> offsets;
  int64_t offset = 0;
  for (int64_t channel = 0; channel < channels_; ++channel) {
    for (const int64_t rank : rank_) {
      if (rank >= 0) offset = (channel * static_cast<int64_t>(taps_.size()) + rank) * width_;
      offsets.push_back(static_cast<int32_t>(offset));
    }
  }
  return offsets;
}

int64_t Panel::vectors_of_tile() const { return width_ / kLanes; }

void Panel::pack(Pack pack, const float* x, int64_t from, int64_t to, int64_t first, int64_t last, int64_t origin, float* panel) const {
  if (taps_.empty()) return;  // all weights are zeros
  const int64_t each = vectors_of_tile(), row = static_cast<int64_t>(taps_.size()) * width_, step = strides_[1];
  const int64_t lowest = -before_, highest = after_ - static_cast<int64_t>(kWindow) - (last - first - 1) * step;  // where a window may start
  const auto channels = static_cast<size_t>(last - first);
  std::vector<PackedTap> whole, taps(taps_.size());  // the taps of sixteen positions none of which is padding, and of others
  for (const Tap& tap : taps_) whole.push_back({tap.offset, static_cast<int64_t>(whole.size()) * width_, 0, static_cast<uint16_t>(~0U)});
  for (int64_t number = from; number < to; ++number) {
    const Vector& vector = vectors_[static_cast<size_t>(number)];
    float* const place = panel + (number - origin) / each * floats_of_tile() + number % each * kLanes + first * row;
    for (size_t i = vector.first_piece; i < vector.last_piece; ++i) {
      const Piece& piece = pieces_[i];
      const int64_t window = piece.from + first * step;
      if (vector.whole && window + lowest_tap_ >= lowest && window + highest_tap_ <= highest) {
        pack(piece.pick, whole.data(), whole.size(), x + window, step, place, row, channels);
        continue;
      }
      size_t count = 0;
      for (size_t rank = 0; rank < taps_.size(); ++rank) {
        const auto lanes = static_cast<uint16_t>(piece.pick.lanes & inside(vector, taps_[rank]));
        if (piece.pick.add && lanes == 0) continue;
        const int64_t start = window + taps_[rank].offset, moved = lowest <= highest ? std::clamp(start, lowest, highest) - start : 0;  // at the input's edges
        taps[count++] = {start + moved, static_cast<int64_t>(rank) * width_, static_cast<uint32_t>(moved) % uint32_t{kWindow}, lanes};
      }
      (lowest <= highest ? pack : pack_portable)(piece.pick, taps.data(), count, x, step, place, row, channels);
    }
  }
}

Columns make_columns(const Tensor& x, const std::array<ConvAxis, 3>& axes, const std::vector<bool>& used) {
  const auto& [deep, high, wide] = axes;
  const int64_t rows = high.out + (high.kernel - 1) * high.dilation, taps = high.kernel * wide.kernel;
  std::vector<bool> columns(static_cast<size_t>(x.dims[1] * wide.kernel));
  for (size_t row = 0; row < used.size(); ++row) {
    const auto at = static_cast<int64_t>(row);
    if (used[row]) columns[static_cast<size_t>(at / taps * wide.kernel + at % wide.kernel)] = true;
  }
  Tensor image = x;
  image.after -= (x.dims[0] - 1) * x.strides[0];
  image.dims[0] = 1;
  const int64_t width = (rows * wide.out + kLanes - 1) / kLanes * kLanes;
  Columns result{Panel(image, {deep, ConvAxis{1, 1, high.pad, 1, high.in, rows}, wide}, width, columns), {}};
  const std::vector<int32_t> offsets = result.panel.offsets();
  for (int64_t row = 0; row < x.dims[1] * taps; ++row) {
    const int64_t down = row % taps / wide.kernel * high.dilation * wide.out;
    result.offsets.push_back(offsets[static_cast<size_t>(row / taps * wide.kernel + row % wide.kernel)] + static_cast<int32_t>(down));
  }
  return result;
}

}  // namespace rsk
