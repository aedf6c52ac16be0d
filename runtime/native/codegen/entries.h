// What every generator of unrolled code starts from: the rows in order of where they start, and the nonzeros in that order.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "conv.h"

namespace rsk {

// One nonzero of a block.
struct Entry {
  uint32_t rank;    // of its row, by offset
  uint32_t filter;  // in the block
  float weight;
};

// Rows of a line of a kernel are neighbours in this order, however the input is laid out.
struct RowOrder {
  std::vector<uint32_t> ranks;   // of each row
  std::vector<int32_t> offsets;  // of each rank, ascending

  RowOrder(uint32_t rows, const int32_t* offset_of_row);
};

// By rank, and by filter within a rank.
std::vector<Entry> entries_of(const Matrix& matrix, std::span<const uint32_t> filters, const RowOrder& order);

}  // namespace rsk
