// A convolution: the panel is packed if there is one, the kernel runs over tiles × blocks, partial tiles are copied out.
#include "conv.h"

#include <algorithm>
#include <cstring>

#include "families.h"
#include "ops/activations.h"
#include "ops/conv_geometry.h"
#include "refusal.h"
#include "step.h"

namespace rsk {
namespace {

constexpr size_t kEnoughBlocks = 8;        // a thread: an uneven share then costs little
constexpr double kProducts = 64;           // a nanosecond
constexpr double kNanosecondsMoved = 0.2;  // an element of a panel or a partial tile
constexpr int64_t kMaxRows = 1 << 24;
constexpr uint32_t kActivations = static_cast<uint32_t>(Activation::kSigmoid) + 1;

std::array<ConvAxis, 3> axes_of(const StepRecord& record, const Tensor& x, const Tensor& out) {
  std::array<ConvAxis, 3> axes;
  for (uint32_t axis = 0; axis < 3; ++axis) {
    const auto value = [&](uint32_t row) { return record.ints[row * 3 + axis]; };
    axes[axis] = {value(0), value(1), value(2), value(3), x.dims[axis + 2], out.dims[axis + 2]};
    expect(value(0) >= 1 && value(1) >= 1 && value(3) >= 1 && value(0) * value(3) < kMaxElements, "a convolution window is out of range");
  }
  return axes;
}

Matrix matrix_of(const Plan& plan, const StepRecord& record, uint32_t filters, int64_t rows) {
  const auto start = plan.blob<uint32_t>(record, 0);
  const auto columns = plan.blob<uint32_t>(record, 1);
  const auto values = plan.blob<float>(record, 2);
  const auto bias = plan.blob<float>(record, 3);
  expect(start.size() == size_t{filters} + 1 && start.front() == 0 && start.back() == columns.size() && columns.size() == values.size(),
         "a sparse matrix has wrong counts");
  for (size_t filter = 0; filter < filters; ++filter) {
    expect(start[filter] <= start[filter + 1] && start[filter + 1] <= columns.size(), "a sparse matrix has rows that end before they start");
    for (uint32_t at = start[filter]; at < start[filter + 1]; ++at) {
      expect(columns[at] < rows && (at == start[filter] || columns[at - 1] < columns[at]), "a sparse matrix has columns out of order");
    }
  }
  expect(bias.empty() || bias.size() == filters, "a convolution has a bias of the wrong size");
  return {filters, static_cast<uint32_t>(rows), start.data(), columns.data(), values.data()};
}

class ConvStep final : public Step {
 public:
  ConvStep(const Plan& plan, const StepRecord& record) : x_(plan.input(record, 0)), out_(plan.output(record)), residual_(out_) {
    expect(x_.rank == 5 && out_.rank == 5 && x_.dims[0] == out_.dims[0], "a convolution changes the batch");
    expect(record.activation < kActivations && record.ints[12] >= 1 && record.ints[12] <= 4, "a convolution has an unknown activation or tile");
    const bool with_residual = plan.has_input(record, 1);
    if (with_residual) residual_ = plan.input(record, 1);
    for (uint32_t axis = 0; axis < 5; ++axis) expect(residual_.rank == 5 && residual_.dims[axis] == out_.dims[axis], "a residual has another shape");
    const auto axes = axes_of(record, x_, out_);
    int64_t rows = x_.dims[1];
    expect(rows <= kMaxRows, "a convolution has too many channels");
    for (const ConvAxis& axis : axes) {
      expect(axis.kernel <= kMaxRows / rows, "a convolution has too many weights per filter");
      rows *= axis.kernel;
    }
    ConvRequest request;
    request.matrix = matrix_of(plan, record, static_cast<uint32_t>(out_.dims[1]), rows);
    request.vectors = static_cast<uint32_t>(record.ints[12]);
    width_ = int64_t{16} * request.vectors;
    ConvShape shape{x_, out_, with_residual ? &residual_ : nullptr, axes, record.ints[13] != 0, width_, std::vector<bool>(static_cast<size_t>(rows))};
    const uint32_t count = request.matrix.start[request.matrix.filters];
    for (uint32_t at = 0; at < count; ++at) shape.used[request.matrix.columns[at]] = true;
    geometry_ = make_geometry(shape);
    request.offsets = geometry_.offsets.data();
    const auto bias = plan.blob<float>(record, 3);
    request.epilogue = {bias.empty() ? nullptr : bias.data(), static_cast<Activation>(record.activation), record.floats[0], record.floats[1], with_residual};
    kernel_ = make_kernel(record.kernel.data(), record.kind == 1, request);
    with_residual_ = with_residual;
    geometry_.offsets = {};
    nanoseconds_ = static_cast<double>(int64_t{count} * width_ * static_cast<int64_t>(geometry_.tiles.size())) / kProducts;
  }

  size_t scratch_floats() const override { return static_cast<size_t>(geometry_.panel_floats + geometry_.slots * slot_floats() * (with_residual_ ? 2 : 1)); }
  size_t weight_bytes() const override { return kernel_->weight_bytes(); }
  size_t code_bytes() const override { return kernel_->code_bytes(); }
  const char* kernel() const override { return kernel_->name(); }

  void run(const Context& context) const override {
    float* partial = context.scratch + geometry_.panel_floats;
    for (int64_t image = 0; image < x_.dims[0]; image += geometry_.images) {
      if (geometry_.packed) pack(context, image);
      if (geometry_.slots > 0 && with_residual_) move(context, image, partial + geometry_.slots * slot_floats(), true);
      compute(context, image, partial);
      if (geometry_.slots > 0) move(context, image, partial, false);
    }
  }

 private:
  int64_t slot_floats() const { return out_.dims[1] * width_; }

  void compute(const Context& context, int64_t image, float* partial) const {
    const float* x = geometry_.packed ? context.scratch : context.at(x_) + image * x_.strides[0];
    float* out = context.out(out_) + image * out_.strides[0];
    const float* residual = with_residual_ ? context.at(residual_) + image * residual_.strides[0] : nullptr;
    const float* partial_residual = partial + geometry_.slots * slot_floats();
    std::vector<Tile> tiles(geometry_.tiles.size());
    for (size_t number = 0; number < tiles.size(); ++number) {
      const ConvTile& at = geometry_.tiles[number];
      Tile& tile = tiles[number];
      tile.x = x + at.position;
      tile.keep = at.keep;
      tile.out = at.direct ? out + at.out : partial + at.slot * slot_floats();
      tile.out_stride = static_cast<size_t>(at.direct ? out_.strides[1] : width_);
      if (!with_residual_) continue;
      tile.residual = at.direct ? residual + at.residual : partial_residual + at.slot * slot_floats();
      tile.residual_stride = static_cast<size_t>(at.direct ? residual_.strides[1] : width_);
    }
    const size_t blocks = kernel_->blocks(), threads = context.pool->threads();
    const size_t parts = blocks % threads == 0 || blocks >= kEnoughBlocks * threads ? 1 : std::min(threads, tiles.size());
    context.pool->share(blocks * parts, nanoseconds_, [&](size_t first, size_t last) {
      for (size_t unit = first; unit < last; ++unit) {
        const size_t part = unit % parts, begin = tiles.size() * part / parts, end = tiles.size() * (part + 1) / parts;
        kernel_->run_all(std::span(tiles).subspan(begin, end - begin), static_cast<uint32_t>(unit / parts));
      }
    });
  }

  // Copies partial tiles to the output, or the residual to partial tiles.
  void move(const Context& context, int64_t image, float* partial, bool gather) const {
    const Tensor& tensor = gather ? residual_ : out_;
    float* whole = gather ? const_cast<float*>(context.at(residual_)) : context.out(out_);
    context.pool->share(geometry_.tiles.size(), kNanosecondsMoved * static_cast<double>(geometry_.slots * slot_floats()), [&](size_t first, size_t last) {
      for (size_t number = first; number < last; ++number) {
        const ConvTile& tile = geometry_.tiles[number];
        for (int64_t filter = 0; !tile.direct && filter < out_.dims[1]; ++filter) {
          float* packed = partial + tile.slot * slot_floats() + filter * width_;
          for (const Segment& segment : tile.segments) {
            if (image + segment.image >= x_.dims[0]) continue;
            float* loose = whole + image * tensor.strides[0] + filter * tensor.strides[1] + (gather ? segment.residual : segment.out);
            for (int64_t i = 0; i < segment.count; ++i) {
              float& far = loose[i * tensor.strides[4]];
              float& near = packed[segment.begin + i];
              (gather ? near : far) = gather ? far : near;
            }
          }
        }
      }
    });
  }

  void pack(const Context& context, int64_t image) const {
    const float* x = context.at(x_);
    context.pool->share(geometry_.planes.size(), kNanosecondsMoved * static_cast<double>(geometry_.panel_floats), [&](size_t first, size_t last) {
      for (size_t number = first; number < last; ++number) pack(geometry_.planes[number], x, image, context.scratch + geometry_.planes[number].at);
    });
  }

  void pack(const PanelPlane& plane, const float* x, int64_t image, float* to) const {
    const ConvAxis &slide = geometry_.axes[geometry_.slide], &mid = geometry_.axes[geometry_.mid], &wide = geometry_.axes[2];
    const int64_t shift = plane.wide * wide.dilation - wide.pad;  // output w reads element w·stride + shift
    const int64_t first = std::min(wide.out, shift >= 0 ? 0 : (-shift + wide.stride - 1) / wide.stride);
    const int64_t last = shift >= wide.in ? first : std::clamp((wide.in - 1 - shift) / wide.stride + 1, first, wide.out);
    if (rows_touch()) return pack_whole(plane, x + image * x_.strides[0] + plane.channel * x_.strides[1], shift, first, last, to);
    const int64_t step = wide.stride * x_.strides[4];
    for (int64_t row = 0; row < plane.rows; ++row) {
      const int64_t s = row * slide.stride + plane.phase - slide.pad;
      for (int64_t n = image; n < image + geometry_.images; ++n) {
        for (int64_t m = 0; m < mid.out; ++m, to += wide.out) {
          const int64_t y = m * mid.stride + plane.mid * mid.dilation - mid.pad;
          if (s < 0 || s >= slide.in || y < 0 || y >= mid.in || n >= x_.dims[0]) {
            std::memset(to, 0, static_cast<size_t>(wide.out) * sizeof(float));
            continue;
          }
          const float* from = x + n * x_.strides[0] + plane.channel * x_.strides[1] + s * x_.strides[geometry_.slide + 2] + y * x_.strides[geometry_.mid + 2] +
                              shift * x_.strides[4];
          if (step == 1) {
            std::memcpy(to + first, from + first, static_cast<size_t>(last - first) * sizeof(float));
          } else if (step == 2) {
            copy_every<2>(to + first, from + 2 * first, last - first);
          } else {
            for (int64_t w = first; w < last; ++w) to[w] = from[w * step];
          }
          clear_edges(to, first, last, wide.out);
        }
      }
    }
  }

  // Whether a panel's plane is the input's, moved by a tap: one copy instead of one a row.
  bool rows_touch() const {
    const ConvAxis &slide = geometry_.axes[1], &wide = geometry_.axes[2];
    const bool flat = geometry_.slide == 1 && geometry_.images == 1 && slide.stride == 1 && wide.stride == 1 && wide.out == wide.in;
    return flat && x_.strides[4] == 1 && x_.strides[3] == wide.in;
  }

  void pack_whole(const PanelPlane& plane, const float* x, int64_t shift, int64_t first, int64_t last, float* to) const {
    const ConvAxis &slide = geometry_.axes[1], &wide = geometry_.axes[2];
    const int64_t top = std::clamp<int64_t>(slide.pad, 0, plane.rows), bottom = std::clamp(slide.pad + slide.in, top, plane.rows);
    const int64_t size = slide.in * wide.in, start = (top - slide.pad) * wide.in + shift, end = (bottom - slide.pad) * wide.in + shift;
    const int64_t skipped = std::max<int64_t>(0, -start), count = std::min(end, size) - std::max<int64_t>(0, start);
    std::memset(to, 0, static_cast<size_t>(top * wide.out) * sizeof(float));
    if (count > 0) std::memcpy(to + top * wide.out + skipped, x + start + skipped, static_cast<size_t>(count) * sizeof(float));
    for (int64_t row = top; row < bottom; ++row) clear_edges(to + row * wide.out, first, last, wide.out);
    std::memset(to + bottom * wide.out, 0, static_cast<size_t>((plane.rows - bottom) * wide.out) * sizeof(float));
  }

  // The usual stride, with groups of a fixed size that the compiler turns into shuffles.
  template <int64_t kStep>
  static void copy_every(float* __restrict to, const float* __restrict from, int64_t count) {
    constexpr int64_t kGroup = 4;
    int64_t w = 0;
    for (; w + kGroup < count; w += kGroup) {
      for (int64_t i = 0; i < kGroup; ++i) to[w + i] = from[(w + i) * kStep];
    }
    for (; w < count; ++w) to[w] = from[w * kStep];
  }

  static void clear_edges(float* row, int64_t first, int64_t last, int64_t size) {
    for (int64_t w = 0; w < first; ++w) row[w] = 0.0F;
    for (int64_t w = last; w < size; ++w) row[w] = 0.0F;
  }

  Tensor x_, out_, residual_;
  bool with_residual_ = false;
  int64_t width_ = 0;
  double nanoseconds_ = 0;  // of one group of images, roughly
  ConvGeometry geometry_;
  std::unique_ptr<ConvKernel> kernel_;
};

}  // namespace

StepPointer make_conv(const Plan& plan, const StepRecord& record) { return std::make_unique<ConvStep>(plan, record); }

}  // namespace rsk
