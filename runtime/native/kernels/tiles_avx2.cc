// AMD EPYC, family 26 (Zen 5), 4.05 GHz: two 256-bit FMAs and two 256-bit loads per cycle: 65 GMAC/s (benchmarks/native).
// Register tile of 12 sums: 6 filters × 2 ymm, one broadcast feeds two FMAs: 62 GMAC/s (64@32², dense).
#define RSK_TILES kTilesAvx2
#define RSK_WINOGRAD kWinogradAvx2
#define RSK_POOL kPoolAvx2
#define RSK_LANES 8
#define RSK_REGISTERS 16
#include "pool.inl"
#include "tiles.inl"
#include "winograd.inl"
