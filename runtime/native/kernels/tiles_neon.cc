// Register tile of 12 filters × 2 q: three loads of weights and two of the input for 24 multiply-adds. llvm-mca 22
// (benchmarks/mca.py): 90, 95 and 97 % of what Neoverse N1, V1 and Apple M1 can do; 6 × 4 84, 95 and 97; 14 × 2 92, 96 and 97 with
// gcc 12, but clang 14 spills (34, 35 and 36).
#define RSK_TILES kTilesNeon
#define RSK_WINOGRAD kWinogradNeon
#define RSK_POOL kPoolNeon
#define RSK_LANES 4
#define RSK_REGISTERS 32
#include "pool.inl"
#include "tiles.inl"
#include "winograd.inl"
