// The convolution kernels of this build: kernels/kernels.def as a table, best first, the portable one last.
#pragma once

#include <span>
#include <string>

#include "conv.h"
#include "cpu.h"

namespace rsk {

struct Family {
  const char* name;  // "avx512/unrolled"
  Isa isa;
  MakeKernel make;
};

std::span<const Family> families();

// The kernel of the family called `name`, or, unless `exact`, of the best one below it that takes the layer.
std::unique_ptr<ConvKernel> make_kernel(const std::string& name, bool exact, ConvRequest request);

}  // namespace rsk
