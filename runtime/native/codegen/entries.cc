#include "entries.h"

#include <algorithm>
#include <numeric>

namespace rsk {

RowOrder::RowOrder(uint32_t rows, const int32_t* offset_of_row) : ranks(rows), offsets(rows) {
  std::vector<uint32_t> order(rows);
  std::iota(order.begin(), order.end(), 0U);
  std::stable_sort(order.begin(), order.end(), [&](uint32_t left, uint32_t right) { return offset_of_row[left] < offset_of_row[right]; });
  for (uint32_t rank = 0; rank < rows; ++rank) {
    ranks[order[rank]] = rank;
    offsets[rank] = offset_of_row[order[rank]];
  }
}

// Counted, not compared, for this is most of what generating takes.
std::vector<Entry> entries_of(const Matrix& matrix, std::span<const uint32_t> filters, const RowOrder& order) {
  const auto each = [&](auto use) {
    for (uint32_t i = 0; i < filters.size(); ++i) {
      for (uint32_t at = matrix.start[filters[i]]; at < matrix.start[filters[i] + 1]; ++at) use(Entry{order.ranks[matrix.columns[at]], i, matrix.values[at]});
    }
  };
  std::vector<size_t> next(size_t{matrix.rows} + 1);
  each([&](const Entry& entry) { ++next[entry.rank + 1]; });
  std::partial_sum(next.begin(), next.end(), next.begin());
  std::vector<Entry> entries(next.back());
  each([&](const Entry& entry) { entries[next[entry.rank]++] = entry; });
  return entries;
}

}  // namespace rsk
