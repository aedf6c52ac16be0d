#include "pack.h"

#include "tiles.h"

namespace rsk {

void pack_portable(const PackedLanes& pick, const PackedTap* taps, size_t tap_count, const float* from, ptrdiff_t from_step, float* to, ptrdiff_t to_step,
                   size_t count) {
  for (const PackedTap* tap = taps; tap != taps + tap_count; ++tap) {
    const float* source = from + tap->from;
    float* target = to + tap->to;
    for (size_t channel = 0; channel < count; ++channel, source += from_step, target += to_step) {
      for (size_t lane = 0; lane < pick.index.size(); ++lane) {
        if ((tap->lanes >> lane & 1) != 0) {
          target[lane] = source[(pick.index[lane] - tap->moved) & (kWindow - 1)];
        } else if (!pick.add) {
          target[lane] = 0;
        }
      }
    }
  }
}

Pack pack_of(Isa isa) {
  switch (isa) {
#if defined(__x86_64__)
    case Isa::kAvx512:
      return kTilesAvx512.pack;
    case Isa::kAvx2:
      return kTilesAvx2.pack;
#endif
    default:
      return pack_portable;
  }
}

}  // namespace rsk
