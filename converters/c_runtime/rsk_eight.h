/* Integers of 8 bits: from floats and back, and from the 32-bit sums of a layer to its output. */
#ifndef RSK_EIGHT_H
#define RSK_EIGHT_H

#include "rsk_activation.h"

#if defined(RSK_DSP)
/* Four bytes from anywhere. */
static inline uint32_t rsk_word(const void* from) {
  uint32_t word;
  memcpy(&word, from, sizeof word);
  return word;
}

/* The lower halves of two registers in one, and the upper ones: that of `a` below. gcc takes up to four instructions for what is one. */
static inline int16x2_t rsk_lower(uint32_t a, uint32_t b) {
  int16x2_t both;
  __asm__("pkhbt %0, %1, %2, lsl #16" : "=r"(both) : "r"(a), "r"(b));
  return both;
}

static inline int16x2_t rsk_upper(uint32_t a, uint32_t b) {
  int16x2_t both;
  __asm__("pkhtb %0, %1, %2, asr #16" : "=r"(both) : "r"(b), "r"(a));
  return both;
}
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

static inline int32_t rsk_scaled(int32_t value, int32_t multiplier, uint32_t shift) {
  return (int32_t)(((int64_t)value * multiplier + ((int64_t)1 << (shift - 1))) >> shift);
}

static inline int8_t rsk_clamped(int32_t value, int32_t low, int32_t high) { return (int8_t)(value < low ? low : value > high ? high : value); }

/* `count` sums of one filter; the output begins at element `at`. */
RSK_FUNCTION void rsk_requantise(const struct rsk_requant* r, uint32_t filter, const int32_t* sums, const int8_t* residual, void* out, size_t at,
                                 size_t count) {
  if (r->multipliers) {
    int8_t* to = (int8_t*)out + at;
    const int32_t multiplier = r->multipliers[filter];
    const uint32_t shift = r->shifts[filter];
    for (size_t i = 0; i < count; i++) {
      const int32_t added = residual ? rsk_scaled(residual[at + i], r->residual_multiplier, r->residual_shift) : 0;
      to[i] = rsk_clamped(rsk_scaled(sums[i], multiplier, shift) + added, r->low, r->high);
    }
  } else {
    float* to = (float*)out + at;
    for (size_t i = 0; i < count; i++)
      to[i] = rsk_activate_one((float)sums[i] * r->scales[filter] + (residual ? (float)residual[at + i] * r->residual_scale : 0), &r->activation);
  }
}

RSK_FUNCTION void rsk_dequantise(float* out, const int8_t* in, size_t count, float scale) {
  for (size_t i = 0; i < count; i++) out[i] = (float)in[i] * scale;
}

RSK_FUNCTION void rsk_quantise(int8_t* out, const float* in, size_t count, float inverse_scale) {
  for (size_t i = 0; i < count; i++) {
    const float value = rsk_clip(in[i] * inverse_scale, -127, 127);
    out[i] = (int8_t)(value < 0 ? value - 0.5f : value + 0.5f);
  }
}

#endif
