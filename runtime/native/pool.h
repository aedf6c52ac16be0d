// A pool of threads that runs numbered tasks. The pieces depend on the counts alone, who does which on who is free: a thread
// that the system keeps away holds nobody up, and the sums are the same.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace rsk {

class Pool {
 public:
  explicit Pool(uint32_t threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  uint32_t threads() const { return static_cast<uint32_t>(workers_.size()) + 1; }

  // Calls task(first, last) on pieces of [0, count), the caller's thread included, and returns when all are done.
  // `task` does not throw. `nanoseconds`: roughly what everything costs one thread; what is not worth waking another, and a
  // run that finds the pool busy with another run, stays on the caller's thread.
  template <class Task>
  void share(size_t count, double nanoseconds, const Task& task) {
    if (nanoseconds < kWorthSharing) return task(0, count);
    run(count, [](const void* self, size_t first, size_t last) { (*static_cast<const Task*>(self))(first, last); }, &task);
  }

 private:
  static constexpr double kWorthSharing = 10'000;
  using Call = void (*)(const void* task, size_t first, size_t last);
  void run(size_t count, Call call, const void* task);
  void work();
  void help();

  std::vector<std::thread> workers_;
  std::mutex busy_;
  std::atomic<uint32_t> generation_{0};
  std::atomic<uint32_t> unclaimed_{0};
  std::atomic<uint32_t> unfinished_{0};
  std::atomic<bool> stop_{false};
  Call call_ = nullptr;
  const void* task_ = nullptr;
  size_t count_ = 0;
  uint32_t pieces_ = 0;
  int process_;
};

}  // namespace rsk
