#include "x86.h"

namespace rsk::x86 {

namespace {

constexpr int kMap0F = 1, kMap0F38 = 2, kMap0F3A = 3;
constexpr int kNoPrefix = 0, kPrefix66 = 1;
constexpr int kMemory = 0;  // in place of a register in r/m: the bases used here need no extension bit

}  // namespace

struct Assembler::Evex {
  int map, prefix;
  bool broadcast = false;
  int mask = 0;
};

// ModRM and displacement. EVEX counts a one-byte displacement in units of the bytes accessed; VEX has a unit of 1.
template <int kUnit>
void Assembler::memory(int reg, Address at) {
  const int low = (reg & 7) << 3 | (static_cast<int>(at.base) & 7);
  const int steps = at.displacement / kUnit;
  if (at.displacement % kUnit == 0 && steps >= -128 && steps < 128) {
    bytes(static_cast<uint64_t>(0x40 | low | (steps & 0xFF) << 8), 2);
  } else {
    bytes(static_cast<uint64_t>(0x80 | low) | uint64_t{static_cast<uint32_t>(at.displacement)} << 8, 5);
  }
}

void Assembler::evex(const Evex& form, int opcode, int reg, int second, int rm) {
  const int first = (~reg & 8) << 4 | (~rm & 16) << 2 | (~rm & 8) << 2 | (~reg & 16) | form.map;
  const int third = (form.mask != 0 ? 0x80 : 0) | 0x40 | (form.broadcast ? 0x10 : 0) | (~second & 16) >> 1 | form.mask;
  const int middle = (~second & 15) << 3 | 4 | form.prefix;
  bytes(static_cast<uint64_t>(0x62 | first << 8 | middle << 16) | static_cast<uint64_t>(third | opcode << 8) << 24, 5);
}

void Assembler::vex(int map, int prefix, int opcode, int reg, int second, int rm) {
  const int first = (~reg & 8) << 4 | 0x40 | (~rm & 8) << 2 | map, middle = (~second & 15) << 3 | 4 | prefix;
  bytes(static_cast<uint64_t>(0xC4 | first << 8 | middle << 16) | static_cast<uint64_t>(opcode) << 24, 4);
}

void Assembler::load512(int target, Address from) {
  evex({kMap0F, kNoPrefix}, 0x10, target, 0, kMemory);
  memory<64>(target, from);
}

void Assembler::load512_masked(int target, int mask, Address from) {
  evex({kMap0F, kNoPrefix, false, mask}, 0x10, target, 0, kMemory);
  memory<64>(target, from);
}

void Assembler::store512(Address to, int source) {
  evex({kMap0F, kNoPrefix}, 0x11, source, 0, kMemory);
  memory<64>(source, to);
}

void Assembler::broadcast512(int target, Address from) {
  evex({kMap0F38, kPrefix66}, 0x18, target, 0, kMemory);
  memory<4>(target, from);
}

void Assembler::broadcast_quad512(int target, Address from) {
  evex({kMap0F38, kPrefix66}, 0x1A, target, 0, kMemory);
  memory<16>(target, from);
}

void Assembler::permute512(int target, int source, uint8_t lanes) {
  evex({kMap0F3A, kPrefix66}, 0x04, target, 0, source);
  registers(target, source);
  byte(lanes);
}

void Assembler::fma512(int sum, int left, int right) {
  evex({kMap0F38, kPrefix66}, 0xB8, sum, left, right);
  registers(sum, right);
}

void Assembler::fma512_broadcast(int sum, int left, Address right) {
  evex({kMap0F38, kPrefix66, true}, 0xB8, sum, left, kMemory);
  memory<4>(sum, right);
}

void Assembler::align512_masked(int target, int mask, int high, int low, uint8_t lanes) {
  evex({kMap0F3A, kPrefix66, false, mask}, 0x03, target, high, low);
  registers(target, low);
  byte(lanes);
}

void Assembler::zero512(int target) {
  evex({kMap0F, kPrefix66}, 0xEF, target, target, target);
  registers(target, target);
}

void Assembler::add512(int target, int left, Address right) {
  evex({kMap0F, kNoPrefix}, 0x58, target, left, kMemory);
  memory<64>(target, right);
}

void Assembler::maximum512(int target, int left, int right) {
  evex({kMap0F, kNoPrefix}, 0x5F, target, left, right);
  registers(target, right);
}

void Assembler::minimum512(int target, int left, int right) {
  evex({kMap0F, kNoPrefix}, 0x5D, target, left, right);
  registers(target, right);
}

void Assembler::move512_masked(int target, int mask, int source) {
  evex({kMap0F, kNoPrefix, false, mask}, 0x28, target, 0, source);
  registers(target, source);
}

void Assembler::load256(int target, Address from) {
  vex(kMap0F, kNoPrefix, 0x10, target, 0, kMemory);
  memory<1>(target, from);
}

void Assembler::store256(Address to, int source) {
  vex(kMap0F, kNoPrefix, 0x11, source, 0, kMemory);
  memory<1>(source, to);
}

void Assembler::broadcast_quad256(int target, Address from) {
  vex(kMap0F38, kPrefix66, 0x1A, target, 0, kMemory);
  memory<1>(target, from);
}

void Assembler::permute256(int target, int source, uint8_t lanes) {
  vex(kMap0F3A, kPrefix66, 0x04, target, 0, source);
  registers(target, source);
  byte(lanes);
}

void Assembler::fma256(int sum, int left, int right) {
  vex(kMap0F38, kPrefix66, 0xB8, sum, left, right);
  registers(sum, right);
}

void Assembler::zero256(int target) {
  vex(kMap0F, kNoPrefix, 0x57, target, target, target);
  registers(target, target);
}

void Assembler::broadcast256(int target, Address from) {
  vex(kMap0F38, kPrefix66, 0x18, target, 0, kMemory);
  memory<1>(target, from);
}

void Assembler::add256(int target, int left, Address right) {
  vex(kMap0F, kNoPrefix, 0x58, target, left, kMemory);
  memory<1>(target, right);
}

void Assembler::maximum256(int target, int left, int right) {
  vex(kMap0F, kNoPrefix, 0x5F, target, left, right);
  registers(target, right);
}

void Assembler::minimum256(int target, int left, int right) {
  vex(kMap0F, kNoPrefix, 0x5D, target, left, right);
  registers(target, right);
}

void Assembler::and256(int target, int left, int right) {
  vex(kMap0F, kNoPrefix, 0x54, target, left, right);
  registers(target, right);
}

void Assembler::equal256(int target, int left, int right) {
  vex(kMap0F, kPrefix66, 0x76, target, left, right);
  registers(target, right);
}

void Assembler::set_mask(int mask, uint32_t bits) {
  byte(0xB8);
  word(static_cast<int32_t>(bits));
  byte(0xC5);
  byte(0xF8);
  byte(0x92);
  registers(mask, 0);
}

void Assembler::load_mask(int mask, Address from) {
  byte(0xC5);
  byte(0xF8);
  byte(0x90);
  memory<1>(mask, from);
}

void Assembler::load(Base target, Address from) {
  byte(target == Base::kR8 ? 0x4C : 0x48);
  byte(0x8B);
  memory<1>(static_cast<int>(target), from);
}

void Assembler::prefetch(Address at) {
  if (at.base == Base::kR8) byte(0x41);
  byte(0x0F);
  byte(0x18);
  memory<1>(1, at);
}

void Assembler::add(Base target, Base source) {
  byte(0x48);
  byte(0x01);
  registers(static_cast<int>(source), static_cast<int>(target));
}

void Assembler::add(Base target, int32_t value) {
  byte(0x48);
  byte(0x81);
  byte(0xC0 | static_cast<int>(target));
  word(value);
}

void Assembler::jump() {
  byte(0xEB);
  byte(0x00);
}

void Assembler::leave() {
  byte(0xC5);
  byte(0xF8);
  byte(0x77);
  byte(0xC3);
}

}  // namespace rsk::x86
