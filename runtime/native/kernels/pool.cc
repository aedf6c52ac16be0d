#include "pool.h"

#include "cpu.h"

namespace rsk {

const PoolLoops& pool_loops() {
#if defined(__x86_64__)
  if (runs_here(Isa::kAvx512)) return kPoolAvx512;
  if (runs_here(Isa::kAvx2)) return kPoolAvx2;
#elif defined(__aarch64__)
  if (runs_here(Isa::kNeon)) return kPoolNeon;
#endif
  return kPoolPortable;
}

}  // namespace rsk
