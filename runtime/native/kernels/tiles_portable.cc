// Plain C++ for any machine: vectors of four floats, which every compiler takes apart where there are none.
#define RSK_TILES kTilesPortable
#define RSK_WINOGRAD kWinogradPortable
#define RSK_POOL kPoolPortable
#define RSK_LANES 4
#define RSK_REGISTERS 16
#include "pool.inl"
#include "tiles.inl"
#include "winograd.inl"
