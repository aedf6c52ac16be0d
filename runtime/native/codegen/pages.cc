#include "pages.h"

#include <sys/mman.h>

#include <cstring>

namespace rsk {

namespace {

constexpr size_t kHugePage = size_t{1} << 21;

}  // namespace

CodePages::CodePages(std::span<const uint8_t> code) {
  if (code.empty()) return;
  void* pages = mmap(nullptr, code.size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED) return;
#ifdef MADV_HUGEPAGE
  if (code.size() >= kHugePage) madvise(pages, code.size(), MADV_HUGEPAGE);
#endif
  std::memcpy(pages, code.data(), code.size());
  if (mprotect(pages, code.size(), PROT_READ | PROT_EXEC) != 0) {
    munmap(pages, code.size());
    return;
  }
  __builtin___clear_cache(static_cast<char*>(pages), static_cast<char*>(pages) + code.size());
  data_ = static_cast<uint8_t*>(pages);
  bytes_ = code.size();
}

CodePages::~CodePages() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

}  // namespace rsk
