#include "families.h"

#include <algorithm>
#include <array>

#include "ops/portable.h"
#include "refusal.h"

namespace rsk {

#define KERNEL(name, isa, make) std::unique_ptr<ConvKernel> make(const ConvRequest& request);
#include "kernels/kernels.def"
#undef KERNEL

namespace {

constexpr Family kFamilies[] = {
#define KERNEL(name, isa, make) {name, isa, make},
#include "kernels/kernels.def"
#undef KERNEL
    {"portable", Isa::kPortable, make_portable},
};

}  // namespace

std::span<const Family> families() { return kFamilies; }

std::unique_ptr<ConvKernel> make_kernel(const std::string& name, bool exact, ConvRequest request) {
  const char* refusal = "it says not why";
  request.refusal = &refusal;
  const auto named = std::find_if(std::begin(kFamilies), std::end(kFamilies), [&](const Family& family) { return name == family.name; });
  if (named == std::end(kFamilies)) throw Refusal{RSK_UNSUPPORTED, "the plan names the kernel '" + name + "', which this build does not have"};
  if (!runs_here(named->isa)) throw Refusal{RSK_UNSUPPORTED, "the plan is for another machine: the kernel '" + name + "' needs " + isa_name(named->isa)};
  for (auto family = named; family != std::end(kFamilies); ++family) {
    if (!runs_here(family->isa)) continue;
    if (auto kernel = family->make(request)) return kernel;
    if (exact) break;
  }
  throw Refusal{RSK_UNSUPPORTED, "the kernel '" + name + "' cannot do this layer: " + refusal};
}

}  // namespace rsk
