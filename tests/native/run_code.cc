// Runs generated code that came from another machine, mapped as it is in its file.
//   run_code FOLDER…     reads code, weights, x, residual and index, writes out[filter][16·vectors]
// The index, 64 bits each: vectors of a call, of the tile, where x[0] is, filters, whether the code finishes, the positions to
// keep; then for each block how many filters and pieces it has, its filters, and of each piece its entry and first weight.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "codegen/unrolled.h"

namespace {

using rsk::UnrolledCall;
using Piece = void (*)(const float* weights, const float* x, float* sums, const UnrolledCall* to);

#if defined(__aarch64__)
// Calls the piece; false where it does not give the registers d8 to d15 back as they were.
bool call(Piece piece, const float* weights, const float* x, float* sums, const UnrolledCall* to) {
  double before[8] = {1, 2, 3, 4, 5, 6, 7, 8}, after[8] = {};
  register const float* x0 asm("x0") = weights;
  register const float* x1 asm("x1") = x;
  register float* x2 asm("x2") = sums;
  register const UnrolledCall* x3 asm("x3") = to;
  asm volatile(
      "ldp d8, d9, [%[before]]; ldp d10, d11, [%[before], #16]; ldp d12, d13, [%[before], #32]; ldp d14, d15, [%[before], #48]; blr %[piece];"
      "stp d8, d9, [%[after]]; stp d10, d11, [%[after], #16]; stp d12, d13, [%[after], #32]; stp d14, d15, [%[after], #48]"
      : "+r"(x0), "+r"(x1), "+r"(x2), "+r"(x3)
      : [piece] "r"(piece), [before] "r"(before), [after] "r"(after)
      : "memory", "cc", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15", "x16", "x17", "x18", "x30", "v0", "v1", "v2", "v3", "v4",
        "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12", "v13", "v14", "v15", "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v24", "v25", "v26",
        "v27", "v28", "v29", "v30", "v31");
  return std::equal(before, before + 8, after);
}
#else
bool call(Piece piece, const float* weights, const float* x, float* sums, const UnrolledCall* to) { return piece(weights, x, sums, to), true; }
#endif

template <class Value>
std::vector<Value> read(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  const std::vector<char> bytes(std::istreambuf_iterator<char>(stream), {});
  std::vector<Value> values(bytes.size() / sizeof(Value));
  std::copy_n(bytes.begin(), values.size() * sizeof(Value), reinterpret_cast<char*>(values.data()));
  return values;
}

bool run(const std::string& folder) {
  const auto weights = read<float>(folder + "/weights"), x = read<float>(folder + "/x"), residual = read<float>(folder + "/residual");
  const auto index = read<uint64_t>(folder + "/index");
  const int handle = open((folder + "/code").c_str(), O_RDONLY);
  const auto bytes = static_cast<size_t>(lseek(handle, 0, SEEK_END));
  void* code = mmap(nullptr, bytes, PROT_READ | PROT_EXEC, MAP_PRIVATE, handle, 0);
  close(handle);
  if (index.size() < 6 || code == MAP_FAILED) return false;
  const size_t width = 16 * index[0], tile = 16 * index[1];
  std::vector<float> out(index[3] * tile);
  bool sound = true;
  for (const uint64_t* at = index.data() + 6; at != index.data() + index.size();) {
    const uint64_t filters = *at++, pieces = *at++;
    const uint64_t* entries = at + filters;
    for (size_t first = 0; first < tile; first += width) {
      alignas(64) float sums[1024];
      const size_t place = at[0] * tile + first;
      UnrolledCall to;
      to.out = out.data() + place, to.stride = 4 * tile, to.residual = residual.data() + place, to.residual_stride = 4 * tile;
      to.keep = index[5] >> first;
      for (uint64_t piece = 0; piece < pieces; ++piece) {
        const auto function = std::bit_cast<Piece>(static_cast<const char*>(code) + entries[2 * piece]);
        sound = call(function, weights.data() + entries[2 * piece + 1], x.data() + index[2] + first, sums, &to) && sound;
      }
      for (uint64_t i = 0; i < filters && index[4] == 0; ++i) std::copy_n(sums + i * width, width, out.data() + at[i] * tile + first);
    }
    at = entries + 2 * pieces;
  }
  munmap(code, bytes);
  std::ofstream(folder + "/out", std::ios::binary).write(reinterpret_cast<const char*>(out.data()), static_cast<std::streamsize>(4 * out.size()));
  return sound;
}

}  // namespace

int main(int count, char** arguments) {
  for (int i = 1; i < count; ++i) {
    if (!run(arguments[i])) return std::printf("%s: the code cannot be read, or changes registers that it must keep\n", arguments[i]), 1;
  }
  return 0;
}
