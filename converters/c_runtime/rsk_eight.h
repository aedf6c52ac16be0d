/* Integers of 8 bits: from floats and back, and from the 32-bit sums of a layer to its output. */
#ifndef RSK_EIGHT_H
#define RSK_EIGHT_H

#include "rsk_activation.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

/* Not also for some constant arguments: flash. */
#if defined(__GNUC__) && !defined(__clang__)
#define RSK_FUNCTION_ONCE static __attribute__((unused, noinline, noclone))
#else
#define RSK_FUNCTION_ONCE RSK_FUNCTION
#endif

/* A sum of filter f stands for sums[f] · scales[f]. Where the output is 8-bit, it is sum · multipliers[f] / 2^shifts[f], rounded, between `low`
   and `high`; without multipliers it is a float. `residual` values stand for multiples of `residual_scale`. */
struct rsk_requant {
  const int32_t* multipliers;
  const uint8_t* shifts;
  const float* scales;
  int32_t residual_multiplier;
  uint32_t residual_shift;
  float residual_scale;
  int32_t low, high;
  struct rsk_activation activation;
};

/* value · multiplier / 2^shift, rounded, and no more than half of what 32 bits hold: two can be added. Where the shift is more than 32, it is less, and
   comes from the product's upper half. */
static inline int32_t rsk_scaled(int32_t value, int32_t multiplier, uint32_t shift) {
#if defined(RSK_DSP)
  if (shift > 32) {
    int32_t upper = (int32_t)1 << (shift - 33);
    __asm__("smmla %0, %1, %2, %0" : "+r"(upper) : "r"(value), "r"(multiplier));
    return upper >> (shift - 32);
  }
#endif
  const int64_t most = INT32_MAX / 2, scaled = ((int64_t)value * multiplier + ((int64_t)1 << (shift - 1))) >> shift;
  if (shift > 32) return (int32_t)scaled;
  return (int32_t)(scaled < -most ? -most : scaled > most ? most : scaled);
}

static inline int32_t rsk_clamped(int32_t value, int32_t low, int32_t high) {
  value = value < low ? low : value;
  return value > high ? high : value;
}

#if defined(__SSE2__)
/* rsk_scaled of four; the multiplier is not negative, the shift more than 32. */
static inline __m128i rsk_scaled_4(__m128i values, int32_t multiplier, uint32_t shift) {
  const __m128i by = _mm_set1_epi32(multiplier);
  const __m128 first = _mm_castsi128_ps(_mm_mul_epu32(_mm_unpacklo_epi32(values, values), by));
  const __m128 last = _mm_castsi128_ps(_mm_mul_epu32(_mm_unpackhi_epi32(values, values), by));
  const __m128i upper = _mm_castps_si128(_mm_shuffle_ps(first, last, _MM_SHUFFLE(3, 1, 3, 1)));
  const __m128i exact = _mm_sub_epi32(upper, _mm_and_si128(by, _mm_srai_epi32(values, 31))); /* values were taken as unsigned */
  return _mm_sra_epi32(_mm_add_epi32(exact, _mm_set1_epi32((int32_t)1 << (shift - 33))), _mm_cvtsi32_si128((int)shift - 32));
}

/* A residual as the upper 8 of 32 bits: its shift is 24 more. */
static inline __m128i rsk_upper_bytes(const int8_t* from) {
  int32_t four;
  memcpy(&four, from, sizeof four);
  return _mm_unpacklo_epi16(_mm_setzero_si128(), _mm_unpacklo_epi8(_mm_setzero_si128(), _mm_cvtsi32_si128(four)));
}
#endif

/* `count` sums of filter f, as far as they are whole vectors; how many they were. */
static inline size_t rsk_requantise_vectors(const struct rsk_requant* r, uint32_t filter, const int32_t* sums, const int8_t* residual, int8_t* to,
                                            size_t count) {
  size_t i = 0;
#if defined(__SSE2__)
  const int32_t multiplier = r->multipliers[filter];
  const uint32_t shift = r->shifts[filter], residual_shift = r->residual_shift + 24;
  const __m128i low = _mm_set1_epi16((int16_t)r->low), high = _mm_set1_epi16((int16_t)r->high);
  if (shift > 32 && (!residual || residual_shift > 32))
    for (; i + 4 <= count; i += 4) {
      __m128i sum = rsk_scaled_4(_mm_loadu_si128((const __m128i*)(const void*)(sums + i)), multiplier, shift);
      if (residual) sum = _mm_add_epi32(sum, rsk_scaled_4(rsk_upper_bytes(residual + i), r->residual_multiplier, residual_shift));
      sum = _mm_max_epi16(low, _mm_min_epi16(high, _mm_packs_epi32(sum, sum)));
      const int32_t four = _mm_cvtsi128_si32(_mm_packs_epi16(sum, sum));
      memcpy(to + i, &four, sizeof four);
    }
#else
  (void)r, (void)filter, (void)sums, (void)residual, (void)to, (void)count;
#endif
  return i;
}

/* The sums of one filter, `rows` rows of `width`, each `pitch` after the one before; the output begins at element `at`. */
RSK_FUNCTION_ONCE void rsk_requantise(const struct rsk_requant* r, uint32_t filter, const int32_t* sums, size_t pitch, const int8_t* residual, void* out,
                                      size_t at, size_t rows, size_t width) {
  if (pitch == width) width *= rows, rows = 1;
  if (residual) residual += at;
  if (r->multipliers) {
    int8_t* to = (int8_t*)out + at;
    const int32_t multiplier = r->multipliers[filter], residual_multiplier = r->residual_multiplier, low = r->low, high = r->high;
    const uint32_t shift = r->shifts[filter], residual_shift = r->residual_shift;
    for (; rows; rows--, sums += pitch, to += width) {
      size_t i = rsk_requantise_vectors(r, filter, sums, residual, to, width);
      if (residual) {
        for (; i < width; i++)
          to[i] = (int8_t)rsk_clamped(rsk_scaled(sums[i], multiplier, shift) + rsk_scaled(residual[i] * (1 << 24), residual_multiplier, residual_shift + 24),
                                      low, high);
        residual += width;
      } else {
        for (; i < width; i++) to[i] = (int8_t)rsk_clamped(rsk_scaled(sums[i], multiplier, shift), low, high);
      }
    }
  } else {
    const float scale = r->scales[filter], residual_scale = r->residual_scale, least = r->activation.kind == RSK_RELU ? 0.0f : -INFINITY;
    float* to = (float*)out + at;
    for (; rows; rows--, sums += pitch, to += width) {
      for (size_t i = 0; i < width; i++) {
        const float value = (float)sums[i] * scale + (residual ? (float)residual[i] * residual_scale : 0);
        to[i] = value < least ? least : value;
      }
      if (residual) residual += width;
      if (RSK_CALLED && r->activation.kind > RSK_RELU) rsk_activate(to, to, width, &r->activation);
    }
  }
}

RSK_FUNCTION void rsk_dequantise(float* out, const int8_t* in, size_t count, float scale) {
  for (size_t i = 0; i < count; i++) out[i] = (float)in[i] * scale;
}

/* NaN, which no integer is, becomes the largest. */
RSK_FUNCTION void rsk_quantise(int8_t* out, const float* in, size_t count, float inverse_scale) {
  for (size_t i = 0; i < count; i++) {
    const float steps = in[i] * inverse_scale, most = steps < 127 ? steps : 127, value = most > -127 ? most : -127;
    out[i] = (int8_t)(value + copysignf(0.5f, value));
  }
}

#endif
