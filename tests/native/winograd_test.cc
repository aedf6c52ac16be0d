// Every Winograd kernel of kernels.def that runs here against the obvious loop in double precision, over random layers.
#include "kernels/winograd.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "activate.h"
#include "cpu.h"
#include "kernels/families.h"

namespace rsk {

namespace {

constexpr float kUntouched = 777;

// Planes with a gap behind every row and plane, and nothing behind the last pixel: what is read or written too far is found.
struct Volume {
  int64_t images, planes, high, wide, row, plane, image;
  std::vector<float> floats;

  Volume(std::mt19937& random, int64_t image_count, int64_t plane_count, int64_t height, int64_t width)
      : images(image_count),
        planes(plane_count),
        high(height),
        wide(width),
        row(width + static_cast<int64_t>(random() % 3)),
        plane(high * row + static_cast<int64_t>(random() % 5)),
        image(planes * plane) {
    floats.assign(static_cast<size_t>((images - 1) * image + (planes - 1) * plane + (high - 1) * row + wide), kUntouched);
  }
  size_t at(int64_t n, int64_t c, int64_t y, int64_t x) const { return static_cast<size_t>(n * image + c * plane + y * row + x); }
  WinogradPlanes view() const { return {floats.data(), image, plane, row}; }

  template <class Body>
  void each(const Body& body) const {
    for (int64_t n = 0; n < images; ++n) {
      for (int64_t c = 0; c < planes; ++c) {
        for (int64_t y = 0; y < high; ++y) {
          for (int64_t x = 0; x < wide; ++x) body(n, c, y, x);
        }
      }
    }
  }
};

struct Layer {
  std::mt19937 random;
  WinogradShape shape;
  Volume x, residual;
  std::vector<float> weights, bias;
  Epilogue epilogue;

  explicit Layer(uint32_t seed)
      : random(seed),
        shape(random_shape(random)),
        x(random, shape.images, shape.channels, shape.high, shape.wide),
        residual(random, shape.images, shape.filters, shape.out_high, shape.out_wide),
        weights(size_t{shape.filters} * shape.channels * 9),
        bias(shape.filters) {
    std::normal_distribution<float> normal;
    const auto draw = [&](float& value) { value = normal(random); };
    x.each([&](auto... at) { draw(x.floats[x.at(at...)]); });
    residual.each([&](auto... at) { draw(residual.floats[residual.at(at...)]); });
    std::for_each(weights.begin(), weights.end(), draw);
    std::for_each(bias.begin(), bias.end(), draw);
    epilogue.activation = static_cast<Activation>(random() % 7);
    epilogue.alpha = epilogue.activation == Activation::kClip ? -0.5F : 0.1F;
    epilogue.beta = 1.5F;
    epilogue.bias = random() % 2 == 0 ? bias.data() : nullptr;
    epilogue.residual = random() % 2 == 0;
  }

  static WinogradShape random_shape(std::mt19937& random) {
    const auto between = [&](uint32_t low, uint32_t high) { return low + static_cast<uint32_t>(random() % (high - low + 1)); };
    WinogradShape shape;
    shape.channels = between(Winograd::kFewestChannels, 40);
    shape.filters = between(1, 70);
    shape.images = random() % 2 == 0 ? 1 : between(2, 17);
    shape.high = between(1, shape.images == 1 ? 40 : 10);
    shape.wide = between(1, shape.images == 1 ? 70 : 10);
    shape.top = between(shape.high < 2 ? 1 : 0, 1);
    shape.left = between(shape.wide < 2 ? 1 : 0, 1);
    shape.out_high = shape.high + shape.top + between(shape.high + shape.top < 3 ? 1 : 0, 1) - 2;
    shape.out_wide = shape.wide + shape.left + between(shape.wide + shape.left < 3 ? 1 : 0, 1) - 2;
    return shape;
  }

  std::string describe() const {
    return std::to_string(shape.images) + " images, " + std::to_string(shape.channels) + " channels of " + std::to_string(shape.high) + "x" +
           std::to_string(shape.wide) + ", " + std::to_string(shape.filters) + " filters of " + std::to_string(shape.out_high) + "x" +
           std::to_string(shape.out_wide) + ", activation " + std::to_string(static_cast<int>(epilogue.activation));
  }
};

// Runs the layer as a random number of threads would, and each block in pieces of random size.
void run(Layer& layer, const Winograd& kernel, Volume& out) {
  std::vector<float> split(kernel.split_floats()), transformed(kernel.transformed_floats()), products(kernel.shared_product_floats());
  const WinogradPlanes residual = layer.epilogue.residual ? layer.residual.view() : WinogradPlanes{};
  const auto threads = static_cast<uint32_t>(1 + layer.random() % 5);
  for (size_t number = 0; number < kernel.blocks(threads); ++number) {
    const Winograd::Block block = kernel.block(number, threads);
    const auto cut = static_cast<uint32_t>(layer.random() % layer.shape.channels);
    kernel.transform(block, 0, cut, layer.x.view(), split.data(), transformed.data());
    kernel.transform(block, cut, layer.shape.channels, layer.x.view(), split.data(), transformed.data());
    for (size_t first = 0; first < kernel.units(block);) {
      const size_t last = std::min<size_t>(kernel.units(block), first + 1 + layer.random() % 7);
      kernel.compute(block, first, last, transformed.data(), products.data(), out.view(), residual);
      first = last;
    }
  }
}

// The largest error, in units of 2⁻²³·Σ|terms|; infinite where something else was written.
double error_of(const Layer& layer, Volume& out) {
  double worst = 0;
  const WinogradShape& shape = layer.shape;
  out.each([&](int64_t n, int64_t f, int64_t y, int64_t x) {
    double sum = layer.epilogue.bias != nullptr ? double{layer.bias[static_cast<size_t>(f)]} : 0, size = std::abs(sum);
    for (int64_t c = 0; c < shape.channels; ++c) {
      for (int64_t tap = 0; tap < 9; ++tap) {
        const int64_t from_y = y + tap / 3 - shape.top, from_x = x + tap % 3 - shape.left;
        if (from_y < 0 || from_y >= shape.high || from_x < 0 || from_x >= shape.wide) continue;
        const double term =
            double{layer.weights[static_cast<size_t>((f * shape.channels + c) * 9 + tap)]} * double{layer.x.floats[layer.x.at(n, c, from_y, from_x)]};
        sum += term, size += std::abs(term);
      }
    }
    if (layer.epilogue.residual) {
      const double term = double{layer.residual.floats[layer.residual.at(n, f, y, x)]};
      sum += term, size += std::abs(term);
    }
    // An activation's own rounding: its result and slopes are at most |sum| + 1 here.
    if (layer.epilogue.activation != Activation::kNone) size += 1 + std::abs(sum);
    float& got = out.floats[out.at(n, f, y, x)];
    const double difference = std::abs(double{got} - activate(layer.epilogue, sum)) / std::ldexp(std::max(size, 1e-30), -23);
    worst = difference <= worst ? worst : difference;  // NaN is worst
    got = kUntouched;
  });
  return std::all_of(out.floats.begin(), out.floats.end(), [](float value) { return value == kUntouched; }) ? worst : INFINITY;
}

int test_random_layers(uint32_t count) {
  constexpr double kBound = 32;
  int failures = 0;
  for (const Family& family : families()) {
    if (!runs_here(family.isa) || family.winograd == nullptr) continue;
    double worst = 0;
    for (uint32_t seed = 0; seed < count; ++seed) {
      Layer layer(seed);
      Volume out(layer.random, layer.shape.images, layer.shape.filters, layer.shape.out_high, layer.shape.out_wide);
      const Winograd kernel(*family.winograd, layer.shape, layer.weights.data(), layer.epilogue);
      run(layer, kernel, out);
      const double error = error_of(layer, out);
      worst = std::max(worst, error);
      if (error <= kBound) continue;
      std::printf("FAIL %s, seed %u: an error of %g units: %s\n", family.name, seed, error, layer.describe().c_str());
      ++failures;
    }
    std::printf("%-20s %u layers, largest error %.1f units\n", family.name, count, worst);
  }
  return failures;
}

}  // namespace

}  // namespace rsk

int main(int argc, char** argv) {
  const uint32_t count = argc > 1 ? static_cast<uint32_t>(std::stoul(argv[1])) : 100;
  const int failures = rsk::test_random_layers(count);
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
