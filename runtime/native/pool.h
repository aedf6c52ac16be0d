// A pool of threads that runs numbered tasks. The pieces depend on the counts alone. Each thread begins with its own range of
// them, the same in every run, so that it finds in its cache what it wrote last; then it helps the others: a thread that the
// system keeps away holds nobody up.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <type_traits>
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
  // A task that takes a third argument is told the number of its thread, below threads(). The first exception that pieces throw is
  // thrown here once all are done.
  // `nanoseconds`: roughly what everything costs one thread; what is not worth waking another, and a run that finds the pool
  // busy with another run, stays on the caller's thread.
  template <class Task>
  void share(size_t count, double nanoseconds, const Task& task) {
    const Call call = [](const void* self, size_t first, size_t last, uint32_t lane) {
      if constexpr (std::is_invocable_v<const Task&, size_t, size_t, uint32_t>) {
        (*static_cast<const Task*>(self))(first, last, lane);
      } else {
        (*static_cast<const Task*>(self))(first, last);
      }
    };
    nanoseconds < kWorthSharing ? call(&task, 0, count, 0) : run(count, call, &task);
  }

 private:
  static constexpr double kWorthSharing = 10'000;
  using Call = void (*)(const void* task, size_t first, size_t last, uint32_t lane);
  void run(size_t count, Call call, const void* task);
  void work(uint32_t lane);
  void stop();
  void help(uint32_t lane);
  uint32_t end_of(uint32_t lane) const { return static_cast<uint32_t>(uint64_t{pieces_} * (lane + 1) / threads()); }

  std::vector<std::thread> workers_;
  std::mutex busy_;
  std::atomic<uint32_t> generation_{0};
  std::vector<std::atomic<uint32_t>> unclaimed_;  // of each thread's range
  std::atomic<uint32_t> unfinished_{0};
  std::atomic<bool> stop_{false}, failed_{false};
  std::exception_ptr failure_;
  Call call_ = nullptr;
  const void* task_ = nullptr;
  size_t count_ = 0;
  uint32_t pieces_ = 0;
  int process_;
};

}  // namespace rsk
