// Zeroed, page-aligned memory for arenas, scratch and streams of weights; large blocks ask for huge pages.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

namespace rsk {

// A handle: copies are the same memory, which the last one gives back.
class Memory {
 public:
  Memory() = default;
  explicit Memory(size_t bytes) : bytes_(bytes), own_bytes_(bytes) {
    if (bytes == 0) return;
    const size_t mapped = bytes < kHugePage ? bytes : bytes + 2 * kHugePage;
    void* mapping = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping == MAP_FAILED) throw std::bad_alloc();
    mapping_ = std::shared_ptr<void>(mapping, [mapped](void* start) { munmap(start, mapped); });
    data_ = mapping;
#ifdef MADV_HUGEPAGE
    if (bytes < kHugePage) return;
    data_ = static_cast<char*>(mapping) + -reinterpret_cast<uintptr_t>(mapping) % kHugePage;
    madvise(data_, (bytes + kHugePage / 2) / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
  }

  float* floats() const { return static_cast<float*>(data_); }
  const void* data() const { return data_; }
  size_t bytes() const { return bytes_; }

  size_t own_bytes() const { return own_bytes_; }  // 0 where another handle counts them
  Memory lent() const {
    Memory other = *this;
    other.own_bytes_ = 0;
    return other;
  }

 private:
  // A stream over small pages waits for their translations: 512@7², 2 of 9, weights from memory: 48 % of the peak, and 50 on huge pages.
  static constexpr size_t kHugePage = size_t{1} << 21;
  std::shared_ptr<void> mapping_;
  void* data_ = nullptr;
  size_t bytes_ = 0, own_bytes_ = 0;
};

// Whether this process may write code and then run it. Some systems forbid that to some processes.
inline bool may_generate_code() {
  constexpr size_t kBytes = 64;
  void* pages = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED) return false;
  *static_cast<volatile char*>(pages) = 0;
  const bool may = mprotect(pages, kBytes, PROT_READ | PROT_EXEC) == 0;
  munmap(pages, kBytes);
  return may;
}

}  // namespace rsk
