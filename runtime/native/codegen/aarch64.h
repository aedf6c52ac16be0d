// The AArch64 instructions that generated kernels are made of, and no others. aarch64_test holds every form against the
// assembler.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace rsk::aarch64 {

constexpr int kStackPointer = 31;  // as the base of an address, and in add_immediate

struct Address {
  int base;              // x0–x30 or the stack pointer
  int32_t displacement;  // bytes
};

// Appends instructions to a buffer. General registers are 0–30, vector registers 0–31.
class Assembler {
 public:
  std::span<const uint8_t> code() const { return code_; }
  size_t size() const { return code_.size(); }

  // Displacements that fit: multiples of 16 up to 65520 (load), -256 to 255 (unscaled), multiples of 16 from -1024 to
  // 1008 (pairs of 128 bits), multiples of 8 from -512 to 504 (pairs of 64 bits) and up to 32760 (64 bits, prefetch).
  void load128(int target, Address from);                        // ldr q, [x, #d]
  void load128_unscaled(int target, Address from);               // ldur q, [x, #d]
  void load_pair128(int first, int second, Address from);        // ldp q, q, [x, #d]
  void store_pair128(Address to, int first, int second);         // stp q, q, [x, #d]
  void push_pair64(Address to, int first, int second);           // stp d, d, [x, #d]!
  void pop_pair64(int first, int second, Address from);          // ldp d, d, [x], #d
  void store_pair64(Address to, int first, int second);          // stp d, d, [x, #d]
  void load_pair64(int first, int second, Address from);         // ldp d, d, [x, #d]
  void prefetch(Address from);                                   // prfm pldl2keep, [x, #d]
  void fma_by_lane(int sum, int vector, int weights, int lane);  // fmla v.4s, v.4s, v.s[lane]
  void add128(int target, int left, int right);                  // fadd v.4s, v.4s, v.4s
  void maximum128(int target, int left, int right);              // fmax v.4s, v.4s, v.4s; NaN where one is NaN
  void minimum128(int target, int left, int right);              // fmin v.4s, v.4s, v.4s; the same
  void and128(int target, int left, int right);                  // and v.16b, v.16b, v.16b
  void test128(int target, int left, int right);                 // cmtst v.4s, v.4s, v.4s: ones where they have a bit in common
  void broadcast128(int target, int source, int lane);           // dup v.4s, v.s[lane]
  void broadcast128_general(int target, int source);             // dup v.4s, w
  void zero128(int target);                                      // movi v.4s, #0
  void add_immediate(int target, int source, uint32_t value);    // add x, x, #value: below 2¹², or a multiple of it below 2²⁴
  void subtract_immediate(int target, int source, uint32_t value);
  void load64(int target, Address from);                // ldr x, [x, #d]
  void shift_right(int target, int source, int bits);   // lsr x, x, #bits: 0 to 63
  void move(int target, uint32_t value);                // movz x, #low; movk x, #high, lsl #16
  void add(int target, int left, int right);            // add x, x, x
  void subtract(int target, int left, int right);       // sub x, x, x
  void branch_if_not_zero(int counter, size_t target);  // cbnz x, to the instruction at `target`, less than 1 MB away
  void leave();                                         // ret

 private:
  void word(uint32_t instruction);
  void memory(uint32_t form, Address at, int reg, int unit);
  void pair(uint32_t form, Address at, int first, int second, int unit);
  void immediate(uint32_t form, int target, int source, uint32_t value);

  std::vector<uint8_t> code_;
};

}  // namespace rsk::aarch64
