// What this machine can execute.
#pragma once

#include <cstdint>

namespace rsk {

enum class Isa : uint32_t { kPortable, kAvx2, kAvx512, kNeon };

const char* isa_name(Isa isa);
bool runs_here(Isa isa);

}  // namespace rsk
