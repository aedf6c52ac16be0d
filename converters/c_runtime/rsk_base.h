/* What every kernel uses: places in a panel, and a vector of floats as wide as the target's registers. */
#ifndef RSK_BASE_H
#define RSK_BASE_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__)
#define RSK_FUNCTION static __attribute__((unused, noinline))
#define RSK_UNKNOWN(value) __asm__("" : "+r"(value)); /* a loop of few turns is not to be written out for them, or to become a call */
#else
#define RSK_FUNCTION static
#define RSK_UNKNOWN(value)
#endif

#if defined(__ARM_FEATURE_MVE)
#include <arm_mve.h>
#define RSK_HELIUM __ARM_FEATURE_MVE /* 1: integers, 3: floats too */
#elif defined(__ARM_FEATURE_SIMD32) && !defined(__ARM_NEON)
#include <arm_acle.h>
#define RSK_HELIUM 0
#define RSK_DSP 1 /* products of two halves of a register */
#else
#define RSK_HELIUM 0
#endif

#if defined(RSK_WIDE_PLACES)
typedef uint32_t rsk_place;
#else
typedef uint16_t rsk_place;
#endif

/* RSK_TILE vectors are summed at once for one filter, RSK_SHARED_TILE for each of four that share their taps: what the registers hold. */
#if defined(RSK_LANES) /* given, RSK_SHARED_TILE too */
#elif defined(__GNUC__) && defined(__AVX512F__)
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
#elif RSK_HELIUM & 2
#define RSK_LANES 4
#define RSK_SHARED_TILE 1
#define RSK_TILE 4
#else
#define RSK_LANES 1
#define RSK_SHARED_TILE 4
#endif
#if !defined(RSK_TILE)
#define RSK_TILE 8
#endif

#if RSK_LANES > 1
typedef float rsk_vector __attribute__((vector_size(4 * RSK_LANES)));
typedef float rsk_unaligned __attribute__((vector_size(4 * RSK_LANES), aligned(4), may_alias));
#define RSK_LOAD(from) (*(const rsk_unaligned*)(from))
#define RSK_STORE(to, vector) (*(rsk_unaligned*)(to) = (vector))
#define RSK_SPLAT(value) ((value) - (rsk_vector){0})
typedef int32_t rsk_flags __attribute__((vector_size(4 * RSK_LANES)));

/* x < low ? low : x */
static inline rsk_vector rsk_at_least(rsk_vector low, rsk_vector x) {
#if RSK_LANES == 4 && defined(__SSE2__)
  return __builtin_ia32_maxps(low, x); /* of two that are equal or unordered the second */
#elif RSK_LANES == 8 && defined(__AVX__)
  return __builtin_ia32_maxps256(low, x);
#else
  const rsk_flags below = (rsk_flags)(x < low);
  return (rsk_vector)(((rsk_flags)low & below) | ((rsk_flags)x & ~below));
#endif
}
#else
typedef float rsk_vector;
#define RSK_LOAD(from) (*(from))
#define RSK_STORE(to, vector) (*(to) = (vector))
#define RSK_SPLAT(value) (value)
static inline float rsk_at_least(float low, float x) { return x < low ? low : x; }
#endif

/* Large matrices come from memory: the processor's own look ahead ends with each page (measured: 8 MB in 170 instead of 230 us). */
#if RSK_LANES > 1 && !RSK_HELIUM
#define RSK_PREFETCH(from) __builtin_prefetch(from);
#else
#define RSK_PREFETCH(from)
#endif
#define RSK_AHEAD 2048

/* A weight as RSK_PLUS takes it: sum + weight * what lies at `from`. gcc makes no fused product of two vectors for Helium. */
#if RSK_HELIUM & 2
typedef float rsk_scale;
#define RSK_SCALE(value) (value)
#define RSK_PLUS(sum, from, scale) vfmaq_n_f32(sum, RSK_LOAD(from), scale)
#define RSK_DOT(sums, a, b) vfmaq_f32(sums, RSK_LOAD(a), RSK_LOAD(b))
#else
typedef rsk_vector rsk_scale;
#define RSK_SCALE(value) RSK_SPLAT(value)
#define RSK_PLUS(sum, from, scale) ((sum) + (scale) * RSK_LOAD(from))
#define RSK_DOT(sums, a, b) ((sums) + RSK_LOAD(a) * RSK_LOAD(b))
#endif

#endif
