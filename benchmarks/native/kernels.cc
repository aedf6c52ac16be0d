// How near each kernel comes to the peak of one core: layer shapes × masks, multiply-adds on nonzeros.
//
//   kernels [--cold] [--only text] [--isa avx512|avx2]      --cold rotates over copies of the layer that exceed the caches
//
// Each figure is the median of the turns in which the core was undisturbed, and says how many of how many those were.
// Planes with a halo are read in place; small maps are packed to a panel too, which is part of the time.
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "conv.h"
#include "cpu.h"
#include "kernels/families.h"
#include "memory.h"
#include "ops/panel.h"
#include "peak.h"

namespace rsk {

namespace {

struct Shape {
  uint32_t channels, size;
};
constexpr Shape kShapes[] = {{64, 32}, {128, 16}, {256, 8}, {512, 4}, {64, 56}, {128, 28}, {256, 14}, {512, 7}};
const char* const kMasks[] = {"dense", "cross", "4of9", "2of9", "periodic", "90%"};

using Random = std::mt19937;

// The taps of a kernel, one bit each.
uint32_t taps_of(const std::string& mask, uint32_t out, uint32_t in, Random& random) {
  if (mask == "dense") return 0x1FF;
  if (mask == "cross") return 0b010'111'010;
  if (mask == "periodic") {  // pSC4-P8: four corner squares and one dense kernel in a period of eight
    constexpr uint32_t kCorners[] = {0b000'011'011, 0b000'110'110, 0b011'011'000, 0b110'110'000};
    const uint32_t residue = (out + in) % 8;
    return residue == 7 ? 0x1FF : kCorners[residue % 4];
  }
  uint32_t taps = 0;
  if (mask == "90%") {
    for (uint32_t tap = 0; tap < 9; ++tap) taps |= (random() % 10 == 0 ? 1U : 0U) << tap;
    return taps;
  }
  const int count = mask == "4of9" ? 4 : 2;
  while (__builtin_popcount(taps) < count) taps |= 1U << random() % 9;
  return taps;
}

struct Layer {
  std::vector<uint32_t> start{0}, columns;
  std::vector<float> values;
};

Layer make_layer(const Shape& shape, const std::string& mask, uint32_t seed) {
  Random random(seed);
  Layer layer;
  for (uint32_t out = 0; out < shape.channels; ++out) {
    for (uint32_t in = 0; in < shape.channels; ++in) {
      const uint32_t taps = taps_of(mask, out, in, random);
      for (uint32_t tap = 0; tap < 9; ++tap) {
        if ((taps >> tap & 1) == 0) continue;
        layer.columns.push_back(in * 9 + tap);
        layer.values.push_back(static_cast<float>(random() % 1000) * 1e-4F + 1e-3F);
      }
    }
    layer.start.push_back(static_cast<uint32_t>(layer.columns.size()));
  }
  return layer;
}

// The input in padded planes (one shared halo column), packed to a panel or not, and where positions lie.
struct Map {
  Shape shape;
  uint32_t vectors;
  bool packed, columns, close, by_rows;  // close: rows without a halo between them; by rows: tiles start where rows do, and no lane is lost
  uint32_t pitch, front, plane, positions, tiles;
  std::vector<int32_t> offsets;
  std::vector<uint8_t> sides;
  std::vector<uint64_t> reach;
  Memory input, output, scratch;
  Panel panel;
  Pack pack;
  std::vector<std::array<uint64_t, 3>> keep;  // and what either side sees

  Map(const Shape& the_shape, uint32_t the_vectors, bool the_packed, const Family& family)
      : shape(the_shape),
        vectors(the_vectors),
        packed(the_packed),
        columns(packed && family.has(kShiftsTaps)),
        close(!packed && family.has(kHeedsSides)),
        pack(pack_of(family.isa)) {
    const uint32_t size = shape.size, width = 16 * vectors, rows = shape.channels * 9;
    pitch = close ? size : size % 16 == 0 ? size + 16 : size + 1;
    front = close ? (pitch + 16) / 16 * 16 : (pitch + 15) / 16 * 16 + 1;
    plane = (front + (size + 1) * pitch + 15) / 16 * 16;
    by_rows = !packed && !close && size % width == 0;
    positions = packed || close || by_rows ? size * size : size * pitch - 1;
    tiles = (positions + width - 1) / width;
    for (uint32_t row = 0; row < rows; ++row) {
      offsets.push_back(static_cast<int32_t>(row / 9 * plane + front - pitch - 1 + row % 9 / 3 * pitch + row % 3));
      if (close) sides.push_back(row % 3 == 0 ? 1 : row % 3 == 1 ? 0 : 2);
    }
    input = room(size_t{shape.channels} * plane + 4 * width + 16);
    output = room(size_t{shape.channels} * stride() + 4 * width);
    for (uint32_t channel = 0; channel < shape.channels; ++channel) {
      for (uint32_t y = 0; y < size; ++y) {
        for (uint32_t x = 0; x < size; ++x) inside()[size_t{channel} * plane + y * pitch + x] = static_cast<float>((channel + (x + 1) * (y + 1)) % 7) * 0.1F;
      }
    }
    if (packed) {
      const ConvAxis along{3, 1, 1, 1, size, size};
      const Tensor x{Space::kArena, 0, 5, 0, front, int64_t{shape.channels} * plane - front, 0, {1, shape.channels, 1, size, size}, {0, plane, 0, pitch, 1}};
      const std::array<ConvAxis, 3> axes = {ConvAxis{1, 1, 0, 1, 1, 1}, along, along};
      const std::vector<bool> used(rows, true);
      if (columns) {
        auto made = make_columns(x, axes, used);
        panel = std::move(made.panel);
        offsets = std::move(made.offsets);
      } else {
        panel = Panel(x, axes, width, used);
        offsets = panel.offsets();
        for (uint32_t row = 0; row < rows; ++row) reach.push_back(reached(row / 3 % 3, row % 3));
      }
      scratch = room((columns ? 1 : tiles) * static_cast<size_t>(panel.floats_of_tile()) + 4 * width);
    }
    for (uint32_t tile = 0; tile < tiles; ++tile) {
      std::array<uint64_t, 3> bits{};
      for (uint32_t i = 0; i < width; ++i) {
        const uint32_t position = tile * width + i;
        const bool real = position < positions && (packed || by_rows || position % pitch < size);
        bits[0] |= uint64_t{real} << i;
        bits[1] |= uint64_t{position % pitch > 0} << i;
        bits[2] |= uint64_t{position % pitch + 1 < size} << i;
      }
      keep.push_back(bits);
    }
  }

  // On huge pages, as in an arena.
  static Memory room(size_t floats) { return Memory(std::max(floats * sizeof(float), size_t{4} << 20)); }
  float* inside() const { return input.floats() + front; }
  // The positions of a tile at which a tap reads more than padding, in any tile.
  uint64_t reached(uint32_t down, uint32_t right) const {
    const auto misses = [&](uint32_t at, uint32_t tap) { return at + tap < 1 || at + tap > shape.size; };
    uint64_t reached = 0;
    for (uint32_t position = 0; position < positions; ++position) {
      if (!misses(position / shape.size, down) && !misses(position % shape.size, right)) reached |= uint64_t{1} << position % (16 * vectors);
    }
    return reached;
  }
  size_t position_of(uint32_t tile) const {
    const uint32_t position = tile * 16 * vectors;
    return by_rows ? size_t{position} / shape.size * pitch + position % shape.size : position;
  }
  size_t stride() const { return std::max<size_t>(plane, size_t{tiles} * 16 * vectors + 16); }

  void run(const ConvKernel& kernel) const {
    std::vector<Tile> all;
    for (uint32_t tile = 0; tile < tiles; ++tile) {
      const float* x = columns  ? scratch.floats() + position_of(tile)
                       : packed ? scratch.floats() + tile * static_cast<size_t>(panel.floats_of_tile())
                                : input.floats() + position_of(tile);
      all.push_back({x, output.floats() + position_of(tile), stride(), nullptr, 0, keep[tile][0], {keep[tile][1], keep[tile][2]}});
    }
    constexpr uint32_t kChannels = 64, kTogether = 64;  // as ops/conv.cc does
    for (uint32_t first = 0; packed && first < shape.channels; first += kChannels) {
      panel.pack(pack, inside(), 0, (columns ? 1 : tiles) * panel.vectors_of_tile(), first, std::min(shape.channels, first + kChannels), 0, scratch.floats());
    }
    kernel.fetch(0);
    const size_t parts = (all.size() + kTogether - 1) / kTogether;
    for (size_t part = 0; part < parts; ++part) {
      const size_t first = all.size() * part / parts, last = all.size() * (part + 1) / parts;
      kernel.run_blocks(std::span(all).subspan(first, last - first), 0, kernel.blocks());
    }
  }
};

struct Turn {
  double seconds;  // of a layer
  Moment before, after;

  double peak() const { return (before.peak + after.peak) / 2; }
  double cost() const { return seconds * peak(); }
};

// Passes, each between two looks at the core. Turns are left out in which it was more than 3 % below its best, as others are on it.
class Turns {
 public:
  Turns(const Map& map, const std::vector<std::unique_ptr<ConvKernel>>& kernels, Moment (*moment)(), Moment& best) : best_(best) {
    using Clock = std::chrono::steady_clock;
    constexpr size_t kEnough = 50;
    constexpr std::chrono::seconds kPatience{2};
    const auto pass = [&] {
      const auto start = Clock::now();
      for (const auto& kernel : kernels) map.run(*kernel);
      return std::chrono::duration<double>(Clock::now() - start).count() / static_cast<double>(kernels.size());
    };
    pass();
    for (const auto first = Clock::now(); kept_.size() < kEnough && Clock::now() - first < kPatience; ++all_) {
      const Moment before = moment();
      const double seconds = pass();
      kept_.push_back({seconds, before, moment()});
      see(before), see(kept_.back().after);
      std::erase_if(kept_, [&](const Turn& turn) { return disturbed(turn.before) || disturbed(turn.after); });
    }
    std::sort(kept_.begin(), kept_.end(), [](const Turn& left, const Turn& right) { return left.cost() < right.cost(); });
  }

  size_t all() const { return all_; }
  size_t kept() const { return kept_.size(); }
  const Turn& median() const { return kept_[kept_.size() / 2]; }

 private:
  void see(const Moment& moment) { best_ = {std::max(best_.peak, moment.peak), std::max(best_.crowded, moment.crowded)}; }
  bool disturbed(const Moment& moment) const { return moment.peak < 0.97 * best_.peak || moment.crowded < 0.97 * best_.crowded; }

  Moment& best_;  // of the process
  size_t all_ = 0;
  std::vector<Turn> kept_;  // by their share of the peak
};

void measure(const Shape& shape, const std::string& mask, const Family& family, bool cold, const std::string& only, Moment& best) {
  for (const bool panel : {false, true}) {
    for (const uint32_t vectors : {1U, 2U, 3U, 4U}) {
      if (panel ? shape.size > 16 || (vectors - 1) * 16 >= shape.size * shape.size : shape.size < 7) continue;
      char label[96];
      std::snprintf(label, sizeof label, "%3u@%-2u %-8s %-16s %s x%u%s", shape.channels, shape.size, mask.c_str(), family.name, panel ? "panel " : "planes",
                    vectors, cold ? " cold" : "");
      if (std::string(label).find(only) == std::string::npos) continue;
      const Map map(shape, vectors, panel, family);
      std::vector<std::unique_ptr<ConvKernel>> kernels;
      size_t bytes = 0, nonzeros = 0;
      do {
        const Layer layer = make_layer(shape, mask, static_cast<uint32_t>(kernels.size()));
        nonzeros = layer.values.size();
        ConvRequest request{
            {shape.channels, shape.channels * 9, layer.start.data(), layer.columns.data(), layer.values.data()}, map.offsets.data(), {}, vectors, 0, map.tiles};
        if (!map.reach.empty()) request.reach = map.reach.data();
        if (!map.sides.empty()) request.sides = map.sides.data();
        auto kernel = family.make(request);
        if (kernel == nullptr) return;
        bytes += kernel->weight_bytes() + kernel->code_bytes();
        kernels.push_back(std::move(kernel));
      } while (cold && bytes < (size_t{96} << 20));
      const Turns turns(map, kernels, family.isa == Isa::kAvx512 ? moment_avx512 : moment_avx2, best);
      if (turns.kept() == 0) {
        std::printf("%s others were on the core in all of %zu turns\n", label, turns.all());
        continue;
      }
      const Turn& median = turns.median();
      const double rate = 1e-9 * static_cast<double>(nonzeros) * shape.size * shape.size / median.seconds;
      std::printf("%s %8.1f us %6.1f GMAC/s %5.1f %%  (%zu of %zu turns)\n", label, median.seconds * 1e6, rate, 100 * rate / median.peak(), turns.kept(),
                  turns.all());
      std::fflush(stdout);
    }
  }
}

void pin() {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(sched_getcpu(), &set);
  sched_setaffinity(0, sizeof set, &set);
}

}  // namespace

}  // namespace rsk

int main(int argc, char** argv) {
  using namespace rsk;
  bool cold = false;
  std::string only, isa, shape_text, mask_text;
  for (int i = 1; i < argc; ++i) {
    const std::string option = argv[i];
    if (option == "--cold")
      cold = true;
    else if (option == "--only" && i + 1 < argc)
      only = argv[++i];
    else if (option == "--isa" && i + 1 < argc)
      isa = argv[++i];
    else if (option == "--shape" && i + 1 < argc)
      shape_text = argv[++i];
    else if (option == "--mask" && i + 1 < argc)
      mask_text = argv[++i];
    else
      return std::printf("kernels [--cold] [--isa avx512|avx2] [--shape 64@32] [--mask 4of9] [--only text of the line]\n"), 2;
  }
  pin();
  if (runs_here(Isa::kAvx512)) print_peak_avx512();
  if (runs_here(Isa::kAvx2)) print_peak_avx2();
  Moment best_avx512{}, best_avx2{};
  for (const Shape& shape : kShapes) {
    if (!shape_text.empty() && shape_text != std::to_string(shape.channels) + "@" + std::to_string(shape.size)) continue;
    for (const char* mask : kMasks) {
      if (!mask_text.empty() && mask_text != mask) continue;
      for (const Family& family : families()) {
        if (!runs_here(family.isa) || family.make == nullptr || (!isa.empty() && std::string(family.name).rfind(isa, 0) != 0)) continue;
        measure(shape, mask, family, cold, only, family.isa == Isa::kAvx512 ? best_avx512 : best_avx2);
      }
    }
  }
  return 0;
}
