// The step of the Winograd family, which takes whole planes instead of tiles.
#pragma once

#include "kernels/families.h"
#include "step.h"

namespace rsk {

StepPointer make_winograd(const Plan& plan, const StepRecord& record, const Family& family);

}  // namespace rsk
