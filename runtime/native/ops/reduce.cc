// Reductions, softmax and normalisation: an outer loop over what stays, an inner one over what is summed.
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/pool.h"
#include "ops/loop.h"
#include "refusal.h"
#include "step.h"

namespace rsk {
namespace {

constexpr int64_t kLanes = 16;

// Folds `function` over n elements, in lanes so that it vectorises; the lanes are folded with `join`.
template <class Function, class Join>
float fold(const float* x, int64_t step, int64_t n, float start, const Function& function, const Join& join) {
  if (n < kLanes) {
    float result = start;
    for (int64_t i = 0; i < n; ++i) result = function(result, x[i * step]);
    return result;
  }
  std::array<float, kLanes> lanes;
  lanes.fill(start);
  int64_t i = 0;
  if (step == 1) {
    for (; i + kLanes <= n; i += kLanes) {
      for (int64_t lane = 0; lane < kLanes; ++lane) lanes[static_cast<size_t>(lane)] = function(lanes[static_cast<size_t>(lane)], x[i + lane]);
    }
  }
  for (; i < n; ++i) lanes[static_cast<size_t>(i % kLanes)] = function(lanes[static_cast<size_t>(i % kLanes)], x[i * step]);
  float result = lanes[0];
  for (size_t lane = 1; lane < kLanes; ++lane) result = join(result, lanes[lane]);
  return result;
}

float plus(float a, float b) { return a + b; }
float larger(float a, float b) { return a > b || a != a ? a : b; }
float smaller(float a, float b) { return a < b || a != a ? a : b; }

class ReduceStep final : public Step {
 public:
  enum Kind : uint32_t { kMean, kSum, kMax, kMin, kL2, kProduct, kCount };

  // The last ints[0] axes are reduced; the output has the others.
  ReduceStep(const Plan& plan, const StepRecord& record) : x_(plan.input(record, 0)), out_(plan.output(record)), kind_(static_cast<Kind>(record.kind)) {
    expect(record.kind < kCount, "a reduction has an unknown kind");
    const int64_t kept = static_cast<int64_t>(x_.rank) - record.ints[0];
    expect(record.ints[0] >= 0 && kept >= 0 && out_.rank == static_cast<uint32_t>(kept), "a reduction has wrong axes");
    expect(std::equal(out_.dims.begin(), out_.dims.begin() + kept, x_.dims.begin()), "a reduction changes the shape");
    outer_ = over<2>({out_, x_});
    inner_ = over<1>({x_}, static_cast<uint32_t>(kept));
    count_ = inner_.rows() * inner_.row();
    find_planes(static_cast<uint32_t>(kept));
  }

  void run(const Context& context) const override {
    const float* x = context.at(x_);
    float* out = context.out(out_);
    const auto [dy, dx] = outer_.steps();
    outer_.share(
        *context.pool,
        [&, dx = dx, dy = dy](const auto& at, int64_t n) {
          if (wide_ > 0) return average(x + at[1], dx, out + at[0], dy, n);
          for (int64_t i = 0; i < n; ++i) out[at[0] + i * dy] = reduced(x + at[1] + i * dx);
        },
        count_);
  }

 private:
  float reduced(const float* x) const {
    switch (kind_) {
      case kMax:
        return over_rows(x, -std::numeric_limits<float>::infinity(), larger, larger);
      case kMin:
        return over_rows(x, std::numeric_limits<float>::infinity(), smaller, smaller);
      case kProduct:
        return over_rows(x, 1.0F, [](float a, float b) { return a * b; }, [](float a, float b) { return a * b; });
      case kL2:
        return std::sqrt(over_rows(x, 0.0F, [](float a, float b) { return a + b * b; }, plus));
      case kMean:
        return over_rows(x, 0.0F, plus, plus) / static_cast<float>(count_);
      default:
        return over_rows(x, 0.0F, plus, plus);
    }
  }
  // Small planes that are summed: many at a time, all their rows and then all their columns.
  void find_planes(uint32_t first) {
    std::vector<uint32_t> axes;
    for (uint32_t axis = first; axis < x_.rank; ++axis) {
      if (x_.dims[axis] > 1) axes.push_back(axis);
    }
    const bool summed = kind_ == kMean || kind_ == kSum;
    if (!summed || axes.empty() || axes.size() > 2 || x_.strides[axes.back()] != 1 || x_.dims[axes.back()] > kWidest) return;
    wide_ = x_.dims[axes.back()];
    high_ = axes.size() == 2 ? x_.dims[axes[0]] : 1;
    pitch_ = axes.size() == 2 ? x_.strides[axes[0]] : 0;
  }

  void average(const float* x, int64_t step, float* out, int64_t out_step, int64_t n) const {
    constexpr int64_t kPlanes = 32, kPitch = kWidest + PoolLoops::kSlack;
    const PoolLoops::Kind& sum = pool_loops().sum;
    const float divisor = kind_ == kMean ? static_cast<float>(count_) : 1.0F;
    float lines[kPlanes * kPitch], sums[kPlanes];
    for (int64_t first = 0; first < n; first += kPlanes) {
      const int64_t planes = std::min(kPlanes, n - first);
      sum.rows({planes, step, kPitch}, x + first * step, pitch_, high_, 1, wide_, lines, false);
      sum.columns({planes, kPitch, 1}, lines, wide_, 1, 1, 1, sums);
      for (int64_t plane = 0; plane < planes; ++plane) out[(first + plane) * out_step] = sums[plane] / divisor;
    }
  }

  template <class Function, class Join>
  float over_rows(const float* x, float start, const Function& function, const Join& join) const {
    float result = start;
    inner_.each(0, inner_.rows(), [&](const auto& at) { result = join(result, fold(x + at[0], inner_.steps()[0], inner_.row(), start, function, join)); });
    return result;
  }

  Tensor x_, out_;
  Kind kind_;
  Loop<2> outer_;
  Loop<1> inner_;
  int64_t count_;
  static constexpr int64_t kWidest = 64;
  int64_t wide_ = 0, high_ = 0, pitch_ = 0;  // of the planes, if they are summed so
};

// Softmax along the last axis of the views; kind 1 gives its logarithm.
class SoftmaxStep final : public Step {
 public:
  SoftmaxStep(const Plan& plan, const StepRecord& record) : x_(plan.input(record, 0)), out_(plan.output(record)), log_(record.kind == 1) {
    expect(record.kind <= 1, "a softmax has an unknown kind");
    expect(x_.rank >= 1 && same_shape(x_, out_), "a softmax changes the shape");
    outer_ = over<2>({x_, out_}, 0, x_.rank - 1);
  }

  void run(const Context& context) const override {
    const float* x = context.at(x_);
    float* out = context.out(out_);
    const auto [dx, dy] = outer_.steps();
    outer_.share(
        *context.pool,
        [&, dx = dx, dy = dy](const auto& at, int64_t n) {
          for (int64_t i = 0; i < n; ++i) row(x + at[0] + i * dx, out + at[1] + i * dy);
        },
        x_.dims[x_.rank - 1]);
  }

 private:
  void row(const float* x, float* out) const {
    const int64_t n = x_.dims[x_.rank - 1], dx = x_.strides[x_.rank - 1], dy = out_.strides[x_.rank - 1];
    const float highest = fold(x, dx, n, -std::numeric_limits<float>::infinity(), larger, larger);
    float total = 0;
    for (int64_t i = 0; i < n; ++i) {
      const float power = std::exp(x[i * dx] - highest);
      total += power;
      out[i * dy] = log_ ? x[i * dx] - highest : power;
    }
    const float shift = std::log(total), factor = 1.0F / total;
    for (int64_t i = 0; i < n; ++i) out[i * dy] = log_ ? out[i * dy] - shift : out[i * dy] * factor;
  }

  Tensor x_, out_;
  bool log_;
  Loop<2> outer_;
};

// Brings the last ints[0] axes to mean 0 and variance 1, then scales and shifts element by element (views of the same shape).
class NormStep final : public Step {
 public:
  NormStep(const Plan& plan, const StepRecord& record)
      : views_{plan.input(record, 0), plan.input(record, 1), plan.input(record, 2), plan.output(record)}, epsilon_(record.floats[0]) {
    for (const Tensor& view : views_) expect(same_shape(view, views_[0]), "a normalisation has operands of different shapes");
    const int64_t kept = static_cast<int64_t>(views_[0].rank) - record.ints[0];
    expect(record.ints[0] >= 0 && kept >= 0, "a normalisation has wrong axes");
    outer_ = over<4>(views_, 0, static_cast<uint32_t>(kept));
    inner_ = over<4>(views_, static_cast<uint32_t>(kept));
    for (auto axis = static_cast<uint32_t>(kept); axis < views_[0].rank; ++axis) count_ *= views_[0].dims[axis];
  }

  void run(const Context& context) const override {
    const std::array<const float*, 3> from{context.at(views_[0]), context.at(views_[1]), context.at(views_[2])};
    float* out = context.out(views_[3]);
    const auto step = outer_.steps();
    outer_.share(
        *context.pool,
        [&](const auto& at, int64_t n) {
          for (int64_t i = 0; i < n; ++i) {
            group({from[0] + at[0] + i * step[0], from[1] + at[1] + i * step[1], from[2] + at[2] + i * step[2]}, out + at[3] + i * step[3]);
          }
        },
        count_);
  }

 private:
  void group(const std::array<const float*, 3>& from, float* out) const {
    const auto [dx, ds, dt, dy] = inner_.steps();
    const auto sum = [&, dx = dx](const auto& function) {
      double total = 0;
      inner_.each(0, inner_.rows(), [&](const auto& at) { total += static_cast<double>(fold(from[0] + at[0], dx, inner_.row(), 0.0F, function, plus)); });
      return static_cast<float>(total / static_cast<double>(count_));
    };
    const float mean = sum(plus);
    const float variance = sum([mean](float total, float x) { return total + (x - mean) * (x - mean); });
    const float factor = 1.0F / std::sqrt(variance + epsilon_);
    inner_.each(0, inner_.rows(), [&, dx = dx, ds = ds, dt = dt, dy = dy](const auto& at) {
      for (int64_t i = 0; i < inner_.row(); ++i) {
        out[at[3] + i * dy] = (from[0][at[0] + i * dx] - mean) * factor * from[1][at[1] + i * ds] + from[2][at[2] + i * dt];
      }
    });
  }

  std::array<Tensor, 4> views_;
  float epsilon_;
  Loop<4> outer_, inner_;
  int64_t count_ = 1;
};

}  // namespace

StepPointer make_reduce(const Plan& plan, const StepRecord& record) { return std::make_unique<ReduceStep>(plan, record); }
StepPointer make_softmax(const Plan& plan, const StepRecord& record) { return std::make_unique<SoftmaxStep>(plan, record); }
StepPointer make_norm(const Plan& plan, const StepRecord& record) { return std::make_unique<NormStep>(plan, record); }

}  // namespace rsk
