// A copy between views whose innermost axes are different ones, as where images come to lie side by side: in blocks that stay in registers
// and the first-level cache, so that each line of either is met once. 128 channels at 16², 16 images, from beyond the second-level cache:
// 12 µs an image, element by element 30 (Zen 5).
#include "ops/turn.h"

#include <algorithm>
#include <cstring>

#include "ops/loop.h"
#include "ops/vectorise.h"

namespace rsk {
namespace {

constexpr int64_t kSide = 16;

// to[i·to_step + j] = from[i + j·from_step] for a whole block.
RSK_VECTORISED void turn_block(const float* from, int64_t from_step, float* to, int64_t to_step) {
  float block[kSide * kSide];
  for (int64_t j = 0; j < kSide; ++j) std::memcpy(block + j * kSide, from + j * from_step, kSide * sizeof(float));
  for (int64_t i = 0; i < kSide; ++i) {
    for (int64_t j = 0; j < kSide; ++j) to[i * to_step + j] = block[j * kSide + i];
  }
}

class TurnStep final : public Step {
 public:
  TurnStep(const Tensor& x, const Tensor& out, uint32_t axis) : x_(x), out_(out), axis_(axis), last_(x.rank - 1) {
    Tensor from = x, to = out;
    from.dims[axis] = from.dims[last_] = to.dims[axis] = to.dims[last_] = 1;
    loop_ = over<2>({from, to});
  }

  void run(const Context& context) const override {
    const float* x = context.at(x_);
    float* out = context.out(out_);
    const auto [dx, dy] = loop_.steps();
    const auto body = [&, dx = dx, dy = dy](const auto& at, int64_t n) {
      for (int64_t i = 0; i < n; ++i) turn(x + at[0] + i * dx, out + at[1] + i * dy);
    };
    loop_.share(*context.pool, body, x_.dims[axis_] * x_.dims[last_]);
  }

 private:
  void turn(const float* from, float* to) const {
    const int64_t from_step = x_.strides[last_], to_step = out_.strides[axis_], high = x_.dims[axis_], wide = x_.dims[last_];
    for (int64_t i = 0; i < high; i += kSide) {
      for (int64_t j = 0; j < wide; j += kSide) {
        const float* corner = from + i + j * from_step;
        float* target = to + i * to_step + j;
        if (i + kSide <= high && j + kSide <= wide) {
          turn_block(corner, from_step, target, to_step);
          continue;
        }
        for (int64_t a = 0; a < std::min(kSide, high - i); ++a) {
          for (int64_t b = 0; b < std::min(kSide, wide - j); ++b) target[a * to_step + b] = corner[a + b * from_step];
        }
      }
    }
  }

  Tensor x_, out_;
  uint32_t axis_, last_;  // innermost in the input, in the output
  Loop<2> loop_;
};

}  // namespace

StepPointer make_turn(const Tensor& x, const Tensor& out) {
  if (x.rank < 2 || out.strides[out.rank - 1] != 1 || x.strides[x.rank - 1] == 1) return nullptr;
  for (uint32_t axis = 0; axis + 1 < x.rank; ++axis) {
    if (x.strides[axis] == 1 && x.dims[axis] > 1) return std::make_unique<TurnStep>(x, out, axis);
  }
  return nullptr;
}

}  // namespace rsk
