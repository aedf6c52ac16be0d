// What an epilogue's activation is, in double precision: the oracle of the kernels' tests.
#pragma once

#include <algorithm>
#include <cmath>

#include "conv.h"

namespace rsk {

inline double activate(const Epilogue& epilogue, double x) {
  switch (epilogue.activation) {
    case Activation::kNone:
      return x;
    case Activation::kRelu:
      return std::max(x, 0.0);
    case Activation::kClip:
      return std::clamp(x, double{epilogue.alpha}, double{epilogue.beta});
    case Activation::kLeakyRelu:
      return x < 0 ? x * double{epilogue.alpha} : x;
    case Activation::kHardSwish:
      return x * std::clamp(x / 6 + 0.5, 0.0, 1.0);
    case Activation::kSilu:
      return x / (1 + std::exp(-x));
    case Activation::kSigmoid:
      return 1 / (1 + std::exp(-x));
  }
  return x;
}

}  // namespace rsk
