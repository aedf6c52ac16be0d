// Every convolution kernel that runs here against the obvious loop in double precision, over random layers.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "activate.h"
#include "conv.h"
#include "cpu.h"
#include "guarded.h"
#include "kernels/families.h"
#include "kernels/pack.h"

namespace rsk {

namespace {

using Random = std::mt19937;

uint32_t below(Random& random, uint32_t limit) { return static_cast<uint32_t>(random() % limit); }
float value(Random& random) { return static_cast<float>(random() % 2001) / 1000.0F - 1.0F; }

enum class Mask { kDense, kRandom, kPeriodic, kZero, kCount };
const char* const kMaskNames[] = {"dense", "random", "periodic", "zero"};

// A layer, its input and everything that the obvious loop needs.
struct Layer {
  Mask mask;
  bool panel, in_phase;
  uint32_t filters, rows, vectors, tiles, expected_tiles;
  std::vector<uint32_t> start{0}, columns;
  std::vector<float> values, bias, residual;
  std::unique_ptr<GuardedFloats> x;
  std::vector<int32_t> offsets;
  std::vector<uint8_t> sides;
  std::vector<uint64_t> reach;
  Epilogue epilogue;
  size_t origin = 0, tile_step = 0, out_stride = 0;
  std::vector<uint64_t> keep;
  std::vector<std::array<uint64_t, 2>> inside;

  explicit Layer(Random& random) {
    mask = static_cast<Mask>(below(random, static_cast<uint32_t>(Mask::kCount)));
    panel = below(random, 2) == 0;
    in_phase = below(random, 2) == 0;
    filters = below(random, 4) == 0 ? 1 + below(random, 3) : 1 + below(random, 70);
    vectors = 1 + below(random, 4);
    tiles = 1 + below(random, below(random, 8) == 0 ? 40 : 4);
    expected_tiles = 1 + below(random, 48);
    make_rows(random);
    make_weights(random);
    make_epilogue(random);
  }

  void make_rows(Random& random) {
    const uint32_t channels = 1 + below(random, below(random, 3) == 0 ? 120 : 12), kernel = 1 + below(random, 5), dilation = 1 + below(random, 3);
    rows = channels * kernel * kernel;
    const uint32_t width = 16 * vectors, pitch = 8 + below(random, 40), plane = pitch * (kernel * dilation + 2) + below(random, 7);
    for (uint32_t row = 0; row < rows; ++row) {
      const uint32_t channel = row / (kernel * kernel), tap = row % (kernel * kernel);
      offsets.push_back(static_cast<int32_t>(panel ? row * width : channel * plane + (tap / kernel * pitch + tap % kernel) * dilation));
    }
    const int32_t back = below(random, 2) == 0 ? 0 : offsets.back() / 2;  // offsets of either sign
    for (int32_t& offset : offsets) offset -= back;
    origin = static_cast<size_t>(back);
    tile_step = panel ? 0 : width;
    const int32_t last = *std::max_element(offsets.begin(), offsets.end());
    x = std::make_unique<GuardedFloats>(static_cast<size_t>(back + last) + tile_step * (tiles - 1) + width);
    for (float& element : *x) element = value(random);
    sides.resize(below(random, 2) == 0 ? rows : 0);
    for (uint8_t& side : sides) side = static_cast<uint8_t>(below(random, 3));
    if (panel && below(random, 2) == 0) make_reach(random);
  }

  // Rows of one of a few forms, with zeros where they read padding, as a panel has.
  void make_reach(Random& random) {
    uint64_t forms[4];
    for (uint64_t& form : forms) form = (uint64_t{random()} << 32 | random()) >> below(random, 64) >> below(random, 2);
    for (const int32_t offset : offsets) {
      reach.push_back(forms[below(random, 4)]);
      float* row = x->data() + static_cast<ptrdiff_t>(origin) + offset;
      for (uint32_t at = 0; at < 16 * vectors; ++at) row[at] *= static_cast<float>(reach.back() >> at & 1);
    }
  }

  void make_weights(Random& random) {
    const uint32_t period = 1 + below(random, 5), keeps = 1 + below(random, 9);
    for (uint32_t filter = 0; filter < filters; ++filter) {
      const bool empty = below(random, 10) == 0 && mask == Mask::kRandom;
      for (uint32_t row = 0; row < rows && !empty; ++row) {
        const bool used =
            mask == Mask::kDense || (mask == Mask::kRandom && below(random, 9) < keeps) || (mask == Mask::kPeriodic && (filter + row) % period == 0);
        if (!used) continue;
        columns.push_back(row);
        values.push_back(value(random));
      }
      start.push_back(static_cast<uint32_t>(columns.size()));
    }
  }

  void make_epilogue(Random& random) {
    epilogue.activation = static_cast<Activation>(below(random, kActivations));
    epilogue.alpha = epilogue.activation == Activation::kClip ? -0.5F : 0.1F;
    epilogue.beta = 1.5F;
    epilogue.residual = below(random, 2) == 0;
    bias.resize(filters);
    for (float& element : bias) element = value(random);
    if (below(random, 2) == 0) epilogue.bias = bias.data();
    out_stride = size_t{16} * vectors * tiles + below(random, 5);
    residual.resize(out_stride * filters);
    for (float& element : residual) element = value(random);
    const auto bits = [&] { return uint64_t{random()} << 32 | random(); };
    for (uint32_t tile = 0; tile < tiles; ++tile) {
      keep.push_back(below(random, 2) == 0 ? ~uint64_t{0} : bits());
      inside.push_back({bits(), bits()});
    }
  }

  // Whether the kernel sees but some positions of some rows.
  bool masked(const Family& family) const { return !sides.empty() && family.has(kHeedsSides); }

  ConvRequest request(const Family& family) const {
    ConvRequest request{{filters, rows, start.data(), columns.data(), values.data()}, offsets.data(), epilogue, vectors, phase(), expected_tiles};
    if (!reach.empty()) request.reach = reach.data();
    if (masked(family)) request.sides = sides.data();
    return request;
  }
  int32_t phase() const { return in_phase ? static_cast<int32_t>(reinterpret_cast<uintptr_t>(x->data() + origin) / sizeof(float) % 16) : -1; }

  std::string describe() const {
    return std::string(kMaskNames[static_cast<int>(mask)]) + (panel ? " panel, " : " planes, ") + "phase " + std::to_string(phase()) + ", " +
           std::to_string(filters) + " filters, " + std::to_string(rows) + " rows, " + std::to_string(vectors) + " vectors, " + std::to_string(tiles) +
           " tiles, activation " + std::to_string(static_cast<int>(epilogue.activation));
  }
};

// True where every output of the layer that a kernel computed is within 4·2⁻²³·Σ|terms| of the obvious loop, halos are zero, and nothing else is written.
bool agrees(const Layer& layer, bool masked, const std::vector<float>& out, float untouched) {
  for (uint32_t filter = 0; filter < layer.filters; ++filter) {
    for (size_t position = 0; position < layer.out_stride; ++position) {
      const float got = out[filter * layer.out_stride + position];
      const size_t width = size_t{16} * layer.vectors, tile = position / width, at = position % width;
      if (tile >= layer.tiles) {
        if (got != untouched) return false;
        continue;
      }
      if ((layer.keep[tile] >> at & 1) == 0) {
        if (got != 0) return false;
        continue;
      }
      double sum = layer.epilogue.bias != nullptr ? double{layer.bias[filter]} : 0, size = std::abs(sum);
      for (uint32_t i = layer.start[filter]; i < layer.start[filter + 1]; ++i) {
        const uint8_t side = masked ? layer.sides[layer.columns[i]] : uint8_t{0};
        if (side > 0 && (layer.inside[tile][side - 1U] >> at & 1) == 0) continue;
        const size_t from = static_cast<size_t>(static_cast<int64_t>(layer.origin + tile * layer.tile_step + at) + layer.offsets[layer.columns[i]]);
        const double term = double{layer.values[i]} * double{layer.x->data()[from]};
        sum += term, size += std::abs(term);
      }
      if (layer.epilogue.residual) {
        const double term = double{layer.residual[filter * layer.out_stride + position]};
        sum += term, size += std::abs(term);
      }
      // An activation's own rounding: its result and slopes are at most |sum| + 1 here.
      const double own = layer.epilogue.activation == Activation::kNone ? 0 : 1 + std::abs(sum);
      if (!(std::abs(double{got} - activate(layer.epilogue, sum)) <= 4 * std::ldexp(size + own, -23))) {
        std::printf("filter %u position %zu: %.9g, not %.9g (sum of magnitudes %.3g)\n", filter, position, double{got}, activate(layer.epilogue, sum), size);
        return false;
      }
    }
  }
  return true;
}

enum class Way { kTiles, kBlocks, kRanges };

bool computes(const Layer& layer, const Family& family, const ConvKernel& kernel, Way way) {
  constexpr float kUntouched = 777;
  std::vector<float> out(layer.out_stride * layer.filters, kUntouched);
  std::vector<Tile> tiles;
  for (uint32_t tile = 0; tile < layer.tiles; ++tile) {
    const size_t at = size_t{16} * layer.vectors * tile;
    tiles.push_back({layer.x->data() + layer.origin + tile * layer.tile_step,
                     out.data() + at,
                     layer.out_stride,
                     layer.residual.data() + at,
                     layer.out_stride,
                     layer.keep[tile],
                     {layer.inside[tile][0], layer.inside[tile][1]}});
  }
  for (uint32_t block = 0; block < kernel.blocks() && way != Way::kRanges; ++block) {
    if (way == Way::kBlocks) kernel.run_all(tiles, block);
    for (size_t tile = 0; way == Way::kTiles && tile < tiles.size(); ++tile) kernel.run(tiles[tile], block);
  }
  const uint32_t middle = kernel.blocks() / 3;
  for (const auto& [first, last] : {std::pair(0U, middle), std::pair(middle, kernel.blocks())}) {
    if (way != Way::kRanges || first == last) continue;
    kernel.fetch(first);
    kernel.run_blocks(tiles, first, last);
  }
  return agrees(layer, layer.masked(family), out, kUntouched);
}

int test_random_layers(uint32_t count) {
  int failures = 0;
  std::vector<uint32_t> made(families().size());
  for (uint32_t seed = 0; seed < count; ++seed) {
    Random random(seed);
    const Layer layer(random);
    for (size_t i = 0; i < made.size(); ++i) {
      const Family& family = families()[i];
      if (!runs_here(family.isa) || family.make == nullptr) continue;
      const char* refusal = nullptr;
      ConvRequest request = layer.request(family);
      request.refusal = &refusal;
      const auto kernel = family.make(request);
      if (kernel == nullptr && refusal != nullptr) continue;
      ++made[i];
      const auto every_way = [&] {
        return computes(layer, family, *kernel, Way::kTiles) && computes(layer, family, *kernel, Way::kBlocks) &&
               computes(layer, family, *kernel, Way::kRanges);
      };
      if (kernel != nullptr && std::strcmp(kernel->name(), family.name) == 0 && every_way()) continue;
      std::printf("FAIL %s, seed %u: %s\n", family.name, seed, layer.describe().c_str());
      ++failures;
    }
  }
  for (size_t i = 0; i < made.size(); ++i) {
    const Family& family = families()[i];
    std::printf("%-20s %u layers\n", family.name, made[i]);
    if (runs_here(family.isa) && family.make != nullptr && made[i] < count / 3) std::printf("FAIL %s refuses too many layers\n", family.name), ++failures;
  }
  return failures;
}

// Every copy into a panel against the one that picks lane by lane.
int test_packing(uint32_t count) {
  int failures = 0;
  for (uint32_t seed = 0; seed < count; ++seed) {
    Random random(seed);
    PackedLanes pick{{}, static_cast<uint16_t>(random()), below(random, 2) == 0};
    for (uint8_t& index : pick.index) index = static_cast<uint8_t>(below(random, kWindow));
    const uint32_t channels = 1 + below(random, 5), from_step = below(random, 40), to_step = 64 + below(random, 20);
    std::vector<PackedTap> taps(1 + below(random, 4));
    for (PackedTap& tap : taps) tap = {below(random, 9), 16 * (&tap - taps.data()), below(random, kWindow), static_cast<uint16_t>(random())};
    const GuardedFloats from(size_t{channels - 1} * from_step + 8 + kWindow), to(size_t{channels - 1} * to_step + 64);
    for (float& element : from) element = value(random);
    for (float& element : to) element = value(random);
    const std::vector<float> before(to.begin(), to.end());
    pack_portable(pick, taps.data(), taps.size(), from.data(), from_step, to.data(), to_step, channels);
    std::vector<float> expected(to.begin(), to.end());
    for (const Isa isa : {Isa::kAvx512, Isa::kAvx2}) {
      if (!runs_here(isa)) continue;
      std::copy(before.begin(), before.end(), to.begin());
      pack_of(isa)(pick, taps.data(), taps.size(), from.data(), from_step, to.data(), to_step, channels);
      if (std::memcmp(expected.data(), to.data(), expected.size() * sizeof(float)) == 0) continue;
      std::printf("FAIL packing, %s, seed %u\n", isa_name(isa), seed);
      ++failures;
    }
  }
  return failures;
}

// What a kernel cannot do it says.
int test_refusals() {
  const uint32_t start[] = {0, 1, 2}, columns[] = {0, 1};
  const float values[] = {1, 2};
  const int32_t offsets[] = {0, 1 << 29};
  int failures = 0;
  for (const Family& family : families()) {
    if (!runs_here(family.isa) || family.make == nullptr) continue;
    const bool unrolled = std::strstr(family.name, "unrolled") != nullptr, shared = std::strstr(family.name, "shared") != nullptr;
    const auto says = [&](ConvRequest request, const char* expected) {
      const char* refusal = nullptr;
      request.refusal = &refusal;
      const bool made = family.make(request) != nullptr;
      if (expected == nullptr ? made : !made && refusal != nullptr && std::strcmp(refusal, expected) == 0) return;
      std::printf("FAIL %s says '%s', not '%s'\n", family.name, refusal, expected);
      ++failures;
    };
    ConvRequest request{{2, 2, start, columns, values}, offsets, {}, 1};
    says(request, unrolled ? "the input is larger than an instruction can address" : shared ? "fewer than 4 filters share a list of taps" : nullptr);
    request.generate_code = false;
    if (unrolled) says(request, "generated code is switched off");
  }
  return failures;
}

}  // namespace

}  // namespace rsk

int main(int argc, char** argv) {
  const uint32_t count = argc > 1 ? static_cast<uint32_t>(std::stoul(argv[1])) : 400;
  const int failures = rsk::test_random_layers(count) + rsk::test_packing(count) + rsk::test_refusals();
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
