// The C API as a Python module. Arguments are checked here against the session; their meaning is session.py's.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <memory>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "rsk.h"

namespace nb = nanobind;

namespace {

using Floats = nb::ndarray<float, nb::c_contig, nb::device::cpu>;
using ConstFloats = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

struct Destroy {
  void operator()(rsk_session* session) const { rsk_destroy(session); }
};

class Engine {
 public:
  Engine(const Bytes& plan, uint32_t threads) {
    rsk_session* session = nullptr;
    rsk_status status = RSK_OK;
    {
      const nb::gil_scoped_release release;
      status = rsk_create(plan.data(), plan.size(), threads, &session, message_.data(), message_.size());
    }
    if (status != RSK_OK) refuse(status, message_.data());
    session_.reset(session);
  }

  // Fills the outputs; gives the microseconds of every step if timed.
  std::vector<double> run(const std::vector<ConstFloats>& inputs, const std::vector<Floats>& outputs, bool timed) const {
    std::vector<const float*> from;
    std::vector<float*> to;
    if (inputs.size() != rsk_inputs(session_.get()) || outputs.size() != rsk_outputs(session_.get())) throw std::invalid_argument("wrong number of arrays");
    for (uint32_t i = 0; i < inputs.size(); ++i) {
      if (inputs[i].size() != rsk_input_floats(session_.get(), i)) throw std::invalid_argument("an input has the wrong size");
      from.push_back(inputs[i].data());
    }
    for (uint32_t i = 0; i < outputs.size(); ++i) {
      if (outputs[i].size() != rsk_output_floats(session_.get(), i)) throw std::invalid_argument("an output has the wrong size");
      to.push_back(outputs[i].data());
    }
    std::vector<double> times(timed ? rsk_steps(session_.get()) : 0);
    std::array<char, kRoom> message;
    rsk_status status = RSK_OK;
    {
      const nb::gil_scoped_release release;
      status = rsk_run(session_.get(), from.data(), to.data(), timed ? times.data() : nullptr, message.data(), message.size());
    }
    if (status != RSK_OK) refuse(status, message.data());
    return times;
  }

  std::vector<std::string> kernels() const {
    std::vector<std::string> names;
    for (uint32_t step = 0; step < rsk_steps(session_.get()); ++step) names.emplace_back(rsk_step_kernel(session_.get(), step));
    return names;
  }

  std::tuple<uint64_t, uint64_t, uint64_t, uint64_t, uint64_t> memory() const {
    const rsk_memory use = rsk_memory_use(session_.get());
    return {use.weights, use.code, use.activations, use.scratch, use.contexts};
  }

 private:
  static constexpr size_t kRoom = 256;

  [[noreturn]] static void refuse(rsk_status status, const char* message) {
    if (status == RSK_OUT_OF_MEMORY) {
      PyErr_SetString(PyExc_MemoryError, message);
    } else {
      PyErr_SetString(status == RSK_UNSUPPORTED ? PyExc_NotImplementedError : PyExc_ValueError, message);
    }
    throw nb::python_error();
  }

  std::array<char, kRoom> message_{};
  std::unique_ptr<rsk_session, Destroy> session_;
};

std::vector<std::string> kernels() {
  std::vector<std::string> names;
  for (uint32_t index = 0; rsk_kernel(index) != nullptr; ++index) {
    if (rsk_kernel_runs_here(index) != 0) names.emplace_back(rsk_kernel(index));
  }
  return names;
}

}  // namespace

NB_MODULE(_native, module) {
  module.doc() = "The native runtime: engines that run one plan.";
  nb::class_<Engine>(module, "Engine", "One plan, checked and made ready to run. Any number of threads may call it.")
      .def(nb::init<const Bytes&, uint32_t>(), nb::arg("plan"), nb::arg("threads"))
      .def("run", &Engine::run, nb::arg("inputs"), nb::arg("outputs"), nb::arg("timed"), "Fill the outputs; give the microseconds of every step if timed.")
      .def("kernels", &Engine::kernels, "The kernel of every step.")
      .def("memory", &Engine::memory, "Bytes of weights, generated code, activations and scratch, and the number of contexts.");
  module.def("kernels", &kernels, "The convolution kernels that run on this machine, best first, as isa/family.");
}
