// AMD EPYC, family 26 (Zen 5), 4.05 GHz: two 512-bit FMAs and two 512-bit loads per cycle, one where a load crosses a cache
// line: 130 GMAC/s (benchmarks/native). Register tiles of 28 sums: 28×1 takes 30 load slots for 28 FMAs, 14×2 takes 18: 86 and 98 %
// of the peak (64@32², dense; cross 82 and 96, periodic 70 and 94); 64@56²: 14×2 95, 9×3 95, 6×4 92.
#define RSK_TILES kTilesAvx512
#define RSK_WINOGRAD kWinogradAvx512
#define RSK_POOL kPoolAvx512
#define RSK_LANES 16
#define RSK_REGISTERS 32
#include "pool.inl"
#include "tiles.inl"
#include "winograd.inl"
