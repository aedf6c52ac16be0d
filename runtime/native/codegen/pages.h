// Pages of generated code: written first, then made executable, never both (W^X).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace rsk {

// A handle: copies are the same pages, which the last one gives back.
class CodePages {
 public:
  // A copy of `code`, executable; `valid()` is false where the platform forbids that.
  explicit CodePages(std::span<const uint8_t> code);

  bool valid() const { return data_ != nullptr; }
  const uint8_t* data() const { return data_; }
  size_t bytes() const { return bytes_; }

  size_t own_bytes() const { return own_bytes_; }  // 0 where another handle counts them
  CodePages lent() const {
    CodePages other = *this;
    other.own_bytes_ = 0;
    return other;
  }

 private:
  std::shared_ptr<void> mapping_;
  uint8_t* data_ = nullptr;
  size_t bytes_ = 0, own_bytes_ = 0;
};

}  // namespace rsk
