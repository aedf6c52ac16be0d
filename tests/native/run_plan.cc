// Creates and runs sessions from plan files, and from damaged copies of them: any refusal is fine, a crash is not.
//   run_plan FILE… [--mutations N] [--threads N]
//   run_plan FILE… --answers     reads each plan's inputs from FILE.in, writes its outputs to FILE.out, prints its kernels
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <new>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "rsk.h"

namespace {

constexpr std::size_t kAlignment = 64;
constexpr std::uint64_t kMostBytes = std::uint64_t{64} << 20;  // a damaged plan that asks for more is created but not run

struct Aligned {
  explicit Aligned(const std::vector<char>& bytes)
      : size(bytes.size()), data(static_cast<char*>(std::aligned_alloc(kAlignment, (size + kAlignment) / kAlignment * kAlignment))) {
    std::memcpy(data, bytes.data(), size);
  }
  Aligned(const Aligned&) = delete;
  Aligned& operator=(const Aligned&) = delete;
  ~Aligned() { std::free(data); }

  std::size_t size;
  char* data;
};

// Runs the plan once per thread, in a session that outlives the one it shares its weights with; false if it is refused.
bool run(const Aligned& plan, std::uint32_t threads) {
  char message[256] = "";
  rsk_session *first = nullptr, *session = nullptr;
  if (rsk_create(plan.data, plan.size, threads, nullptr, &first, message, sizeof message) != RSK_OK) return message[0] == '\0';
  const rsk_status status = rsk_create(plan.data, plan.size, threads, first, &session, message, sizeof message);
  rsk_destroy(first);
  if (status != RSK_OK) return message[0] == '\0';
  const rsk_memory use = rsk_memory_use(session);
  std::uint64_t bytes = use.activations + use.scratch;
  for (std::uint32_t i = 0; i < rsk_inputs(session); ++i) bytes += 4 * rsk_input_floats(session, i);
  for (std::uint32_t i = 0; i < rsk_outputs(session); ++i) bytes += 4 * rsk_output_floats(session, i);
  const auto once = [&] {
    std::vector<std::vector<float>> inputs, outputs;
    std::vector<const float*> from;
    std::vector<float*> to;
    for (std::uint32_t i = 0; i < rsk_inputs(session); ++i) inputs.emplace_back(rsk_input_floats(session, i), 0.5F);
    for (std::uint32_t i = 0; i < rsk_outputs(session); ++i) outputs.emplace_back(rsk_output_floats(session, i));
    for (const auto& input : inputs) from.push_back(input.data());
    for (auto& output : outputs) to.push_back(output.data());
    std::vector<double> microseconds(rsk_steps(session));
    char problem[256];
    rsk_run(session, from.data(), to.data(), microseconds.data(), problem, sizeof problem);
  };
  if (bytes <= kMostBytes) {
    std::vector<std::thread> runs;
    for (std::uint32_t i = 1; i < threads; ++i) runs.emplace_back(once);
    once();
    for (auto& thread : runs) thread.join();
  }
  rsk_destroy(session);
  return true;
}

std::vector<std::vector<float>> floats(std::uint32_t count, const rsk_session* session, std::uint64_t (*size)(const rsk_session*, std::uint32_t)) {
  std::vector<std::vector<float>> arrays;
  for (std::uint32_t i = 0; i < count; ++i) arrays.emplace_back(size(session, i));
  return arrays;
}

// Runs a plan once on its own inputs, or prints why it is refused; false if it does not run.
bool answer(const std::string& path, const Aligned& plan, std::uint32_t threads) {
  char message[256] = "";
  rsk_session* session = nullptr;
  if (rsk_create(plan.data, plan.size, threads, nullptr, &session, message, sizeof message) != RSK_OK) return std::puts(message), true;
  auto inputs = floats(rsk_inputs(session), session, rsk_input_floats), outputs = floats(rsk_outputs(session), session, rsk_output_floats);
  std::ifstream from(path + ".in", std::ios::binary);
  std::vector<const float*> read;
  std::vector<float*> written;
  for (auto& input : inputs) {
    from.read(reinterpret_cast<char*>(input.data()), static_cast<std::streamsize>(4 * input.size()));
    read.push_back(input.data());
  }
  for (auto& output : outputs) written.push_back(output.data());
  const bool ran = from.good() && rsk_run(session, read.data(), written.data(), nullptr, message, sizeof message) == RSK_OK;
  std::ofstream to(path + ".out", std::ios::binary);
  for (const auto& output : outputs) to.write(reinterpret_cast<const char*>(output.data()), static_cast<std::streamsize>(4 * output.size()));
  for (std::uint32_t step = 0; step < rsk_steps(session); ++step) std::printf("%s ", rsk_step_kernel(session, step));
  std::puts(message);
  rsk_destroy(session);
  return ran;
}

void damage(std::vector<char>& plan, std::mt19937_64& random) {
  const std::size_t structure = std::min<std::size_t>(plan.size(), 16384);
  for (std::uint64_t count = 1 + random() % 3; count > 0; --count) {
    const std::size_t at = random() % (random() % 8 == 0 ? plan.size() : structure);
    switch (random() % 4) {
      case 0:
        plan[at] = static_cast<char>(random());
        break;
      case 1:
        plan[at] = static_cast<char>(plan[at] ^ (1 << random() % 8));
        break;
      case 2:
        plan[at] = static_cast<char>(random() % 2 != 0 ? 0 : -1);
        break;
      default: {
        const std::size_t word = at / 8 * 8;
        const std::uint64_t value = random() >> (random() % 64);
        if (word + 8 <= plan.size()) std::memcpy(plan.data() + word, &value, 8);
      }
    }
  }
  if (random() % 32 == 0) plan.resize(random() % plan.size());
}

}  // namespace

int main(int count, char** arguments) {
  std::uint32_t threads = 1;
  std::uint64_t mutations = 0, refused = 0, plans = 0;
  bool answers = false;
  std::vector<std::string> paths;
  std::vector<std::vector<char>> files;
  for (int i = 1; i < count; ++i) {
    const std::string argument = arguments[i];
    if (argument == "--threads" || argument == "--mutations") {
      const auto value = std::strtoull(i + 1 < count ? arguments[++i] : "0", nullptr, 10);
      (argument == "--threads" ? static_cast<void>(threads = static_cast<std::uint32_t>(value)) : static_cast<void>(mutations = value));
      continue;
    }
    if (argument == "--answers") {
      answers = true;
      continue;
    }
    paths.push_back(argument);
    std::ifstream file(argument, std::ios::binary);
    files.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  for (const auto& file : files) {
    if (!(answers ? answer(paths[plans], Aligned(file), threads) : run(Aligned(file), threads))) {
      std::puts("a sound plan was refused");
      return 1;
    }
    std::mt19937_64 random(plans++);
    for (std::uint64_t i = 0; i < mutations; ++i) {
      auto broken = file;
      damage(broken, random);
      refused += run(Aligned(broken), threads) ? 0 : 1;
    }
  }
  std::printf("%llu plans, %llu damaged copies, %llu of them refused\n", static_cast<unsigned long long>(plans),
              static_cast<unsigned long long>(mutations * plans), static_cast<unsigned long long>(refused));
  return 0;
}
