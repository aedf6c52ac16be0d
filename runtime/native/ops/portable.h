// The obvious convolution kernel: every machine has it, and every other kernel is held against it.
#pragma once

#include "conv.h"

namespace rsk {

std::unique_ptr<ConvKernel> make_portable(const ConvRequest& request);

}  // namespace rsk
