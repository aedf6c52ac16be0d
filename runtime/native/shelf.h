// Weights and code that plans of one network hold together: of equal contents there is one, whichever batch size it was made for.
#pragma once

#include <cstring>
#include <vector>

#include "codegen/pages.h"
#include "memory.h"

namespace rsk {

// `Room` is a handle to memory that nobody writes to any more.
template <class Room>
class ShelfOf {
 public:
  // Puts the room here, or gives its memory back for that of an equal one which is here already.
  void settle(Room& room) {
    if (room.bytes() == 0) return;
    for (const Room& other : rooms_) {
      if (other.bytes() == room.bytes() && std::memcmp(other.data(), room.data(), room.bytes()) == 0) {
        room = other;
        return;
      }
    }
    rooms_.push_back(room.lent());
  }

 private:
  std::vector<Room> rooms_;
};

struct Shelf {
  ShelfOf<Memory> weights;
  ShelfOf<CodePages> code;
};

}  // namespace rsk
