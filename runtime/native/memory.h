// Zeroed, page-aligned memory for arenas, scratch and streams of weights; large blocks ask for huge pages.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>

namespace rsk {

class Memory {
 public:
  Memory() = default;
  explicit Memory(size_t bytes) : bytes_(bytes), mapped_(bytes < kHugePage ? bytes : bytes + 2 * kHugePage) {
    if (bytes == 0) return;
    mapping_ = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping_ == MAP_FAILED) throw std::bad_alloc();
    data_ = mapping_;
#ifdef MADV_HUGEPAGE
    if (bytes < kHugePage) return;
    data_ = static_cast<char*>(mapping_) + -reinterpret_cast<uintptr_t>(mapping_) % kHugePage;
    madvise(data_, (bytes + kHugePage / 2) / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
  }
  Memory(Memory&& other) noexcept { *this = std::move(other); }
  Memory& operator=(Memory&& other) noexcept {
    std::swap(mapping_, other.mapping_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(mapped_, other.mapped_);
    return *this;
  }
  ~Memory() {
    if (mapping_ != nullptr) munmap(mapping_, mapped_);
  }

  float* floats() const { return static_cast<float*>(data_); }
  size_t bytes() const { return bytes_; }

 private:
  // A stream over small pages waits for their translations: 512@7², 2 of 9, weights from memory: 48 % of the peak, and 50 on huge pages.
  static constexpr size_t kHugePage = size_t{1} << 21;
  void *mapping_ = nullptr, *data_ = nullptr;
  size_t bytes_ = 0, mapped_ = 0;
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
