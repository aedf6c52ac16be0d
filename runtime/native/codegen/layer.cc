#include "kernels/prepare.h"
#include "unrolled.h"

namespace rsk {

namespace {

// Room for most layers: a vector that grows is copied several times, onto new pages.
constexpr size_t kCodeBytes = 12, kMoreWeights = 8;

struct Target {
  Isa isa;
  RegisterTile (*tile)(const UnrolledRequest&);
  GenerateUnrolled* generate;
};

constexpr Target kTargets[] = {
    {Isa::kAvx512, unrolled_tile_avx512, generate_unrolled_avx512},
    {Isa::kAvx2, unrolled_tile_avx2, generate_unrolled_avx2},
    {Isa::kNeon, unrolled_tile_neon, generate_unrolled_neon},
};

}  // namespace

bool UnrolledRequest::finishes() const {
  if (epilogue == nullptr) return false;
  return epilogue->activation == Activation::kNone || epilogue->activation == Activation::kRelu || epilogue->activation == Activation::kClip;
}

UnrolledLayer unrolled_layer(const UnrolledRequest& request, Isa isa) {
  UnrolledLayer layer;
  for (const Target& target : kTargets) {
    if (target.isa != isa) continue;
    layer.tile = target.tile(request);
    const size_t nonzeros = request.matrix.start[request.matrix.filters];
    layer.generated.code.reserve(nonzeros * kCodeBytes);
    layer.generated.weights.reserve(nonzeros + nonzeros / kMoreWeights);
    const uint32_t blocks = (request.matrix.filters + layer.tile.filters - 1) / layer.tile.filters;
    for (uint32_t number = 0; number < blocks; ++number) {
      const auto [first, last] = share_of(request.matrix.filters, blocks, number);
      UnrolledBlock block;
      for (uint32_t filter = first; filter < last; ++filter) block.filters.push_back(filter);
      block.first = layer.generated.pieces.size();
      target.generate(request, block.filters, layer.tile, layer.generated);
      block.last = layer.generated.pieces.size();
      layer.blocks.push_back(std::move(block));
    }
  }
  return layer;
}

}  // namespace rsk
