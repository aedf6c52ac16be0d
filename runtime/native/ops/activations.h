// The element-wise functions, in the order of ACTIVATIONS in the graph. NaN passes through all of them.
#pragma once

#include <cmath>
#include <cstdint>

#include "conv.h"

namespace rsk {

enum class Unary : uint32_t {
  kIdentity,
  kRelu,
  kSigmoid,
  kTanh,
  kSilu,
  kGelu,
  kGeluTanh,
  kHardSwish,
  kSoftplus,
  kSoftsign,
  kMish,
  kExp,
  kLog,
  kSqrt,
  kAbs,
  kNeg,
  kErf,
  kReciprocal,
  kLeakyRelu,
  kElu,
  kCelu,
  kSelu,
  kHardSigmoid,
  kClip,
  kCount,
};

inline float at_least(float x, float low) { return x < low ? low : x; }
inline float at_most(float x, float high) { return x > high ? high : x; }
inline float sigmoid(float x) { return 1.0F / (1.0F + std::exp(-x)); }
inline float softplus(float x) { return at_least(x, 0.0F) + std::log1p(std::exp(-std::fabs(x))); }

// Calls body with the function of one value that `kind` names.
template <class Body>
void with_function(Unary kind, float alpha, float beta, const Body& body) {
  switch (kind) {
    case Unary::kRelu:
      return body([](float x) { return at_least(x, 0.0F); });
    case Unary::kSigmoid:
      return body([](float x) { return sigmoid(x); });
    case Unary::kTanh:
      return body([](float x) { return std::tanh(x); });
    case Unary::kSilu:
      return body([](float x) { return x * sigmoid(x); });
    case Unary::kGelu:
      return body([](float x) { return 0.5F * x * (1.0F + std::erf(x * 0.70710678F)); });
    case Unary::kGeluTanh:
      return body([](float x) { return 0.5F * x * (1.0F + std::tanh(0.79788456F * (x + 0.044715F * x * x * x))); });
    case Unary::kHardSwish:
      return body([](float x) { return x * at_most(at_least(x / 6.0F + 0.5F, 0.0F), 1.0F); });
    case Unary::kSoftplus:
      return body([](float x) { return softplus(x); });
    case Unary::kSoftsign:
      return body([](float x) { return x / (1.0F + std::fabs(x)); });
    case Unary::kMish:
      return body([](float x) { return x * std::tanh(softplus(x)); });
    case Unary::kExp:
      return body([](float x) { return std::exp(x); });
    case Unary::kLog:
      return body([](float x) { return std::log(x); });
    case Unary::kSqrt:
      return body([](float x) { return std::sqrt(x); });
    case Unary::kAbs:
      return body([](float x) { return std::fabs(x); });
    case Unary::kNeg:
      return body([](float x) { return -x; });
    case Unary::kErf:
      return body([](float x) { return std::erf(x); });
    case Unary::kReciprocal:
      return body([](float x) { return 1.0F / x; });
    case Unary::kLeakyRelu:
      return body([alpha](float x) { return x < 0.0F ? alpha * x : x; });
    case Unary::kElu:
      return body([alpha](float x) { return x < 0.0F ? alpha * std::expm1(x) : x; });
    case Unary::kCelu:
      return body([alpha](float x) { return at_least(x, 0.0F) + at_most(alpha * std::expm1(x / alpha), 0.0F); });
    case Unary::kSelu:
      return body([alpha, beta](float x) { return beta * (x < 0.0F ? alpha * std::expm1(x) : x); });
    case Unary::kHardSigmoid:
      return body([alpha, beta](float x) { return at_most(at_least(alpha * x + beta, 0.0F), 1.0F); });
    case Unary::kClip:
      return body([alpha, beta](float x) { return at_most(at_least(x, alpha), beta); });
    case Unary::kIdentity:
    case Unary::kCount:
      break;
  }
  return body([](float x) { return x; });
}

// The same for the functions that a convolution can end with.
inline Unary unary(Activation activation) {
  switch (activation) {
    case Activation::kRelu:
      return Unary::kRelu;
    case Activation::kClip:
      return Unary::kClip;
    case Activation::kLeakyRelu:
      return Unary::kLeakyRelu;
    case Activation::kHardSwish:
      return Unary::kHardSwish;
    case Activation::kSilu:
      return Unary::kSilu;
    case Activation::kSigmoid:
      return Unary::kSigmoid;
    case Activation::kNone:
      break;
  }
  return Unary::kIdentity;
}

}  // namespace rsk
