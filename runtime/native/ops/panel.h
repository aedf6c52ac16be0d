// The panel: for each tile of positions, what every tap of every channel reads, aligned and side by side.
//
//   panel[tile][channel][tap][position]
//
// Positions are numbered through the whole batch. A tile's part fits where one load reads 16 positions of a row, whatever the
// stride, the padding and the size of the map; the price is a copy of each element for each tap that reads it.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "kernels/pack.h"
#include "plan.h"

namespace rsk {

struct ConvAxis {
  int64_t kernel, stride, pad, dilation, in, out;
};

class Panel {
 public:
  Panel() = default;

  // `used`: the rows (channel, tap) of the matrix that any filter reads. Taps that no channel uses are left out.
  Panel(const Tensor& x, const std::array<ConvAxis, 3>& axes, int64_t width, const std::vector<bool>& used);

  int64_t floats_of_tile() const { return channels_ * static_cast<int64_t>(taps_.size()) * width_; }
  int64_t vectors_of_tile() const;
  int64_t channels() const { return channels_; }
  std::vector<int32_t> offsets() const;  // of every row of the matrix, in a tile's part; an unused row lies where the last used one does

  // Copies the channels [first, last) of vectors `from` to `to` of the panel (16 positions each, vectors_of_tile() a tile) to where they
  // are behind vector `origin`, which begins a tile.
  void pack(Pack pack, const float* x, int64_t from, int64_t to, int64_t first, int64_t last, int64_t origin, float* panel) const;

 private:
  struct Tap {
    std::array<int64_t, 3> at;
    int64_t offset;  // floats from what tap 0 reads without padding
  };
  struct Piece {
    int64_t from;  // floats from x's first element to the window, for tap 0 without padding
    PackedLanes pick;
  };
  struct Vector {
    size_t first_piece, last_piece, first_inside;
    bool whole;  // one piece, and no tap reads padding
  };
  using Place = std::array<int64_t, 4>;  // image and output coordinates

  Place place_of(int64_t position) const;
  void add_vector(int64_t position);
  uint16_t inside(const Vector& vector, const Tap& tap) const;

  std::array<ConvAxis, 3> axes_;
  std::array<int64_t, 5> strides_;
  int64_t before_, after_, batch_, channels_, width_, kernel_;
  std::vector<int64_t> rank_;  // of each tap of the kernel among those used, or -1
  std::vector<Tap> taps_;
  int64_t lowest_tap_ = std::numeric_limits<int64_t>::max(), highest_tap_ = std::numeric_limits<int64_t>::min();  // offsets
  std::vector<Piece> pieces_;
  std::vector<Vector> vectors_;
  std::vector<uint16_t> inside_;  // for each vector, axis and tap: the lanes whose element is not padding
};

// Another panel, of one image at stride 1: the taps of a column share a copy, which lacks the padding at the sides alone.
//
//   panel[channel][column][row][position]      rows follow each other, and a tap reads some rows behind the one before it
//
// It takes a third of the room and of the copying of the other one for a 3×3 kernel, but few of its loads are aligned.
struct Columns {
  Panel panel;                   // one tile
  std::vector<int32_t> offsets;  // of every row of the matrix
};
Columns make_columns(const Tensor& x, const std::array<ConvAxis, 3>& axes, const std::vector<bool>& used);

}  // namespace rsk
