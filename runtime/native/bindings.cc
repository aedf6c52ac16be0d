// The C API and the code generator as a Python module. Arguments are checked here; their meaning is the caller's.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "codegen/unrolled.h"
#include "rsk.h"

namespace nb = nanobind;

namespace {

using Floats = nb::ndarray<float, nb::c_contig, nb::device::cpu>;
using ConstFloats = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using Places = nb::ndarray<const bool, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Columns = nb::ndarray<uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

struct Destroy {
  void operator()(rsk_session* session) const { rsk_destroy(session); }
};

class Engine {
 public:
  Engine(const Bytes& plan, uint32_t threads, const Engine* sibling) {
    rsk_session* session = nullptr;
    rsk_status status = RSK_OK;
    {
      const nb::gil_scoped_release release;
      status =
          rsk_create(plan.data(), plan.size(), threads, sibling != nullptr ? sibling->session_.get() : nullptr, &session, message_.data(), message_.size());
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

  std::vector<uint64_t> bytes() const {
    std::vector<uint64_t> found;
    for (uint32_t step = 0; step < rsk_steps(session_.get()); ++step) found.push_back(rsk_step_bytes(session_.get(), step));
    return found;
  }

  std::tuple<uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t> memory() const {
    const rsk_memory use = rsk_memory_use(session_.get());
    return {use.weights, use.code, use.transformed, use.activations, use.scratch, use.contexts};
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

template <class Value>
using Row = nb::ndarray<const Value, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Piece = std::tuple<size_t, size_t>;
using Block = std::tuple<std::vector<uint32_t>, std::vector<Piece>>;

void require(bool holds, const char* message) {
  if (!holds) throw std::invalid_argument(message);
}

void check_matrix(const Row<uint32_t>& start, const Row<uint32_t>& columns, const Row<float>& values, const Row<int32_t>& offsets) {
  require(start.size() >= 1 && start(0) == 0 && start(start.size() - 1) == columns.size() && columns.size() == values.size(), "the counts of a matrix differ");
  for (size_t filter = 0; filter + 1 < start.size(); ++filter) {
    require(start(filter) <= start(filter + 1) && start(filter + 1) <= columns.size(), "a row of the matrix ends before it starts");
    for (size_t at = start(filter); at < start(filter + 1); ++at) {
      require(columns(at) < offsets.size() && (at == start(filter) || columns(at - 1) < columns(at)), "the columns of a matrix do not ascend below its size");
    }
  }
  for (size_t row = 0; row < offsets.size(); ++row) require(std::abs(int64_t{offsets(row)}) <= rsk::kUnrolledReach, "an offset is beyond what code addresses");
}

// The code of a layer for any machine: code, weights, vectors of a call, whether it finishes, blocks.
using Unrolled = std::tuple<nb::bytes, nb::bytes, uint32_t, bool, std::vector<Block>>;

Unrolled unrolled(const std::string& isa, const Row<uint32_t>& start, const Row<uint32_t>& columns, const Row<float>& values, const Row<int32_t>& offsets,
                  uint32_t vectors, const std::optional<Row<float>>& bias, uint32_t activation, float alpha, float beta, bool residual, uint32_t tiles) {
  check_matrix(start, columns, values, offsets);
  require(vectors >= 1 && vectors <= 4, "tiles have 1 to 4 vectors");
  require(!bias || bias->size() == start.size() - 1, "the bias has another length than the matrix");
  require(activation < rsk::kActivations, "an activation is unknown");
  const rsk::Matrix matrix{static_cast<uint32_t>(start.size() - 1), static_cast<uint32_t>(offsets.size()), start.data(), columns.data(), values.data()};
  const rsk::Epilogue epilogue{bias ? bias->data() : nullptr, static_cast<rsk::Activation>(activation), alpha, beta, residual};
  for (const rsk::Isa target : {rsk::Isa::kAvx512, rsk::Isa::kAvx2, rsk::Isa::kNeon}) {
    if (isa != rsk::isa_name(target)) continue;
    const rsk::UnrolledLayer layer =
        rsk::unrolled_layer({.matrix = matrix, .offsets = offsets.data(), .vectors = vectors, .tiles = tiles, .epilogue = &epilogue}, target);
    const rsk::GeneratedCode& generated = layer.generated;
    std::vector<Block> blocks;
    for (const rsk::UnrolledBlock& block : layer.blocks) {
      auto& [filters, pieces] = blocks.emplace_back(block.filters, std::vector<Piece>());
      for (size_t piece = block.first; piece < block.last; ++piece) pieces.emplace_back(generated.pieces[piece].entry, generated.pieces[piece].first_weight);
    }
    return {nb::bytes(generated.code.data(), generated.code.size()), nb::bytes(generated.weights.data(), generated.weights.size() * sizeof(float)),
            layer.tile.vectors, generated.finishes, blocks};
  }
  throw std::invalid_argument("code is generated for avx512, avx2 and neon, not for " + isa);
}

// No branch: a place is as likely kept as not. So it writes one element beyond the last, which the caller gives room for.
void columns(const Places& places, const Columns& out) {
  size_t kept = 0;
  const bool* place = places.data();
  uint32_t* next = out.data();
  for (size_t row = 0; row < places.shape(0); ++row) {
    for (size_t column = 0; column < places.shape(1); ++column) {
      if (kept >= out.size()) throw std::invalid_argument("more places are kept than there is room for");
      next[kept] = static_cast<uint32_t>(column);
      kept += *place++ ? 1 : 0;
    }
  }
}

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
      .def(nb::init<const Bytes&, uint32_t, const Engine*>(), nb::arg("plan"), nb::arg("threads"), nb::arg("sibling").none() = nb::none(),
           "`sibling` runs another plan of the same network: equal weights and code are shared with it.")
      .def("run", &Engine::run, nb::arg("inputs"), nb::arg("outputs"), nb::arg("timed"), "Fill the outputs; give the microseconds of every step if timed.")
      .def("kernels", &Engine::kernels, "The kernel of every step.")
      .def("bytes", &Engine::bytes, "Bytes of weights and generated code of every step.")
      .def("memory", &Engine::memory, "Bytes of weights, generated code, transformed weights, activations and scratch, and the number of contexts.");
  module.def("unrolled", &unrolled, nb::arg("isa"), nb::arg("start"), nb::arg("columns"), nb::arg("values"), nb::arg("offsets"), nb::arg("vectors"),
             nb::arg("bias") = nb::none(), nb::arg("activation") = 0, nb::arg("alpha") = 0.0F, nb::arg("beta") = 0.0F, nb::arg("residual") = false,
             nb::arg("tiles") = 64,
             "Code of a sparse matrix (CSR) for any machine, as codegen/unrolled.h describes it: code, weights, vectors of a call, whether it finishes, and "
             "for each block its filters and its pieces (entry in the code, first weight).");
  module.def("columns", &columns, nb::arg("places"), nb::arg("out"), "The columns of the kept places, row by row; `out` has room for one more.");
  module.def("kernels", &kernels, "The convolution kernels that run on this machine, best first, as isa/family.");
  module.def("may_generate_code", [] { return rsk_may_generate_code() != 0; }, "Whether the system lets this process make pages executable.");
}
