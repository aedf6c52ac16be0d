/* What every kernel uses: places in a panel, and a vector of floats as wide as the target's registers. */
#ifndef RSK_BASE_H
#define RSK_BASE_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__)
#define RSK_FUNCTION static __attribute__((unused, noinline))
#else
#define RSK_FUNCTION static
#endif

#if defined(RSK_WIDE_PLACES)
typedef uint32_t rsk_place;
#else
typedef uint16_t rsk_place;
#endif

/* RSK_TILE vectors are summed at once for one filter, RSK_SHARED_TILE for each of four that share their taps: what the registers hold. */
#if defined(__GNUC__) && defined(__AVX512F__)
#define RSK_LANES 8 /* not 16: the taps' loads straddle cache lines, at 512 bits every one of them (measured 1.2 times slower at 2 to 4 of 9) */
#define RSK_SHARED_TILE 6
#elif defined(__GNUC__) && defined(__AVX__)
#define RSK_LANES 8
#define RSK_SHARED_TILE 3
#elif defined(__GNUC__) && defined(__SSE2__)
#define RSK_LANES 4
#define RSK_SHARED_TILE 2
#elif defined(__GNUC__) && defined(__aarch64__)
#define RSK_LANES 4
#define RSK_SHARED_TILE 5
#elif defined(__GNUC__) && defined(__ARM_FEATURE_MVE) && (__ARM_FEATURE_MVE & 2)
#define RSK_LANES 4
#define RSK_SHARED_TILE 1
#else
#define RSK_LANES 1
#define RSK_SHARED_TILE 4
#endif
#define RSK_TILE 8

#if RSK_LANES > 1
typedef float rsk_vector __attribute__((vector_size(4 * RSK_LANES)));
typedef float rsk_unaligned __attribute__((vector_size(4 * RSK_LANES), aligned(4), may_alias));
#define RSK_LOAD(from) (*(const rsk_unaligned*)(from))
#define RSK_STORE(to, vector) (*(rsk_unaligned*)(to) = (vector))
#define RSK_SPLAT(value) ((value) - (rsk_vector){0})
#else
typedef float rsk_vector;
#define RSK_LOAD(from) (*(from))
#define RSK_STORE(to, vector) (*(to) = (vector))
#define RSK_SPLAT(value) (value)
#endif

#endif
