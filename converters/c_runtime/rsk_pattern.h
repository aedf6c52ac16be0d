/* A pattern of taps for each kernel, by its number in a table: stored for each, or for each block of filters, or known from the place alone.

   `patterns` holds, for each, how many taps it has (params[0] at most) and which; `prepare` turns them into places of the panel. */
#ifndef RSK_PATTERN_H
#define RSK_PATTERN_H

#include "rsk_weight.h"

RSK_FUNCTION void rsk_pattern_places(const struct rsk_weight* weight, void* table) {
  const uint8_t* pattern = (const uint8_t*)weight->patterns;
  rsk_place* places = (rsk_place*)table;
  const uint32_t most = weight->params[0];
  for (uint32_t id = 0; id < weight->count; id++, pattern += most + 1, places += most + 1) {
    places[0] = pattern[0];
    for (uint32_t tap = 1; tap <= most; tap++) places[tap] = weight->places[pattern[tap]];
  }
}

/* The places of one kernel. All `most` are written, and those that count are kept: the next kernel writes over the others. */
static inline uint32_t rsk_kernel(const rsk_place* places, uint32_t most, uint32_t id, uint32_t base, rsk_place* list) {
  places += id * (most + 1);
  for (uint32_t tap = 0; tap < most; tap++) list[tap] = (rsk_place)(base + places[1 + tap]);
  return places[0];
}

/* One filter; called with a constant `most` where that is common, so that a kernel becomes one move. */
static inline uint32_t rsk_kernels(const struct rsk_weight* weight, const rsk_place* places, uint32_t most, size_t first, uint32_t plane, rsk_place* list) {
  const uint8_t* bytes = (const uint8_t*)weight->index + first;
  const uint16_t* words = (const uint16_t*)weight->index + first;
  uint32_t kept = 0;
  if (weight->params[1] == 1)
    for (uint32_t channel = 0; channel < weight->channels; channel++) kept += rsk_kernel(places, most, bytes[channel], channel * plane, list + kept);
  else
    for (uint32_t channel = 0; channel < weight->channels; channel++) kept += rsk_kernel(places, most, words[channel], channel * plane, list + kept);
  return kept;
}

/* params: the most taps of a pattern, bytes of an id, filters that share ids. */
RSK_FUNCTION struct rsk_rows rsk_pattern(const struct rsk_weight* weight, const void* table, uint32_t plane, uint32_t part, struct rsk_cursor* cursor,
                                         rsk_place* list) {
  const rsk_place* places = (const rsk_place*)table;
  const uint32_t most = weight->params[0], share = weight->params[2];
  struct rsk_rows rows = {part * share, 1, share, 0, cursor->value, 0};
  if (most == 4)
    rows.kept = rsk_kernels(weight, places, 4, cursor->kernel, plane, list);
  else if (most == 2)
    rows.kept = rsk_kernels(weight, places, 2, cursor->kernel, plane, list);
  else
    rows.kept = rsk_kernels(weight, places, most, cursor->kernel, plane, list);
  rows.pitch = rows.kept;
  cursor->kernel += weight->channels;
  cursor->value += (size_t)rows.kept * share;
  return rows;
}

#endif
