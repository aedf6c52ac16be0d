// Functions of one, two and three views of the same shape. A stride of 0 repeats an element.
#include "ops/activations.h"
#include "ops/loop.h"
#include "ops/turn.h"
#include "refusal.h"
#include "step.h"

namespace rsk {
namespace {

enum class Pair : uint32_t { kAdd, kSub, kMul, kDiv, kMax, kMin, kPow, kPrelu, kCount };

template <class Body>
void with_function(Pair kind, const Body& body) {
  switch (kind) {
    case Pair::kAdd:
      return body([](float a, float b) { return a + b; });
    case Pair::kSub:
      return body([](float a, float b) { return a - b; });
    case Pair::kMul:
      return body([](float a, float b) { return a * b; });
    case Pair::kDiv:
      return body([](float a, float b) { return a / b; });
    case Pair::kMax:
      return body([](float a, float b) { return a > b || a != a ? a : b; });
    case Pair::kMin:
      return body([](float a, float b) { return a < b || a != a ? a : b; });
    case Pair::kPow:
      return body([](float a, float b) { return std::pow(a, b); });
    case Pair::kPrelu:
      return body([](float a, float slope) { return a < 0.0F ? slope * a : a; });
    case Pair::kCount:
      break;
  }
}

class UnaryStep final : public Step {
 public:
  UnaryStep(const Tensor& x, const Tensor& out, Unary kind, float alpha, float beta)
      : x_(x), out_(out), loop_(over<2>({x, out})), kind_(kind), alpha_(alpha), beta_(beta) {}

  void run(const Context& context) const override {
    const float* x = context.at(x_);
    float* out = context.out(out_);
    const auto steps = loop_.steps();
    with_function(kind_, alpha_, beta_, [&](auto function) {
      loop_.share(*context.pool, [&](const auto& at, int64_t n) {
        const auto [dx, dy] = steps;
        const float* from = x + at[0];
        float* to = out + at[1];
        if (dx == 1 && dy == 1) {
          for (int64_t i = 0; i < n; ++i) to[i] = function(from[i]);
        } else {
          for (int64_t i = 0; i < n; ++i) to[i * dy] = function(from[i * dx]);
        }
      });
    });
  }

 private:
  Tensor x_, out_;
  Loop<2> loop_;
  Unary kind_;
  float alpha_, beta_;
};

class BinaryStep final : public Step {
 public:
  BinaryStep(const Tensor& a, const Tensor& b, const Tensor& out, Pair kind) : a_(a), b_(b), out_(out), loop_(over<3>({a, b, out})), kind_(kind) {}

  void run(const Context& context) const override {
    const float* a = context.at(a_);
    const float* b = context.at(b_);
    float* out = context.out(out_);
    const auto steps = loop_.steps();
    with_function(kind_, [&](auto function) {
      loop_.share(*context.pool, [&](const auto& at, int64_t n) {
        const auto [da, db, dy] = steps;
        const float* left = a + at[0];
        const float* right = b + at[1];
        float* to = out + at[2];
        if (da == 1 && db == 1 && dy == 1) {
          for (int64_t i = 0; i < n; ++i) to[i] = function(left[i], right[i]);
        } else if (da == 1 && db == 0 && dy == 1) {
          const float one = *right;
          for (int64_t i = 0; i < n; ++i) to[i] = function(left[i], one);
        } else {
          for (int64_t i = 0; i < n; ++i) to[i * dy] = function(left[i * da], right[i * db]);
        }
      });
    });
  }

 private:
  Tensor a_, b_, out_;
  Loop<3> loop_;
  Pair kind_;
};

// function(x · scale + shift)
class ScaleStep final : public Step {
 public:
  ScaleStep(const std::array<Tensor, 4>& tensors, Unary kind, float alpha, float beta)
      : tensors_(tensors), loop_(over<4>(tensors)), kind_(kind), alpha_(alpha), beta_(beta) {}

  void run(const Context& context) const override {
    const float *x = context.at(tensors_[0]), *scale = context.at(tensors_[1]), *shift = context.at(tensors_[2]);
    float* out = context.out(tensors_[3]);
    const auto steps = loop_.steps();
    with_function(kind_, alpha_, beta_, [&](auto function) {
      loop_.share(*context.pool, [&](const auto& at, int64_t n) {
        const auto [dx, ds, dt, dy] = steps;
        const float* from = x + at[0];
        float* to = out + at[3];
        if (dx == 1 && ds == 0 && dt == 0 && dy == 1) {
          const float factor = scale[at[1]], offset = shift[at[2]];
          for (int64_t i = 0; i < n; ++i) to[i] = function(from[i] * factor + offset);
        } else {
          for (int64_t i = 0; i < n; ++i) to[i * dy] = function(from[i * dx] * scale[at[1] + i * ds] + shift[at[2] + i * dt]);
        }
      });
    });
  }

 private:
  std::array<Tensor, 4> tensors_;
  Loop<4> loop_;
  Unary kind_;
  float alpha_, beta_;
};

}  // namespace

StepPointer make_unary(const Plan& plan, const StepRecord& record) {
  const Tensor &x = plan.input(record, 0), &out = plan.output(record);
  expect(same_shape(x, out), "an element-wise step changes the shape");
  expect(record.kind < static_cast<uint32_t>(Unary::kCount), "an element-wise step has an unknown function");
  return std::make_unique<UnaryStep>(x, out, static_cast<Unary>(record.kind), record.floats[0], record.floats[1]);
}

StepPointer make_copy(const Plan& plan, const StepRecord& record) {
  const Tensor &x = plan.input(record, 0), &out = plan.output(record);
  expect(same_shape(x, out), "a copy changes the shape");
  if (auto turned = make_turn(x, out)) return turned;
  return std::make_unique<UnaryStep>(x, out, Unary::kIdentity, 0.0F, 0.0F);
}

StepPointer make_binary(const Plan& plan, const StepRecord& record) {
  const Tensor &a = plan.input(record, 0), &b = plan.input(record, 1), &out = plan.output(record);
  expect(same_shape(a, out) && same_shape(b, out), "an element-wise step has operands of different shapes");
  expect(record.kind < static_cast<uint32_t>(Pair::kCount), "an element-wise step has an unknown function");
  return std::make_unique<BinaryStep>(a, b, out, static_cast<Pair>(record.kind));
}

StepPointer make_scale(const Plan& plan, const StepRecord& record) {
  const Tensor &x = plan.input(record, 0), &scale = plan.input(record, 1), &shift = plan.input(record, 2), &out = plan.output(record);
  expect(same_shape(x, out) && same_shape(scale, out) && same_shape(shift, out), "a scaling has operands of different shapes");
  expect(record.kind < static_cast<uint32_t>(Unary::kCount), "an element-wise step has an unknown function");
  return std::make_unique<ScaleStep>(std::array{x, scale, shift, out}, static_cast<Unary>(record.kind), record.floats[0], record.floats[1]);
}

}  // namespace rsk
