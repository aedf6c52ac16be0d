#include "winograd.h"

#include <algorithm>

namespace rsk {

namespace {

constexpr size_t kBlockTiles = 42;  // 28 to 56 are as fast; fewer stream the weights too often
constexpr size_t kEnoughLines = 4;  // a thread
constexpr double kProductsPerNanosecond = 90;

size_t ceiling(size_t count, size_t unit) { return (count + unit - 1) / unit; }

}  // namespace

Winograd::Winograd(const WinogradTiles& tiles, const WinogradShape& shape, const float* weights, const Epilogue& epilogue)
    : tiles_(tiles), shape_(shape), epilogue_(epilogue, shape.filters) {
  across_ = ceiling(static_cast<size_t>(shape.out_wide), 4);
  down_ = ceiling(static_cast<size_t>(shape.out_high), 4);
  blocks_ = ceiling(lines(), std::max<size_t>(1, kBlockTiles / across_));
  widest_ = ceiling(lines(), blocks_) * across_;
  panels_ = ceiling(shape.filters, panel());
  const size_t vectors = ceiling(shape.filters, tiles.lanes), channels = shape.channels;
  stream_ = Memory(kWinogradPoints * channels * vectors * tiles.lanes * sizeof(float));
  float* to = stream_.floats();
  for (size_t number = 0; number < panels_; ++number) {
    const size_t first = number * panel(), count = std::min(panel(), shape.filters - first), width = ceiling(count, tiles.lanes);
    const size_t step = channels * width * tiles.lanes;
    tiles.weights(weights + first * channels * 9, channels, static_cast<uint32_t>(count), static_cast<uint32_t>(width), to, step);
    to += kWinogradPoints * step;
  }
}

size_t Winograd::transformed_floats() const { return kWinogradPoints * point_step(); }
size_t Winograd::split_floats() const { return 24 * split_step() + kAlign; }

double Winograd::nanoseconds(size_t tiles) const {
  return static_cast<double>(kWinogradPoints * shape_.channels * tiles * shape_.filters) / kProductsPerNanosecond;
}

// Whole lines, unless they are so few that one more would keep a thread for long.
Winograd::Block Winograd::block(size_t number, uint32_t threads) const {
  const size_t unit = threads == 1 || lines() >= kEnoughLines * threads ? across_ : 1;
  const auto [first, last] = share_of(static_cast<uint32_t>(tiles() / unit), static_cast<uint32_t>(blocks(threads)), static_cast<uint32_t>(number));
  return {first * unit, last * unit};
}

Winograd::Block Winograd::part(const Block& block, size_t number) const {
  const auto [first, last] = share_of(static_cast<uint32_t>(block.count()), static_cast<uint32_t>(parts(block)), static_cast<uint32_t>(number));
  return {block.first + first, block.first + last};
}

void Winograd::transform(const Block& block, uint32_t first, uint32_t last, const WinogradPlanes& x, float* split, float* transformed) const {
  const size_t step = split_step();
  float* const rows = split + kAlign;
  for (uint32_t channel = first; channel < last; ++channel) {
    for (size_t tile = block.first, next = 0; tile < block.last; tile = next) {
      const size_t line = tile / across_, image = line / down_, from = line % down_;
      next = std::min(block.last, (image + 1) * down_ * across_);
      const size_t count = ceiling(next, across_) - line, at = tile - block.first;
      const float* plane = x.data + static_cast<int64_t>(image) * x.image + channel * x.plane;
      tiles_.split(plane, x.row, shape_.high, static_cast<int64_t>(4 * from) - shape_.top, static_cast<int64_t>(4 * count + 2), shape_.left, shape_.wide,
                   static_cast<int64_t>(across_), rows, step);
      tiles_.input(rows + tile % across_, step, across_, next - tile, pitch() - at, transformed + channel * pitch() + at, point_step());
    }
  }
}

void Winograd::compute(const Block& block, size_t first, size_t last, const float* transformed, float* products, const WinogradPlanes& out,
                       const WinogradPlanes& residual) const {
  const size_t all = parts(block);
  for (size_t unit = first; unit < last;) {
    const size_t number = unit / all, begin = unit % all, end = std::min(all, begin + last - unit);
    const size_t filter = number * panel(), vectors = ceiling(std::min(panel(), shape_.filters - filter), tiles_.lanes);
    const size_t width = vectors * tiles_.lanes, step = shape_.channels * width;
    const float* weights = stream_.floats() + kWinogradPoints * shape_.channels * filter;
    const Block tiles{part(block, begin).first, part(block, end - 1).last};
    const bool alone = first == 0 && last == units(block);  // one panel's products then stay in the cache for the next
    float* const sums = products + (alone ? 0 : number * product_floats()) + (tiles.first - block.first) * kWinogradPoints * width;
    for (size_t point = 0; point < kWinogradPoints; ++point, weights += step) {
      for (size_t index = begin; index < end; ++index) {
        const Block now = part(block, index);
        tiles_.product[vectors][now.count()](weights, transformed + point * point_step() + now.first - block.first, pitch(), shape_.channels,
                                             sums + (now.first - tiles.first) * kWinogradPoints * width + point * tiles_.lanes,
                                             weights + step + (index % 2) * kAlign);
      }
    }
    finish(tiles, static_cast<uint32_t>(filter), static_cast<uint32_t>(vectors), sums, out, residual);
    unit += end - begin;
  }
}

void Winograd::finish(const Block& tiles, uint32_t first, uint32_t vectors, const float* products, const WinogradPlanes& out,
                      const WinogradPlanes& residual) const {
  const size_t width = size_t{vectors} * tiles_.lanes, most = tiles_.lanes / 4;
  const uint32_t filters = std::min(static_cast<uint32_t>(width), shape_.filters - first);
  for (size_t tile = tiles.first; tile < tiles.last;) {
    const size_t number = tile / across_, x = tile % across_, y = number % down_;
    const auto image = static_cast<int64_t>(number / down_);
    const size_t count = std::min({most - x % most, across_ - x, tiles.last - tile});
    const int64_t row = static_cast<int64_t>(4 * y), column = static_cast<int64_t>(4 * x);
    const auto place = [&](const WinogradPlanes& planes) { return planes.data + image * planes.image + first * planes.plane + row * planes.row + column; };
    const WinogradTarget target{const_cast<float*>(place(out)),
                                residual.data != nullptr ? place(residual) : nullptr,
                                out.plane,
                                out.row,
                                residual.plane,
                                residual.row,
                                static_cast<uint32_t>(std::min<int64_t>(4, shape_.out_high - row)),
                                static_cast<uint32_t>(std::min(static_cast<int64_t>(4 * count), shape_.out_wide - column))};
    tiles_.output(epilogue_.get(), products + (tile - tiles.first) * kWinogradPoints * width, static_cast<uint32_t>(count), vectors, first, filters, target);
    tile += count;
  }
}

}  // namespace rsk
