// The pool of threads: every piece runs once, on whichever thread, and what one throws reaches the caller when all are done.
#include <atomic>
#include <cstdio>
#include <stdexcept>
#include <vector>

#include "pool.h"

namespace {

constexpr size_t kCount = 1000;
constexpr double kMuch = 1e9;  // nanoseconds: worth sharing

bool runs_all(rsk::Pool& pool) {
  std::vector<std::atomic<int>> runs(kCount);
  std::atomic<uint32_t> highest{0};
  pool.share(kCount, kMuch, [&](size_t first, size_t last, uint32_t lane) {
    for (size_t i = first; i < last; ++i) ++runs[i];
    for (uint32_t seen = highest; lane > seen && !highest.compare_exchange_weak(seen, lane);) {
    }
  });
  for (const auto& count : runs) {
    if (count != 1) return false;
  }
  return highest < pool.threads();
}

// `bad` lies in a piece that throws.
bool passes_on(rsk::Pool& pool, size_t bad) {
  std::atomic<size_t> done{0};
  try {
    pool.share(kCount, kMuch, [&](size_t first, size_t last) {
      if (first <= bad && bad < last) throw std::runtime_error("this piece");
      done += last - first;
    });
  } catch (const std::runtime_error&) {
    return done < kCount;
  }
  return false;
}

}  // namespace

int main() {
  int failures = 0;
  for (uint32_t threads = 1; threads <= 4; ++threads) {
    rsk::Pool pool(threads);
    for (size_t bad = 0; bad < kCount; bad += 37) failures += !passes_on(pool, bad) + !runs_all(pool);
  }
  std::printf("%d failures\n", failures);
  return failures != 0;
}
