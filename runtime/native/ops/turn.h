// A copy that changes which axis is the innermost one.
#pragma once

#include "step.h"

namespace rsk {

// For views of one shape; null where they have the same innermost axis.
StepPointer make_turn(const Tensor& x, const Tensor& out);

}  // namespace rsk
