#include "aarch64.h"

namespace rsk::aarch64 {

namespace {

constexpr uint32_t field(int value, int at) { return static_cast<uint32_t>(value) << at; }
constexpr uint32_t registers(int d, int n, int m) { return field(d, 0) | field(n, 5) | field(m, 16); }

}  // namespace

void Assembler::word(uint32_t instruction) {
  for (int shift = 0; shift < 32; shift += 8) code_.push_back(static_cast<uint8_t>(instruction >> shift));
}

// A displacement in units of the bytes accessed, twelve bits without a sign.
void Assembler::memory(uint32_t form, Address at, int reg, int unit) { word(form | field(at.displacement / unit, 10) | registers(reg, at.base, 0)); }

// Seven bits with a sign.
void Assembler::pair(uint32_t form, Address at, int first, int second, int unit) {
  word(form | field(at.displacement / unit & 0x7F, 15) | field(second, 10) | registers(first, at.base, 0));
}

void Assembler::immediate(uint32_t form, int target, int source, uint32_t value) {
  constexpr uint32_t kShifted = 1U << 22;
  word(form | (value < 4096 ? value << 10 : kShifted | value >> 12 << 10) | registers(target, source, 0));
}

void Assembler::load128(int target, Address from) { memory(0x3DC00000, from, target, 16); }
void Assembler::load128_unscaled(int target, Address from) { word(0x3CC00000 | field(from.displacement & 0x1FF, 12) | registers(target, from.base, 0)); }
void Assembler::load_pair128(int first, int second, Address from) { pair(0xAD400000, from, first, second, 16); }
void Assembler::store_pair128(Address to, int first, int second) { pair(0xAD000000, to, first, second, 16); }
void Assembler::push_pair64(Address to, int first, int second) { pair(0x6D800000, to, first, second, 8); }
void Assembler::pop_pair64(int first, int second, Address from) { pair(0x6CC00000, from, first, second, 8); }
void Assembler::store_pair64(Address to, int first, int second) { pair(0x6D000000, to, first, second, 8); }
void Assembler::load_pair64(int first, int second, Address from) { pair(0x6D400000, from, first, second, 8); }
void Assembler::prefetch(Address from) { memory(0xF9800000, from, 2, 8); }
void Assembler::fma_by_lane(int sum, int vector, int weights, int lane) {
  word(0x4F801000 | field(lane & 1, 21) | field(lane >> 1, 11) | registers(sum, vector, weights));
}
void Assembler::add128(int target, int left, int right) { word(0x4E20D400 | registers(target, left, right)); }
void Assembler::maximum128(int target, int left, int right) { word(0x4E20F400 | registers(target, left, right)); }
void Assembler::minimum128(int target, int left, int right) { word(0x4EA0F400 | registers(target, left, right)); }
void Assembler::and128(int target, int left, int right) { word(0x4E201C00 | registers(target, left, right)); }
void Assembler::test128(int target, int left, int right) { word(0x4EA08C00 | registers(target, left, right)); }
void Assembler::broadcast128(int target, int source, int lane) { word(0x4E040400 | field(lane, 19) | registers(target, source, 0)); }
void Assembler::broadcast128_general(int target, int source) { word(0x4E040C00 | registers(target, source, 0)); }
void Assembler::zero128(int target) { word(0x4F000400 | registers(target, 0, 0)); }
void Assembler::add_immediate(int target, int source, uint32_t value) { immediate(0x91000000, target, source, value); }
void Assembler::subtract_immediate(int target, int source, uint32_t value) { immediate(0xD1000000, target, source, value); }
void Assembler::load64(int target, Address from) { memory(0xF9400000, from, target, 8); }
void Assembler::shift_right(int target, int source, int bits) { word(0xD340FC00 | field(bits, 16) | registers(target, source, 0)); }
void Assembler::move(int target, uint32_t value) {
  word(0xD2800000 | (value & 0xFFFF) << 5 | registers(target, 0, 0));
  word(0xF2A00000 | value >> 16 << 5 | registers(target, 0, 0));
}
void Assembler::add(int target, int left, int right) { word(0x8B000000 | registers(target, left, right)); }
void Assembler::subtract(int target, int left, int right) { word(0xCB000000 | registers(target, left, right)); }
void Assembler::branch_if_not_zero(int counter, size_t target) {
  const auto words = static_cast<int>(target / 4) - static_cast<int>(size() / 4);
  word(0xB5000000 | field(words & 0x7FFFF, 5) | registers(counter, 0, 0));
}
void Assembler::leave() { word(0xD65F03C0); }

}  // namespace rsk::aarch64
