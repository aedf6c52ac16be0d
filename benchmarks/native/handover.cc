// How long a cache line takes from one processor to another, in nanoseconds: build/bench/handover 0 1
// Two threads of one core, two cores with a cache in common, and two without one differ by a factor of ten.
#include <sched.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>

namespace {

constexpr int kTurns = 2000;
constexpr size_t kApart = 256;  // bytes: more than prefetchers join

alignas(kApart) std::atomic<int> there{0};
alignas(kApart) std::atomic<int> back{0};

bool stay_on(int processor) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<size_t>(processor), &set);
  return sched_setaffinity(0, sizeof set, &set) == 0;
}

void wait_for(const std::atomic<int>& line, int turn) {
  while (line.load(std::memory_order_acquire) != turn) {
  }
}

void answer() {
  for (int turn = 1; turn <= kTurns; ++turn) {
    wait_for(there, turn);
    back.store(turn, std::memory_order_release);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3 || !stay_on(std::atoi(argv[2]))) return std::puts("usage: handover PROCESSOR PROCESSOR"), 1;
  std::thread other(answer);  // stays where it is made
  if (!stay_on(std::atoi(argv[1]))) std::exit(1);
  std::chrono::steady_clock::time_point start;
  for (int turn = 1; turn <= kTurns; ++turn) {
    if (turn == 2) start = std::chrono::steady_clock::now();  // by now the other is there
    there.store(turn, std::memory_order_release);
    wait_for(back, turn);
  }
  const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - start;
  other.join();
  std::printf("%.0f\n", took.count() / (kTurns - 1) / 2);
}
