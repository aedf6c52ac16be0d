// Every instruction form of codegen/x86.h against the bytes of the system assembler, over registers and displacements.
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "codegen/pages.h"
#include "codegen/x86.h"

namespace rsk::x86 {

namespace {

struct Form {
  std::string text;  // AT&T
  std::vector<uint8_t> bytes;
};

const char* const kBases[] = {"%rax", "%rcx", "%rdx", "%rbx", "%rsp", "%rbp", "%rsi", "%rdi", "%r8"};
constexpr Base kUsed[] = {Base::kRax, Base::kRcx, Base::kRdx, Base::kRbx, Base::kRbp, Base::kRsi, Base::kRdi};
constexpr int32_t kDisplacements[] = {0, 4, -4, 32, 64, -64, 124, 127, -128, 128, 508, 512, -512, -516, 8128, 8192, -8192, 65536, 2147483644, -2147483647 - 1};

std::string zmm(int number) { return "%zmm" + std::to_string(number); }
std::string ymm(int number) { return "%ymm" + std::to_string(number); }

// gas drops a zero displacement and shortens; ours always has one: {disp8}/{disp32} asks for the same choice.
std::string memory(Address at) { return std::to_string(at.displacement) + "(" + kBases[static_cast<int>(at.base)] + ")"; }

std::string width(Address at, int unit) {
  const int steps = at.displacement / unit;
  return at.displacement % unit == 0 && steps >= -128 && steps < 128 ? "{disp8} " : "{disp32} ";
}

class Forms {
 public:
  std::vector<Form> list;

  template <class Emit>
  void add(std::string text, Emit emit) {
    Assembler assembler;
    emit(assembler);
    list.push_back({std::move(text), {assembler.code().begin(), assembler.code().end()}});
  }

  void memory512(int r, Address at) {
    const std::string unit64 = width(at, 64), unit16 = width(at, 16), unit4 = width(at, 4), m = memory(at), other = zmm(31 - r);
    add(unit64 + "{evex} vmovups " + m + ", " + zmm(r), [&](Assembler& a) { a.load512(r, at); });
    add(unit64 + "{evex} vmovups " + zmm(r) + ", " + m, [&](Assembler& a) { a.store512(at, r); });
    for (int mask = 1; mask < 8; ++mask) {
      add(unit64 + "vmovups " + m + ", " + zmm(r) + "{%k" + std::to_string(mask) + "}{z}", [&](Assembler& a) { a.load512_masked(r, mask, at); });
    }
    add(unit64 + "vaddps " + m + ", " + other + ", " + zmm(r), [&](Assembler& a) { a.add512(r, 31 - r, at); });
    add(unit16 + "vbroadcastf32x4 " + m + ", " + zmm(r), [&](Assembler& a) { a.broadcast_quad512(r, at); });
    add(unit4 + "vbroadcastss " + m + ", " + zmm(r), [&](Assembler& a) { a.broadcast512(r, at); });
    add(unit4 + "vfmadd231ps " + m + "{1to16}, " + other + ", " + zmm(r), [&](Assembler& a) { a.fma512_broadcast(r, 31 - r, at); });
  }
  void registers512(int a, int b, int c) {
    const std::string three = zmm(c) + ", " + zmm(b) + ", " + zmm(a);
    add("vfmadd231ps " + three, [&](Assembler& to) { to.fma512(a, b, c); });
    add("vmaxps " + three, [&](Assembler& to) { to.maximum512(a, b, c); });
    add("vminps " + three, [&](Assembler& to) { to.minimum512(a, b, c); });
    add("vpermilps $" + std::to_string(a * 8 + b % 8) + ", " + zmm(c) + ", " + zmm(a),
        [&](Assembler& to) { to.permute512(a, c, static_cast<uint8_t>(a * 8 + b % 8)); });
    const int mask = 1 + (a + b + c) % 7;
    add("vmovaps " + zmm(c) + ", " + zmm(a) + "{%k" + std::to_string(mask) + "}{z}", [&](Assembler& to) { to.move512_masked(a, mask, c); });
    const int lanes = (a + b + c) % 16;
    add("valignd $" + std::to_string(lanes) + ", " + three, [&](Assembler& to) { to.align512_masked(a, 0, b, c, static_cast<uint8_t>(lanes)); });
    add("valignd $" + std::to_string(lanes) + ", " + three + "{%k" + std::to_string(mask) + "}{z}",
        [&](Assembler& to) { to.align512_masked(a, mask, b, c, static_cast<uint8_t>(lanes)); });
  }
  void registers256(int a, int b, int c) {
    const std::string three = ymm(c) + ", " + ymm(b) + ", " + ymm(a);
    add("{vex3} vmaxps " + three, [&](Assembler& to) { to.maximum256(a, b, c); });
    add("{vex3} vminps " + three, [&](Assembler& to) { to.minimum256(a, b, c); });
    add("{vex3} vandps " + three, [&](Assembler& to) { to.and256(a, b, c); });
    add("{vex3} vpcmpeqd " + three, [&](Assembler& to) { to.equal256(a, b, c); });
  }
  void memory_general(Address at) {
    const std::string unit = width(at, 1), m = memory(at);
    for (int mask = 1; mask < 8; ++mask) add(unit + "kmovw " + m + ", %k" + std::to_string(mask), [&](Assembler& a) { a.load_mask(mask, at); });
    add(unit + "prefetcht0 " + m, [&](Assembler& a) { a.prefetch(at); });
    add(unit + "prefetcht0 " + memory({Base::kR8, at.displacement}), [&](Assembler& a) { a.prefetch({Base::kR8, at.displacement}); });
    add(unit + "mov " + m + ", %r8", [&](Assembler& a) { a.load(Base::kR8, at); });
    for (const Base base : kUsed) add(unit + "mov " + m + ", " + kBases[static_cast<int>(base)], [&](Assembler& a) { a.load(base, at); });
  }
  void memory256(int r, Address at) {
    const std::string unit = width(at, 1), m = memory(at);
    add(unit + "{vex3} vmovups " + m + ", " + ymm(r), [&](Assembler& a) { a.load256(r, at); });
    add(unit + "{vex3} vmovups " + ymm(r) + ", " + m, [&](Assembler& a) { a.store256(at, r); });
    add(unit + "{vex3} vbroadcastss " + m + ", " + ymm(r), [&](Assembler& a) { a.broadcast256(r, at); });
    add(unit + "{vex3} vaddps " + m + ", " + ymm(15 - r) + ", " + ymm(r), [&](Assembler& a) { a.add256(r, 15 - r, at); });
    add(unit + "{vex3} vbroadcastf128 " + m + ", " + ymm(r), [&](Assembler& a) { a.broadcast_quad256(r, at); });
  }
};

std::vector<Form> all_forms() {
  Forms forms;
  for (const Base base : kUsed) {
    for (const int32_t displacement : kDisplacements) {
      for (int r = 0; r < 32; r += 3) forms.memory512(r, {base, displacement});
      for (int r = 0; r < 16; r += 3) forms.memory256(r, {base, displacement});
      forms.memory_general({base, displacement});
    }
    for (const Base source : kUsed) {
      forms.add("add " + std::string(kBases[static_cast<int>(source)]) + ", " + kBases[static_cast<int>(base)], [&](Assembler& a) { a.add(base, source); });
    }
    for (const int32_t value : {1, 512, 1024, -1024, 2147483647}) {
      // gas has a shorter form for small values and for rax; ours is always the one with four bytes.
      if (base == Base::kRax || (value >= -128 && value < 128)) continue;
      forms.add("add $" + std::to_string(value) + ", " + kBases[static_cast<int>(base)], [&](Assembler& a) { a.add(base, value); });
    }
  }
  for (int a = 0; a < 32; ++a) {
    forms.add("{evex} vpxord " + zmm(a) + ", " + zmm(a) + ", " + zmm(a), [&](Assembler& to) { to.zero512(a); });
    for (int b = 0; b < 32; b += 5) {
      for (int c = 1; c < 32; c += 5) forms.registers512(a, b, c), forms.registers512(b, a, c), forms.registers512(b, c, a);
    }
  }
  for (int a = 0; a < 16; ++a) {
    forms.add("{vex3} vxorps " + ymm(a) + ", " + ymm(a) + ", " + ymm(a), [&](Assembler& to) { to.zero256(a); });
    for (int b = 0; b < 16; ++b)
      forms.add("{vex3} vpermilps $" + std::to_string(16 * a + b) + ", " + ymm(b) + ", " + ymm(a),
                [&](Assembler& to) { to.permute256(a, b, static_cast<uint8_t>(16 * a + b)); });
    for (int b = 0; b < 16; ++b) forms.registers256(a, b, 15 - a);
    for (int b = 0; b < 16; ++b)
      forms.add("{vex3} vfmadd231ps " + ymm(15 - a) + ", " + ymm(b) + ", " + ymm(a), [&](Assembler& to) { to.fma256(a, b, 15 - a); });
  }
  for (int mask = 1; mask < 8; ++mask) {
    forms.add("movl $" + std::to_string(0x7F << mask) + ", %eax; kmovw %eax, %k" + std::to_string(mask),
              [&](Assembler& a) { a.set_mask(mask, 0x7FU << mask); });
  }
  forms.add("vzeroupper; ret", [](Assembler& a) { a.leave(); });
  forms.add("jmp .+2", [](Assembler& a) { a.jump(); });
  return std::move(forms.list);
}

bool runs(const std::string& command) { return std::system(command.c_str()) == 0; }

int test_against_the_assembler() {
  const std::vector<Form> forms = all_forms();
  std::string folder = (std::filesystem::temp_directory_path() / "rsk_codegen_XXXXXX").string();
  if (mkdtemp(folder.data()) == nullptr) return 1;
  const std::string base = folder + "/forms";
  std::ofstream source(base + ".s");
  for (const Form& form : forms) source << form.text << "\n.byte 0x0f, 0x0b\n";  // ud2 between forms keeps a difference in one place
  source.close();
  int failures = 0;
  std::vector<uint8_t> expected;
  if (runs("as --64 -o " + base + ".o " + base + ".s") && runs("objcopy -O binary -j .text " + base + ".o " + base + ".bin")) {
    std::ifstream binary(base + ".bin", std::ios::binary);
    expected.assign(std::istreambuf_iterator<char>(binary), {});
  } else {
    std::printf("FAIL the system assembler does not take the forms\n");
    ++failures;
  }
  std::filesystem::remove_all(folder);
  size_t at = 0;
  for (const Form& form : forms) {
    if (failures > 0) break;
    std::vector<uint8_t> bytes = form.bytes;
    bytes.push_back(0x0F), bytes.push_back(0x0B);
    if (at + bytes.size() > expected.size() || !std::equal(bytes.begin(), bytes.end(), expected.begin() + static_cast<ptrdiff_t>(at))) {
      std::printf("FAIL %s:\n ours  ", form.text.c_str());
      for (const uint8_t byte : bytes) std::printf(" %02x", byte);
      std::printf("\n gas's ");
      for (size_t i = at; i < std::min(at + 14, expected.size()); ++i) std::printf(" %02x", expected[i]);
      std::printf("\n");
      ++failures;
    }
    at += bytes.size();
  }
  if (failures == 0 && at != expected.size()) std::printf("FAIL the assembler has bytes left over\n"), ++failures;
  std::printf("%zu forms\n", forms.size());
  return failures;
}

// Pages are executable and not writable, or not valid.
int test_pages() {
  const std::vector<uint8_t> code = {0xC3};
  const CodePages pages(code);
  if (!pages.valid()) return 0;
  reinterpret_cast<void (*)()>(reinterpret_cast<uintptr_t>(pages.data()))();
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    uintptr_t first = 0, last = 0;
    char rights[5] = {};
    if (std::sscanf(line.c_str(), "%lx-%lx %4s", &first, &last, rights) != 3) continue;
    const auto address = reinterpret_cast<uintptr_t>(pages.data());
    if (first <= address && address < last) {
      if (std::string(rights) == "r-xp") return 0;
      std::printf("FAIL code pages are %s\n", rights);
      return 1;
    }
  }
  std::printf("FAIL code pages are not mapped\n");
  return 1;
}

}  // namespace

}  // namespace rsk::x86

int main() { return rsk::x86::test_against_the_assembler() + rsk::x86::test_pages() == 0 ? 0 : 1; }
