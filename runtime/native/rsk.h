// The C API of the runtime. No exceptions, no printing, no global state: every call returns a status, and says in
// `message` (of `room` bytes, always ended) what was wrong.
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct rsk_session rsk_session;

enum rsk_status {
  RSK_OK = 0,
  RSK_CORRUPT = 1,      // the plan contradicts itself
  RSK_UNSUPPORTED = 2,  // the plan asks for what this machine or build does not have
  RSK_OUT_OF_MEMORY = 3,
};

typedef struct rsk_memory {
  uint64_t weights;      // weights, their index, biases and constants
  uint64_t code;         // generated instructions
  uint64_t transformed;  // what Winograd layers keep instead of their weights: four times as many, zeros included
  uint64_t activations;  // the arena of one run
  uint64_t scratch;      // packed inputs and partial tiles of one run
  uint64_t contexts;     // how many runs have been in flight at once; each has its own arena and scratch
} rsk_memory;

// Builds a session from one plan, which starts at a multiple of 64 bytes, is checked completely and may be freed afterwards.
// Weights and code that equal those of `sibling` (or null) or of its siblings are shared, and given back with the last of them.
enum rsk_status rsk_create(const void* plan, size_t bytes, uint32_t threads, const rsk_session* sibling, rsk_session** session, char* message, size_t room);
void rsk_destroy(rsk_session* session);

// Runs the network once. Any number of threads may call it. Pointers stand in the plan's order and have rsk_input_floats
// and rsk_output_floats elements. With `microseconds` (one per step, or null) every step is timed.
enum rsk_status rsk_run(rsk_session* session, const float* const* inputs, float* const* outputs, double* microseconds, char* message, size_t room);

uint32_t rsk_inputs(const rsk_session* session);
uint32_t rsk_outputs(const rsk_session* session);
uint64_t rsk_input_floats(const rsk_session* session, uint32_t index);
uint64_t rsk_output_floats(const rsk_session* session, uint32_t index);
uint32_t rsk_steps(const rsk_session* session);
const char* rsk_step_kernel(const rsk_session* session, uint32_t step);  // lives as long as the session
uint64_t rsk_step_bytes(const rsk_session* session, uint32_t step);      // its part of the weights and the code
rsk_memory rsk_memory_use(rsk_session* session);

// The convolution kernels of this build, best first, as "isa/family"; null after the last.
const char* rsk_kernel(uint32_t index);
int rsk_kernel_runs_here(uint32_t index);

// Whether the system lets this process make pages executable. Where not, kernels of generated code refuse every layer.
int rsk_may_generate_code(void);

#ifdef __cplusplus
}
#endif
