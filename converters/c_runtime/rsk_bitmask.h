/* A bit a weight, the lowest first, in the order of the weights. */
#ifndef RSK_BITMASK_H
#define RSK_BITMASK_H

#include "rsk_weight.h"

static inline uint32_t rsk_lowest(uint32_t bits) {
#if defined(__GNUC__)
  return (uint32_t)__builtin_ctz(bits);
#else
  uint32_t place = 0;
  for (; !(bits & 1); bits >>= 1) place++;
  return place;
#endif
}

/* Reads three bytes at a time: two more follow the last. */
RSK_FUNCTION struct rsk_rows rsk_bits(const struct rsk_weight* weight, const uint8_t* bits, uint32_t plane, uint32_t part, struct rsk_cursor* cursor,
                                      rsk_place* list) {
  struct rsk_rows rows = {part, 1, 1, 0, cursor->value, 0};
  const rsk_place *places = weight->places, *start = list;
  size_t bit = cursor->kernel;
  uint32_t base = 0;
  for (uint32_t channel = 0; channel < weight->channels; channel++, base += plane)
    for (uint32_t tap = 0; tap < weight->taps; tap += 16) {
      const uint32_t count = weight->taps - tap < 16 ? weight->taps - tap : 16;
      const uint8_t* byte = bits + (bit >> 3);
      uint32_t left = ((uint32_t)byte[0] | (uint32_t)byte[1] << 8 | (uint32_t)byte[2] << 16) >> (bit & 7) & (((uint32_t)1 << count) - 1);
      for (; left; left &= left - 1) *list++ = (rsk_place)(base + places[tap + rsk_lowest(left)]);
      bit += count;
    }
  rows.kept = (uint32_t)(list - start);
  cursor->kernel = bit;
  cursor->value += rows.kept;
  return rows;
}

RSK_FUNCTION struct rsk_rows rsk_bitmask(const struct rsk_weight* weight, const void* table, uint32_t plane, uint32_t part, struct rsk_cursor* cursor,
                                         rsk_place* list) {
  (void)table;
  return rsk_bits(weight, (const uint8_t*)weight->index, plane, part, cursor, list);
}

#endif
