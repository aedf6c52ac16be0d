// The convolution kernels of this build: kernels.def as a table, best first, the portable one last.
#pragma once

#include <span>
#include <string>

#include "conv.h"
#include "cpu.h"

namespace rsk {

struct WinogradTiles;

// What a kernel makes of a layer beside its rows. A plan prepares no more.
constexpr uint32_t kHeedsRows = 0;
constexpr uint32_t kHeedsReach = 1;  // the request's: what is padding to all tiles costs nothing
constexpr uint32_t kHeedsSides = 2;  // the request's: planes need no zeros between rows
constexpr uint32_t kShiftsTaps = 4;  // out of aligned loads: a panel has one copy of the input for all taps of a column

struct Family {
  const char* name;  // "avx512/unrolled"
  Isa isa;
  MakeKernel make;  // null for Winograd
  uint32_t traits;
  const WinogradTiles* winograd = nullptr;  // what it has instead

  bool has(uint32_t trait) const { return (traits & trait) != 0; }
};

std::span<const Family> families();
Isa isa_of(const std::string& name);  // of the family

// The family that a plan names. Throws Refusal if this build lacks it or this machine cannot run it.
const Family& family_named(const std::string& name);

// The kernel of the family, or, unless `exact`, of the best one below it that takes the layer.
std::unique_ptr<ConvKernel> make_kernel(const Family& family, bool exact, ConvRequest request);

}  // namespace rsk
