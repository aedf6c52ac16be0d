// A convolution: the panel is packed if there is one, the kernel runs over tiles × blocks, partial tiles are copied out.
#include "conv.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "kernels/families.h"
#include "ops/activations.h"
#include "ops/conv_geometry.h"
#include "ops/winograd.h"
#include "refusal.h"
#include "step.h"

namespace rsk {
namespace {

constexpr size_t kMovedFilters = 8;              // together: their lines stay in the first-level cache
constexpr double kDearer = 1.5;                  // a byte that another thread wrote than one of weights, which all read
constexpr size_t kEnoughBlocks = 8;              // a thread: an uneven share then costs little
constexpr double kProducts = 64;                 // a nanosecond
constexpr double kNanosecondsMoved = 0.2;        // an element of a partial tile
constexpr double kNanosecondsPacked = 0.2;       // an element of a panel
constexpr int64_t kPackedChannels = 64;          // at a time: so many lines stay in the first-level cache until they are full
constexpr size_t kPanelBytes = size_t{5} << 18;  // stay near; a larger panel pays where otherwise more weights would be read again
constexpr int64_t kMaxRows = 1 << 24;
constexpr int64_t kLine = 16;  // floats of a cache line
// Tiles that all blocks pass before the next ones: what they read stays in the second-level cache. 64@56², 90 %: 54 % of the peak
// with 200 tiles, 68 with 64; as many as a piece of generated code is run for.
constexpr size_t kTilesTogether = 64;

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

class ConvStep final : public Step {
 public:
  ConvStep(const Plan& plan, const StepRecord& record, const Family& family) : x_(plan.input(record, 0)), out_(plan.output(record)), residual_(out_) {
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
    ConvShape shape{x_, out_, with_residual ? &residual_ : nullptr, axes, record.ints[13] != 0, family, width_, std::vector<bool>(static_cast<size_t>(rows))};
    const uint32_t count = request.matrix.start[request.matrix.filters];
    std::vector<uint8_t> used(static_cast<size_t>(rows));  // bytes, for they are many
    for (uint32_t at = 0; at < count; ++at) used[request.matrix.columns[at]] = 1;
    std::copy(used.begin(), used.end(), shape.used.begin());
    geometry_ = make_geometry(shape);
    request.offsets = geometry_.offsets.data();
    request.phase = phase();
    request.tiles = static_cast<uint32_t>(geometry_.tiles.size());
    if (!geometry_.sides.empty()) request.sides = geometry_.sides.data();
    if (!geometry_.reach.empty()) request.reach = geometry_.reach.data();
    const auto bias = plan.blob<float>(record, 3);
    request.epilogue = {bias.empty() ? nullptr : bias.data(), static_cast<Activation>(record.activation), record.floats[0], record.floats[1], with_residual};
    kernel_ = make_kernel(family, record.kind == 1 || request.sides != nullptr, request);
    with_residual_ = with_residual;
    double read = static_cast<double>(x_.elements()) * sizeof(float);  // of the input
    for (const ConvAxis& axis : axes) read *= std::min(1.0, static_cast<double>(axis.kernel) / static_cast<double>(axis.stride));
    by_tiles_ = static_cast<double>(kernel_->weight_bytes() + kernel_->code_bytes()) < kDearer * read;
    geometry_.offsets = {};
    geometry_.sides = {};
    geometry_.reach = {};
    group_tiles_ = geometry_.tiles.size();
    if (by_groups()) {
      const auto room = static_cast<int64_t>(std::max(kPanelBytes, kernel_->weight_bytes() + kernel_->code_bytes()) / sizeof(float));
      group_tiles_ = std::min(group_tiles_, static_cast<size_t>(std::max<int64_t>(1, room / (geometry_.panel.floats_of_tile() + slot_floats()))));
      const size_t groups = (geometry_.tiles.size() + group_tiles_ - 1) / group_tiles_;
      group_tiles_ = (geometry_.tiles.size() + groups - 1) / groups;
    }
    if (shape.packed) pack_ = pack_of(isa_of(kernel_->name()));
    number_slots();
    nanoseconds_ = static_cast<double>(int64_t{count} * width_) / kProducts;
  }

  void settle(Shelf& shelf) override { kernel_->settle(shelf); }
  Room room(uint32_t threads) const override {
    const bool own = suits_own_tiles(threads);
    const auto most = static_cast<int64_t>(own ? (geometry_.tiles.size() + own_parts(threads) - 1) / own_parts(threads) : group_tiles_);
    const auto floats = static_cast<size_t>(panel_floats(most) + slots(most) * slot_floats() * (with_residual_ ? 2 : 1));
    return own ? Room{0, floats} : Room{floats, 0};
  }
  size_t weight_bytes() const override { return kernel_->weight_bytes(); }
  size_t code_bytes() const override { return kernel_->code_bytes(); }
  const char* kernel() const override { return kernel_->name(); }

  void run(const Context& context) const override {
    const size_t count = geometry_.tiles.size();
    if (suits_own_tiles(context.pool->threads())) return run_own(context);
    for (int64_t image = 0; image < x_.dims[0]; image += geometry_.images) {
      for (size_t first = 0; first < count; first += group_tiles_) {
        const Group group{image, first, std::min(count, first + group_tiles_), context.scratch};
        if (geometry_.packed) pack_shared(context, group);
        if (slots_ > 0 && with_residual_) move_shared(context, group, true);
        compute_shared(context, group);
        if (slots_ > 0) move_shared(context, group, false);
      }
    }
  }

 private:
  // Tiles that run together: of one image or, packed, as many as the panel holds at a time.
  struct Group {
    int64_t image;
    size_t first, last;
    float* scratch;
    size_t count() const { return last - first; }
  };

  bool by_groups() const { return geometry_.packed && !geometry_.by_image; }

  // What tiles that run together have of the scratch: a panel, then partial tiles, then as many of the residual.
  int64_t panel_floats(int64_t tiles) const {
    if (geometry_.by_image) return geometry_.panel.floats_of_tile() + kLine + width_;  // the last tile reads on
    return geometry_.packed ? tiles * geometry_.panel.floats_of_tile() : 0;
  }
  int64_t slots(int64_t tiles) const { return by_groups() && slots_ > 0 ? tiles : slots_; }

  // Whether each thread packs and multiplies tiles of its own.
  bool suits_own_tiles(uint32_t threads) const { return threads > 1 && by_groups() && by_tiles_ && geometry_.tiles.size() >= threads; }

  void number_slots() {
    for (ConvTile& tile : geometry_.tiles) {
      if (!tile.direct) tile.slot = slots_++;
    }
  }

  float* partial(const Group& group, size_t number, bool residual) const {
    const auto tiles = static_cast<int64_t>(group.count());
    const int64_t slot = by_groups() ? static_cast<int64_t>(number - group.first) : geometry_.tiles[number].slot;
    return group.scratch + panel_floats(tiles) + (slot + (residual ? slots(tiles) : 0)) * slot_floats();
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

  std::vector<Tile> tiles_of(const Context& context, const Group& group) const {
    const float* x = context.at(x_) + group.image * x_.strides[0];
    float* out = context.out(out_) + group.image * out_.strides[0];
    const float* residual = with_residual_ ? context.at(residual_) + group.image * residual_.strides[0] : nullptr;
    std::vector<Tile> tiles(group.count());
    for (size_t number = 0; number < tiles.size(); ++number) {
      const ConvTile& at = geometry_.tiles[group.first + number];
      Tile& tile = tiles[number];
      tile.x = geometry_.by_image ? group.scratch + at.x
               : geometry_.packed ? group.scratch + static_cast<int64_t>(number) * geometry_.panel.floats_of_tile()
                                  : x + at.x;
      tile.keep = at.keep;
      std::copy(at.inside.begin(), at.inside.end(), tile.inside);
      tile.out = at.direct ? out + at.out : partial(group, group.first + number, false);
      tile.out_stride = static_cast<size_t>(at.direct ? out_.strides[1] : width_);
      if (!with_residual_) continue;
      tile.residual = at.direct ? residual + at.residual : partial(group, group.first + number, true);
      tile.residual_stride = static_cast<size_t>(at.direct ? residual_.strides[1] : width_);
    }
    return tiles;
  }

  // Groups of nearly equal size, as many for each thread.
  size_t own_parts(size_t threads) const { return (geometry_.tiles.size() + threads * group_tiles_ - 1) / (threads * group_tiles_) * threads; }

  // Each thread has the same tiles in every run, and nothing but outputs goes from one to another.
  void run_own(const Context& context) const {
    const size_t count = geometry_.tiles.size(), parts = own_parts(context.pool->threads()), blocks = kernel_->blocks();
    context.pool->share(parts, nanoseconds_of(count), [&](size_t first, size_t last, uint32_t lane) {
      for (size_t part = first; part < last; ++part) {
        const Group group{0, count * part / parts, count * (part + 1) / parts, context.own(lane)};
        pack(context, group, {0, group_vectors(group)}, {0, geometry_.panel.channels()});
        if (slots_ > 0 && with_residual_) move(context, group, true, 0, filters());
        const std::vector<Tile> tiles = tiles_of(context, group);
        const size_t rounds = (tiles.size() + kTilesTogether - 1) / kTilesTogether;
        compute(tiles, rounds, 0, rounds * blocks);
        if (slots_ > 0) move(context, group, false, 0, filters());
      }
    });
  }

  void compute_shared(const Context& context, const Group& group) const {
    const std::vector<Tile> tiles = tiles_of(context, group);
    const size_t blocks = kernel_->blocks(), threads = context.pool->threads();
    const bool even = blocks % threads == 0 || blocks >= kEnoughBlocks * threads;
    const size_t shares = even && !by_tiles_ ? 1 : std::min(threads, tiles.size());
    const size_t parts = std::max(shares, (tiles.size() + kTilesTogether - 1) / kTilesTogether);
    const size_t units = blocks * parts, pieces = by_groups() ? std::min(units, threads) : units;  // every piece reads the whole panel
    context.pool->share(pieces, nanoseconds_of(tiles.size()),
                        [&](size_t first, size_t last) { compute(tiles, parts, units * first / pieces, units * last / pieces); });
  }

  // Of the blocks of each of `parts` of the tiles in turn, those from `first` to `last`.
  void compute(std::span<const Tile> tiles, size_t parts, size_t first, size_t last) const {
    const size_t blocks = kernel_->blocks();
    kernel_->fetch(static_cast<uint32_t>(first % blocks));
    for (size_t next = 0; first < last; first = next) {
      const size_t part = first / blocks, begin = tiles.size() * part / parts, end = tiles.size() * (part + 1) / parts;
      next = std::min(last, (part + 1) * blocks);
      kernel_->run_blocks(tiles.subspan(begin, end - begin), static_cast<uint32_t>(first - part * blocks), static_cast<uint32_t>(next - part * blocks));
    }
  }

  void move_shared(const Context& context, const Group& group, bool gather) const {
    const double elements = static_cast<double>(group.count()) * static_cast<double>(slot_floats());
    context.pool->share(filters(), kNanosecondsMoved * elements, [&](size_t first, size_t last) { move(context, group, gather, first, last); });
  }

  // Copies filters [begin, end) of partial tiles to the output, or of the residual to partial tiles.
  void move(const Context& context, const Group& group, bool gather, size_t begin, size_t end) const {
    const Tensor& tensor = gather ? residual_ : out_;
    float* whole = (gather ? const_cast<float*>(context.at(residual_)) : context.out(out_)) + group.image * tensor.strides[0];
    for (size_t filter = begin; filter < end; filter += kMovedFilters) {
      const auto first = static_cast<int64_t>(filter), count = static_cast<int64_t>(std::min(end - filter, kMovedFilters));
      for (size_t number = group.first; number < group.last; ++number) {
        const ConvTile& tile = geometry_.tiles[number];
        if (tile.direct) continue;
        float* const from = partial(group, number, gather) + first * width_;
        for (const Segment& segment : tile.segments) {
          const Strided packed{from + segment.begin, 1, width_};
          const Strided loose{whole + (gather ? segment.residual : segment.out) + first * tensor.strides[1], tensor.strides[4], tensor.strides[1]};
          copy_runs(gather ? loose : packed, gather ? packed : loose, segment.count, count);
        }
      }
    }
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

  // An image's panel by positions, else by channels.
  void pack_shared(const Context& context, const Group& group) const {
    const int64_t channels = geometry_.panel.channels(), vectors = group_vectors(group);
    const auto elements = static_cast<double>(panel_floats(static_cast<int64_t>(group.count())));
    const bool by_image = geometry_.by_image;
    const int64_t parts =
        by_image ? vectors : std::max((channels + kPackedChannels - 1) / kPackedChannels, std::min<int64_t>(channels, context.pool->threads()));
    context.pool->share(static_cast<size_t>(parts), kNanosecondsPacked * elements, [&](size_t begin, size_t end) {
      const auto first = static_cast<int64_t>(begin), last = static_cast<int64_t>(end);
      by_image ? pack(context, group, {first, last}, {0, channels}) : pack(context, group, {0, vectors}, {channels * first / parts, channels * last / parts});
    });
  }

  struct Range {
    int64_t first, last;
  };

  // Some channels of some vectors of the group's panel.
  void pack(const Context& context, const Group& group, Range vectors, Range channels) const {
    const int64_t origin = (geometry_.by_image ? group.image : static_cast<int64_t>(group.first)) * geometry_.panel.vectors_of_tile();
    for (int64_t first = channels.first, last = 0; first < channels.last; first = last) {
      last = std::min(channels.last, first + kPackedChannels);
      geometry_.panel.pack(pack_, context.at(x_), origin + vectors.first, origin + vectors.last, first, last, origin, group.scratch);
    }
  }

  int64_t group_vectors(const Group& group) const { return (geometry_.by_image ? 1 : static_cast<int64_t>(group.count())) * geometry_.panel.vectors_of_tile(); }
  size_t filters() const { return static_cast<size_t>(out_.dims[1]); }
  double nanoseconds_of(size_t tiles) const { return nanoseconds_ * static_cast<double>(tiles); }

  Tensor x_, out_, residual_;
  bool with_residual_ = false;
  int64_t width_ = 0;
  bool by_tiles_ = false;   // threads share the input rather than the weights, of which there are fewer
  double nanoseconds_ = 0;  // of a tile, roughly
  ConvGeometry geometry_;
  size_t group_tiles_ = 0;
  int64_t slots_ = 0;  // partial tiles
  Pack pack_ = pack_portable;
  std::unique_ptr<ConvKernel> kernel_;
};

}  // namespace

StepPointer make_conv(const Plan& plan, const StepRecord& record) {
  const Family& family = family_named(record.kernel.data());
  if (family.winograd != nullptr) return make_winograd(plan, record, family);
  return std::make_unique<ConvStep>(plan, record, family);
}

}  // namespace rsk
