#include "session.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <exception>

#include "kernels/families.h"
#include "refusal.h"

namespace {

using Maker = rsk::StepPointer (*)(const rsk::Plan&, const rsk::StepRecord&);

constexpr std::array<Maker, static_cast<size_t>(rsk::Op::kCount)> kMakers = {
    rsk::make_conv,    rsk::make_linear, rsk::make_pool, rsk::make_unary,  rsk::make_binary, rsk::make_scale, rsk::make_reduce,
    rsk::make_softmax, rsk::make_norm,   rsk::make_lrn,  rsk::make_matmul, rsk::make_copy,   rsk::make_take,  rsk::make_blend,
};

constexpr uint32_t kMaxThreads = 1024;
constexpr double kNanosecondsToMake = 50'000;  // a step, roughly
constexpr size_t kMaxScratchFloats = size_t{1} << 36;
constexpr size_t kPage = 1024;  // floats

void say(const char* text, char* message, size_t room) {
  if (room == 0) return;
  std::strncpy(message, text, room - 1);
  message[room - 1] = '\0';
}

// Calls body, and turns what it throws into a status.
template <class Body>
rsk_status guarded(char* message, size_t room, const Body& body) {
  try {
    body();
    return RSK_OK;
  } catch (const rsk::Refusal& refusal) {
    say(refusal.message.c_str(), message, room);
    return refusal.status;
  } catch (const std::bad_alloc&) {
    say("there is not enough memory", message, room);
  } catch (const std::length_error&) {
    say("there is not enough memory", message, room);
  } catch (const std::exception& error) {
    say(error.what(), message, room);
  }
  return RSK_OUT_OF_MEMORY;
}

}  // namespace

rsk_session::rsk_session(const rsk::Plan& plan, uint32_t threads, const rsk_session* sibling)
    : inputs_(rsk::copied(plan.input_floats())),
      outputs_(rsk::copied(plan.output_floats())),
      arena_bytes_(plan.arena_floats() * sizeof(float)),
      constants_(plan.constants().size_bytes()),
      shelf_(sibling != nullptr ? sibling->shelf_ : rsk::Shelf()),
      pool_(std::clamp(threads, uint32_t{1}, kMaxThreads)) {
  std::copy(plan.constants().begin(), plan.constants().end(), constants_.floats());
  make_steps(plan);
  shelf_.weights.settle(constants_);
  for (const auto& step : steps_) step->settle(shelf_);
  make_loops(plan.steps());
  make_room();
}

void rsk_session::make_room() {
  rsk::Room most;
  for (const auto& step : steps_) {
    const rsk::Room room = step->room(pool_.threads());
    most = {std::max(most.shared, room.shared), std::max(most.own, room.own)};
  }
  const auto whole_pages = [](size_t floats) { return (floats + kPage - 1) / kPage * kPage; };
  own_floats_ = whole_pages(most.own);
  own_from_ = pool_.threads() == 1 ? 0 : whole_pages(most.shared);  // a lone thread needs one or the other
  const size_t floats = std::max(most.shared, own_from_ + pool_.threads() * own_floats_);
  rsk::expect(floats <= kMaxScratchFloats, "the plan asks for too much memory");
  scratch_bytes_ = floats * sizeof(float);
}

// Kernels lay out their weights and generate their code here: what most of the time of loading goes to.
void rsk_session::make_steps(const rsk::Plan& plan) {
  const std::vector<rsk::StepRecord>& records = plan.steps();
  steps_.resize(records.size());
  std::vector<std::exception_ptr> errors(records.size());
  pool_.share(records.size(), kNanosecondsToMake * static_cast<double>(records.size()), [&](size_t first, size_t last) {
    for (size_t number = first; number < last; ++number) {
      try {
        steps_[number] = kMakers[static_cast<size_t>(records[number].op)](plan, records[number]);
      } catch (...) {
        errors[number] = std::current_exception();
      }
    }
  });
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

void rsk_session::make_loops(const std::vector<rsk::StepRecord>& records) {
  for (size_t first = 0, last = 0; first < records.size(); first = last) {
    const rsk::StepRecord& record = records[first];
    while (last < records.size() && records[last].loop == record.loop && records[last].turns == record.turns) ++last;
    loops_.push_back({first, last, record.turns});
  }
}

std::unique_ptr<rsk_session::Workspace> rsk_session::take() {
  const std::lock_guard lock(mutex_);
  if (!idle_.empty()) {
    auto workspace = std::move(idle_.back());
    idle_.pop_back();
    return workspace;
  }
  auto workspace = std::make_unique<Workspace>(Workspace{rsk::Memory(arena_bytes_), rsk::Memory(scratch_bytes_)});
  idle_.reserve(++contexts_);
  return workspace;
}

void rsk_session::put_back(std::unique_ptr<Workspace> workspace) {
  const std::lock_guard lock(mutex_);
  idle_.push_back(std::move(workspace));
}

void rsk_session::run(const float* const* inputs, float* const* outputs, double* microseconds) {
  using Clock = std::chrono::steady_clock;
  auto workspace = take();
  float* const scratch = workspace->scratch.floats();
  rsk::Context context{workspace->arena.floats(), constants_.floats(), inputs, outputs, scratch, scratch + own_from_, own_floats_, &pool_};
  if (microseconds != nullptr) std::fill_n(microseconds, steps_.size(), 0.0);
  for (const Loop& loop : loops_) {
    for (context.turn = 0; context.turn < loop.turns; ++context.turn) {
      for (size_t step = loop.first; step < loop.last; ++step) {
        const auto start = microseconds != nullptr ? Clock::now() : Clock::time_point{};
        steps_[step]->run(context);
        if (microseconds != nullptr) microseconds[step] += std::chrono::duration<double, std::micro>(Clock::now() - start).count();
      }
    }
  }
  put_back(std::move(workspace));
}

rsk_memory rsk_session::memory() {
  const std::lock_guard lock(mutex_);
  rsk_memory use{constants_.own_bytes(), 0, 0, arena_bytes_, scratch_bytes_, contexts_};
  for (const auto& step : steps_) {
    use.weights += step->weight_bytes();
    use.code += step->code_bytes();
    use.transformed += step->transformed_bytes();
  }
  return use;
}

rsk_status rsk_create(const void* plan, size_t bytes, uint32_t threads, const rsk_session* sibling, rsk_session** session, char* message, size_t room) {
  *session = nullptr;
  return guarded(message, room, [&] { *session = new rsk_session(rsk::Plan(plan, bytes), threads, sibling); });
}

void rsk_destroy(rsk_session* session) { delete session; }

rsk_status rsk_run(rsk_session* session, const float* const* inputs, float* const* outputs, double* microseconds, char* message, size_t room) {
  return guarded(message, room, [&] { session->run(inputs, outputs, microseconds); });
}

uint32_t rsk_inputs(const rsk_session* session) { return static_cast<uint32_t>(session->inputs().size()); }
uint32_t rsk_outputs(const rsk_session* session) { return static_cast<uint32_t>(session->outputs().size()); }
uint64_t rsk_input_floats(const rsk_session* session, uint32_t index) { return session->inputs()[index]; }
uint64_t rsk_output_floats(const rsk_session* session, uint32_t index) { return session->outputs()[index]; }
uint32_t rsk_steps(const rsk_session* session) { return static_cast<uint32_t>(session->steps().size()); }
const char* rsk_step_kernel(const rsk_session* session, uint32_t step) { return session->steps()[step]->kernel(); }
uint64_t rsk_step_bytes(const rsk_session* session, uint32_t step) {
  const rsk::Step& one = *session->steps()[step];
  return one.weight_bytes() + one.code_bytes() + one.transformed_bytes();
}
rsk_memory rsk_memory_use(rsk_session* session) { return session->memory(); }

const char* rsk_kernel(uint32_t index) { return index < rsk::families().size() ? rsk::families()[index].name : nullptr; }
int rsk_kernel_runs_here(uint32_t index) { return index < rsk::families().size() && rsk::runs_here(rsk::families()[index].isa) ? 1 : 0; }

int rsk_may_generate_code(void) { return rsk::may_generate_code() ? 1 : 0; }
