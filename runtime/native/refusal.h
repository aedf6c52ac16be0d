// How the inner parts of the runtime say no. Caught at the C API, which turns it into a status and a message.
#pragma once

#include <string>
#include <utility>

#include "rsk.h"

namespace rsk {

struct Refusal {
  rsk_status status;
  std::string message;
};

inline void expect(bool condition, const char* message) {
  if (!condition) throw Refusal{RSK_CORRUPT, message};
}

}  // namespace rsk
