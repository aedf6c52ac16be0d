#include "ops/conv_geometry.h"

#include <algorithm>
#include <limits>

#include "refusal.h"

namespace rsk {
namespace {

constexpr int64_t kEnoughPositions = 96;  // an image with fewer shares its tiles with the next
constexpr int64_t kMaxPanel = int64_t{1} << 31;

int32_t checked_offset(int64_t offset) {
  expect(offset > std::numeric_limits<int32_t>::min() / 2 && offset < std::numeric_limits<int32_t>::max() / 2, "a convolution reads too far apart");
  return static_cast<int32_t>(offset);
}

void lay_direct(const ConvShape& shape, ConvGeometry& geometry) {
  const auto& [deep, high, wide] = shape.axes;
  const Tensor& x = shape.x;
  const bool flat = deep.kernel == 1 && deep.out == 1 && deep.pad == 0 && deep.stride == 1 && high.stride == 1 && wide.stride == 1;
  expect(flat && (wide.in == 1 || x.strides[4] == 1), "a convolution without a panel has a stride");
  geometry.pitch = high.out == 1 ? wide.out : x.strides[3];
  expect(geometry.pitch >= wide.out, "a convolution without a panel has rows that overlap");
  const int64_t taps = high.kernel * wide.kernel;
  int64_t low = 0, top = 0;
  for (size_t row = 0; row < shape.used.size(); ++row) {
    const auto [channel, tap] = std::pair{static_cast<int64_t>(row) / taps, static_cast<int64_t>(row) % taps};
    const int64_t dy = tap / wide.kernel * high.dilation - high.pad, dx = tap % wide.kernel * wide.dilation - wide.pad;
    const int64_t offset = channel * x.strides[1] + dy * x.strides[3] + dx;
    geometry.offsets.push_back(checked_offset(offset));
    low = std::min(low, offset);
    top = std::max(top, offset);
  }
  const int64_t end = (geometry.positions() + shape.width - 1) / shape.width * shape.width + (x.dims[0] - 1) * x.strides[0];
  expect(low >= -x.before && top + end <= x.after, "a convolution without a panel reads outside its input");
}

// The rows of a phase's plane: as many as its furthest tap needs.
int64_t rows_of_phase(const ConvAxis& slide, int64_t phase) {
  int64_t rows = 0;
  for (int64_t tap = 0; tap < slide.kernel; ++tap) {
    if (tap * slide.dilation % slide.stride == phase) rows = slide.out + tap * slide.dilation / slide.stride;
  }
  return rows;
}

void lay_packed(const ConvShape& shape, ConvGeometry& geometry) {
  const bool volume = shape.axes[0].kernel > 1 || shape.axes[0].out > 1 || shape.axes[0].in > 1;
  geometry.slide = volume ? 0 : 1;
  geometry.mid = volume ? 1 : 0;
  const ConvAxis &slide = shape.axes[geometry.slide], &mid = shape.axes[geometry.mid], &wide = shape.axes[2];
  const int64_t each = slide.out * mid.out * wide.out;
  geometry.images = std::min(shape.x.dims[0], std::max<int64_t>(1, kEnoughPositions / each));
  geometry.pitch = wide.out;
  const int64_t line = geometry.line();
  geometry.offsets.assign(shape.used.size(), 0);
  std::vector<int64_t> plane_of_phase(static_cast<size_t>(std::min(slide.stride, slide.kernel * slide.dilation)));
  const int64_t taps = slide.kernel * mid.kernel * wide.kernel;
  for (int64_t channel = 0; channel < shape.x.dims[1]; ++channel) {
    for (int64_t m = 0; m < mid.kernel; ++m) {
      for (int64_t w = 0; w < wide.kernel; ++w) {
        std::fill(plane_of_phase.begin(), plane_of_phase.end(), -1);
        for (int64_t s = 0; s < slide.kernel; ++s) {
          const int64_t across = (geometry.slide == 0 ? s * mid.kernel + m : m * slide.kernel + s) * wide.kernel + w;
          const auto row = static_cast<size_t>(channel * taps + across);
          if (!shape.used[row]) continue;
          const int64_t phase = s * slide.dilation % slide.stride;
          int64_t& plane = plane_of_phase[static_cast<size_t>(phase)];
          if (plane < 0) {
            plane = geometry.panel_floats;
            const int64_t rows = rows_of_phase(slide, phase);
            geometry.planes.push_back({plane, channel, phase, m, w, rows});
            expect(rows <= kMaxPanel / line, "a convolution needs a panel that is too large");
            geometry.panel_floats += (rows * line + 15) / 16 * 16;
            expect(geometry.panel_floats <= kMaxPanel, "a convolution needs a panel that is too large");
          }
          geometry.offsets[row] = checked_offset(plane + s * slide.dilation / slide.stride * line);
        }
      }
    }
  }
  geometry.panel_floats += (geometry.positions() + shape.width) / shape.width * shape.width - geometry.positions();
}

// How far apart a tile may write from a filter's first element without touching another's.
int64_t room(const Tensor& out) { return std::min(out.strides[1], out.after - (out.dims[0] - 1) * out.strides[0] - (out.dims[1] - 1) * out.strides[1]); }

int64_t run_of(const Tensor& tensor, const ConvGeometry& geometry, int64_t run) {
  if (!geometry.packed) return run * tensor.strides[3];
  const int64_t middle = geometry.axes[geometry.mid].out;
  const int64_t m = run % middle, image = run / middle % geometry.images, slide = run / middle / geometry.images;
  return slide * tensor.strides[geometry.slide + 2] + m * tensor.strides[geometry.mid + 2] + image * tensor.strides[0];
}

// Whether positions and floats of the tensor advance alike from the run at `first` to the one at `last`.
bool contiguous(const Tensor& tensor, const ConvGeometry& geometry, int64_t first, int64_t last) {
  for (int64_t run = first; run <= last; ++run) {
    if (run_of(tensor, geometry, run) != run * geometry.pitch) return false;
  }
  return true;
}

ConvTile make_tile(const ConvShape& shape, ConvGeometry& geometry, int64_t position) {
  const int64_t first = position / geometry.pitch;
  const int64_t last = std::min(geometry.runs() - 1, (position + shape.width - 1) / geometry.pitch);
  ConvTile tile{position, 0, false, 0, 0, 0, {}};
  for (int64_t run = first; run <= last; ++run) {
    const int64_t begin = std::max(run * geometry.pitch, position), end = std::min(run * geometry.pitch + shape.axes[2].out, position + shape.width);
    if (begin >= end) continue;
    const int64_t inside = begin - run * geometry.pitch;
    const auto place = [&](const Tensor& tensor) { return run_of(tensor, geometry, run) + inside * tensor.strides[4]; };
    const int64_t image = geometry.packed ? run / geometry.axes[geometry.mid].out % geometry.images : 0;
    tile.segments.push_back({image, begin - position, end - begin, place(shape.out), shape.residual != nullptr ? place(*shape.residual) : 0});
    const uint64_t ones = end - begin == 64 ? ~uint64_t{0} : (uint64_t{1} << (end - begin)) - 1;
    tile.keep |= ones << (begin - position);
  }
  const bool whole = tile.segments.size() == 1 && tile.segments[0].count == shape.width;
  const auto fits = [&](const Tensor& tensor) {
    const int64_t everything = (tensor.dims[0] - 1) * tensor.strides[0] + (tensor.dims[1] - 1) * tensor.strides[1];
    const bool alike = whole || (contiguous(tensor, geometry, first, last) && everything + position + shape.width <= tensor.after);
    return alike && (tensor.strides[4] == 1 || shape.axes[2].out == 1);
  };
  tile.direct =
      geometry.images == 1 && fits(shape.out) && (shape.residual == nullptr || fits(*shape.residual)) && (whole || position + shape.width <= room(shape.out));
  if (tile.direct) {
    tile.out = whole ? tile.segments[0].out : position;
    tile.residual = whole ? tile.segments[0].residual : position;
  } else {
    tile.slot = geometry.slots++;
  }
  return tile;
}

}  // namespace

int64_t ConvGeometry::runs() const { return packed ? axes[slide].out * images * axes[mid].out : axes[1].out; }

ConvGeometry make_geometry(const ConvShape& shape) {
  ConvGeometry geometry;
  geometry.axes = shape.axes;
  geometry.packed = shape.packed;
  if (shape.packed) {
    lay_packed(shape, geometry);
  } else {
    lay_direct(shape, geometry);
  }
  const bool by_rows = shape.axes[2].out % shape.width == 0;
  for (int64_t run = 0; by_rows && run < geometry.runs(); ++run) {
    for (int64_t at = 0; at < shape.axes[2].out; at += shape.width) geometry.tiles.push_back(make_tile(shape, geometry, run * geometry.pitch + at));
  }
  for (int64_t at = 0; !by_rows && at < geometry.positions(); at += shape.width) geometry.tiles.push_back(make_tile(shape, geometry, at));
  return geometry;
}

}  // namespace rsk
