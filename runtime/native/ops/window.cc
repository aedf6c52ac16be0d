// What slides over space or channels: pooling and local response normalisation.
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "kernels/pool.h"
#include "ops/loop.h"
#include "refusal.h"
#include "step.h"

namespace rsk {
namespace {

constexpr uint32_t kAxes = 3;
constexpr int64_t kMaxPad = 1 << 16;
constexpr double kNanoseconds = 0.6;        // an element of a window
constexpr double kNanosecondsPooled = 0.1;  // a row of one

// One spatial axis of a pooling window.
struct Window {
  int64_t kernel, stride, pad, dilation, in, out, end;  // end: in + both pads, beyond which nothing counts

  // The taps of output `at` that lie inside the input: [first, last).
  std::pair<int64_t, int64_t> taps(int64_t at) const {
    const int64_t begin = at * stride - pad;
    const int64_t first = begin >= 0 ? 0 : dilated(-begin + dilation - 1);
    const int64_t last = begin >= in ? 0 : std::min(kernel, dilated(in - 1 - begin) + 1);
    return {std::min(first, kernel), std::max(last, std::min(first, kernel))};
  }
  bool whole(int64_t at) const { return at * stride >= pad && at * stride - pad + (kernel - 1) * dilation < in; }
  // How many taps lie inside the input and its pads.
  int64_t counted(int64_t at) const {
    const int64_t begin = at * stride;
    return begin >= end ? 0 : std::min(kernel, dilated(end - 1 - begin) + 1);
  }
  int64_t dilated(int64_t elements) const { return dilation == 1 ? elements : elements / dilation; }
};

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
    for (uint32_t axis = 0; axis < kAxes && kind_ != kMax; ++axis) {
      for (int64_t at = 0; at < windows_[axis].out; ++at) {
        const auto [first, last] = windows_[axis].taps(at);
        counts_[axis].push_back(kind_ == kAverageWithPads ? windows_[axis].counted(at) : last - first);
      }
    }
    loops_ = kind_ == kMax ? pool_loops().largest : pool_loops().sum;
    halves_ = suits_halves();
  }

  void run(const Context& context) const override {
    const int64_t rows = windows_[0].kernel * windows_[1].kernel, channels = out_.dims[1];
    const float* x = context.at(x_);
    float* out = context.out(out_);
    context.pool->share(static_cast<size_t>(out_.dims[0] * channels), kNanosecondsPooled * static_cast<double>(out_.elements() * rows),
                        [&](size_t first, size_t last) {
                          for (auto plane = static_cast<int64_t>(first), count = int64_t{1}; plane < static_cast<int64_t>(last); plane += count) {
                            const int64_t image = plane / channels, channel = plane % channels;
                            const float* const from = x + image * x_.strides[0] + channel * x_.strides[1];
                            float* const to = out + image * out_.strides[0] + channel * out_.strides[1];
                            count = halves_ ? std::min(static_cast<int64_t>(last) - plane, channels - channel) : 1;
                            halves_ ? pool_halves(from, to, count) : pool_plane(from, to);
                          }
                        });
  }

 private:
  static constexpr int64_t kRows = 8, kLine = 512, kPitch = kLine + PoolLoops::kSlack;

  // Whether a vector of a line's windows is made of the even and the odd elements of two.
  bool suits_halves() const {
    const auto& [deep, high, wide] = windows_;
    const bool flat = deep.kernel == 1 && deep.stride == 1 && deep.pad == 0 && deep.out == deep.in;
    const auto alike = [](const std::vector<int64_t>& counts) {
      return std::all_of(counts.begin(), counts.end(), [&](int64_t count) { return count == counts[0]; });
    };
    return flat && wide.stride == 2 && wide.dilation == 1 && (wide.kernel == 2 || wide.kernel == 3) && x_.strides[4] == 1 && out_.strides[4] == 1 &&
           (kind_ == kMax || (alike(counts_[1]) && alike(counts_[2])));
  }

  // Some planes one behind the other: at once the rows of windows that are inside the input, each of the others alone.
  void pool_halves(const float* x, float* out, int64_t planes) const {
    const auto& [deep, high, wide] = windows_;
    const float divisor = kind_ == kMax ? 1.0F : counted(0, 0, 0);
    for (int64_t y = 0, alike = 1; y < high.out; y += alike) {
      const auto [first, last] = high.taps(y);
      for (alike = 1; high.whole(y) && y + alike < high.out && high.whole(y + alike);) ++alike;
      const int64_t row = (y * high.stride - high.pad + first * high.dilation) * x_.strides[3];
      for (int64_t z = 0; z < deep.out; ++z) {
        const PoolLoops::Windows windows{
            x + z * x_.strides[2] + row - wide.pad, high.dilation * x_.strides[3], last - first, wide.kernel, wide.pad, wide.pad + wide.in};
        const PoolLoops::Planes lines{planes, x_.strides[1], out_.strides[1], {alike, high.stride * x_.strides[3], out_.strides[3]}};
        loops_.halves(lines, windows, wide.out, divisor, out + z * out_.strides[2] + y * out_.strides[3]);
      }
    }
  }

  int64_t reach() const { return (windows_[2].kernel - 1) * windows_[2].dilation; }

  // A piece of some output rows at a time: the rows of each window are combined to a line, then the lines' columns. A line is read
  // at other places than it was written at: some lines later, so that no load waits for the stores before it.
  void pool_plane(const float* x, float* out) const {
    const Window &high = windows_[1], &wide = windows_[2];
    if (reach() >= kLine) return pool_taps(x, out);
    const int64_t most = (kLine - 1 - reach()) / wide.stride + 1;
    const bool straight = out_.strides[4] == 1;
    float lines[kRows * kPitch], results[kRows * kLine];
    for (int64_t z = 0; z < windows_[0].out; ++z) {
      for (int64_t y = 0; y < high.out; y += kRows) {
        for (int64_t at = 0; at < wide.out; at += most) {
          const int64_t rows = std::min(kRows, high.out - y), count = std::min(most, wide.out - at);
          combine_rows(x, lines, z, y, rows, at * wide.stride - wide.pad, (count - 1) * wide.stride + reach() + 1);
          float* const to = out + z * out_.strides[2] + y * out_.strides[3] + at * out_.strides[4];
          float* const result = straight ? to : results;
          const int64_t pitch = straight ? out_.strides[3] : kLine;
          loops_.columns({rows, kPitch, pitch}, lines, wide.kernel, wide.dilation, wide.stride, count, result);
          for (int64_t row = 0; row < rows && !(straight && kind_ == kMax); ++row) {
            for (int64_t i = 0; i < count; ++i) {
              const float value = result[row * pitch + i];
              to[row * out_.strides[3] + i * out_.strides[4]] = kind_ == kMax ? value : value / counted(z, y + row, at + i);
            }
          }
        }
      }
    }
  }

  // The elements [start, start + span) of the rows of some windows; outside the input what changes nothing.
  void combine_rows(const float* x, float* lines, int64_t z, int64_t y, int64_t rows, int64_t start, int64_t span) const {
    const Window &deep = windows_[0], &high = windows_[1];
    const int64_t first = std::clamp<int64_t>(-start, 0, span), last = std::clamp(windows_[2].in - start, first, span);
    const float neutral = kind_ == kMax ? -std::numeric_limits<float>::infinity() : 0.0F;
    const auto [z0, z1] = deep.taps(z);
    for (int64_t row = 0; row < rows;) {
      const auto [y0, y1] = high.taps(y + row);
      int64_t alike = 1;  // rows whose windows lie inside the input, or one
      while (y1 - y0 == high.kernel && row + alike < rows && high.whole(y + row + alike)) ++alike;
      float* const to = lines + row * kPitch;
      const bool empty = z0 == z1 || y0 == y1;
      for (int64_t line = 0; line < alike; ++line) {
        std::fill(to + line * kPitch, to + line * kPitch + first, neutral);
        std::fill(to + line * kPitch + (empty ? first : last), to + line * kPitch + span, neutral);
      }
      for (int64_t tap = z0; !empty && tap < z1; ++tap) {
        const float* corner = x + (z * deep.stride - deep.pad + tap * deep.dilation) * x_.strides[2] + (start + first) * x_.strides[4] +
                              ((y + row) * high.stride - high.pad + y0 * high.dilation) * x_.strides[3];
        loops_.rows({alike, high.stride * x_.strides[3], kPitch}, corner, high.dilation * x_.strides[3], y1 - y0, x_.strides[4], last - first, to + first,
                    tap > z0);
      }
      row += alike;
    }
  }

  // Windows that are wider than a line, a tap at a time.
  void pool_taps(const float* x, float* out) const {
    const Window &deep = windows_[0], &high = windows_[1], &wide = windows_[2];
    for (int64_t at = 0; at < deep.out * high.out * wide.out; ++at) {
      const int64_t z = at / wide.out / high.out, y = at / wide.out % high.out, i = at % wide.out;
      const auto [first, last] = wide.taps(i);
      float best = kind_ == kMax ? -std::numeric_limits<float>::infinity() : 0.0F, next = best;
      for (int64_t tap = first; tap < last; ++tap) {
        combine_rows(x, &next, z, y, 1, i * wide.stride - wide.pad + tap * wide.dilation, 1);
        loops_.rows({1, 0, 0}, &next, 0, 1, 1, 1, &best, true);
      }
      out[z * out_.strides[2] + y * out_.strides[3] + i * out_.strides[4]] = kind_ == kMax ? best : best / counted(z, y, i);
    }
  }

  // How many elements an average divides by.
  float counted(int64_t z, int64_t y, int64_t x) const {
    const auto along = [&](size_t axis, int64_t at) { return counts_[axis][static_cast<size_t>(at)]; };
    return static_cast<float>(std::max<int64_t>(1, along(0, z) * along(1, y) * along(2, x)));
  }

  Tensor x_, out_;
  Kind kind_;
  std::array<Window, kAxes> windows_;
  std::array<std::vector<int64_t>, kAxes> counts_;  // of an average, along each axis
  PoolLoops::Kind loops_{};
  bool halves_;
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
