/* The pattern of a kernel is that of (filter + channel) mod the period: filters a period apart share their list, and no index is stored. */
#ifndef RSK_PERIODIC_H
#define RSK_PERIODIC_H

#include "rsk_pattern.h"

/* params: the most taps of a pattern. `index` holds how many values the filters before each of the period keep, and all of them. */
RSK_FUNCTION struct rsk_rows rsk_periodic(const struct rsk_weight* weight, const void* table, uint32_t plane, uint32_t part, struct rsk_cursor* cursor,
                                          rsk_place* list) {
  const uint32_t* before = (const uint32_t*)weight->index;
  const uint8_t* counts = (const uint8_t*)weight->patterns;
  const uint32_t most = weight->params[0];
  const uint32_t filters = weight->filters / weight->groups, period = weight->count;
  const size_t group = cursor->kernel / filters * filters; /* the group's first filter */
  uint32_t residue = (uint32_t)((group + part) % period);
  const size_t value = (group + part) / period * before[period] + before[residue];
  struct rsk_rows rows = {part, period, (filters - part + period - 1) / period, 0, value, before[period]};
  for (uint32_t channel = 0; channel < weight->channels; channel++, residue = residue + 1 == period ? 0 : residue + 1) {
    rsk_kernel((const rsk_place*)table, most, residue, RSK_BASE((uint64_t)channel * plane), list + rows.kept);
    rows.kept += counts[residue * (most + 1)];
  }
  cursor->kernel += rows.count;
  return rows;
}

#endif
