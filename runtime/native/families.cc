#include "families.h"

#include <algorithm>
#include <array>

#include "kernels/winograd_tiles.h"
#include "ops/portable.h"
#include "refusal.h"

namespace rsk {

#define KERNEL(name, isa, make) std::unique_ptr<ConvKernel> make(const ConvRequest& request);
#define WINOGRAD(name, isa, tiles)
#include "kernels/kernels.def"
#undef KERNEL
#undef WINOGRAD

namespace {

constexpr Family kFamilies[] = {
#define KERNEL(name, isa, make) {name, isa, make},
#define WINOGRAD(name, isa, tiles) {name, isa, nullptr, &tiles},
#include "kernels/kernels.def"
#undef KERNEL
#undef WINOGRAD
    {"portable", Isa::kPortable, make_portable},
};

}  // namespace

std::span<const Family> families() { return kFamilies; }

Isa isa_of(const std::string& name) {
  const auto named = std::find_if(std::begin(kFamilies), std::end(kFamilies), [&](const Family& family) { return name == family.name; });
  return named == std::end(kFamilies) ? Isa::kPortable : named->isa;
}

const Family& family_named(const std::string& name) {
  const auto named = std::find_if(std::begin(kFamilies), std::end(kFamilies), [&](const Family& family) { return name == family.name; });
  if (named == std::end(kFamilies)) throw Refusal{RSK_UNSUPPORTED, "the plan names the kernel '" + name + "', which this build does not have"};
  if (!runs_here(named->isa)) throw Refusal{RSK_UNSUPPORTED, "the plan is for another machine: the kernel '" + name + "' needs " + isa_name(named->isa)};
  return *named;
}

std::unique_ptr<ConvKernel> make_kernel(const std::string& name, bool exact, ConvRequest request) {
  const char* refusal = "it says not why";
  request.refusal = &refusal;
  for (auto family = &family_named(name); family != std::end(kFamilies); ++family) {
    if (!runs_here(family->isa) || family->make == nullptr) continue;
    if (auto kernel = family->make(request)) return kernel;
    if (exact) break;
  }
  throw Refusal{RSK_UNSUPPORTED, "the kernel '" + name + "' cannot do this layer: " + refusal};
}

}  // namespace rsk
