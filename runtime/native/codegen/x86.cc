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

void Assembler::word(int32_t value) {
  for (int shift = 0; shift < 32; shift += 8) byte(value >> shift & 0xFF);
}

// ModRM and displacement. EVEX counts a one-byte displacement in units of the bytes accessed; VEX has a unit of 1.
void Assembler::memory(int reg, Address at, int unit) {
  const int low = (reg & 7) << 3 | (static_cast<int>(at.base) & 7);
  const int steps = at.displacement / unit;
  if (at.displacement % unit == 0 && steps >= -128 && steps < 128) {
    byte(0x40 | low);
    byte(steps & 0xFF);
  } else {
    byte(0x80 | low);
    word(at.displacement);
  }
}

void Assembler::evex(const Evex& form, int reg, int second, int rm) {
  byte(0x62);
  byte((~reg & 8) << 4 | (~rm & 16) << 2 | (~rm & 8) << 2 | (~reg & 16) | form.map);
  byte((~second & 15) << 3 | 4 | form.prefix);
  byte((form.mask != 0 ? 0x80 : 0) | 0x40 | (form.broadcast ? 0x10 : 0) | (~second & 16) >> 1 | form.mask);
}

void Assembler::vex(int map, int prefix, int reg, int second, int rm) {
  byte(0xC4);
  byte((~reg & 8) << 4 | 0x40 | (~rm & 8) << 2 | map);
  byte((~second & 15) << 3 | 4 | prefix);
}

void Assembler::load512(int target, Address from) {
  evex({kMap0F, kNoPrefix}, target, 0, kMemory);
  byte(0x10);
  memory(target, from, 64);
}

void Assembler::load512_masked(int target, int mask, Address from) {
  evex({kMap0F, kNoPrefix, false, mask}, target, 0, kMemory);
  byte(0x10);
  memory(target, from, 64);
}

void Assembler::store512(Address to, int source) {
  evex({kMap0F, kNoPrefix}, source, 0, kMemory);
  byte(0x11);
  memory(source, to, 64);
}

void Assembler::broadcast512(int target, Address from) {
  evex({kMap0F38, kPrefix66}, target, 0, kMemory);
  byte(0x18);
  memory(target, from, 4);
}

void Assembler::broadcast_quad512(int target, Address from) {
  evex({kMap0F38, kPrefix66}, target, 0, kMemory);
  byte(0x1A);
  memory(target, from, 16);
}

void Assembler::permute512(int target, int source, uint8_t lanes) {
  evex({kMap0F3A, kPrefix66}, target, 0, source);
  byte(0x04);
  registers(target, source);
  byte(lanes);
}

void Assembler::fma512(int sum, int left, int right) {
  evex({kMap0F38, kPrefix66}, sum, left, right);
  byte(0xB8);
  registers(sum, right);
}

void Assembler::fma512_broadcast(int sum, int left, Address right) {
  evex({kMap0F38, kPrefix66, true}, sum, left, kMemory);
  byte(0xB8);
  memory(sum, right, 4);
}

void Assembler::align512(int target, int high, int low, uint8_t lanes) {
  evex({kMap0F3A, kPrefix66}, target, high, low);
  byte(0x03);
  registers(target, low);
  byte(lanes);
}

void Assembler::zero512(int target) {
  evex({kMap0F, kPrefix66}, target, target, target);
  byte(0xEF);
  registers(target, target);
}

void Assembler::add512(int target, int left, Address right) {
  evex({kMap0F, kNoPrefix}, target, left, kMemory);
  byte(0x58);
  memory(target, right, 64);
}

void Assembler::maximum512(int target, int left, int right) {
  evex({kMap0F, kNoPrefix}, target, left, right);
  byte(0x5F);
  registers(target, right);
}

void Assembler::minimum512(int target, int left, int right) {
  evex({kMap0F, kNoPrefix}, target, left, right);
  byte(0x5D);
  registers(target, right);
}

void Assembler::move512_masked(int target, int mask, int source) {
  evex({kMap0F, kNoPrefix, false, mask}, target, 0, source);
  byte(0x28);
  registers(target, source);
}

void Assembler::load256(int target, Address from) {
  vex(kMap0F, kNoPrefix, target, 0, kMemory);
  byte(0x10);
  memory(target, from, 1);
}

void Assembler::store256(Address to, int source) {
  vex(kMap0F, kNoPrefix, source, 0, kMemory);
  byte(0x11);
  memory(source, to, 1);
}

void Assembler::broadcast_quad256(int target, Address from) {
  vex(kMap0F38, kPrefix66, target, 0, kMemory);
  byte(0x1A);
  memory(target, from, 1);
}

void Assembler::permute256(int target, int source, uint8_t lanes) {
  vex(kMap0F3A, kPrefix66, target, 0, source);
  byte(0x04);
  registers(target, source);
  byte(lanes);
}

void Assembler::fma256(int sum, int left, int right) {
  vex(kMap0F38, kPrefix66, sum, left, right);
  byte(0xB8);
  registers(sum, right);
}

void Assembler::zero256(int target) {
  vex(kMap0F, kNoPrefix, target, target, target);
  byte(0x57);
  registers(target, target);
}

void Assembler::broadcast256(int target, Address from) {
  vex(kMap0F38, kPrefix66, target, 0, kMemory);
  byte(0x18);
  memory(target, from, 1);
}

void Assembler::add256(int target, int left, Address right) {
  vex(kMap0F, kNoPrefix, target, left, kMemory);
  byte(0x58);
  memory(target, right, 1);
}

void Assembler::maximum256(int target, int left, int right) {
  vex(kMap0F, kNoPrefix, target, left, right);
  byte(0x5F);
  registers(target, right);
}

void Assembler::minimum256(int target, int left, int right) {
  vex(kMap0F, kNoPrefix, target, left, right);
  byte(0x5D);
  registers(target, right);
}

void Assembler::and256(int target, int left, int right) {
  vex(kMap0F, kNoPrefix, target, left, right);
  byte(0x54);
  registers(target, right);
}

void Assembler::equal256(int target, int left, int right) {
  vex(kMap0F, kPrefix66, target, left, right);
  byte(0x76);
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
  memory(mask, from, 1);
}

void Assembler::load(Base target, Address from) {
  byte(target == Base::kR8 ? 0x4C : 0x48);
  byte(0x8B);
  memory(static_cast<int>(target), from, 1);
}

void Assembler::prefetch(Address at) {
  if (at.base == Base::kR8) byte(0x41);
  byte(0x0F);
  byte(0x18);
  memory(1, at, 1);
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

void Assembler::leave() {
  byte(0xC5);
  byte(0xF8);
  byte(0x77);
  byte(0xC3);
}

}  // namespace rsk::x86
