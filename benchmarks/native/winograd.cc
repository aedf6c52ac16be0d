// Winograd layers, dense, batch 1, weights in the cache: microseconds, and what the direct sum would have to reach.
// build/bench/winograd [avx512/winograd]
#include "kernels/winograd.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include "cpu.h"
#include "kernels/families.h"
#include "memory.h"

namespace rsk {

namespace {

struct Shape {
  uint32_t channels;
  int64_t size;
};
constexpr Shape kShapes[] = {{64, 32}, {128, 16}, {256, 8}, {512, 4}, {64, 56}, {128, 28}, {256, 14}, {512, 7}};

template <class Body>
double microseconds(const Body& body) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> times;
  for (int i = 0; i < 40; ++i) {
    const auto start = Clock::now();
    body();
    times.push_back(std::chrono::duration<double, std::micro>(Clock::now() - start).count());
  }
  std::nth_element(times.begin(), times.begin() + 20, times.end());
  return times[20];
}

void measure(const Family& family, const Shape& shape) {
  const uint32_t channels = shape.channels;
  const int64_t size = shape.size, pitch = size + 1, plane = pitch * (size + 1);
  const std::vector<float> weights(size_t{channels} * channels * 9, 0.01F);
  const Memory x(channels * static_cast<size_t>(plane) * sizeof(float)), out(x.bytes());
  for (size_t i = 0; i < x.bytes() / sizeof(float); ++i) x.floats()[i] = static_cast<float>(i % 17) * 0.1F;
  Epilogue epilogue;
  epilogue.activation = Activation::kRelu;
  const Winograd kernel(*family.winograd, {channels, channels, 1, size, size, 1, 1, size, size}, weights.data(), epilogue);
  const auto floats = [](size_t count) { return Memory(count * sizeof(float)); };
  const Memory split = floats(kernel.split_floats()), transformed = floats(kernel.transformed_floats()), products = floats(kernel.product_floats());
  const auto run = [&](bool inputs, bool rest) {
    for (size_t number = 0; number < kernel.blocks(1); ++number) {
      const Winograd::Block block = kernel.block(number, 1);
      if (inputs) kernel.transform(block, 0, channels, {x.floats(), 0, plane, pitch}, split.floats(), transformed.floats());
      if (rest) kernel.compute(block, 0, kernel.units(block), transformed.floats(), products.floats(), {out.floats(), 0, plane, pitch}, {});
    }
  };
  const double inputs = microseconds([&] { run(true, false); }), all = microseconds([&] { run(true, true); });
  const double direct = 9.0 * channels * channels * static_cast<double>(size * size);
  std::printf("%-18s %u@%d²: %.0f µs, %.0f of them for the inputs; a direct sum as fast runs at %.0f GMAC/s\n", family.name, channels, static_cast<int>(size),
              all, inputs, direct / all * 1e-3);
}

}  // namespace

}  // namespace rsk

int main(int argc, char** argv) {
  for (const rsk::Family& family : rsk::families()) {
    if (!rsk::runs_here(family.isa) || family.winograd == nullptr || (argc > 1 && std::string(family.name) != argv[1])) continue;
    for (const rsk::Shape& shape : rsk::kShapes) rsk::measure(family, shape);
  }
}
