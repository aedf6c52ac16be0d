// The x86-64 instructions that generated kernels are made of, and no others. codegen_test holds every form against the
// system assembler.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace rsk::x86 {

enum class Base : uint8_t { kRax, kRcx, kRdx, kRbx, kRsp, kRbp, kRsi, kRdi, kR8 };  // rsp cannot address memory here; r8 only prefetches

struct Address {
  Base base;
  int32_t displacement;  // bytes
};

// Appends instructions to a buffer. Vector registers are 0–31 in 512-bit forms, 0–15 in 256-bit forms.
class Assembler {
 public:
  std::span<const uint8_t> code() const { return {code_.data(), size_}; }
  size_t size() const { return size_; }

  // 512 bits, EVEX
  void load512(int target, Address from);                                        // vmovups zmm, [m]
  void load512_masked(int target, int mask, Address from);                       // vmovups zmm{k}{z}, [m]
  void store512(Address to, int source);                                         // vmovups [m], zmm
  void broadcast512(int target, Address from);                                   // vbroadcastss zmm, [m]
  void broadcast_quad512(int target, Address from);                              // vbroadcastf32x4 zmm, [m]
  void permute512(int target, int source, uint8_t lanes);                        // vpermilps zmm, zmm, imm8
  void fma512(int sum, int left, int right);                                     // vfmadd231ps zmm, zmm, zmm
  void fma512_broadcast(int sum, int left, Address right);                       // vfmadd231ps zmm, zmm, [m]{1to16}
  void align512_masked(int target, int mask, int high, int low, uint8_t lanes);  // valignd zmm{k}{z}, zmm, zmm, imm8; mask 0: all
  void zero512(int target);                                                      // vpxord zmm, zmm, zmm
  void add512(int target, int left, Address right);                              // vaddps zmm, zmm, [m]
  void maximum512(int target, int left, int right);                              // vmaxps zmm, zmm, zmm: `right` where either is NaN
  void minimum512(int target, int left, int right);                              // vminps zmm, zmm, zmm: `right` where either is NaN
  void move512_masked(int target, int mask, int source);                         // vmovaps zmm{k}{z}, zmm

  // 256 bits, VEX
  void load256(int target, Address from);                  // vmovups ymm, [m]
  void store256(Address to, int source);                   // vmovups [m], ymm
  void broadcast_quad256(int target, Address from);        // vbroadcastf128 ymm, [m]
  void permute256(int target, int source, uint8_t lanes);  // vpermilps ymm, ymm, imm8
  void fma256(int sum, int left, int right);               // vfmadd231ps ymm, ymm, ymm
  void zero256(int target);                                // vxorps ymm, ymm, ymm
  void broadcast256(int target, Address from);             // vbroadcastss ymm, [m]
  void add256(int target, int left, Address right);        // vaddps ymm, ymm, [m]
  void maximum256(int target, int left, int right);        // vmaxps ymm, ymm, ymm: `right` where either is NaN
  void minimum256(int target, int left, int right);        // vminps ymm, ymm, ymm: `right` where either is NaN
  void and256(int target, int left, int right);            // vandps ymm, ymm, ymm
  void equal256(int target, int left, int right);          // vpcmpeqd ymm, ymm, ymm

  void set_mask(int mask, uint32_t bits);  // mov eax, imm32; kmovw k, eax
  void load_mask(int mask, Address from);  // kmovw k, [m]
  void load(Base target, Address from);    // mov r64, [m]
  void prefetch(Address at);               // prefetcht0 [m]
  void add(Base target, int32_t value);    // add r64, imm32
  void add(Base target, Base source);      // add r64, r64
  void jump();                             // jmp to the next instruction
  void leave();                            // vzeroupper; ret

 private:
  // The lowest bytes of a value at once: bytes one by one take most of the time of generating.
  void bytes(uint64_t value, size_t count) {
    if (size_ + sizeof value > code_.size()) code_.resize(2 * code_.size() + kRoom);
    std::memcpy(code_.data() + size_, &value, sizeof value);
    size_ += count;
  }
  void byte(int value) { bytes(static_cast<uint64_t>(value), 1); }
  void word(int32_t value) { bytes(static_cast<uint32_t>(value), 4); }
  template <int kUnit>
  void memory(int reg, Address at);
  void registers(int reg, int rm) { byte(0xC0 | (reg & 7) << 3 | (rm & 7)); }

  struct Evex;
  void evex(const Evex& form, int opcode, int reg, int second, int rm);
  void vex(int map, int prefix, int opcode, int reg, int second, int rm);

  static constexpr size_t kRoom = 4096;
  std::vector<uint8_t> code_;  // and room behind it
  size_t size_ = 0;
};

}  // namespace rsk::x86
