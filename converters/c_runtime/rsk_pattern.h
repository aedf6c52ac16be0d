/* A pattern of taps for each kernel, by its number in a table: stored for each, or for each block of filters, or known from the place alone.

   `patterns` holds, for each, how many taps it has (params[0] at most) and which; `prepare` turns them into places of the panel,
   params[0] for each. */
#ifndef RSK_PATTERN_H
#define RSK_PATTERN_H

#include "rsk_weight.h"

RSK_FUNCTION void rsk_pattern_places(const struct rsk_weight* weight, void* table) {
  const uint8_t* pattern = (const uint8_t*)weight->patterns;
  const rsk_place* of_taps = weight->places;
  rsk_place* places = (rsk_place*)table;
  const uint32_t most = weight->params[0], count = weight->count;
  for (uint32_t id = 0; id < count; id++, pattern++)
    for (uint32_t tap = 0; tap < most; tap++) *places++ = of_taps[*++pattern];
}

/* A base for rsk_kernel, which adds several places in one register where they are narrow: no sum exceeds their 16 bits. */
#if defined(RSK_WIDE_PLACES)
#define RSK_BASE(base) (base)
#else
#define RSK_BASE(base) ((base) * 0x1000100010001u)
#endif

/* The places of one kernel. All `most` are written: where fewer count, the next kernel writes over the others. */
static inline void rsk_kernel(const rsk_place* places, uint32_t most, uint32_t id, uint64_t base, rsk_place* list) {
  uint32_t tap = 0;
  places += id * most;
#if !defined(RSK_WIDE_PLACES)
  for (uint64_t four; tap + 4 <= most; tap += 4) {
    memcpy(&four, places + tap, sizeof four);
    four += base;
    memcpy(list + tap, &four, sizeof four);
  }
  for (uint32_t two; tap + 2 <= most; tap += 2) {
    memcpy(&two, places + tap, sizeof two);
    two += (uint32_t)base;
    memcpy(list + tap, &two, sizeof two);
  }
#endif
  for (; tap < most; tap++) list[tap] = (rsk_place)(base + places[tap]);
}

/* One filter; called with constants where they are common, so that a kernel becomes one move. `counts`, a row of `patterns` each, where they differ. */
static inline uint32_t rsk_kernels(const void* index, uint32_t id_bytes, size_t first, const rsk_place* places, uint32_t most, const uint8_t* counts,
                                   uint32_t channels, uint32_t plane, rsk_place* list) {
  const uint8_t* bytes = (const uint8_t*)index + first;
  const uint16_t* words = (const uint16_t*)index + first;
  const rsk_place* start = list;
  const uint64_t step = RSK_BASE((uint64_t)plane);
  uint64_t base = 0;
  for (uint32_t channel = 0; channel < channels; channel++, base += step) {
    const uint32_t id = id_bytes == 1 ? bytes[channel] : words[channel];
    rsk_kernel(places, most, id, base, list);
    list += counts ? counts[id * (most + 1)] : most;
  }
  return (uint32_t)(list - start);
}

/* params: the most taps of a pattern, bytes of an id, filters that share ids, whether the patterns have different numbers of taps. */
RSK_FUNCTION struct rsk_rows rsk_pattern(const struct rsk_weight* weight, const void* table, uint32_t plane, uint32_t part, struct rsk_cursor* cursor,
                                         rsk_place* list) {
  const rsk_place* places = (const rsk_place*)table;
  const uint32_t most = weight->params[0], share = weight->params[2];
  struct rsk_rows rows = {part * share, 1, share, 0, cursor->value, 0};
  const uint8_t* counts = weight->params[3] ? (const uint8_t*)weight->patterns : NULL;
  const size_t first = cursor->kernel;
  if (most == 4 && !counts && weight->params[1] == 1)
    rows.kept = rsk_kernels(weight->index, 1, first, places, 4, NULL, weight->channels, plane, list);
  else if (most == 2 && !counts && weight->params[1] == 1)
    rows.kept = rsk_kernels(weight->index, 1, first, places, 2, NULL, weight->channels, plane, list);
  else
    rows.kept = rsk_kernels(weight->index, weight->params[1], first, places, most, counts, weight->channels, plane, list);
  rows.pitch = rows.kept;
  cursor->kernel += weight->channels;
  cursor->value += (size_t)rows.kept * share;
  return rows;
}

#endif
