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

static inline float rsk_sigmoid(float x) { return x >= 0 ? 1 / (1 + expf(-x)) : 1 - 1 / (1 + expf(x)); }

static inline float rsk_softplus(float x) { return fmaxf(x, 0) + log1pf(expf(-fabsf(x))); }

static inline float rsk_clip(float x, float low, float high) { return x < low ? low : x > high ? high : x; }

RSK_FUNCTION float rsk_activate_one(float x, const struct rsk_activation* function) {
  const float alpha = function->alpha, beta = function->beta;
  switch (function->kind) {
    case RSK_IDENTITY:
      return x;
    case RSK_RELU:
      return x < 0 ? 0 : x;
    case RSK_CLIP:
      return rsk_clip(x, alpha, beta);
    case RSK_SIGMOID:
      return rsk_sigmoid(x);
    case RSK_TANH:
      return tanhf(x);
    case RSK_SILU:
      return x * rsk_sigmoid(x);
    case RSK_GELU:
      return 0.5f * x * (1 + erff(x * 0.70710678118654752f));
    case RSK_GELU_TANH:
      return 0.5f * x * (1 + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
    case RSK_HARD_SWISH:
      return x * rsk_clip(x / 6 + 0.5f, 0, 1);
    case RSK_SOFTPLUS:
      return rsk_softplus(x);
    case RSK_SOFTSIGN:
      return x / (1 + fabsf(x));
    case RSK_MISH:
      return x * tanhf(rsk_softplus(x));
    case RSK_EXP:
      return expf(x);
    case RSK_LOG:
      return logf(x);
    case RSK_SQRT:
      return sqrtf(x);
    case RSK_ABS:
      return fabsf(x);
    case RSK_NEG:
      return -x;
    case RSK_ERF:
      return erff(x);
    case RSK_RECIPROCAL:
      return 1 / x;
    case RSK_LEAKY_RELU:
      return x >= 0 ? x : alpha * x;
    case RSK_ELU:
      return x >= 0 ? x : alpha * expm1f(x);
    case RSK_CELU:
      return fmaxf(x, 0) + fminf(alpha * expm1f(x / alpha), 0);
    case RSK_SELU:
      return beta * (x >= 0 ? x : alpha * expm1f(x));
    case RSK_HARD_SIGMOID:
      return rsk_clip(alpha * x + beta, 0, 1);
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
