#include "peak.h"

#include <algorithm>
#include <chrono>
#include <cstdio>

namespace {

alignas(64) float memory[1024];

// Twice twelve copies of an instruction with a register each; %0 counts, %1 points at `memory`.
#define REPEAT(x) x(0) x(1) x(2) x(3) x(4) x(5) x(6) x(7) x(8) x(9) x(10) x(11)
#define LOOP(name, body)                                                                                                          \
  double name(int attempts = 100) {                                                                                               \
    constexpr long kLoops = 30'000;                                                                                               \
    double best = 1e9;                                                                                                            \
    for (int attempt = 0; attempt < attempts; ++attempt) {                                                                        \
      const auto start = std::chrono::steady_clock::now();                                                                        \
      long loops = kLoops;                                                                                                        \
      asm volatile("1: " REPEAT(body) REPEAT(body) "dec %0; jnz 1b"                                                               \
                   : "+r"(loops)                                                                                                  \
                   : "r"(memory)                                                                                                  \
                   : "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11"); \
      best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());                     \
    }                                                                                                                             \
    return 24.0 * kLoops / best / 1e9;                                                                                            \
  }

#define FMA512(i) "vfmadd231ps %%zmm" #i ",%%zmm" #i ",%%zmm" #i "\n"
#define FMA512_BROADCAST(i) "vfmadd231ps " #i "*4(%1)%{1to16%},%%zmm" #i ",%%zmm" #i "\n"
#define LOAD512(i) "vmovups " #i "*64(%1),%%zmm" #i "\n"
#define LOAD512_SPLIT(i) "vmovups 4+" #i "*64(%1),%%zmm" #i "\n"
#define FMA512_CROWDED(i) FMA512_BROADCAST(i) "nop\n nop\n"
#define FMA256(i) "vfmadd231ps %%ymm" #i ",%%ymm" #i ",%%ymm" #i "\n"
#define FMA256_CROWDED(i) "vfmadd231ps " #i "*32(%1),%%ymm" #i ",%%ymm" #i "\n nop\n nop\n"
#define LOAD256(i) "vmovups " #i "*32(%1),%%ymm" #i "\n"
#define LOAD256_SPLIT(i) "vmovups 4+" #i "*32(%1),%%ymm" #i "\n"

LOOP(fma512, FMA512)
LOOP(fma512_broadcast, FMA512_BROADCAST)
LOOP(fma512_crowded, FMA512_CROWDED)
LOOP(load512, LOAD512)
LOOP(load512_split, LOAD512_SPLIT)
LOOP(fma256, FMA256)
LOOP(fma256_crowded, FMA256_CROWDED)
LOOP(load256, LOAD256)
LOOP(load256_split, LOAD256_SPLIT)

double print(const char* name, int floats, double fma, double broadcast, double load, double split) {
  std::printf("%s, 10⁹ per second: multiply-adds %.2f, with a weight from memory %.2f, loads %.2f, loads across cache lines %.2f; peak %.1f GMAC/s\n", name,
              fma, broadcast, load, split, fma * floats);
  return fma * floats;
}

}  // namespace

double print_peak_avx512() { return print("512 bits", 16, fma512(), fma512_broadcast(), load512(), load512_split()); }
double print_peak_avx2() { return print("256 bits", 8, fma256(), 0, load256(), load256_split()); }

Moment moment_avx512() { return {16 * fma512(1), fma512_crowded(1)}; }
Moment moment_avx2() { return {8 * fma256(1), fma256_crowded(1)}; }
