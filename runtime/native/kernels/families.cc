#include "families.h"

#include <algorithm>

#include "refusal.h"
#include "winograd_tiles.h"

namespace rsk {

#define KERNEL(name, isa, make, traits) std::unique_ptr<ConvKernel> make(const ConvRequest& request);
#define WINOGRAD(name, isa, tiles)
#include "kernels.def"
#undef KERNEL
#undef WINOGRAD

namespace {

constexpr Family kFamilies[] = {
#define KERNEL(name, isa, make, traits) {name, isa, make, traits},
#define WINOGRAD(name, isa, tiles) {name, isa, nullptr, kHeedsRows, &tiles},
#include "kernels.def"
#undef KERNEL
#undef WINOGRAD
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

std::unique_ptr<ConvKernel> make_kernel(const Family& first, bool exact, ConvRequest request) {
  const char* refusal = "it says not why";
  request.refusal = &refusal;
  for (const Family* family = &first; family != std::end(kFamilies); ++family) {
    if (!runs_here(family->isa) || family->make == nullptr) continue;
    if (auto kernel = family->make(request)) return kernel;
    if (exact) break;
  }
  throw Refusal{RSK_UNSUPPORTED, "the kernel '" + std::string(first.name) + "' cannot do this layer: " + refusal};
}

}  // namespace rsk
