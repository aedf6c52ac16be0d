#include "plan.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "refusal.h"

namespace rsk {
namespace {

static_assert(std::endian::native == std::endian::little, "the plan is little-endian");

constexpr std::array<char, 8> kMagic = {'R', 'S', 'K', 'P', 'L', 'A', 'N', '2'};
constexpr uint64_t kMaxFloats = uint64_t{1} << 36;
constexpr size_t kAlignment = 64;

struct Header {
  std::array<char, 8> magic;
  uint64_t bytes;
  uint32_t tensors, steps, inputs, outputs;
  uint64_t arena_floats, constant_floats;
  uint64_t blob_at;
};
static_assert(sizeof(Header) == 56);
static_assert(sizeof(Tensor) == 176 && sizeof(StepRecord) == 288);

// Reads records one after the other and refuses to pass the end.
class Reader {
 public:
  Reader(const std::byte* data, size_t bytes) : data_(data), bytes_(bytes) {}

  template <class Record>
  void read(Record* records, size_t count) {
    expect(count <= (bytes_ - at_) / sizeof(Record), "the plan is truncated");
    if (count > 0) std::memcpy(static_cast<void*>(records), data_ + at_, count * sizeof(Record));
    at_ += count * sizeof(Record);
  }
  template <class Record>
  std::vector<Record> list(size_t count) {
    expect(count <= (bytes_ - at_) / sizeof(Record), "the plan is truncated");
    std::vector<Record> records(count);
    read(records.data(), count);
    return records;
  }
  size_t at() const { return at_; }

 private:
  const std::byte* data_;
  size_t bytes_, at_ = 0;
};

}  // namespace

int64_t Tensor::elements() const {
  int64_t count = 1;
  for (uint32_t axis = 0; axis < rank; ++axis) count *= dims[axis];
  return count;
}

int64_t Tensor::last() const {
  int64_t index = 0;
  for (uint32_t axis = 0; axis < rank; ++axis) index += (dims[axis] - 1) * strides[axis];
  return index;
}

Plan::Plan(const void* data, size_t bytes) {
  const auto* start = static_cast<const std::byte*>(data);
  expect(reinterpret_cast<uintptr_t>(data) % kAlignment == 0, "the plan is not aligned to 64 bytes");
  Reader reader(start, bytes);
  Header header;
  reader.read(&header, 1);
  expect(header.magic == kMagic, "this is no plan of this version of the runtime");
  expect(header.bytes == bytes, "the plan is truncated");
  expect(header.arena_floats <= kMaxFloats && header.constant_floats <= kMaxFloats, "the plan asks for too much memory");
  tensors_ = reader.list<Tensor>(header.tensors);
  steps_ = reader.list<StepRecord>(header.steps);
  inputs_ = header.inputs;
  ports_ = reader.list<uint64_t>(size_t{header.inputs} + header.outputs);
  expect(header.blob_at >= reader.at() && header.blob_at <= bytes && header.blob_at % kAlignment == 0, "the plan's blob is misplaced");
  blob_ = start + header.blob_at;
  blob_bytes_ = bytes - header.blob_at;
  arena_floats_ = header.arena_floats;
  constant_floats_ = header.constant_floats;
  expect(constant_floats_ * sizeof(float) <= blob_bytes_, "the plan's constants are truncated");
  for (uint64_t floats : ports_) expect(floats <= kMaxFloats, "an input or output is too large");
  for (const Tensor& tensor : tensors_) check(tensor);
  for (const StepRecord& step : steps_) check(step);
}

std::span<const float> Plan::constants() const { return {reinterpret_cast<const float*>(blob_), static_cast<size_t>(constant_floats_)}; }

int64_t Plan::room(const Tensor& tensor) const {
  switch (tensor.space) {
    case Space::kArena:
      return static_cast<int64_t>(arena_floats_);
    case Space::kConstant:
      return static_cast<int64_t>(constant_floats_);
    case Space::kInput:
      expect(tensor.index < inputs_, "a tensor names no input");
      return static_cast<int64_t>(ports_[tensor.index]);
    case Space::kOutput:
      expect(tensor.index < ports_.size() - inputs_, "a tensor names no output");
      return static_cast<int64_t>(ports_[inputs_ + tensor.index]);
  }
  expect(false, "a tensor lies in no space");
  return 0;
}

void Plan::check(const Tensor& tensor) const {
  expect(tensor.rank <= kMaxRank, "a tensor has too many axes");
  const int64_t limit = room(tensor);
  expect(tensor.offset >= 0 && tensor.offset <= limit && tensor.before >= 0 && tensor.before <= tensor.offset, "a tensor begins outside its space");
  expect(tensor.after >= 1 && tensor.after <= limit - tensor.offset, "a tensor ends outside its space");
  int64_t count = 1, last = 0;
  for (uint32_t axis = 0; axis < tensor.rank; ++axis) {
    expect(tensor.dims[axis] >= 1 && tensor.dims[axis] <= kMaxElements, "a tensor is empty or too large");
    expect(tensor.strides[axis] >= 0 && tensor.strides[axis] <= std::min(limit, kMaxElements), "a tensor steps outside its space");
    count *= tensor.dims[axis];
    expect(count <= kMaxElements, "a tensor has too many elements");
    if (tensor.dims[axis] > 1) {
      expect(tensor.strides[axis] <= limit / (tensor.dims[axis] - 1), "a tensor steps outside its space");
      last += (tensor.dims[axis] - 1) * tensor.strides[axis];
    }
    expect(last < tensor.after, "a tensor reaches outside its room");
  }
}

void Plan::check(const StepRecord& step) const {
  expect(step.op < Op::kCount, "a step has an unknown operation");
  const auto count = static_cast<int64_t>(tensors_.size());
  for (int32_t input : step.inputs) expect(input >= -1 && input < count, "a step reads no tensor");
  expect(step.output >= 0 && step.output < count, "a step writes no tensor");
  expect(step.turns == 1 || (step.turns > 1 && inputs_ > 0 && step.turns <= ports_[0]), "a step has no turns, or more than the input has elements");
  for (size_t number = 0; number <= step.inputs.size(); ++number) {
    const bool is_output = number == step.inputs.size();
    if (!is_output && !has_input(step, number)) continue;
    const Tensor& tensor = is_output ? output(step) : input(step, number);
    const int64_t left = room(tensor) - tensor.offset - tensor.after, more = static_cast<int64_t>(step.turns) - 1;
    expect(tensor.advance >= 0 && (more == 0 || tensor.advance <= left / more), "a tensor leaves its space in a later turn");
  }
  const Tensor& out = output(step);
  expect(out.space == Space::kArena || out.space == Space::kOutput, "a step writes what is read-only");
  expect(out.elements() <= out.after, "a step writes to overlapping elements");
  for (int64_t value : step.ints) expect(value > -kMaxElements && value < kMaxElements, "a parameter is out of range");
  expect(step.kernel.back() == '\0', "a kernel's name has no end");
  for (const Span& span : step.blobs) {
    expect(span.at <= blob_bytes_ && span.bytes <= blob_bytes_ - span.at && span.at % kAlignment == 0, "an array lies outside the plan");
  }
}

const Tensor& Plan::input(const StepRecord& step, size_t position) const {
  expect(step.inputs[position] >= 0, "a step lacks an input");
  return tensors_[static_cast<size_t>(step.inputs[position])];
}

const Tensor& Plan::output(const StepRecord& step) const { return tensors_[static_cast<size_t>(step.output)]; }

}  // namespace rsk
