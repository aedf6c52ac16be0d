/* A rising column for each kept value; `index` holds the columns (1, 2 or 4 bytes: params[0]), `patterns` where each filter's begin. */
#ifndef RSK_CSR_H
#define RSK_CSR_H

#include "rsk_weight.h"

RSK_FUNCTION uint32_t rsk_column(const struct rsk_weight* weight, size_t number) {
  if (weight->params[0] == 1) return ((const uint8_t*)weight->index)[number];
  return weight->params[0] == 2 ? ((const uint16_t*)weight->index)[number] : ((const uint32_t*)weight->index)[number];
}

RSK_FUNCTION struct rsk_rows rsk_csr(const struct rsk_weight* weight, const void* table, uint32_t plane, uint32_t part, struct rsk_cursor* cursor,
                                     rsk_place* list) {
  const uint32_t* starts = (const uint32_t*)weight->patterns;
  const size_t filter = cursor->kernel++, end = starts[filter + 1];
  const struct rsk_rows rows = {part, 1, 1, (uint32_t)(end - starts[filter]), starts[filter], 0};
  uint32_t base = 0, first = 0;
  (void)table;
  for (size_t k = starts[filter]; k < end; k++) {
    const uint32_t column = rsk_column(weight, k);
    for (; column - first >= weight->taps; first += weight->taps) base += plane;
    *list++ = (rsk_place)(base + weight->places[column - first]);
  }
  return rows;
}

#endif
