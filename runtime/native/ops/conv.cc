// A convolution: the panel is packed if there is one, the kernel runs over tiles × blocks, partial tiles are copied out.
#include "conv.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "families.h"
#include "ops/activations.h"
#include "ops/conv_geometry.h"
#include "ops/winograd.h"
#include "refusal.h"
#include "step.h"

namespace rsk {
namespace {

constexpr size_t kMovedFilters = 8;              // together: their lines stay in the first-level cache
constexpr size_t kEnoughBlocks = 8;              // a thread: an uneven share then costs little
constexpr double kProducts = 64;                 // a nanosecond
constexpr double kNanosecondsMoved = 0.2;        // an element of a partial tile
constexpr double kNanosecondsPacked = 0.05;      // an element of a panel
constexpr int64_t kPackedChannels = 64;          // at a time: so many lines stay in the first-level cache until they are full
constexpr size_t kPanelBytes = size_t{1} << 20;  // stay near; a larger panel pays where otherwise more weights would be read again
constexpr int64_t kMaxRows = 1 << 24;
constexpr int64_t kLine = 16;  // floats of a cache line
// Tiles that all blocks pass before the next ones: what they read stays in the second-level cache. 64@56², 90 %: 54 % of the peak
// with 200 tiles, 68 with 64; as many as a piece of generated code is run for.
constexpr size_t kTilesTogether = 64;
constexpr uint32_t kActivations = static_cast<uint32_t>(Activation::kSigmoid) + 1;

std::array<ConvAxis, 3> axes_of(const StepRecord& record, const Tensor& x, const Tensor& out) {
  std::array<ConvAxis, 3> axes;
  for (uint32_t axis = 0; axis < 3; ++axis) {
    const auto value = [&](uint32_t row) { return record.ints[row * 3 + axis]; };
    axes[axis] = {value(0), value(1), value(2), value(3), x.dims[axis + 2], out.dims[axis + 2]};
    expect(value(0) >= 1 && value(1) >= 1 && value(3) >= 1 && value(0) * value(3) < kMaxElements, "a convolution window is out of range");
  }
  return axes;
}

Matrix matrix_of(const Plan& plan, const StepRecord& record, uint32_t filters, int64_t rows) {
  const auto start = plan.blob<uint32_t>(record, 0);
  const auto columns = plan.blob<uint32_t>(record, 1);
  const auto values = plan.blob<float>(record, 2);
  const auto bias = plan.blob<float>(record, 3);
  expect(start.size() == size_t{filters} + 1 && start.front() == 0 && start.back() == columns.size() && columns.size() == values.size(),
         "a sparse matrix has wrong counts");
  for (size_t filter = 0; filter < filters; ++filter) {
    expect(start[filter] <= start[filter + 1] && start[filter + 1] <= columns.size(), "a sparse matrix has rows that end before they start");
    const auto row = columns.subspan(start[filter], start[filter + 1] - start[filter]);
    bool rising = row.empty() || row.back() < rows;
    for (size_t at = 1; at < row.size(); ++at) rising &= row[at - 1] < row[at];  // all of them: a loop without a way out is vectorised
    expect(rising, "a sparse matrix has columns out of order");
  }
  expect(bias.empty() || bias.size() == filters, "a convolution has a bias of the wrong size");
  return {filters, static_cast<uint32_t>(rows), start.data(), columns.data(), values.data()};
}

bool shifts_taps(const std::string& kernel) { return kernel.ends_with("/unrolled"); }

class ConvStep final : public Step {
 public:
  ConvStep(const Plan& plan, const StepRecord& record) : x_(plan.input(record, 0)), out_(plan.output(record)), residual_(out_) {
    expect(x_.rank == 5 && out_.rank == 5 && x_.dims[0] == out_.dims[0], "a convolution changes the batch");
    expect(record.activation < kActivations && record.ints[12] >= 1 && record.ints[12] <= 4, "a convolution has an unknown activation or tile");
    const bool with_residual = plan.has_input(record, 1);
    if (with_residual) residual_ = plan.input(record, 1);
    for (uint32_t axis = 0; axis < 5; ++axis) expect(residual_.rank == 5 && residual_.dims[axis] == out_.dims[axis], "a residual has another shape");
    const auto axes = axes_of(record, x_, out_);
    int64_t rows = x_.dims[1];
    expect(rows <= kMaxRows, "a convolution has too many channels");
    for (const ConvAxis& axis : axes) {
      expect(axis.kernel <= kMaxRows / rows, "a convolution has too many weights per filter");
      rows *= axis.kernel;
    }
    ConvRequest request;
    request.matrix = matrix_of(plan, record, static_cast<uint32_t>(out_.dims[1]), rows);
    request.vectors = static_cast<uint32_t>(record.ints[12]);
    width_ = int64_t{16} * request.vectors;
    ConvShape shape{x_,
                    out_,
                    with_residual ? &residual_ : nullptr,
                    axes,
                    record.ints[13] != 0,
                    shifts_taps(record.kernel.data()),
                    width_,
                    std::vector<bool>(static_cast<size_t>(rows))};
    const uint32_t count = request.matrix.start[request.matrix.filters];
    std::vector<uint8_t> used(static_cast<size_t>(rows));  // bytes, for they are many
    for (uint32_t at = 0; at < count; ++at) used[request.matrix.columns[at]] = 1;
    std::copy(used.begin(), used.end(), shape.used.begin());
    geometry_ = make_geometry(shape);
    request.offsets = geometry_.offsets.data();
    request.phase = phase();
    request.tiles = static_cast<uint32_t>(geometry_.tiles.size());
    const bool by_taps = shape.packed && !geometry_.by_image;
    const std::vector<uint8_t> reach = by_taps ? geometry_.panel.reach() : std::vector<uint8_t>();
    if (by_taps) request.reach = reach.data();
    const auto bias = plan.blob<float>(record, 3);
    request.epilogue = {bias.empty() ? nullptr : bias.data(), static_cast<Activation>(record.activation), record.floats[0], record.floats[1], with_residual};
    kernel_ = make_kernel(record.kernel.data(), record.kind == 1, request);
    with_residual_ = with_residual;
    by_tiles_ = kernel_->weight_bytes() + kernel_->code_bytes() < static_cast<size_t>(x_.elements()) * sizeof(float);
    geometry_.offsets = {};
    group_tiles_ = geometry_.tiles.size();
    if (geometry_.by_image) {
      panel_floats_ = geometry_.panel.floats_of_tile() + kLine + width_;  // the last tile reads on
    } else if (shape.packed) {
      const auto room = static_cast<int64_t>(std::max(kPanelBytes, kernel_->weight_bytes() + kernel_->code_bytes()) / sizeof(float));
      group_tiles_ = std::min(group_tiles_, static_cast<size_t>(std::max<int64_t>(1, room / (geometry_.panel.floats_of_tile() + slot_floats()))));
      panel_floats_ = static_cast<int64_t>(group_tiles_) * geometry_.panel.floats_of_tile();
    }
    if (shape.packed) pack_ = pack_of(isa_of(kernel_->name()));
    number_slots();
    nanoseconds_ = static_cast<double>(int64_t{count} * width_ * static_cast<int64_t>(group_tiles_)) / kProducts;
  }

  size_t scratch_floats() const override { return static_cast<size_t>(panel_floats_ + slots_ * slot_floats() * (with_residual_ ? 2 : 1)); }
  size_t weight_bytes() const override { return kernel_->weight_bytes(); }
  size_t code_bytes() const override { return kernel_->code_bytes(); }
  const char* kernel() const override { return kernel_->name(); }

  void run(const Context& context) const override {
    const size_t count = geometry_.tiles.size();
    for (int64_t image = 0; image < x_.dims[0]; image += geometry_.images) {
      for (size_t first = 0; first < count; first += group_tiles_) {
        const Group group{image, first, std::min(count, first + group_tiles_)};
        if (geometry_.packed) pack(context, group);
        if (slots_ > 0 && with_residual_) move(context, group, true);
        compute(context, group);
        if (slots_ > 0) move(context, group, false);
      }
    }
  }

 private:
  // Tiles that run together: of one image or, packed, as many as the panel holds at a time.
  struct Group {
    int64_t image;
    size_t first, last;
  };

  void number_slots() {
    for (size_t first = 0; first < geometry_.tiles.size(); first += group_tiles_) {
      int64_t slot = 0;
      for (size_t number = first; number < std::min(geometry_.tiles.size(), first + group_tiles_); ++number) {
        ConvTile& tile = geometry_.tiles[number];
        if (!tile.direct) tile.slot = slot++;
      }
      slots_ = std::max(slots_, slot);
    }
  }

  // How far behind a multiple of 64 bytes all tiles read, or -1. The arena and scratch start at one.
  int32_t phase() const {
    if (geometry_.packed) return geometry_.panel.floats_of_tile() % kLine == 0 ? 0 : -1;
    if (x_.space != Space::kArena || x_.advance % kLine != 0 || (x_.dims[0] > 1 && x_.strides[0] % kLine != 0)) return -1;
    const int64_t first = geometry_.tiles[0].x;
    for (const ConvTile& tile : geometry_.tiles) {
      if ((tile.x - first) % kLine != 0) return -1;
    }
    return static_cast<int32_t>((x_.offset + first) % kLine);
  }

  int64_t slot_floats() const { return out_.dims[1] * width_; }

  void compute(const Context& context, Group group) const {
    const float* x = context.at(x_) + group.image * x_.strides[0];
    float* out = context.out(out_) + group.image * out_.strides[0];
    const float* residual = with_residual_ ? context.at(residual_) + group.image * residual_.strides[0] : nullptr;
    float* partial = context.scratch + panel_floats_;
    const float* partial_residual = partial + slots_ * slot_floats();
    std::vector<Tile> tiles(group.last - group.first);
    for (size_t number = 0; number < tiles.size(); ++number) {
      const ConvTile& at = geometry_.tiles[group.first + number];
      Tile& tile = tiles[number];
      tile.x = geometry_.by_image ? context.scratch + at.x
               : geometry_.packed ? context.scratch + static_cast<int64_t>(number) * geometry_.panel.floats_of_tile()
                                  : x + at.x;
      tile.keep = at.keep;
      tile.out = at.direct ? out + at.out : partial + at.slot * slot_floats();
      tile.out_stride = static_cast<size_t>(at.direct ? out_.strides[1] : width_);
      if (!with_residual_) continue;
      tile.residual = at.direct ? residual + at.residual : partial_residual + at.slot * slot_floats();
      tile.residual_stride = static_cast<size_t>(at.direct ? residual_.strides[1] : width_);
    }
    const size_t blocks = kernel_->blocks(), threads = context.pool->threads();
    const bool even = blocks % threads == 0 || blocks >= kEnoughBlocks * threads;
    const size_t shares = even && !by_tiles_ ? 1 : std::min(threads, tiles.size());
    const size_t parts = std::max(shares, (tiles.size() + kTilesTogether - 1) / kTilesTogether);
    context.pool->share(blocks * parts, nanoseconds_, [&](size_t first, size_t last) {
      kernel_->fetch(static_cast<uint32_t>(first % blocks));
      for (size_t next = 0; first < last; first = next) {
        const size_t part = first / blocks, begin = tiles.size() * part / parts, end = tiles.size() * (part + 1) / parts;
        next = std::min(last, (part + 1) * blocks);
        kernel_->run_blocks(std::span(tiles).subspan(begin, end - begin), static_cast<uint32_t>(first - part * blocks),
                            static_cast<uint32_t>(next - part * blocks));
      }
    });
  }

  // Copies partial tiles of [first, last) to the output, or the residual to partial tiles.
  void move(const Context& context, Group group, bool gather) const {
    const Tensor& tensor = gather ? residual_ : out_;
    const auto filters = static_cast<size_t>(out_.dims[1]);
    const double elements = static_cast<double>(group.last - group.first) * static_cast<double>(slot_floats());
    float* whole = (gather ? const_cast<float*>(context.at(residual_)) : context.out(out_)) + group.image * tensor.strides[0];
    float* partial = context.scratch + panel_floats_ + (gather ? slots_ * slot_floats() : 0);
    context.pool->share(filters, kNanosecondsMoved * elements, [&](size_t begin, size_t end) {
      for (size_t filter = begin; filter < end; filter += kMovedFilters) {
        const auto first = static_cast<int64_t>(filter), count = static_cast<int64_t>(std::min(end - filter, kMovedFilters));
        for (size_t number = group.first; number < group.last; ++number) {
          const ConvTile& tile = geometry_.tiles[number];
          if (tile.direct) continue;
          for (const Segment& segment : tile.segments) {
            const Strided packed{partial + tile.slot * slot_floats() + segment.begin + first * width_, 1, width_};
            const Strided loose{whole + (gather ? segment.residual : segment.out) + first * tensor.strides[1], tensor.strides[4], tensor.strides[1]};
            copy_runs(gather ? loose : packed, gather ? packed : loose, segment.count, count);
          }
        }
      }
    });
  }

  // Runs of elements `step` apart, one for each filter.
  struct Strided {
    float* first;
    int64_t step, pitch;
  };

  // Most runs are short: a call of memcpy would cost more than the copy, and so would a loop over what is left.
  static void copy_runs(Strided from, Strided to, int64_t count, int64_t filters) {
    const bool straight = from.step == 1 && to.step == 1;
    if (straight && count >= 8) return copy_chunks<8>(from, to, count, filters);
    if (straight && count >= 4) return copy_chunks<4>(from, to, count, filters);
    for (int64_t filter = 0; filter < filters; ++filter, from.first += from.pitch, to.first += to.pitch) {
      for (int64_t i = 0; i < count; ++i) to.first[i * to.step] = from.first[i * from.step];
    }
  }

  // The last chunk of a run may overlap the one before it.
  template <int64_t kChunk>
  static void copy_chunks(Strided from, Strided to, int64_t count, int64_t filters) {
    for (int64_t at = 0; at < count; at += kChunk) {
      const int64_t start = std::min(at, count - kChunk);
      for (int64_t filter = 0; filter < filters; ++filter) {
        std::memcpy(to.first + filter * to.pitch + start, from.first + filter * from.pitch + start, kChunk * sizeof(float));
      }
    }
  }

  void pack(const Context& context, Group group) const {
    const Panel& panel = geometry_.panel;
    const int64_t tiles = geometry_.by_image ? 1 : static_cast<int64_t>(group.last - group.first), channels = panel.channels();
    const int64_t tile = geometry_.by_image ? group.image : static_cast<int64_t>(group.first);
    const auto blocks = static_cast<size_t>((channels + kPackedChannels - 1) / kPackedChannels);
    const double elements = static_cast<double>(tiles) * static_cast<double>(panel.floats_of_tile());
    context.pool->share(blocks, kNanosecondsPacked * elements, [&](size_t first, size_t last) {
      for (auto block = static_cast<int64_t>(first); block < static_cast<int64_t>(last); ++block) {
        const int64_t end = std::min(channels, (block + 1) * kPackedChannels);
        panel.pack(pack_, context.at(x_), tile, tiles, block * kPackedChannels, end, context.scratch);
      }
    });
  }

  Tensor x_, out_, residual_;
  bool with_residual_ = false;
  int64_t width_ = 0;
  bool by_tiles_ = false;   // threads share the input rather than the weights, of which there are fewer
  double nanoseconds_ = 0;  // of one group of tiles, roughly
  ConvGeometry geometry_;
  size_t group_tiles_ = 0;
  int64_t panel_floats_ = 0, slots_ = 0;
  Pack pack_ = pack_portable;
  std::unique_ptr<ConvKernel> kernel_;
};

}  // namespace

StepPointer make_conv(const Plan& plan, const StepRecord& record) {
  const Family& family = family_named(record.kernel.data());
  if (family.winograd != nullptr) return make_winograd(plan, record, family);
  return std::make_unique<ConvStep>(plan, record);
}

}  // namespace rsk
