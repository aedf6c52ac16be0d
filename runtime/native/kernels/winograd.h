// Winograd F(4×4, 3×3): dense 3×3 layers of stride 1 with 36 products where 16 outputs take 144.
//
//   out[f] = Aᵀ · [ Σ_c (G w[f][c] Gᵀ) ∘ (Bᵀ x[c] B) ] · A      for each tile of 4×4 outputs, which reads 6×6 inputs
//
// at the points 0, ±√½, ±√2, ∞. Against Σ|w·x| of random layers the largest error is 10·2⁻²³ from 16 channels on (3 to 4 times that
// at the usual points 0, ±1, ±2, ∞). With 3 channels, or where an output sees little but pads, a small sum has the error of a large
// neighbour's: 50·2⁻²³ and more, so those layers are left to other families. An input that is not finite reaches all 16 outputs.
//
// Tiles are taken a block at a time: the inputs of all channels are transformed, then for each panel of filters and each of the
// 36 points there is one small product (channels × tiles with vectors of filters in registers), and the panel's outputs are
// transformed back, turned from vectors of filters to rows of pixels, and finished.
//
// AMD EPYC, family 26 (Zen 5), AVX-512, dense, batch 1, weights in the cache (benchmarks/native/winograd.cc; the core's peak is 130):
//   64@56² 344 µs, 128@28² 307, 256@14² 372, 64@32² 111, 128@16² 102: as fast as direct sums at 336, 376, 311, 341, 369 GMAC/s.
// The products run at 124 to 127 GMAC/s (14 tiles × 2 vectors of filters: 16 loads for 28 FMAs; each weight is loaded once a tile of
// registers) and take two thirds of the time. Cold, 256@14² takes 450 µs: the stream of 9.4 MB. AVX2: 630, 604, 731, 215, 191 µs.
#pragma once

#include <cstddef>
#include <cstdint>

#include "conv.h"
#include "memory.h"
#include "prepare.h"
#include "shelf.h"
#include "winograd_tiles.h"

namespace rsk {

// The planes of a batch; rows are contiguous, strides in floats.
struct WinogradPlanes {
  const float* data;
  int64_t image, plane, row;
};

struct WinogradShape {
  uint32_t channels, filters;
  int64_t images, high, wide;  // of the input
  int64_t top, left;           // zeros before it
  int64_t out_high, out_wide;
};

// A layer made ready for one machine. Immutable once built.
class Winograd {
 public:
  static constexpr uint32_t kFewestChannels = 16;

  // Copies what it needs of `weights` (filters × channels × 9) and of the epilogue.
  Winograd(const WinogradTiles& tiles, const WinogradShape& shape, const float* weights, const Epilogue& epilogue);

  void settle(Shelf& shelf) { shelf.weights.settle(stream_); }

  // Tiles that are worked on together, numbered through the batch, line by line.
  struct Block {
    size_t first, last;
    size_t count() const { return last - first; }
  };
  size_t tiles() const { return lines() * across_; }

  // Blocks for so many threads: if there are tiles enough each has its own, as many as the others, else all share each block.
  bool suits_own_blocks(uint32_t threads) const { return tiles() >= size_t{threads} * tiles_.tiles; }
  size_t blocks(uint32_t threads) const { return suits_own_blocks(threads) ? (blocks_ + threads - 1) / threads * threads : blocks_; }
  Block block(size_t number, uint32_t threads) const;

  size_t transformed_floats() const;                                             // of one block's inputs
  size_t split_floats() const;                                                   // what one call of `transform` works with
  size_t product_floats() const { return kWinogradPoints * widest_ * panel(); }  // what a call of `compute` for all units works with
  size_t shared_product_floats() const { return panels_ * product_floats(); }    // what all calls for one block do
  size_t units(const Block& block) const { return panels_ * parts(block); }      // pieces of a block's work that `compute` numbers
  size_t weight_bytes() const { return stream_.own_bytes(); }
  double nanoseconds(size_t tiles) const;  // roughly

  // The inputs of channels [first, last) of a block.
  void transform(const Block& block, uint32_t first, uint32_t last, const WinogradPlanes& x, float* split, float* transformed) const;

  // The outputs of units [first, last) of a block. `out.data` is written. Calls for different units may run at once.
  void compute(const Block& block, size_t first, size_t last, const float* transformed, float* products, const WinogradPlanes& out,
               const WinogradPlanes& residual) const;

 private:
  size_t lines() const { return static_cast<size_t>(shape_.images) * down_; }  // rows of tiles, of all images
  size_t parts(const Block& block) const { return (block.count() + tiles_.tiles - 1) / tiles_.tiles; }
  Block part(const Block& block, size_t number) const;  // tiles that are in registers at once
  size_t pitch() const { return (widest_ + kAlign - 1) / kAlign * kAlign; }
  size_t point_step() const { return shape_.channels * pitch() + kAlign; }  // an odd number of cache lines: 36 streams in as many sets
  size_t split_step() const { return (widest_ + 2 * across_ + 3 * kAlign) / kAlign * kAlign; }
  size_t panel() const { return size_t{tiles_.vectors} * tiles_.lanes; }
  void finish(const Block& tiles, uint32_t first, uint32_t vectors, const float* products, const WinogradPlanes& out, const WinogradPlanes& residual) const;

  static constexpr size_t kAlign = 16;

  const WinogradTiles& tiles_;
  WinogradShape shape_;
  OwnedEpilogue epilogue_;
  size_t across_, down_;             // tiles of a row of an image, rows of tiles of an image
  size_t blocks_, widest_, panels_;  // blocks for one thread, tiles of the largest
  Memory stream_;
};

}  // namespace rsk
