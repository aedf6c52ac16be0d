// Every instruction form of codegen/aarch64.h against the bytes of the assembler, over random operands of the whole legal range.
//   aarch64_test ASSEMBLER OBJCOPY
#include "codegen/aarch64.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>

namespace rsk::aarch64 {

namespace {

constexpr int kTimes = 400;  // each form

template <class... Values>
std::string text(const char* format, Values... values) {
  char line[128];
  std::snprintf(line, sizeof line, format, values...);
  return line;
}

struct Form {
  std::string text;
  size_t first, last;  // in the code
};

class Forms {
 public:
  std::vector<Form> list;
  Assembler assembler;

  void add_all() {
    for (int i = 0; i < kTimes; ++i) add_memory(), add_vectors(), add_general();
  }

 private:
  // The ends of a range are drawn often.
  int between(int low, int high) {
    const uint32_t draw = random_() % 16;
    return draw == 0 ? low : draw == 1 ? high : low + static_cast<int>(random_() % static_cast<uint32_t>(high - low + 1));
  }
  int x() { return between(0, 30); }
  int v() { return between(0, 31); }
  Address address(int low, int high, int unit) { return {between(0, kStackPointer), unit * between(low, high)}; }

  static std::string name(int base) { return base == kStackPointer ? "sp" : text("x%d", base); }

  template <class Emit>
  void add(std::string text, Emit emit) {
    const size_t first = assembler.size();
    emit();
    list.push_back({std::move(text), first, assembler.size()});
  }

  void add_memory() {
    const int a = v(), b = (a + 1 + between(0, 30)) % 32;
    const auto form = [&](const char* format, Address at, auto emit) { add(text(format, a, name(at.base).c_str(), at.displacement), [&] { emit(at); }); };
    const auto pair = [&](const char* format, Address at, auto emit) { add(text(format, a, b, name(at.base).c_str(), at.displacement), [&] { emit(at); }); };
    form("ldr q%d, [%s, #%d]", address(0, 4095, 16), [&](Address at) { assembler.load128(a, at); });
    form("ldur q%d, [%s, #%d]", address(-256, 255, 1), [&](Address at) { assembler.load128_unscaled(a, at); });
    pair("ldp q%d, q%d, [%s, #%d]", address(-64, 63, 16), [&](Address at) { assembler.load_pair128(a, b, at); });
    pair("stp q%d, q%d, [%s, #%d]", address(-64, 63, 16), [&](Address at) { assembler.store_pair128(at, a, b); });
    pair("ldp d%d, d%d, [%s, #%d]", address(-64, 63, 8), [&](Address at) { assembler.load_pair64(a, b, at); });
    pair("stp d%d, d%d, [%s, #%d]", address(-64, 63, 8), [&](Address at) { assembler.store_pair64(at, a, b); });
    pair("stp d%d, d%d, [%s, #%d]!", address(-64, 63, 8), [&](Address at) { assembler.push_pair64(at, a, b); });
    pair("ldp d%d, d%d, [%s], #%d", address(-64, 63, 8), [&](Address at) { assembler.pop_pair64(a, b, at); });
  }

  void add_vectors() {
    const int a = v(), b = v(), c = v(), lane = between(0, 3);
    add(text("fmla v%d.4s, v%d.4s, v%d.s[%d]", a, b, c, lane), [&] { assembler.fma_by_lane(a, b, c, lane); });
    const auto three = [&](const char* format, auto emit) { add(text(format, a, b, c), [&] { emit(a, b, c); }); };
    three("fadd v%d.4s, v%d.4s, v%d.4s", [&](int d, int n, int m) { assembler.add128(d, n, m); });
    three("fmax v%d.4s, v%d.4s, v%d.4s", [&](int d, int n, int m) { assembler.maximum128(d, n, m); });
    three("fmin v%d.4s, v%d.4s, v%d.4s", [&](int d, int n, int m) { assembler.minimum128(d, n, m); });
    three("and v%d.16b, v%d.16b, v%d.16b", [&](int d, int n, int m) { assembler.and128(d, n, m); });
    three("cmtst v%d.4s, v%d.4s, v%d.4s", [&](int d, int n, int m) { assembler.test128(d, n, m); });
    add(text("dup v%d.4s, v%d.s[%d]", a, b, lane), [&] { assembler.broadcast128(a, b, lane); });
    const int general = x();
    add(text("dup v%d.4s, w%d", a, general), [&] { assembler.broadcast128_general(a, general); });
    add(text("movi v%d.4s, #0", a), [&] { assembler.zero128(a); });
  }

  void add_general() {
    const int a = x(), b = x(), c = x(), shift = 12 * between(0, 1), part = between(shift != 0 ? 1 : 0, 4095), low = between(0, 65535),
              high = between(0, 65535);
    const uint32_t value = static_cast<uint32_t>(part) << shift;
    add(text("add x%d, x%d, #%d, lsl #%d", a, b, part, shift), [&] { assembler.add_immediate(a, b, value); });
    add(text("sub x%d, x%d, #%d, lsl #%d", a, b, part, shift), [&] { assembler.subtract_immediate(a, b, value); });
    add(text("add x%d, x%d, x%d", a, b, c), [&] { assembler.add(a, b, c); });
    add(text("sub x%d, x%d, x%d", a, b, c), [&] { assembler.subtract(a, b, c); });
    add(text("movz x%d, #%d; movk x%d, #%d, lsl #16", a, low, a, high),
        [&] { assembler.move(a, static_cast<uint32_t>(high) << 16 | static_cast<uint32_t>(low)); });
    const auto back = std::min(static_cast<size_t>(between(0, 9000)), assembler.size() / 4);
    add(text("cbnz x%d, . - %d", a, static_cast<int>(4 * back)), [&] { assembler.branch_if_not_zero(a, assembler.size() - 4 * back); });
    const Address field = address(0, 4095, 8);
    add(text("ldr x%d, [%s, #%d]", a, name(field.base).c_str(), field.displacement), [&] { assembler.load64(a, field); });
    add(text("prfm pldl2keep, [%s, #%d]", name(field.base).c_str(), field.displacement), [&] { assembler.prefetch(field); });
    const int bits = between(0, 63);
    add(text("lsr x%d, x%d, #%d", a, b, bits), [&] { assembler.shift_right(a, b, bits); });
    add("ret", [&] { assembler.leave(); });
  }

  std::mt19937 random_;
};

bool runs(const std::string& command) { return std::system(command.c_str()) == 0; }

// The text of the forms as the assembler has it; empty where it takes them not.
std::vector<uint8_t> assembled(const std::vector<Form>& forms, const std::string& assembler, const std::string& objcopy) {
  std::string folder = (std::filesystem::temp_directory_path() / "rsk_aarch64_XXXXXX").string();
  if (mkdtemp(folder.data()) == nullptr) return {};
  const std::string base = folder + "/forms";
  std::ofstream source(base + ".s");
  for (const Form& form : forms) source << form.text << "\n";
  source.close();
  std::vector<uint8_t> bytes;
  if (runs(assembler + " -o " + base + ".o " + base + ".s") && runs(objcopy + " -O binary -j .text " + base + ".o " + base + ".bin")) {
    std::ifstream binary(base + ".bin", std::ios::binary);
    bytes.assign(std::istreambuf_iterator<char>(binary), {});
  }
  std::filesystem::remove_all(folder);
  return bytes;
}

int test_against_the_assembler(const std::string& assembler, const std::string& objcopy) {
  Forms forms;
  forms.add_all();
  const std::vector<uint8_t> expected = assembled(forms.list, assembler, objcopy);
  const auto ours = forms.assembler.code();
  if (expected.size() != ours.size()) return std::printf("FAIL %zu bytes, the assembler has %zu\n", ours.size(), expected.size());
  int failures = 0;
  for (const Form& form : forms.list) {
    if (std::equal(ours.begin() + static_cast<ptrdiff_t>(form.first), ours.begin() + static_cast<ptrdiff_t>(form.last),
                   expected.begin() + static_cast<ptrdiff_t>(form.first))) {
      continue;
    }
    if (++failures <= 10) std::printf("FAIL %s\n", form.text.c_str());
  }
  std::printf("%zu forms\n", forms.list.size());
  return failures;
}

}  // namespace

}  // namespace rsk::aarch64

int main(int count, char** arguments) {
  if (count != 3) return std::printf("aarch64_test ASSEMBLER OBJCOPY\n"), 2;
  return rsk::aarch64::test_against_the_assembler(arguments[1], arguments[2]) == 0 ? 0 : 1;
}
