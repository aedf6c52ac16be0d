/* Every place is kept: one list serves all filters. Without `places` it is not written: a matrix needs none. */
#ifndef RSK_DENSE_H
#define RSK_DENSE_H

#include "rsk_weight.h"

RSK_FUNCTION struct rsk_rows rsk_dense(const struct rsk_weight* weight, const void* table, uint32_t plane, uint32_t part, struct rsk_cursor* cursor,
                                       rsk_place* list) {
  const uint32_t filters = weight->filters / weight->groups, kept = weight->channels * weight->taps;
  const struct rsk_rows rows = {0, 1, filters, kept, cursor->value, kept};
  (void)table, (void)part;
  uint32_t channels = weight->places ? weight->channels : 0, base = 0;
  for (; channels; channels--, base += plane)
    for (uint32_t tap = 0; tap < weight->taps; tap++) *list++ = (rsk_place)(base + weight->places[tap]);
  cursor->value += (size_t)filters * kept;
  return rows;
}

#endif
