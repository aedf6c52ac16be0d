// Where a convolution reads and writes: rows of positions, the tiles that cut them, and the panel that feeds them.
//
// Output elements are numbered by positions: runs of one output row each start `pitch` positions apart.
//   direct: the input's own planes, whose rows are `pitch` floats apart and end in zeros; one image at a time;
//   packed: planes copied so that rows have no gap and every tap of a stride is a plane of its own; several images at once.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "plan.h"

namespace rsk {

struct ConvAxis {
  int64_t kernel, stride, pad, dilation, in, out;
};

// One plane of the panel: the input elements that tap (mid, wide) of a phase of the sliding axis reads, rows of positions.
struct PanelPlane {
  int64_t at;
  int64_t channel, phase, mid, wide, rows;
};

// A piece of one output row inside a tile.
struct Segment {
  int64_t image, begin, count;  // the image of the group, positions from the tile's start
  int64_t out, residual;        // floats from the group's first filter
};

struct ConvTile {
  int64_t position;
  uint64_t keep;
  bool direct;            // written straight to the output; else to partial tiles, then copied
  int64_t out, residual;  // floats from the group's first filter, if direct
  int64_t slot;           // which partial tile, if not
  std::vector<Segment> segments;
};

struct ConvGeometry {
  std::array<ConvAxis, 3> axes;
  bool packed = false;
  uint32_t slide = 1, mid = 0;  // packed: the axis whose taps are offsets, and the one whose taps are planes like those of the last
  int64_t images = 1;           // in one group
  int64_t pitch = 0;            // positions from one run to the next
  int64_t panel_floats = 0;
  std::vector<PanelPlane> planes;
  std::vector<int32_t> offsets;  // one per row of the matrix
  std::vector<ConvTile> tiles;
  int64_t slots = 0;

  int64_t runs() const;
  int64_t positions() const { return (runs() - 1) * pitch + axes[2].out; }
  int64_t line() const { return images * axes[mid].out * axes[2].out; }  // packed: positions of one step of the sliding axis
};

struct ConvShape {
  const Tensor& x;
  const Tensor& out;
  const Tensor* residual;
  std::array<ConvAxis, 3> axes;
  bool packed;
  int64_t width;           // positions of a tile
  std::vector<bool> used;  // rows of the matrix that any filter reads
};

// Throws Refusal where the layer would touch what is not its own.
ConvGeometry make_geometry(const ConvShape& shape);

}  // namespace rsk
