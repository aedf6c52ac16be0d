// Pages of generated code: written first, then made executable, never both (W^X).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace rsk {

class CodePages {
 public:
  // A copy of `code`, executable; `valid()` is false where the platform forbids that.
  explicit CodePages(std::span<const uint8_t> code);
  ~CodePages();
  CodePages(const CodePages&) = delete;
  CodePages& operator=(const CodePages&) = delete;

  bool valid() const { return data_ != nullptr; }
  const uint8_t* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  uint8_t *mapping_ = nullptr, *data_ = nullptr;
  size_t mapped_ = 0, bytes_ = 0;
};

}  // namespace rsk
