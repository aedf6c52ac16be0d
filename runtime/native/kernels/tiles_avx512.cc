// AMD EPYC, family 26 (Zen 5), 4.05 GHz: two 512-bit FMAs and two 512-bit loads per cycle, one where a load crosses a cache
// line: 130 GMAC/s (benchmarks/native). Register tiles of 28 sums: 28×1 takes 30 load slots for 28 FMAs, 14×2 takes 18:
// 108 and 124 GMAC/s (64@56², dense), 9×3 124, 6×4 121.
#define RSK_TILES kTilesAvx512
#define RSK_LANES 16
#include "tiles.inl"
