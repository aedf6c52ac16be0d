// What picks elements by number: padding, gathering, resampling.
#include "ops/loop.h"
#include "refusal.h"
#include "step.h"

namespace rsk {
namespace {

// out[i] = x[indices[i]] along axis ints[0], or floats[0] where the index is -1.
class TakeStep final : public Step {
 public:
  TakeStep(const Plan& plan, const StepRecord& record)
      : x_(plan.input(record, 0)), out_(plan.output(record)), indices_(copied(plan.blob<int32_t>(record, 0))), fill_(record.floats[0]) {
    expect(record.ints[0] >= 0 && record.ints[0] < x_.rank && x_.rank == out_.rank, "a gather has a wrong axis");
    const auto axis = static_cast<uint32_t>(record.ints[0]);
    expect(static_cast<int64_t>(indices_.size()) == out_.dims[axis], "a gather has a wrong number of indices");
    for (int32_t index : indices_) expect(index >= -1 && index < x_.dims[axis], "a gather reads outside its input");
    dx_ = x_.strides[axis];
    dy_ = out_.strides[axis];
    Tensor x = x_, out = out_;
    x.dims[axis] = out.dims[axis] = 1;
    expect(same_shape(x, out), "a gather changes the shape");
    loop_ = over<2>({x, out});
    last_ = axis + 1 == x_.rank;
  }

  void run(const Context& context) const override {
    const float* x = context.at(x_);
    float* out = context.out(out_);
    const auto [dx, dy] = loop_.steps();
    loop_.share(*context.pool, [&, dx = dx, dy = dy](const auto& at, int64_t n) {
      const float* from = x + at[0];
      float* to = out + at[1];
      if (last_) {
        for (int64_t i = 0; i < n; ++i) line(from + i * dx, to + i * dy);
        return;
      }
      for (size_t k = 0; k < indices_.size(); ++k) {
        float* target = to + static_cast<int64_t>(k) * dy_;
        const float* source = from + indices_[k] * dx_;
        for (int64_t i = 0; i < n; ++i) target[i * dy] = indices_[k] < 0 ? fill_ : source[i * dx];
      }
    });
  }

 private:
  void line(const float* x, float* out) const {
    for (size_t k = 0; k < indices_.size(); ++k) out[static_cast<int64_t>(k) * dy_] = indices_[k] < 0 ? fill_ : x[indices_[k] * dx_];
  }

  Tensor x_, out_;
  std::vector<int32_t> indices_;
  float fill_;
  int64_t dx_, dy_;
  Loop<2> loop_;
  bool last_;
};

// out[i] = x[low[i]] · (1 - share[i]) + x[high[i]] · share[i] along axis ints[0].
class BlendStep final : public Step {
 public:
  BlendStep(const Plan& plan, const StepRecord& record)
      : x_(plan.input(record, 0)),
        out_(plan.output(record)),
        low_(copied(plan.blob<int32_t>(record, 0))),
        high_(copied(plan.blob<int32_t>(record, 1))),
        share_(copied(plan.blob<float>(record, 2))) {
    expect(record.ints[0] >= 0 && record.ints[0] < x_.rank && x_.rank == out_.rank, "a resampling has a wrong axis");
    const auto axis = static_cast<uint32_t>(record.ints[0]);
    const auto count = static_cast<size_t>(out_.dims[axis]);
    expect(low_.size() == count && high_.size() == count && share_.size() == count, "a resampling has a wrong number of indices");
    for (const auto& indices : {low_, high_}) {
      for (int32_t index : indices) expect(index >= 0 && index < x_.dims[axis], "a resampling reads outside its input");
    }
    dx_ = x_.strides[axis];
    dy_ = out_.strides[axis];
    Tensor x = x_, out = out_;
    x.dims[axis] = out.dims[axis] = 1;
    expect(same_shape(x, out), "a resampling changes the shape");
    loop_ = over<2>({x, out});
  }

  void run(const Context& context) const override {
    const float* x = context.at(x_);
    float* out = context.out(out_);
    const auto [dx, dy] = loop_.steps();
    loop_.share(*context.pool, [&, dx = dx, dy = dy](const auto& at, int64_t n) {
      for (size_t k = 0; k < low_.size(); ++k) {
        const float* below = x + at[0] + low_[k] * dx_;
        const float* above = x + at[0] + high_[k] * dx_;
        float* to = out + at[1] + static_cast<int64_t>(k) * dy_;
        const float part = share_[k];
        for (int64_t i = 0; i < n; ++i) to[i * dy] = below[i * dx] * (1.0F - part) + above[i * dx] * part;
      }
    });
  }

 private:
  Tensor x_, out_;
  std::vector<int32_t> low_, high_;
  std::vector<float> share_;
  int64_t dx_, dy_;
  Loop<2> loop_;
};

}  // namespace

StepPointer make_take(const Plan& plan, const StepRecord& record) { return std::make_unique<TakeStep>(plan, record); }
StepPointer make_blend(const Plan& plan, const StepRecord& record) { return std::make_unique<BlendStep>(plan, record); }

}  // namespace rsk
