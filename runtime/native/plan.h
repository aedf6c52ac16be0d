// The plan: one little-endian buffer that says what to compute. Parsed and checked completely before anything runs.
//
//   header │ tensors │ steps │ ports (floats of each input, then of each output) │ blob (constants, then weights)
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace rsk {

constexpr uint32_t kMaxRank = 8;
constexpr int64_t kMaxElements = int64_t{1} << 31;

enum class Space : uint32_t { kArena, kInput, kOutput, kConstant };

enum class Op : uint32_t { kConv, kLinear, kPool, kUnary, kBinary, kScale, kReduce, kSoftmax, kNorm, kLrn, kMatMul, kCopy, kTake, kBlend, kCount };

// A strided view. Every element lies in [offset - before, offset + after) of its space, which a step may read or, in a
// step's output, overwrite with zeros around the elements. In a step of several turns it moves on by `advance` each turn.
struct Tensor {
  Space space;
  uint32_t index;  // which input or output
  uint32_t rank;
  int64_t offset, before, after, advance;
  std::array<int64_t, kMaxRank> dims, strides;

  int64_t elements() const;
  int64_t last() const;  // the largest index of an element, from offset
};

struct Span {
  uint64_t at, bytes;
};

// Consecutive steps of one loop run `turns` times: all of them for the first images, then all of them for the next.
struct StepRecord {
  Op op;
  uint32_t kind;
  std::array<int32_t, 4> inputs;  // tensor numbers, -1 for none
  int32_t output;
  uint32_t activation;
  std::array<float, 4> floats;
  std::array<char, 24> kernel;
  uint32_t loop, turns;
  std::array<int64_t, 16> ints;
  std::array<Span, 5> blobs;
};

class Plan {
 public:
  // Throws Refusal unless the buffer is consistent; steps check their own meaning when they are made.
  Plan(const void* data, size_t bytes);

  const std::vector<StepRecord>& steps() const { return steps_; }
  std::span<const uint64_t> input_floats() const { return {ports_.data(), inputs_}; }
  std::span<const uint64_t> output_floats() const { return std::span(ports_).subspan(inputs_); }
  uint64_t arena_floats() const { return arena_floats_; }
  std::span<const float> constants() const;

  const Tensor& input(const StepRecord& step, size_t position) const;
  bool has_input(const StepRecord& step, size_t position) const { return step.inputs[position] >= 0; }
  const Tensor& output(const StepRecord& step) const;

  template <class Value>
  std::span<const Value> blob(const StepRecord& step, size_t position) const {
    const Span& span = step.blobs[position];
    return {reinterpret_cast<const Value*>(blob_ + span.at), span.bytes / sizeof(Value)};
  }

 private:
  int64_t room(const Tensor& tensor) const;  // floats of its space
  void check(const Tensor& tensor) const;
  void check(const StepRecord& step) const;

  const std::byte* blob_ = nullptr;
  uint64_t blob_bytes_ = 0, arena_floats_ = 0, constant_floats_ = 0;
  size_t inputs_ = 0;
  std::vector<uint64_t> ports_;
  std::vector<Tensor> tensors_;
  std::vector<StepRecord> steps_;
};

}  // namespace rsk
