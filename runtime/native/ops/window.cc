// What slides over space or channels: pooling and local response normalisation.
#include <cmath>
#include <limits>

#include "ops/loop.h"
#include "ops/vectorise.h"
#include "refusal.h"
#include "step.h"

namespace rsk {
namespace {

constexpr uint32_t kAxes = 3;
constexpr int64_t kMaxPad = 1 << 16;
constexpr double kNanoseconds = 0.6;  // an element of a window

// One spatial axis of a pooling window.
struct Window {
  int64_t kernel, stride, pad, dilation, in, out, end;  // end: in + both pads, beyond which nothing counts

  // The taps of output `at` that lie inside the input: [first, last).
  std::pair<int64_t, int64_t> taps(int64_t at) const {
    const int64_t begin = at * stride - pad;
    const int64_t first = begin >= 0 ? 0 : (-begin + dilation - 1) / dilation;
    const int64_t last = begin >= in ? 0 : std::min(kernel, (in - 1 - begin) / dilation + 1);
    return {std::min(first, kernel), std::max(last, std::min(first, kernel))};
  }
  // How many taps lie inside the input and its pads.
  int64_t counted(int64_t at) const {
    const int64_t begin = at * stride;
    return begin >= end ? 0 : std::min(kernel, (end - 1 - begin) / dilation + 1);
  }
};

// NaN wins: two selections, which vectorise where a condition of two parts does not.
inline float larger(float best, float value) {
  const float most = best > value ? best : value;
  return best != best ? best : most;
}

RSK_VECTORISED void take_larger(const float* __restrict from, int64_t step, float* __restrict to, int64_t to_step, int64_t count) {
  if (step == 1 && to_step == 1) {
    for (int64_t i = 0; i < count; ++i) to[i] = larger(to[i], from[i]);
  } else if (step == 2 && to_step == 1) {
    for (int64_t i = 0; i < count; ++i) to[i] = larger(to[i], from[2 * i]);
  } else {
    for (int64_t i = 0; i < count; ++i) to[i * to_step] = larger(to[i * to_step], from[i * step]);
  }
}

class PoolStep final : public Step {
 public:
  enum Kind : uint32_t { kMax, kAverage, kAverageWithPads, kCount };

  PoolStep(const Plan& plan, const StepRecord& record) : x_(plan.input(record, 0)), out_(plan.output(record)), kind_(static_cast<Kind>(record.kind)) {
    expect(record.kind < kCount, "a pooling has an unknown kind");
    expect(x_.rank == 5 && out_.rank == 5 && x_.dims[0] == out_.dims[0] && x_.dims[1] == out_.dims[1], "a pooling changes channels or batch");
    for (uint32_t axis = 0; axis < kAxes; ++axis) {
      const auto value = [&](uint32_t row) { return record.ints[row * kAxes + axis]; };
      windows_[axis] = {value(0), value(1), value(2), value(3), x_.dims[axis + 2], out_.dims[axis + 2], x_.dims[axis + 2] + value(2) + value(4)};
      const bool fits = value(0) >= 1 && value(1) >= 1 && value(2) >= 0 && value(2) <= kMaxPad && value(3) >= 1 && value(4) >= 0 && value(4) <= kMaxPad;
      expect(fits, "a pooling window is out of range");
      const int64_t span = (value(0) - 1) * value(3) + 1;
      expect(span <= windows_[axis].end && (windows_[axis].out - 1) * value(1) < windows_[axis].end, "a pooling window does not fit its input");
    }
  }

  void run(const Context& context) const override {
    const int64_t taps = windows_[0].kernel * windows_[1].kernel * windows_[2].kernel;
    const auto [n, c, d, h] = std::array{out_.dims[0], out_.dims[1], out_.dims[2], out_.dims[3]};
    const float* x = context.at(x_);
    float* out = context.out(out_);
    context.pool->share(static_cast<size_t>(n * c), kNanoseconds * static_cast<double>(out_.elements() * taps),
                        [&, c = c, d = d, h = h](size_t first, size_t last) {
                          for (auto plane = static_cast<int64_t>(first); plane < static_cast<int64_t>(last); ++plane) {
                            const float* from = x + plane / c * x_.strides[0] + plane % c * x_.strides[1];
                            float* to = out + plane / c * out_.strides[0] + plane % c * out_.strides[1];
                            for (int64_t z = 0; z < d; ++z) {
                              for (int64_t y = 0; y < h; ++y) row(from, to + z * out_.strides[2] + y * out_.strides[3], z, y);
                            }
                          }
                        });
  }

 private:
  void row(const float* x, float* out, int64_t z, int64_t y) const {
    const Window &deep = windows_[0], &high = windows_[1], &wide = windows_[2];
    const auto [z0, z1] = deep.taps(z);
    const auto [y0, y1] = high.taps(y);
    const float lowest = -std::numeric_limits<float>::infinity();
    for (int64_t i = 0; i < wide.out; ++i) out[i * out_.strides[4]] = kind_ == kMax ? lowest : 0.0F;
    for (int64_t kz = z0; kz < z1; ++kz) {
      for (int64_t ky = y0; ky < y1; ++ky) {
        const float* line =
            x + (z * deep.stride - deep.pad + kz * deep.dilation) * x_.strides[2] + (y * high.stride - high.pad + ky * high.dilation) * x_.strides[3];
        for (int64_t kx = 0; kx < wide.kernel; ++kx) tap(line, out, kx * wide.dilation - wide.pad);
      }
    }
    if (kind_ == kMax) return;
    const int64_t area = kind_ == kAverageWithPads ? deep.counted(z) * high.counted(y) : (z1 - z0) * (y1 - y0);
    for (int64_t i = 0; i < wide.out; ++i) {
      const auto [x0, x1] = wide.taps(i);
      const int64_t count = area * (kind_ == kAverageWithPads ? wide.counted(i) : x1 - x0);
      out[i * out_.strides[4]] /= static_cast<float>(std::max<int64_t>(count, 1));
    }
  }

  // One tap of a row: the outputs whose element at stride·i + shift lies inside.
  void tap(const float* line, float* out, int64_t shift) const {
    const Window& wide = windows_[2];
    const int64_t first = shift >= 0 ? 0 : (-shift + wide.stride - 1) / wide.stride;
    const int64_t last = shift >= wide.in ? 0 : std::min(wide.out, (wide.in - 1 - shift) / wide.stride + 1);
    const int64_t step = x_.strides[4] * wide.stride;
    const float* from = line + shift * x_.strides[4];
    float* to = out + first * out_.strides[4];
    from += first * step;
    const int64_t count = last - first, to_step = out_.strides[4];
    if (kind_ == kMax) {
      take_larger(from, step, to, to_step, count);
    } else {
      for (int64_t i = 0; i < count; ++i) to[i * to_step] += from[i * step];
    }
  }

  Tensor x_, out_;
  Kind kind_;
  std::array<Window, kAxes> windows_;
};

// x / (bias + alpha · Σ x²)^beta over neighbouring channels (axis 1).
class LrnStep final : public Step {
 public:
  LrnStep(const Plan& plan, const StepRecord& record)
      : x_(plan.input(record, 0)), out_(plan.output(record)), floats_(record.floats), below_(record.ints[0]), above_(record.ints[1]) {
    expect(x_.rank >= 2 && same_shape(x_, out_), "a normalisation changes the shape");
    expect(below_ >= 0 && above_ >= 0, "a normalisation window is out of range");
    const std::array tensors{x_, out_};
    inner_ = over<2>(tensors, 2);
  }

  void run(const Context& context) const override {
    const float* x = context.at(x_);
    float* out = context.out(out_);
    const int64_t channels = x_.dims[1];
    const auto [dx, dy] = inner_.steps();
    for (int64_t image = 0; image < x_.dims[0]; ++image) {
      context.pool->share(static_cast<size_t>(channels), kNanoseconds * static_cast<double>(out_.elements() * (below_ + above_)),
                          [&, dx = dx, dy = dy](size_t first, size_t last) {
                            for (auto c = static_cast<int64_t>(first); c < static_cast<int64_t>(last); ++c) {
                              const int64_t low = std::max<int64_t>(0, c - below_), high = std::min(channels - 1, c + above_);
                              inner_.each(0, inner_.rows(), [&](const auto& at) {
                                const float* from = x + image * x_.strides[0] + at[0];
                                float* to = out + image * out_.strides[0] + c * out_.strides[1] + at[1];
                                for (int64_t i = 0; i < inner_.row(); ++i) {
                                  float total = 0;
                                  for (int64_t k = low; k <= high; ++k) {
                                    const float value = from[k * x_.strides[1] + i * dx];
                                    total += value * value;
                                  }
                                  to[i * dy] = from[c * x_.strides[1] + i * dx] / std::pow(floats_[2] + floats_[0] * total, floats_[1]);
                                }
                              });
                            }
                          });
    }
  }

 private:
  Tensor x_, out_;
  std::array<float, 4> floats_;  // alpha / size, beta, bias
  int64_t below_, above_;
  Loop<2> inner_;
};

}  // namespace

StepPointer make_pool(const Plan& plan, const StepRecord& record) { return std::make_unique<PoolStep>(plan, record); }
StepPointer make_lrn(const Plan& plan, const StepRecord& record) { return std::make_unique<LrnStep>(plan, record); }

}  // namespace rsk
