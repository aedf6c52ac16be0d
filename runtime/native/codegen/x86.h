// The x86-64 instructions that generated kernels are made of, and no others. codegen_test holds every form against the
// system assembler.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace rsk::x86 {

enum class Base : uint8_t { kRax, kRcx, kRdx, kRbx, kRsp, kRbp, kRsi, kRdi };  // rsp cannot address memory here

struct Address {
  Base base;
  int32_t displacement;  // bytes
};

// Appends instructions to a buffer. Vector registers are 0–31 in 512-bit forms, 0–15 in 256-bit forms.
class Assembler {
 public:
  const std::vector<uint8_t>& code() const { return code_; }
  size_t size() const { return code_.size(); }

  // 512 bits, EVEX
  void load512(int target, Address from);                       // vmovups zmm, [m]
  void load512_masked(int target, int mask, Address from);      // vmovups zmm{k}{z}, [m]
  void store512(Address to, int source);                        // vmovups [m], zmm
  void broadcast512(int target, Address from);                  // vbroadcastss zmm, [m]
  void fma512(int sum, int left, int right);                    // vfmadd231ps zmm, zmm, zmm
  void fma512_broadcast(int sum, int left, Address right);      // vfmadd231ps zmm, zmm, [m]{1to16}
  void align512(int target, int high, int low, uint8_t lanes);  // valignd zmm, zmm, zmm, imm8
  void zero512(int target);                                     // vpxord zmm, zmm, zmm

  // 256 bits, VEX
  void load256(int target, Address from);       // vmovups ymm, [m]
  void store256(Address to, int source);        // vmovups [m], ymm
  void broadcast256(int target, Address from);  // vbroadcastss ymm, [m]
  void fma256(int sum, int left, int right);    // vfmadd231ps ymm, ymm, ymm
  void zero256(int target);                     // vxorps ymm, ymm, ymm

  void set_mask(int mask, uint32_t bits);  // mov eax, imm32; kmovw k, eax
  void add(Base target, int32_t value);    // add r64, imm32
  void leave();                            // vzeroupper; ret

 private:
  void byte(int value) { code_.push_back(static_cast<uint8_t>(value)); }
  void word(int32_t value);
  void memory(int reg, Address at, int unit);
  void registers(int reg, int rm) { byte(0xC0 | (reg & 7) << 3 | (rm & 7)); }

  struct Evex;
  void evex(const Evex& form, int reg, int second, int rm);
  void vex(int map, int prefix, int reg, int second, int rm);

  std::vector<uint8_t> code_;
};

}  // namespace rsk::x86
