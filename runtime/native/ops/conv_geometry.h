// Where a convolution reads and writes: rows of positions, and the tiles that cut them.
//
// Output elements are numbered by positions: runs of one output row each start `pitch` positions apart.
//   direct: the input's own planes, whose rows are `pitch` floats apart and end in zeros; one image at a time. Where the last axis has no
//           taps and whole tiles, each row of the output reads rows of its own, and the others may have strides. For generated code that
//           masks what a tap reads of the neighbouring rows, rows follow each other: no lane is lost, nor are zeros read;
//   packed: a panel (ops/panel.h) of tiles; rows have no gap, and the next image follows at once;
//   by image: a panel of a whole image, in which a tap is an offset. Of phases: every second (third, …) element of rows and columns side by side,
//           where 7×7 of stride 2 reads four planes at 49 offsets and copies each element once. Of columns: one copy for each column of taps.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "kernels/families.h"
#include "ops/panel.h"
#include "plan.h"

namespace rsk {

// A piece of one output row inside a tile.
struct Segment {
  int64_t begin, count;   // positions from the tile's start
  int64_t out, residual;  // floats from the first filter
};

struct ConvTile {
  int64_t x;  // floats from the first element of the image or of its panel, if not packed by tiles
  uint64_t keep;
  std::array<uint64_t, 2> inside;  // positions that have a neighbour before, after themselves in their row; of use to sides alone
  bool direct;                     // written straight to the output; else to partial tiles, then copied
  int64_t out, residual;           // floats from the first filter, if direct
  int64_t slot;                    // which partial tile of those that run together, if not
  std::vector<Segment> segments;
};

struct ConvGeometry {
  std::array<ConvAxis, 3> axes;
  bool packed = false;
  bool by_image = false;         // packed so
  int64_t images = 1;            // that the tiles cover
  int64_t pitch = 0;             // positions from one run to the next
  Panel panel;                   // if packed; by image, a tile of it is an image
  std::vector<int32_t> offsets;  // one per row of the matrix
  std::vector<uint8_t> sides;    // and which of a tile's `inside` says what it sees, plus 1; empty: there is room for the padding
  std::vector<uint64_t> reach;   // of each row, the positions at which any tile reads more than padding; empty: nobody heeds it, or tiles are cut by rows
  std::vector<ConvTile> tiles;

  int64_t runs() const { return images * axes[0].out * axes[1].out; }
  int64_t positions() const { return (runs() - 1) * pitch + axes[2].out; }
};

struct ConvShape {
  const Tensor& x;
  const Tensor& out;
  const Tensor* residual;
  std::array<ConvAxis, 3> axes;
  bool packed;
  const Family& family;    // of the kernel
  int64_t width;           // positions of a tile
  std::vector<bool> used;  // rows of the matrix that any filter reads
};

// Throws Refusal where the layer would touch what is not its own.
ConvGeometry make_geometry(const ConvShape& shape);

}  // namespace rsk
