// Loops over strided views: axes that lie one behind the other in every operand are merged, the innermost is the row.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "plan.h"
#include "pool.h"

namespace rsk {

template <size_t kOperands>
class Loop {
 public:
  using Offsets = std::array<int64_t, kOperands>;

  void axis(int64_t dim, const Offsets& strides) {
    if (dim == 1) return;
    if (rank_ > 0 && follows(strides, dim)) {
      dims_[rank_ - 1] *= dim;
      strides_[rank_ - 1] = strides;
      return;
    }
    dims_[rank_] = dim;
    strides_[rank_++] = strides;
  }

  int64_t rows() const {
    int64_t count = 1;
    for (size_t axis = 0; axis + 1 < rank_; ++axis) count *= dims_[axis];
    return count;
  }
  int64_t row() const { return rank_ == 0 ? 1 : dims_[rank_ - 1]; }
  Offsets steps() const { return rank_ == 0 ? Offsets{} : strides_[rank_ - 1]; }

  // body(offsets of the row's first element) for rows [first, last).
  template <class Body>
  void each(int64_t first, int64_t last, const Body& body) const {
    std::array<int64_t, kMaxRank> index{};
    Offsets offsets{};
    int64_t rest = first;
    for (size_t axis = rank_ > 0 ? rank_ - 1 : 0; axis-- > 0;) {
      index[axis] = rest % dims_[axis];
      rest /= dims_[axis];
      for (size_t k = 0; k < kOperands; ++k) offsets[k] += index[axis] * strides_[axis][k];
    }
    for (int64_t row = first; row < last; ++row) {
      body(offsets);
      for (size_t axis = rank_ > 0 ? rank_ - 1 : 0; axis-- > 0;) {
        for (size_t k = 0; k < kOperands; ++k) offsets[k] += strides_[axis][k];
        if (++index[axis] < dims_[axis]) break;
        for (size_t k = 0; k < kOperands; ++k) offsets[k] -= dims_[axis] * strides_[axis][k];
        index[axis] = 0;
      }
    }
  }

  // body(offsets, n) for pieces of rows, shared among the pool's threads. `inner`: elements that body reads for one of its n.
  template <class Body>
  void share(Pool& pool, const Body& body, int64_t inner = 1) const {
    const int64_t pieces = (row() + kPiece - 1) / kPiece;
    const Offsets step = steps();
    const auto task = [&](size_t first, size_t last) {
      for (auto at = static_cast<int64_t>(first); at < static_cast<int64_t>(last);) {
        const int64_t row_of = at / pieces, piece = at % pieces;
        if (pieces == 1) {
          each(at, static_cast<int64_t>(last), [&](const Offsets& offsets) { body(offsets, row()); });
          return;
        }
        each(row_of, row_of + 1, [&](Offsets offsets) {
          for (size_t k = 0; k < kOperands; ++k) offsets[k] += piece * kPiece * step[k];
          body(offsets, std::min(kPiece, row() - piece * kPiece));
        });
        ++at;
      }
    };
    pool.share(static_cast<size_t>(rows() * pieces), kNanoseconds * static_cast<double>(rows() * row() * inner), task);
  }

 private:
  static constexpr int64_t kPiece = 8192;
  static constexpr double kNanoseconds = 0.6;  // an element

  bool follows(const Offsets& strides, int64_t dim) const {
    for (size_t k = 0; k < kOperands; ++k) {
      if (strides_[rank_ - 1][k] != strides[k] * dim) return false;
    }
    return true;
  }

  size_t rank_ = 0;
  std::array<int64_t, kMaxRank> dims_{};
  std::array<Offsets, kMaxRank> strides_{};
};

// The loop over all axes of views of one shape.
template <size_t kOperands>
Loop<kOperands> over(const std::array<Tensor, kOperands>& tensors, uint32_t first = 0, uint32_t last = kMaxRank) {
  Loop<kOperands> loop;
  for (uint32_t axis = first; axis < std::min(last, tensors[0].rank); ++axis) {
    std::array<int64_t, kOperands> strides;
    for (size_t k = 0; k < kOperands; ++k) strides[k] = tensors[k].strides[axis];
    loop.axis(tensors[0].dims[axis], strides);
  }
  return loop;
}

inline bool same_shape(const Tensor& a, const Tensor& b) { return a.rank == b.rank && std::equal(a.dims.begin(), a.dims.begin() + a.rank, b.dims.begin()); }

}  // namespace rsk
