// Zeroed, page-aligned memory for arenas, scratch and streams of weights; large blocks ask for huge pages.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <new>
#include <utility>

namespace rsk {

class Memory {
 public:
  Memory() = default;
  explicit Memory(size_t bytes) : bytes_(bytes) {
    if (bytes == 0) return;
    void* pages = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED) throw std::bad_alloc();
    data_ = pages;
#ifdef MADV_HUGEPAGE
    if (bytes >= kHugePage) madvise(pages, bytes, MADV_HUGEPAGE);
#endif
  }
  Memory(Memory&& other) noexcept : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Memory& operator=(Memory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Memory() {
    if (data_ != nullptr) munmap(data_, bytes_);
  }

  float* floats() const { return static_cast<float*>(data_); }
  size_t bytes() const { return bytes_; }

 private:
  static constexpr size_t kHugePage = size_t{1} << 21;
  void* data_ = nullptr;
  size_t bytes_ = 0;
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
