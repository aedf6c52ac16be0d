// Products with a matrix: linear layers (their weights stream once for all rows of the input) and products of two values.
#include <algorithm>
#include <cstring>

#include "memory.h"
#include "ops/activations.h"
#include "ops/loop.h"
#include "ops/vectorise.h"
#include "refusal.h"
#include "step.h"

namespace rsk {
namespace {

constexpr size_t kLanes = 16;
constexpr double kNanoseconds = 0.1;  // a product
constexpr size_t kAhead = 1024;       // floats; 2048 from the third-level cache 2 % slower, from memory 2 % faster
constexpr size_t kSparseAhead = 1024;
constexpr size_t kStreams = 4;
constexpr size_t kTogether = 16;                  // outputs, one after the other: 8 MB from the third-level cache take 71 µs, 79 with a call for each
constexpr size_t kFromMemory = size_t{16} << 20;  // bytes of weights that no cache keeps from one run to the next

// The compiler splits it into the vectors that the machine has. No function takes or returns one: how depends on the machine.
typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float))));

// sum += a · b over the first `count` lanes.
[[gnu::always_inline]] inline void add_products(Lanes& sum, const float* a, const float* b, size_t count) {
  Lanes left = {}, right = {};
  std::memcpy(&left, a, count * sizeof(float));
  std::memcpy(&right, b, count * sizeof(float));
  sum += left * right;
}

[[gnu::always_inline]] inline float total(const Lanes& sum) {
  Lanes lanes = sum;
  lanes += __builtin_shufflevector(lanes, lanes, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
  lanes += __builtin_shufflevector(lanes, lanes, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
  lanes += __builtin_shufflevector(lanes, lanes, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
  return lanes[0] + lanes[1];
}

// The products of x with rows that lie `pitch` apart, each summed in so many vectors of lanes.
template <size_t kRows, size_t kVectors>
[[gnu::always_inline]] inline void dots(const float* rows, size_t pitch, const float* x, size_t n, float* products) {
  constexpr size_t kStep = kVectors * kLanes;
  Lanes sums[kRows][kVectors] = {};
  for (; n >= kStep; n -= kStep, rows += kStep, x += kStep) {
    for (size_t vector = 0; vector < kVectors; ++vector) {
      for (size_t row = 0; row < kRows; ++row) {
        const float* from = rows + row * pitch + vector * kLanes;
        if (kRows == 1) __builtin_prefetch(from + kAhead);
        add_products(sums[row][vector], from, x + vector * kLanes, kLanes);
      }
    }
  }
  for (; n >= kLanes; n -= kLanes, rows += kLanes, x += kLanes) {
    for (size_t row = 0; row < kRows; ++row) add_products(sums[row][0], rows + row * pitch, x, kLanes);
  }
  if (n > 0) {
    for (size_t row = 0; row < kRows; ++row) add_products(sums[row][0], rows + row * pitch, x, n);
  }
  for (size_t row = 0; row < kRows; ++row) {
    for (size_t vector = 1; vector < kVectors; ++vector) sums[row][0] += sums[row][vector];
    products[row] = total(sums[row][0]);
  }
}

// Four rows far from each other are four streams, which a core's prefetchers follow at once. Zen 5, 67 MB from memory: 44–53 GB/s, 43–46 with
// one row and prefetches, 33–38 without, 43 with neighbouring rows; 8 MB from the third-level cache: 90, 118, 107, 99.
RSK_VECTORISED void far_dots(const float* rows, size_t pitch, const float* x, size_t n, float* products) { dots<kStreams, 1>(rows, pitch, x, n, products); }
RSK_VECTORISED void near_dots(const float* rows, size_t count, const float* x, size_t n, float* products) {
  for (size_t row = 0; row < count; ++row) dots<1, 4>(rows + row * n, 0, x, n, products + row);
}

// `values` and `columns` come from memory. 3.7·10⁹ products a second, one by one (Zen 5).
[[gnu::always_inline]] inline float sparse_dot(const float* values, const int32_t* columns, const float* x, size_t n) {
  std::array<float, 2 * kLanes> sums{};
  size_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    for (size_t line = 0; line < 2; ++line) {
      __builtin_prefetch(values + i + kSparseAhead + kLanes * line);
      __builtin_prefetch(columns + i + kSparseAhead + kLanes * line);
    }
    for (size_t lane = 0; lane < 2 * kLanes; ++lane) sums[lane] += values[i + lane] * x[columns[i + lane]];
  }
  for (size_t lane = 0; i < n; ++i, ++lane) sums[lane] += values[i] * x[columns[i]];
  for (size_t half = kLanes; half > 0; half /= 2) {
    for (size_t lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
  }
  return sums[0];
}

RSK_VECTORISED void sparse_dots(const float* values, const int32_t* columns, const uint32_t* start, size_t count, const float* x, float* products) {
  for (size_t row = 0; row < count; ++row) products[row] = sparse_dot(values + start[row], columns + start[row], x, start[row + 1] - start[row]);
}

// out[m][o] = function(x[m] · w[o] + bias[o]). Without columns the weights are dense.
class LinearStep final : public Step {
 public:
  LinearStep(const Plan& plan, const StepRecord& record)
      : x_(plan.input(record, 0)),
        out_(plan.output(record)),
        start_(copied(plan.blob<uint32_t>(record, 0))),
        columns_(copied(plan.blob<int32_t>(record, 1))),
        bias_(copied(plan.blob<float>(record, 3))),
        kind_(static_cast<Unary>(record.kind)),
        alpha_(record.floats[0]),
        beta_(record.floats[1]) {
    const auto values = plan.blob<float>(record, 2);
    expect(x_.rank >= 1 && x_.rank == out_.rank, "a linear layer changes the number of axes");
    expect(std::equal(x_.dims.begin(), x_.dims.begin() + x_.rank - 1, out_.dims.begin()), "a linear layer changes the shape");
    expect(record.kind < static_cast<uint32_t>(Unary::kCount), "a linear layer has an unknown function");
    inputs_ = static_cast<size_t>(x_.dims[x_.rank - 1]);
    outputs_ = static_cast<size_t>(out_.dims[x_.rank - 1]);
    expect(bias_.empty() || bias_.size() == outputs_, "a linear layer has a bias of the wrong size");
    check(values.size());
    weights_ = Memory(values.size_bytes());
    far_ = start_.empty() && weights_.bytes() >= kFromMemory;
    std::copy(values.begin(), values.end(), weights_.floats());
    outer_ = over<2>({x_, out_}, 0, x_.rank - 1);
    rows_ = static_cast<size_t>(outer_.rows() * outer_.row());
  }

  void settle(Shelf& shelf) override { shelf.weights.settle(weights_); }
  Room room(uint32_t /*threads*/) const override { return {rows_ * inputs_, 0}; }
  size_t weight_bytes() const override { return weights_.own_bytes() + 4 * (start_.size() + columns_.size() + bias_.size()); }

  void run(const Context& context) const override {
    const float* x = gathered(context);
    float* out = context.out(out_);
    with_function(kind_, alpha_, beta_, [&](auto function) {
      // Some outputs from o on.
      const auto compute = [&](size_t o, size_t count, size_t distance) {
        float products[kTogether];
        size_t row = 0;
        outer_.each(0, outer_.rows(), [&](const auto& at) {
          for (int64_t i = 0; i < outer_.row(); ++i) {
            multiply(o, count, distance, x + row++ * inputs_, products);
            for (size_t k = 0, output = o; k < count; ++k, output += distance) {
              float* to = out + at[1] + i * outer_.steps()[1] + static_cast<int64_t>(output) * out_.strides[x_.rank - 1];
              *to = function(products[k] + (bias_.empty() ? 0.0F : bias_[output]));
            }
          }
        });
      };
      const auto task = [&](size_t first, size_t last) {
        const size_t each = far_ ? (last - first) / kStreams : 0;
        for (size_t o = first; o < first + each; ++o) compute(o, kStreams, each);
        const size_t together = rows_ == 1 && !far_ ? kTogether : 1;  // the next row of the input finds the weights in the first-level cache
        for (size_t o = first + kStreams * each; o < last; o += together) compute(o, std::min(together, last - o), 1);
      };
      context.pool->share(outputs_, kNanoseconds * static_cast<double>(weights_.bytes() / sizeof(float) * rows_), task);
    });
  }

 private:
  void check(size_t values) const {
    if (start_.empty()) {
      expect(columns_.empty() && values / inputs_ == outputs_ && values % inputs_ == 0, "a linear layer has a matrix of the wrong size");
      return;
    }
    expect(start_.size() == outputs_ + 1 && start_.front() == 0 && start_.back() == values && columns_.size() == values, "a sparse matrix has wrong counts");
    expect(std::is_sorted(start_.begin(), start_.end()), "a sparse matrix has rows that end before they start");
    for (int32_t column : columns_) expect(column >= 0 && static_cast<size_t>(column) < inputs_, "a sparse matrix has a column outside it");
  }

  // The rows of the input, one behind the other.
  const float* gathered(const Context& context) const {
    const float* x = context.at(x_);
    const int64_t step = x_.strides[x_.rank - 1];
    if (rows_ == 1 && (step == 1 || inputs_ == 1)) return x;
    float* to = context.scratch;
    outer_.each(0, outer_.rows(), [&](const auto& at) {
      for (int64_t i = 0; i < outer_.row(); ++i) {
        const float* from = x + at[0] + i * outer_.steps()[0];
        for (size_t k = 0; k < inputs_; ++k) *to++ = from[static_cast<int64_t>(k) * step];
      }
    });
    return context.scratch;
  }

  // The products of x with `count` outputs from o on, `distance` apart.
  void multiply(size_t o, size_t count, size_t distance, const float* x, float* products) const {
    if (!start_.empty()) {
      sparse_dots(weights_.floats(), columns_.data(), start_.data() + o, count, x, products);
    } else if (far_) {  // one alone counts as four of itself: every sum has the same order
      far_dots(weights_.floats() + o * inputs_, count == kStreams ? distance * inputs_ : 0, x, inputs_, products);
    } else {
      near_dots(weights_.floats() + o * inputs_, count, x, inputs_, products);
    }
  }

  Tensor x_, out_;
  std::vector<uint32_t> start_;
  std::vector<int32_t> columns_;
  std::vector<float> bias_;
  Memory weights_;
  Unary kind_;
  float alpha_, beta_;
  size_t inputs_, outputs_, rows_;
  bool far_;  // dense, and too large for a cache
  Loop<2> outer_;
};

// The product of the last two axes, for every place of the others.
class MatMulStep final : public Step {
 public:
  MatMulStep(const Plan& plan, const StepRecord& record) : a_(plan.input(record, 0)), b_(plan.input(record, 1)), out_(plan.output(record)) {
    const uint32_t rank = out_.rank;
    expect(rank >= 2 && a_.rank == rank && b_.rank == rank, "a matrix product changes the number of axes");
    for (uint32_t axis = 0; axis + 2 < rank; ++axis) {
      expect(a_.dims[axis] == out_.dims[axis] && b_.dims[axis] == out_.dims[axis], "a matrix product changes the shape");
    }
    const bool fits = a_.dims[rank - 2] == out_.dims[rank - 2] && a_.dims[rank - 1] == b_.dims[rank - 2] && b_.dims[rank - 1] == out_.dims[rank - 1];
    expect(fits, "a matrix product has matrices that do not fit");
    outer_ = over<3>({a_, b_, out_}, 0, rank - 2);
  }

  void run(const Context& context) const override {
    const float* a = context.at(a_);
    const float* b = context.at(b_);
    float* out = context.out(out_);
    const auto step = outer_.steps();
    outer_.each(0, outer_.rows(), [&](const auto& at) {
      for (int64_t i = 0; i < outer_.row(); ++i) product(*context.pool, a + at[0] + i * step[0], b + at[1] + i * step[1], out + at[2] + i * step[2]);
    });
  }

 private:
  void product(Pool& pool, const float* a, const float* b, float* out) const {
    const uint32_t row = out_.rank - 2, column = out_.rank - 1;
    const int64_t inner = a_.dims[column], width = out_.dims[column];
    pool.share(static_cast<size_t>(out_.dims[row]), kNanoseconds * static_cast<double>(out_.dims[row] * width * inner), [&](size_t first, size_t last) {
      for (auto m = static_cast<int64_t>(first); m < static_cast<int64_t>(last); ++m) {
        float* to = out + m * out_.strides[row];
        for (int64_t n = 0; n < width; ++n) to[n * out_.strides[column]] = 0.0F;
        for (int64_t k = 0; k < inner; ++k) {
          const float factor = a[m * a_.strides[row] + k * a_.strides[column]];
          const float* from = b + k * b_.strides[row];
          for (int64_t n = 0; n < width; ++n) to[n * out_.strides[column]] += factor * from[n * b_.strides[column]];
        }
      }
    });
  }

  Tensor a_, b_, out_;
  Loop<3> outer_;
};

}  // namespace

StepPointer make_linear(const Plan& plan, const StepRecord& record) { return std::make_unique<LinearStep>(plan, record); }
StepPointer make_matmul(const Plan& plan, const StepRecord& record) { return std::make_unique<MatMulStep>(plan, record); }

}  // namespace rsk
