#include "ops/conv_geometry.h"

#include <algorithm>
#include <limits>

#include "refusal.h"

namespace rsk {
namespace {

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

// How far apart a tile may write from a filter's first element without touching another's.
int64_t room(const Tensor& out) { return std::min(out.strides[1], out.after - (out.dims[0] - 1) * out.strides[0] - (out.dims[1] - 1) * out.strides[1]); }

// Floats from the tensor's first element to the first of a run.
int64_t run_of(const Tensor& tensor, const ConvGeometry& geometry, int64_t run) {
  const int64_t deep = geometry.axes[0].out, high = geometry.axes[1].out;
  return run / high / deep * tensor.strides[0] + run / high % deep * tensor.strides[2] + run % high * tensor.strides[3];
}

// Whether positions and floats of the tensor advance alike from the run at `first` to the one at `last`.
bool contiguous(const Tensor& tensor, const ConvGeometry& geometry, int64_t first, int64_t last) {
  for (int64_t run = first; run <= last; ++run) {
    if (run_of(tensor, geometry, run) - run_of(tensor, geometry, first) != (run - first) * geometry.pitch) return false;
  }
  return true;
}

// Lengthens the last segment where the next one follows it.
void append(std::vector<Segment>& segments, const Segment& next, const ConvShape& shape) {
  const auto follows = [&](const Segment& last) {
    const bool in_residual = shape.residual == nullptr || last.residual + last.count * shape.residual->strides[4] == next.residual;
    return last.begin + last.count == next.begin && last.out + last.count * shape.out.strides[4] == next.out && in_residual;
  };
  if (!segments.empty() && follows(segments.back())) {
    segments.back().count += next.count;
  } else {
    segments.push_back(next);
  }
}

ConvTile make_tile(const ConvShape& shape, const ConvGeometry& geometry, int64_t position) {
  const int64_t first = position / geometry.pitch;
  const int64_t last = std::min(geometry.runs() - 1, (position + shape.width - 1) / geometry.pitch);
  ConvTile tile{position, 0, false, 0, 0, 0, {}};
  for (int64_t run = first; run <= last; ++run) {
    const int64_t begin = std::max(run * geometry.pitch, position), end = std::min(run * geometry.pitch + shape.axes[2].out, position + shape.width);
    if (begin >= end) continue;
    const int64_t inside = begin - run * geometry.pitch;
    const auto place = [&](const Tensor& tensor) { return run_of(tensor, geometry, run) + inside * tensor.strides[4]; };
    append(tile.segments, {begin - position, end - begin, place(shape.out), shape.residual != nullptr ? place(*shape.residual) : 0}, shape);
    const uint64_t ones = end - begin == 64 ? ~uint64_t{0} : (uint64_t{1} << (end - begin)) - 1;
    tile.keep |= ones << (begin - position);
  }
  const bool whole = tile.segments.size() == 1 && tile.segments[0].count == shape.width;
  const int64_t image = first / (geometry.runs() / geometry.images);
  const auto origin = [&](const Tensor& tensor) { return run_of(tensor, geometry, first) + position - first * geometry.pitch; };
  const auto fits = [&](const Tensor& tensor) {
    const int64_t inside = origin(tensor) - image * tensor.strides[0];
    const int64_t everything = (tensor.dims[0] - 1) * tensor.strides[0] + (tensor.dims[1] - 1) * tensor.strides[1];
    const int64_t next = shape.packed ? last : std::min(last + 1, geometry.runs() - 1);  // a tile between planes' rows writes zeros up to there
    const bool alike = whole || (contiguous(tensor, geometry, first, next) && everything + inside + shape.width <= tensor.after);
    return alike && tensor.strides[4] == 1;
  };
  const bool alone = whole || origin(shape.out) - image * shape.out.strides[0] + shape.width <= room(shape.out);
  tile.direct = fits(shape.out) && (shape.residual == nullptr || fits(*shape.residual)) && alone;
  if (tile.direct) {
    tile.out = origin(shape.out);
    tile.residual = shape.residual != nullptr ? origin(*shape.residual) : 0;
  }
  return tile;
}

}  // namespace

ConvGeometry make_geometry(const ConvShape& shape) {
  ConvGeometry geometry;
  geometry.axes = shape.axes;
  geometry.packed = shape.packed;
  if (shape.packed) {
    geometry.images = shape.x.dims[0];
    geometry.pitch = shape.axes[2].out;
    geometry.panel = Panel(shape.x, shape.axes, shape.width, shape.used);
    geometry.offsets = geometry.panel.offsets();
  } else {
    lay_direct(shape, geometry);
  }
  // Only the panel is cut by tiles whatever the rows: its last one ends in zeros.
  const bool by_rows = !shape.packed && shape.axes[2].out % shape.width == 0;
  for (int64_t run = 0; by_rows && run < geometry.runs(); ++run) {
    for (int64_t at = 0; at < shape.axes[2].out; at += shape.width) geometry.tiles.push_back(make_tile(shape, geometry, run * geometry.pitch + at));
  }
  for (int64_t at = 0; !by_rows && at < geometry.positions(); at += shape.width) geometry.tiles.push_back(make_tile(shape, geometry, at));
  return geometry;
}

}  // namespace rsk
