// What the kernels share while a layer is made ready.
#pragma once

#include <cstdint>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "conv.h"
#include "memory.h"

namespace rsk {

inline std::unique_ptr<ConvKernel> refuse(const ConvRequest& request, const char* reason) {
  if (request.refusal != nullptr) *request.refusal = reason;
  return nullptr;
}

// The epilogue with its own copy of the bias.
class OwnedEpilogue {
 public:
  OwnedEpilogue(const Epilogue& epilogue, uint32_t filters) : epilogue_(epilogue) {
    if (epilogue.bias != nullptr) bias_.assign(epilogue.bias, epilogue.bias + filters);
    epilogue_.bias = bias_.empty() ? nullptr : bias_.data();
  }
  OwnedEpilogue(const OwnedEpilogue&) = delete;
  OwnedEpilogue& operator=(const OwnedEpilogue&) = delete;
  const Epilogue& get() const { return epilogue_; }

 private:
  Epilogue epilogue_;
  std::vector<float> bias_;
};

// Block `number` of `blocks` nearly equal ones over `count` things: first and one past the last.
inline std::pair<uint32_t, uint32_t> share_of(uint32_t count, uint32_t blocks, uint32_t number) {
  const auto edge = [&](uint64_t at) { return static_cast<uint32_t>(at * count / blocks); };
  return {edge(number), edge(number + 1)};
}

// Asks for memory that is read soon.
inline void fetch_lines(const void* from, size_t bytes) {
  constexpr size_t kLine = 64;
  for (size_t at = 0; at < bytes; at += kLine) __builtin_prefetch(static_cast<const char*>(from) + at, 0, 2);
}

// Sub-tile `part` of `width` vectors.
inline Tile part_of(const Tile& tile, uint32_t part, uint32_t width) {
  const size_t at = size_t{16} * part * width;
  Tile result = tile;
  result.x += at;
  result.out += at;
  if (result.residual != nullptr) result.residual += at;
  result.keep >>= at;
  for (uint64_t& inside : result.inside) inside >>= at;
  return result;
}

}  // namespace rsk
