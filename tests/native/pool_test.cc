// The loops of pooling of every instruction set that runs here against the obvious loop, over every tail and random windows.
#include "kernels/pool.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <random>
#include <vector>

#include "cpu.h"
#include "guarded.h"

namespace rsk {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kUntouched = 77;

struct Row {
  const char* name;
  Isa isa;
  const PoolLoops& loops;
};

const Row kRows[] = {
#if defined(__x86_64__)
    {"avx512", Isa::kAvx512, kPoolAvx512},
    {"avx2", Isa::kAvx2, kPoolAvx2},
#elif defined(__aarch64__)
    {"neon", Isa::kNeon, kPoolNeon},
#endif
    {"portable", Isa::kPortable, kPoolPortable},
};

using Random = std::mt19937;

int64_t below(Random& random, int64_t limit) { return static_cast<int64_t>(random()) % limit; }

float value(Random& random) {
  const int64_t drawn = below(random, 40);
  if (drawn == 0) return kNan;
  if (drawn == 1) return -std::numeric_limits<float>::infinity();
  return static_cast<float>(below(random, 2001)) / 1000.0F - 1.0F;
}

double largest(double a, double b) { return std::isnan(a) || std::isnan(b) ? kNan : std::max(a, b); }
double sum(double a, double b) { return a + b; }

bool alike(double found, double wanted) { return std::isnan(wanted) ? std::isnan(found) : found == wanted || std::abs(found - wanted) <= 1e-5; }

// The windows of one call: `first` elements of each row are padding, and `last` is where the padding behind begins.
struct Case {
  PoolLoops::Planes planes;
  int64_t pitch, rows, taps, first, last, count;
};

Case drawn_case(Random& random, int64_t count) {
  const int64_t taps = 2 + below(random, 2), reach = 2 * (count - 1) + taps, rows = below(random, 4), first = below(random, 3), lines = 1 + below(random, 3);
  const int64_t last = std::max(first, reach - below(random, 3)), pitch = reach + below(random, 4), plane = pitch * (rows + 2 * lines);
  return {{1 + below(random, 3), plane, lines * (count + 1), {lines, 2 * pitch, count + 1}}, pitch, rows, taps, first, last, count};
}

// All combinations of the rows and taps of a window that are no padding.
template <class Combine>
double combined(const Case& drawn, const float* line, int64_t i, double total, const Combine& combine) {
  for (int64_t row = 0; row < drawn.rows; ++row) {
    for (int64_t at = std::max(2 * i, drawn.first); at < std::min(2 * i + drawn.taps, drawn.last); ++at) {
      total = combine(total, double{line[row * drawn.pitch + at]});
    }
  }
  return total;
}

template <class Combine>
bool check(const Row& row, const char* what, const PoolLoops::Kind& kind, double neutral, float divisor, Random& random, const Combine& combine) {
  for (int64_t count = 1; count < 150; ++count) {
    const Case drawn = drawn_case(random, count);
    const auto& [planes, pitch, rows, taps, first, last, width] = drawn;
    const int64_t end = (planes.count - 1) * planes.in + (planes.lines.count - 1) * planes.lines.in + std::max<int64_t>(0, rows - 1) * pitch + last;
    const GuardedFloats x(static_cast<size_t>(end));
    std::generate(x.begin(), x.end(), [&] { return value(random); });
    std::vector<float> out(static_cast<size_t>(planes.count * planes.out), kUntouched);
    kind.halves(planes, {x.data(), pitch, rows, taps, first, last}, count, divisor, out.data());
    for (int64_t at = 0; at < static_cast<int64_t>(out.size()); ++at) {
      const int64_t line = at / planes.lines.out, i = at % planes.lines.out;
      const float* from = x.data() + line / planes.lines.count * planes.in + line % planes.lines.count * planes.lines.in;
      const double wanted = i == width ? double{kUntouched} : combined(drawn, from, i, neutral, combine) / double{divisor};
      if (alike(double{out[static_cast<size_t>(at)]}, wanted)) continue;
      std::printf("%s, %s of %d taps, %d windows, output %d: %g, not %g\n", row.name, what, static_cast<int>(taps), static_cast<int>(count),
                  static_cast<int>(at), double{out[static_cast<size_t>(at)]}, wanted);
      return false;
    }
  }
  return true;
}

int run() {
  int sets = 0;
  for (const Row& row : kRows) {
    if (!runs_here(row.isa)) continue;
    Random random(1);
    for (int round = 0; round < 20; ++round) {
      if (!check(row, "largest", row.loops.largest, -std::numeric_limits<double>::infinity(), 1.0F, random, largest)) return 1;
      if (!check(row, "sum", row.loops.sum, 0.0, 6.0F, random, sum)) return 1;
    }
    ++sets;
  }
  std::printf("%d instruction sets\n", sets);
  return 0;
}

}  // namespace
}  // namespace rsk

int main() { return rsk::run(); }
