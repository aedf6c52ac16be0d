/* Element-wise functions of one value. */
#ifndef RSK_ACTIVATION_H
#define RSK_ACTIVATION_H

#include "rsk_base.h"

enum rsk_activation_kind {
  RSK_IDENTITY,
  RSK_RELU,
  RSK_CLIP,
  RSK_SIGMOID,
  RSK_TANH,
  RSK_SILU,
  RSK_GELU,
  RSK_GELU_TANH,
  RSK_HARD_SWISH,
  RSK_SOFTPLUS,
  RSK_SOFTSIGN,
  RSK_MISH,
  RSK_EXP,
  RSK_LOG,
  RSK_SQRT,
  RSK_ABS,
  RSK_NEG,
  RSK_ERF,
  RSK_RECIPROCAL,
  RSK_LEAKY_RELU,
  RSK_ELU,
  RSK_CELU,
  RSK_SELU,
  RSK_HARD_SIGMOID
};

struct rsk_activation {
  enum rsk_activation_kind kind;
  float alpha, beta;
};

/* The kinds that the network has, a bit each: of the others there is no code. */
#if !defined(RSK_KINDS)
#define RSK_KINDS UINT32_MAX
#endif
#define RSK_CALLED (RSK_KINDS >> (RSK_RELU + 1) != 0) /* whether there are others than the two that kernels end with themselves */
#define RSK_CASE(name, value)                   \
  case name:                                    \
    if (RSK_KINDS & 1u << (name)) return value; \
    break;

static inline float rsk_sigmoid(float x) { return x >= 0 ? 1 / (1 + expf(-x)) : 1 - 1 / (1 + expf(x)); }

static inline float rsk_softplus(float x) { return fmaxf(x, 0) + log1pf(expf(-fabsf(x))); }

static inline float rsk_clip(float x, float low, float high) { return x < low ? low : x > high ? high : x; }

RSK_FUNCTION float rsk_activate_one(float x, const struct rsk_activation* function) {
  const float alpha = function->alpha, beta = function->beta;
  switch (function->kind) {
    RSK_CASE(RSK_IDENTITY, x)
    RSK_CASE(RSK_RELU, x < 0 ? 0 : x)
    RSK_CASE(RSK_CLIP, rsk_clip(x, alpha, beta))
    RSK_CASE(RSK_SIGMOID, rsk_sigmoid(x))
    RSK_CASE(RSK_TANH, tanhf(x))
    RSK_CASE(RSK_SILU, x * rsk_sigmoid(x))
    RSK_CASE(RSK_GELU, 0.5f * x * (1 + erff(x * 0.70710678118654752f)))
    RSK_CASE(RSK_GELU_TANH, 0.5f * x * (1 + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x))))
    RSK_CASE(RSK_HARD_SWISH, x * rsk_clip(x / 6 + 0.5f, 0, 1))
    RSK_CASE(RSK_SOFTPLUS, rsk_softplus(x))
    RSK_CASE(RSK_SOFTSIGN, x / (1 + fabsf(x)))
    RSK_CASE(RSK_MISH, x * tanhf(rsk_softplus(x)))
    RSK_CASE(RSK_EXP, expf(x))
    RSK_CASE(RSK_LOG, logf(x))
    RSK_CASE(RSK_SQRT, sqrtf(x))
    RSK_CASE(RSK_ABS, fabsf(x))
    RSK_CASE(RSK_NEG, -x)
    RSK_CASE(RSK_ERF, erff(x))
    RSK_CASE(RSK_RECIPROCAL, 1 / x)
    RSK_CASE(RSK_LEAKY_RELU, x >= 0 ? x : alpha * x)
    RSK_CASE(RSK_ELU, x >= 0 ? x : alpha * expm1f(x))
    RSK_CASE(RSK_CELU, fmaxf(x, 0) + fminf(alpha * expm1f(x / alpha), 0))
    RSK_CASE(RSK_SELU, beta * (x >= 0 ? x : alpha * expm1f(x)))
    RSK_CASE(RSK_HARD_SIGMOID, rsk_clip(alpha * x + beta, 0, 1))
  }
  return x;
}

RSK_FUNCTION void rsk_activate(float* values, const float* in, size_t count, const struct rsk_activation* function) {
  if (function->kind == RSK_RELU)
    for (size_t i = 0; i < count; i++) values[i] = in[i] < 0 ? 0 : in[i];
  else if (function->kind == RSK_CLIP)
    for (size_t i = 0; i < count; i++) values[i] = rsk_clip(in[i], function->alpha, function->beta);
  else if (function->kind != RSK_IDENTITY || values != in)
    for (size_t i = 0; i < count; i++) values[i] = rsk_activate_one(in[i], function);
}

#endif
