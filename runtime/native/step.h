// A step made ready to run: immutable, shared by all runs; what changes is in the Context.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "plan.h"
#include "pool.h"
#include "shelf.h"

namespace rsk {

// One run's memory.
struct Context {
  float* arena;
  const float* constants;
  const float* const* inputs;
  float* const* outputs;
  float* scratch;
  float* own_scratch;  // of thread 0
  size_t own_floats;
  Pool* pool;
  int64_t turn = 0;

  const float* at(const Tensor& tensor) const {
    if (tensor.space == Space::kInput) return inputs[tensor.index] + place(tensor);
    if (tensor.space == Space::kConstant) return constants + place(tensor);
    return out(tensor);
  }
  float* out(const Tensor& tensor) const { return (tensor.space == Space::kOutput ? outputs[tensor.index] : arena) + place(tensor); }
  float* own(uint32_t lane) const { return own_scratch + lane * own_floats; }
  int64_t place(const Tensor& tensor) const { return tensor.offset + turn * tensor.advance; }
};

// Floats that a step works with: all threads together, and each alone. The same thread has the same ones in every step, so that
// they stay in its core's cache.
struct Room {
  size_t shared = 0, own = 0;
};

class Step {
 public:
  virtual ~Step() = default;
  virtual void run(const Context& context) const = 0;
  virtual void settle(Shelf& /*shelf*/) {}  // puts its weights there, once, before it runs
  virtual Room room(uint32_t /*threads*/) const { return {}; }
  virtual size_t weight_bytes() const { return 0; }
  virtual size_t code_bytes() const { return 0; }
  virtual size_t transformed_bytes() const { return 0; }
  virtual const char* kernel() const { return "portable"; }
};

using StepPointer = std::unique_ptr<Step>;

// One maker an operation, in the order of Op. Throws Refusal for a record that contradicts itself.
StepPointer make_conv(const Plan& plan, const StepRecord& record);
StepPointer make_linear(const Plan& plan, const StepRecord& record);
StepPointer make_pool(const Plan& plan, const StepRecord& record);
StepPointer make_unary(const Plan& plan, const StepRecord& record);
StepPointer make_binary(const Plan& plan, const StepRecord& record);
StepPointer make_scale(const Plan& plan, const StepRecord& record);
StepPointer make_reduce(const Plan& plan, const StepRecord& record);
StepPointer make_softmax(const Plan& plan, const StepRecord& record);
StepPointer make_norm(const Plan& plan, const StepRecord& record);
StepPointer make_lrn(const Plan& plan, const StepRecord& record);
StepPointer make_matmul(const Plan& plan, const StepRecord& record);
StepPointer make_copy(const Plan& plan, const StepRecord& record);
StepPointer make_take(const Plan& plan, const StepRecord& record);
StepPointer make_blend(const Plan& plan, const StepRecord& record);

template <class Value>
std::vector<Value> copied(std::span<const Value> values) {
  return {values.begin(), values.end()};
}

}  // namespace rsk
