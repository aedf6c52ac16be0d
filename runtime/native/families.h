// The convolution kernels of this build: kernels/kernels.def as a table, best first, the portable one last.
#pragma once

#include <span>
#include <string>

#include "conv.h"
#include "cpu.h"

namespace rsk {

struct WinogradTiles;

struct Family {
  const char* name;  // "avx512/unrolled"
  Isa isa;
  MakeKernel make;                          // null for Winograd
  const WinogradTiles* winograd = nullptr;  // what it has instead
};

std::span<const Family> families();
Isa isa_of(const std::string& name);  // of the family

// The family that a plan names. Throws Refusal if this build lacks it or this machine cannot run it.
const Family& family_named(const std::string& name);

// The kernel of the family called `name`, or, unless `exact`, of the best one below it that takes the layer.
std::unique_ptr<ConvKernel> make_kernel(const std::string& name, bool exact, ConvRequest request);

}  // namespace rsk
