#include "ops/conv_geometry.h"

#include <algorithm>
#include <limits>

#include "refusal.h"

namespace rsk {
namespace {

constexpr int64_t kLanes = 16;

int32_t checked_offset(int64_t offset) {
  expect(offset > std::numeric_limits<int32_t>::min() / 2 && offset < std::numeric_limits<int32_t>::max() / 2, "a convolution reads too far apart");
  return static_cast<int32_t>(offset);
}

// Whether all rows are `pitch` apart in the input, too.
bool flat(const ConvShape& shape) {
  const auto& [deep, high, wide] = shape.axes;
  return deep.kernel == 1 && deep.out == 1 && deep.pad == 0 && high.stride == 1;
}

void lay_direct(const ConvShape& shape, ConvGeometry& geometry) {
  const auto& [deep, high, wide] = shape.axes;
  const Tensor& x = shape.x;
  const bool whole_rows = wide.kernel == 1 && wide.pad == 0 && wide.out <= wide.in && wide.out % shape.width == 0;
  expect((flat(shape) || whole_rows) && wide.stride == 1 && (wide.in == 1 || x.strides[4] == 1), "a convolution without a panel has a stride");
  for (size_t axis = 0; axis < 2; ++axis) {  // the last window may lie in the pads
    const int64_t last = (shape.axes[axis].out - 1) * shape.axes[axis].stride - shape.axes[axis].pad;
    expect(flat(shape) || last <= x.after / std::max(x.strides[axis + 2], int64_t{1}), "a convolution without a panel reads outside its input");
  }
  geometry.pitch = high.out == 1 || !flat(shape) ? wide.out : x.strides[3];
  expect(geometry.pitch >= wide.out, "a convolution without a panel has rows that overlap");
  const bool close = wide.pad > 0 && high.out > 1 && geometry.pitch < wide.in + wide.pad;
  expect(!close || (shape.family.has(kHeedsSides) && wide.kernel == 3 && wide.pad == 1 && wide.dilation == 1 && wide.out == wide.in && flat(shape)),
         "a convolution without a panel has no room for its padding");
  const int64_t taps = deep.kernel * high.kernel * wide.kernel;
  for (size_t row = 0; row < shape.used.size(); ++row) {
    const auto [channel, tap] = std::pair{static_cast<int64_t>(row) / taps, static_cast<int64_t>(row) % taps};
    if (close) geometry.sides.push_back(std::array<uint8_t, 3>{1, 0, 2}[static_cast<size_t>(tap % 3)]);
    const int64_t dz = tap / wide.kernel / high.kernel * deep.dilation - deep.pad;
    const int64_t dy = tap / wide.kernel % high.kernel * high.dilation - high.pad, dx = tap % wide.kernel * wide.dilation - wide.pad;
    geometry.offsets.push_back(checked_offset(channel * x.strides[1] + checked_offset(dz * x.strides[2]) + checked_offset(dy * x.strides[3]) + dx));
  }
}

// Where in its image a tile that starts at `position` of run `run` reads.
int64_t read_at(const ConvShape& shape, const ConvGeometry& geometry, int64_t run, int64_t position) {
  if (shape.packed || flat(shape)) return position;
  const auto& [deep, high, wide] = shape.axes;
  return run / high.out * deep.stride * shape.x.strides[2] + run % high.out * high.stride * shape.x.strides[3] + position - run * geometry.pitch;
}

void check_reach(const ConvShape& shape, const ConvGeometry& geometry) {
  const auto [low, top] = std::minmax_element(geometry.offsets.begin(), geometry.offsets.end());
  int64_t end = 0;
  for (const ConvTile& tile : geometry.tiles) end = std::max(end, tile.x + shape.width);
  expect(*low >= -shape.x.before && *top + end + (shape.x.dims[0] - 1) * shape.x.strides[0] <= shape.x.after,
         "a convolution without a panel reads outside its input");
}

// Whether a panel by columns serves: of a batch its rows would leave lanes empty.
bool suits_columns(const ConvShape& shape) {
  const auto& [deep, high, wide] = shape.axes;
  const bool flat = deep.kernel == 1 && deep.out == 1 && deep.pad == 0 && deep.stride == 1 && high.stride == 1 && wide.stride == 1;
  constexpr int64_t kMostRows = 1 << 12, kMostFloats = int64_t{1} << 26;
  if (!shape.packed || !shape.family.has(kShiftsTaps) || !flat || high.kernel == 1 || shape.x.dims[0] > 1 || wide.out > kMostRows) return false;
  return high.kernel * high.dilation <= kMostRows && high.out <= kMostRows &&
         (high.out + high.kernel * high.dilation) * wide.out <= kMostFloats / shape.x.dims[1] / wide.kernel;
}

void lay_columns(const ConvShape& shape, ConvGeometry& geometry) {
  Columns columns = make_columns(shape.x, shape.axes, shape.used);
  geometry.by_image = true;
  geometry.panel = std::move(columns.panel);
  geometry.offsets = std::move(columns.offsets);
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
  ConvTile tile{read_at(shape, geometry, first, position), 0, {}, false, 0, 0, 0, {}};
  for (int64_t run = first; run <= last; ++run) {
    const int64_t begin = std::max(run * geometry.pitch, position), end = std::min(run * geometry.pitch + shape.axes[2].out, position + shape.width);
    if (begin >= end) continue;
    const int64_t inside = begin - run * geometry.pitch;
    const auto place = [&](const Tensor& tensor) { return run_of(tensor, geometry, run) + inside * tensor.strides[4]; };
    append(tile.segments, {begin - position, end - begin, place(shape.out), shape.residual != nullptr ? place(*shape.residual) : 0}, shape);
    const uint64_t ones = end - begin == 64 ? ~uint64_t{0} : (uint64_t{1} << (end - begin)) - 1;
    tile.keep |= ones << (begin - position);
  }
  for (int64_t lane = 0; lane < shape.width && !geometry.sides.empty(); ++lane) {
    const int64_t column = (position + lane) % geometry.pitch;
    tile.inside[0] |= uint64_t{column > 0} << lane;
    tile.inside[1] |= uint64_t{column < shape.axes[2].out - 1} << lane;
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

// The same convolution's planes by the remainder of a coordinate and the stride: there every tap is an offset.
std::array<ConvAxis, 3> phase_axes(const ConvShape& shape) {
  std::array<ConvAxis, 3> axes = shape.axes;
  for (ConvAxis& axis : axes) {
    axis.out += (axis.kernel - 1) * axis.dilation / axis.stride;
    axis.kernel = axis.stride;
    axis.dilation = 1;
  }
  axes[2].out = (axes[2].out + kLanes - 1) / kLanes * kLanes;
  return axes;
}

int64_t positions_of(const std::array<ConvAxis, 3>& axes) { return axes[0].out * axes[1].out * axes[2].out; }

// Where the taps of a strided convolution overlap so much that phases are far smaller than a panel, and rows are cut into whole tiles.
bool suits_phases(const ConvShape& shape) {
  constexpr int64_t kWorthwhile = 4, kMostFloats = int64_t{1} << 24, kMostStride = 16, kMostReach = 4096;
  const auto& [deep, high, wide] = shape.axes;
  const auto small = [](const ConvAxis& axis) { return axis.stride <= kMostStride && axis.kernel * axis.dilation <= kMostReach; };
  const bool flat = deep.kernel == 1 && deep.out == 1 && deep.stride == 1 && deep.pad == 0;
  if (!shape.packed || !flat || !small(high) || !small(wide) || wide.stride == 1 || wide.out % shape.width != 0) return false;
  const int64_t copied = high.stride * wide.stride * positions_of(phase_axes(shape));
  return kWorthwhile * copied <= high.kernel * wide.kernel * positions_of(shape.axes) && copied <= kMostFloats / shape.x.dims[1];
}

void lay_phases(const ConvShape& shape, ConvGeometry& geometry) {
  const auto axes = phase_axes(shape);
  const int64_t plane = positions_of(axes), copies = axes[1].kernel * axes[2].kernel, taps = shape.axes[1].kernel * shape.axes[2].kernel;
  const auto rows = static_cast<size_t>(shape.x.dims[1] * copies);
  geometry.pitch = axes[2].out;
  geometry.panel = Panel(shape.x, axes, plane, std::vector<bool>(rows, true));
  for (size_t row = 0; row < shape.used.size(); ++row) {
    const auto [channel, tap] = std::pair{static_cast<int64_t>(row) / taps, static_cast<int64_t>(row) % taps};
    const int64_t dy = tap / shape.axes[2].kernel * shape.axes[1].dilation, dx = tap % shape.axes[2].kernel * shape.axes[2].dilation;
    const int64_t phase = dy % axes[1].stride * axes[2].kernel + dx % axes[2].stride;
    geometry.offsets.push_back(checked_offset((channel * copies + phase) * plane + dy / axes[1].stride * geometry.pitch + dx / axes[2].stride));
  }
}

// Whether a tap reads an element at output `place` of an axis.
bool inside(const ConvAxis& axis, int64_t place, int64_t tap) {
  const int64_t element = place * axis.stride + tap * axis.dilation - axis.pad;
  return element >= 0 && element < axis.in;
}

// The positions of a tile at which a tap reads more than padding, in any tile.
uint64_t reach_of(const ConvGeometry& geometry, int64_t width, int64_t tap) {
  const auto& [deep, high, wide] = geometry.axes;
  uint64_t reach = 0;
  const auto count = static_cast<int64_t>(geometry.tiles.size());
  const uint64_t all = width == 64 ? ~uint64_t{0} : (uint64_t{1} << width) - 1;
  for (int64_t at = 0; at < count * width && reach != all; ++at) {
    const int64_t run = at / geometry.pitch, column = at % geometry.pitch;
    if (run >= geometry.runs() || column >= wide.out) continue;
    const bool reads = inside(deep, run / high.out % deep.out, tap / wide.kernel / high.kernel) &&
                       inside(high, run % high.out, tap / wide.kernel % high.kernel) && inside(wide, column, tap % wide.kernel);
    reach |= uint64_t{reads} << at % width;
  }
  return reach;
}

void find_reach(ConvGeometry& geometry, int64_t width, size_t rows) {
  const auto& [deep, high, wide] = geometry.axes;
  const int64_t taps = deep.kernel * high.kernel * wide.kernel;
  std::vector<uint64_t> of_tap;
  for (int64_t tap = 0; tap < taps; ++tap) of_tap.push_back(reach_of(geometry, width, tap));
  for (size_t row = 0; row < rows; ++row) geometry.reach.push_back(of_tap[row % of_tap.size()]);
}

}  // namespace

ConvGeometry make_geometry(const ConvShape& shape) {
  ConvGeometry geometry;
  geometry.axes = shape.axes;
  geometry.packed = shape.packed;
  geometry.by_image = suits_phases(shape);
  if (geometry.by_image) {
    lay_phases(shape, geometry);
  } else if (shape.packed) {
    geometry.images = shape.x.dims[0];
    geometry.pitch = shape.axes[2].out;
    if (suits_columns(shape)) {
      lay_columns(shape, geometry);
    } else {
      geometry.panel = Panel(shape.x, shape.axes, shape.width, shape.used);
      geometry.offsets = geometry.panel.offsets();
    }
  } else {
    lay_direct(shape, geometry);
  }
  // Only a panel of tiles is cut by tiles whatever the rows: its last one ends in zeros.
  const bool by_rows = (!shape.packed || geometry.by_image) && shape.axes[2].out % shape.width == 0;
  for (int64_t run = 0; by_rows && run < geometry.runs(); ++run) {
    for (int64_t at = 0; at < shape.axes[2].out; at += shape.width) geometry.tiles.push_back(make_tile(shape, geometry, run * geometry.pitch + at));
  }
  for (int64_t at = 0; !by_rows && at < geometry.positions(); at += shape.width) geometry.tiles.push_back(make_tile(shape, geometry, at));
  if (!shape.packed) check_reach(shape, geometry);
  if (shape.family.has(kHeedsReach) && !by_rows && !geometry.by_image) find_reach(geometry, shape.width, shape.used.size());
  return geometry;
}

}  // namespace rsk
