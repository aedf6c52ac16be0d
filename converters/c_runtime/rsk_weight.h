/* A weight as it lies in flash. Its decoder says where the kept values of filters that keep the same places are. */
#ifndef RSK_WEIGHT_H
#define RSK_WEIGHT_H

#include "rsk_base.h"

/* What the network has: of the rest there is no code. */
#if !defined(RSK_HALVES)
#define RSK_HALVES 1 /* weights in half precision */
#endif
#if !defined(RSK_SINGLES)
#define RSK_SINGLES 1 /* filters of convolutions that do not share their places with three others */
#endif
#if !defined(RSK_STRAIGHT)
#define RSK_STRAIGHT 1 /* convolutions without lists */
#endif
#if !defined(RSK_NEIGHBOURS)
#define RSK_NEIGHBOURS 1 /* panels of 8-bit integers have room for 32 bits a cell */
#endif

/* Filters first, first + step, …: each keeps `kept` values, which start at `value` and lie `pitch` apart. */
struct rsk_rows {
  uint32_t first, step, count, kept;
  size_t value, pitch;
};

/* How far a decoder has come. */
struct rsk_cursor {
  size_t kernel, value;
  uint32_t state;
};

struct rsk_weight;
typedef struct rsk_rows rsk_decoder(const struct rsk_weight* weight, const void* table, uint32_t plane, uint32_t part, struct rsk_cursor* cursor,
                                    rsk_place* list);
typedef void rsk_preparer(const struct rsk_weight* weight, void* table);

/* `filters` in all, over `channels` inputs of `taps` places each; the decoder lists the rows of `parts` parts, one after the other, for each of
   `groups` groups. `prepare`, where there is one, makes the table that `decode` reads. */
struct rsk_weight {
  rsk_decoder* decode;
  rsk_preparer* prepare;
  const void* values;
  uint32_t halves; /* whether the values are half precision */
  const void* index;
  const void* patterns;
  const rsk_place* places; /* of each tap of a channel */
  uint32_t filters, channels, taps, groups, parts;
  uint32_t count; /* patterns, or the period */
  uint32_t params[4];
};

#endif
