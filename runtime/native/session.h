// A plan made ready to run, and the memory of the runs in flight.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "memory.h"
#include "plan.h"
#include "pool.h"
#include "rsk.h"
#include "step.h"

struct rsk_session {
 public:
  rsk_session(const rsk::Plan& plan, uint32_t threads, const rsk_session* sibling);

  void run(const float* const* inputs, float* const* outputs, double* microseconds);
  const std::vector<rsk::StepPointer>& steps() const { return steps_; }
  const std::vector<uint64_t>& inputs() const { return inputs_; }
  const std::vector<uint64_t>& outputs() const { return outputs_; }
  rsk_memory memory();

 private:
  struct Workspace {
    rsk::Memory arena, scratch;
  };
  struct Loop {
    size_t first, last;
    int64_t turns;
  };
  void make_steps(const rsk::Plan& plan);
  void make_room();
  void make_loops(const std::vector<rsk::StepRecord>& records);
  std::unique_ptr<Workspace> take();
  void put_back(std::unique_ptr<Workspace> workspace);

  std::vector<uint64_t> inputs_, outputs_;
  size_t arena_bytes_, scratch_bytes_ = 0, own_from_ = 0, own_floats_ = 0;
  rsk::Memory constants_;
  rsk::Shelf shelf_;
  std::vector<rsk::StepPointer> steps_;
  std::vector<Loop> loops_;
  rsk::Pool pool_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Workspace>> idle_;
  size_t contexts_ = 0;
};
