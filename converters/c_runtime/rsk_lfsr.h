/* Places drawn by a linear feedback shift register. A state is multiplied by x^32 modulo the polynomial, a nibble at a time. */
#ifndef RSK_LFSR_H
#define RSK_LFSR_H

#include "rsk_bitmask.h"
#include "rsk_pattern.h"

enum { RSK_NIBBLES = 8 * 16 };

RSK_FUNCTION void rsk_lfsr_nibbles(uint32_t width, uint32_t polynomial, uint32_t* nibbles) {
  uint32_t image = 1, top = (uint32_t)1 << (width - 1);
  for (uint32_t step = 0; step < 32; step++) /* the image of 1 is x^32 */
    image = image & top ? (image ^ top) << 1 ^ polynomial : image << 1;
  for (uint32_t bit = 0; bit < 32; bit++) {
    uint32_t* row = nibbles + bit / 4 * 16;
    row[0] = 0;
    for (uint32_t low = 0; low < (uint32_t)1 << (bit & 3); low++) row[((uint32_t)1 << (bit & 3)) + low] = row[low] ^ image;
    image = image & top ? (image ^ top) << 1 ^ polynomial : image << 1;
  }
}

static inline uint32_t rsk_lfsr_next(const uint32_t* nibbles, uint32_t state) {
  uint32_t next = 0;
  for (uint32_t digit = 0; digit < 8; digit++) next ^= nibbles[16 * digit + (state >> 4 * digit & 15)];
  return next;
}

/* params: the taps of every pattern, width, polynomial without its top bit, seed. The table: nibbles, then places. */
RSK_FUNCTION void rsk_lfsr_pattern_prepare(const struct rsk_weight* weight, void* table) {
  rsk_lfsr_nibbles(weight->params[1], weight->params[2], (uint32_t*)table);
  rsk_pattern_places(weight, (uint32_t*)table + RSK_NIBBLES);
}

RSK_FUNCTION struct rsk_rows rsk_lfsr_pattern(const struct rsk_weight* weight, const void* table, uint32_t plane, uint32_t part, struct rsk_cursor* cursor,
                                              rsk_place* list) {
  const uint32_t* nibbles = (const uint32_t*)table;
  const rsk_place* places = (const rsk_place*)(nibbles + RSK_NIBBLES);
  const uint32_t most = weight->params[0];
  uint32_t state = cursor->kernel ? cursor->state : weight->params[3];
  struct rsk_rows rows = {part, 1, 1, 0, cursor->value, 0};
  for (uint32_t channel = 0; channel < weight->channels; channel++, state = rsk_lfsr_next(nibbles, state), rows.kept += most)
    rsk_kernel(places, most, state % weight->count, RSK_BASE((uint64_t)channel * plane), list + rows.kept);
  cursor->kernel += weight->channels;
  cursor->value += rows.kept;
  cursor->state = state;
  return rows;
}

/* params: how many places are kept, width, polynomial without its top bit, seed. The table: the bits of the mask, after nibbles. */
RSK_FUNCTION void rsk_lfsr_position_prepare(const struct rsk_weight* weight, void* table) {
  uint32_t *nibbles = (uint32_t*)table, state = weight->params[3];
  uint8_t* bits = (uint8_t*)(nibbles + RSK_NIBBLES);
  const uint32_t size = weight->filters * weight->channels * weight->taps;
  rsk_lfsr_nibbles(weight->params[1], weight->params[2], nibbles);
  memset(bits, 0, (size + 7) / 8 + 2);
  for (uint32_t missing = weight->params[0]; missing; state = rsk_lfsr_next(nibbles, state))
    if (state <= size) {
      bits[(state - 1) >> 3] |= (uint8_t)(1u << ((state - 1) & 7));
      missing--;
    }
}

RSK_FUNCTION struct rsk_rows rsk_lfsr_position(const struct rsk_weight* weight, const void* table, uint32_t plane, uint32_t part, struct rsk_cursor* cursor,
                                               rsk_place* list) {
  return rsk_bits(weight, (const uint8_t*)((const uint32_t*)table + RSK_NIBBLES), plane, part, cursor, list);
}

#endif
