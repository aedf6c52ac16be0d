// A dense 3×3 convolution of stride 1 by Winograd's transform: whole planes, a block of tiles at a time.
#include "ops/winograd.h"

#include <algorithm>
#include <array>

#include "kernels/winograd.h"
#include "refusal.h"
#include "step.h"

namespace rsk {
namespace {

constexpr double kNanosecondsMoved = 0.3;  // an element of the transformed inputs

class WinogradStep final : public Step {
 public:
  WinogradStep(const Plan& plan, const StepRecord& record, const Family& family)
      : family_(family), x_(plan.input(record, 0)), out_(plan.output(record)), residual_(out_), with_residual_(plan.has_input(record, 1)) {
    expect(x_.rank == 5 && out_.rank == 5 && x_.dims[0] == out_.dims[0], "a convolution changes the batch");
    if (with_residual_) residual_ = plan.input(record, 1);
    expect(residual_.rank == 5 && std::equal(out_.dims.begin(), out_.dims.begin() + 5, residual_.dims.begin()), "a residual has another shape");
    for (const Tensor& tensor : {x_, out_, residual_}) {
      expect(tensor.dims[2] == 1 && (tensor.strides[4] == 1 || tensor.dims[4] == 1), "a Winograd convolution reads or writes rows with gaps");
    }
    expect(record.activation < kActivations, "a convolution has an unknown activation");
    check_window(record);
    const auto weights = plan.blob<float>(record, 2), bias = plan.blob<float>(record, 3);
    const int64_t channels = x_.dims[1], filters = out_.dims[1];
    expect(weights.size() % 9 == 0 && weights.size() / 9 / static_cast<size_t>(channels) == static_cast<size_t>(filters) &&
               weights.size() / 9 % static_cast<size_t>(channels) == 0,
           "a Winograd convolution has a matrix of the wrong size");
    expect(bias.empty() || bias.size() == static_cast<size_t>(filters), "a convolution has a bias of the wrong size");
    const WinogradShape shape{static_cast<uint32_t>(channels),
                              static_cast<uint32_t>(filters),
                              x_.dims[0],
                              x_.dims[3],
                              x_.dims[4],
                              record.ints[7],
                              record.ints[8],
                              out_.dims[3],
                              out_.dims[4]};
    const Epilogue epilogue{bias.empty() ? nullptr : bias.data(), static_cast<Activation>(record.activation), record.floats[0], record.floats[1],
                            with_residual_};
    kernel_ = std::make_unique<Winograd>(*family.winograd, shape, weights.data(), epilogue);
  }

  void settle(Shelf& shelf) override { kernel_->settle(shelf); }
  Room room(uint32_t threads) const override {
    const size_t transformed = kernel_->transformed_floats(), split = kernel_->split_floats();
    if (kernel_->suits_own_blocks(threads)) return {0, transformed + kernel_->product_floats() + split};
    return {transformed + kernel_->shared_product_floats() + groups() * split, 0};
  }
  size_t transformed_bytes() const override { return kernel_->weight_bytes(); }
  const char* kernel() const override { return family_.name; }

  void run(const Context& context) const override {
    const Planes planes{planes_of(x_, context.at(x_)), planes_of(out_, context.out(out_)),
                        with_residual_ ? planes_of(residual_, context.at(residual_)) : WinogradPlanes{}};
    kernel_->suits_own_blocks(context.pool->threads()) ? run_own(context, planes) : run_shared(context, planes);
  }

 private:
  static constexpr size_t kGroup = 16;  // channels that one thread takes at least

  struct Planes {
    WinogradPlanes x, out, residual;
  };
  static WinogradPlanes planes_of(const Tensor& tensor, const float* data) { return {data, tensor.strides[0], tensor.strides[1], tensor.strides[3]}; }

  // A thread transforms what it multiplies: nothing but the outputs goes from one to another.
  void run_own(const Context& context, const Planes& planes) const {
    const uint32_t threads = context.pool->threads(), channels = static_cast<uint32_t>(x_.dims[1]);
    const size_t blocks = kernel_->blocks(threads);
    context.pool->share(blocks, kernel_->nanoseconds(kernel_->tiles()), [&](size_t first, size_t last, uint32_t lane) {
      float* const transformed = context.own(lane);
      float* const products = transformed + kernel_->transformed_floats();
      for (size_t number = first; number < last; ++number) {
        const Winograd::Block block = kernel_->block(number, threads);
        kernel_->transform(block, 0, channels, planes.x, products + kernel_->product_floats(), transformed);
        kernel_->compute(block, 0, kernel_->units(block), transformed, products, planes.out, planes.residual);
      }
    });
  }

  // All threads transform the channels of a block, then each multiplies with the filters of some units.
  void run_shared(const Context& context, const Planes& planes) const {
    float* const transformed = context.scratch;
    float* const products = transformed + kernel_->transformed_floats();
    float* const split = products + kernel_->shared_product_floats();
    const auto channels = static_cast<size_t>(x_.dims[1]);
    const double moved = kNanosecondsMoved * static_cast<double>(kernel_->transformed_floats());
    for (size_t number = 0; number < kernel_->blocks(context.pool->threads()); ++number) {
      const Winograd::Block block = kernel_->block(number, context.pool->threads());
      context.pool->share(groups(), moved, [&](size_t first, size_t last) {
        const auto from = static_cast<uint32_t>(first * kGroup), to = static_cast<uint32_t>(std::min(channels, last * kGroup));
        kernel_->transform(block, from, to, planes.x, split + first * kernel_->split_floats(), transformed);
      });
      context.pool->share(kernel_->units(block), kernel_->nanoseconds(block.count()),
                          [&](size_t first, size_t last) { kernel_->compute(block, first, last, transformed, products, planes.out, planes.residual); });
    }
  }

  size_t groups() const { return (static_cast<size_t>(x_.dims[1]) + kGroup - 1) / kGroup; }

  void check_window(const StepRecord& record) const {
    constexpr std::array<int64_t, 12> kWindow = {1, 3, 3, 1, 1, 1, 0, 0, 0, 1, 1, 1};  // kernel, stride, pads, dilation: depth, height, width
    for (size_t i = 0; i < kWindow.size(); ++i) {
      const bool pad = i == 7 || i == 8;
      expect(pad ? record.ints[i] >= 0 && record.ints[i] <= 1 : record.ints[i] == kWindow[i], "a Winograd convolution has another window than 3×3 of stride 1");
    }
    for (size_t axis = 3; axis < 5; ++axis) {
      const int64_t end = out_.dims[axis] + 2 - x_.dims[axis] - record.ints[axis + 4];  // the pad behind
      expect(end >= 0 && end <= 1, "a Winograd convolution has another window than 3×3 of stride 1");
    }
    expect(x_.dims[1] >= Winograd::kFewestChannels, "a Winograd convolution has too few channels");
  }

  Family family_;
  Tensor x_, out_, residual_;
  bool with_residual_;
  std::unique_ptr<Winograd> kernel_;
};

}  // namespace

StepPointer make_winograd(const Plan& plan, const StepRecord& record, const Family& family) { return std::make_unique<WinogradStep>(plan, record, family); }

}  // namespace rsk
