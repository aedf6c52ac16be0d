// Floats that end where the readable memory ends.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>

namespace rsk {

// Code that reads too far faults, which no sanitizer would see.
class GuardedFloats {
 public:
  explicit GuardedFloats(size_t count) : count_(count) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE)), room = (count * sizeof(float) + page - 1) / page * page;
    bytes_ = room + page;
    pages_ = static_cast<char*>(mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (pages_ == MAP_FAILED || mprotect(pages_ + room, page, PROT_NONE) != 0) std::abort();
    data_ = reinterpret_cast<float*>(pages_ + room) - count;
  }
  ~GuardedFloats() { munmap(pages_, bytes_); }
  GuardedFloats(const GuardedFloats&) = delete;
  GuardedFloats& operator=(const GuardedFloats&) = delete;
  float* data() const { return data_; }
  float* begin() const { return data_; }
  float* end() const { return data_ + count_; }

 private:
  size_t count_, bytes_ = 0;
  char* pages_ = nullptr;
  float* data_ = nullptr;
};

}  // namespace rsk
