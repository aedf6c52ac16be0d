#include "pool.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

namespace rsk {
namespace {

// Steps follow each other within microseconds: a worker looks for the next one this often before it sleeps.
constexpr int kSpins = 4000;
constexpr size_t kPieces = 2;  // a thread: late ones are helped; more pieces would read more of what they share again

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

template <class Value>
void wait_while(const std::atomic<Value>& atomic, Value old) {
  for (int spin = 0; spin < kSpins; ++spin) {
    if (atomic.load(std::memory_order_acquire) != old) return;
    pause();
  }
  atomic.wait(old, std::memory_order_acquire);
}

}  // namespace

Pool::Pool(uint32_t threads) : unclaimed_(threads), process_(getpid()) {
  workers_.reserve(threads - 1);
  try {
    for (uint32_t lane = 1; lane < threads; ++lane) workers_.emplace_back([this, lane] { work(lane); });
  } catch (...) {  // the system has no more threads
    stop();
    throw;
  }
}

Pool::~Pool() {
  if (getpid() != process_) {  // a fork has none of these threads; its own may have their names by now, so these are kept for ever
    new std::vector<std::thread>(std::move(workers_));
    return;
  }
  stop();
}

void Pool::stop() {
  stop_.store(true, std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  for (auto& worker : workers_) worker.join();
}

void Pool::run(size_t count, Call call, const void* task) {
  std::unique_lock lock(busy_, std::defer_lock);
  if (count <= 1 || workers_.empty() || !lock.try_lock()) {
    if (count > 0) call(task, 0, count, 0);
    return;
  }
  call_ = call;
  task_ = task;
  count_ = count;
  pieces_ = static_cast<uint32_t>(std::min(count, kPieces * threads()));
  unfinished_.store(pieces_, std::memory_order_relaxed);
  for (uint32_t lane = 0, begin = 0; lane < threads(); begin = end_of(lane++)) unclaimed_[lane].store(end_of(lane) - begin, std::memory_order_release);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  help(0);
  for (uint32_t left = unfinished_.load(std::memory_order_acquire); left != 0; left = unfinished_.load(std::memory_order_acquire)) {
    wait_while(unfinished_, left);
  }
  if (failed_.exchange(false, std::memory_order_relaxed)) std::rethrow_exception(std::exchange(failure_, nullptr));
}

// Whoever claims a piece may read the run's fields: the run is not over before the piece is done.
void Pool::help(uint32_t first) {
  const auto lanes = static_cast<uint32_t>(unclaimed_.size());
  for (uint32_t turn = 0; turn < lanes; ++turn) {
    const uint32_t lane = (first + turn) % lanes;
    uint32_t left = unclaimed_[lane].load(std::memory_order_acquire);
    while (left != 0) {
      if (!unclaimed_[lane].compare_exchange_weak(left, left - 1, std::memory_order_acq_rel, std::memory_order_acquire)) continue;
      const size_t piece = end_of(lane) - left;
      try {
        call_(task_, count_ * piece / pieces_, count_ * (piece + 1) / pieces_, first);
      } catch (...) {
        if (!failed_.exchange(true, std::memory_order_relaxed)) failure_ = std::current_exception();
      }
      if (unfinished_.fetch_sub(1, std::memory_order_acq_rel) == 1) unfinished_.notify_one();
      left = unclaimed_[lane].load(std::memory_order_acquire);
    }
  }
}

void Pool::work(uint32_t lane) {
  for (uint32_t seen = 0;;) {
    wait_while(generation_, seen);
    seen = generation_.load(std::memory_order_acquire);
    if (stop_.load(std::memory_order_relaxed)) return;
    help(lane);
  }
}

}  // namespace rsk
