/* The innermost loops of the C runtime against their definitions, on sizes around every tile and vector. Prints what differs. */
#include <stdio.h>

#include "rsk_conv.h"
#include "rsk_conv_s8.h"
#include "rsk_kernels.h"
#include "rsk_linear.h"
#include "rsk_linear_s8.h"
#include "rsk_pool_s8.h"

enum { CELLS = 512, MOST = 96, POSITIONS = 70, CHANNELS = 6, FILTERS = 3, PLANE = 40, PATTERNS = 5 };

static uint32_t state = 1;
static int failures;

static uint32_t drawn(uint32_t below) {
  state = state * 1664525u + 1013904223u;
  return (state >> 8) % below;
}

static void expect(int holds, const char* what, uint32_t kept, uint32_t positions) {
  if (!holds && failures++ < 20) printf("%s is wrong for %u places and %u positions\n", what, (unsigned)kept, (unsigned)positions);
}

static float panel[CELLS], weights[4 * MOST], sums[4 * (POSITIONS + 16)];
static rsk_cell_s8 cells[CELLS];
static int8_t panel_s8[CELLS], weights_s8[2 * MOST], inputs_s8[CELLS];
static int32_t sums_s8[2 * (POSITIONS + 16)];
static rsk_place list[MOST], places[PATTERNS * 4];
static uint8_t ids[(1 + FILTERS) * CHANNELS];

/* Exact for floats too: all values are small multiples of 1/8. */
static float sum_at(const float* values, uint32_t kept, float bias, uint32_t position) {
  for (uint32_t k = 0; k < kept; k++) bias += values[k] * panel[list[k] + position];
  return bias;
}

static void check_lists(uint32_t kept) {
  for (uint32_t positions = 1; positions <= POSITIONS; positions += positions < 12 ? 1 : 7) {
    const uint32_t vectors = (positions + RSK_LANES - 1) / RSK_LANES, pitch = vectors * RSK_LANES;
    const float* const four[4] = {weights, weights + MOST, weights + 2 * MOST, weights + 3 * MOST};
    const float biases[4] = {0.5f, -2, 0, 8};
    int whole = 1;
    rsk_sum(panel, list, kept, weights, -1, sums, vectors);
    for (uint32_t p = 0; p < positions; p++) whole &= sums[p] == sum_at(weights, kept, -1, p);
    expect(whole, "rsk_sum", kept, positions);
    rsk_sum_4(panel, list, kept, four, biases, sums, pitch, vectors);
    for (uint32_t p = 0; p < 4 * positions; p++)
      whole &= sums[p / positions * pitch + p % positions] == sum_at(four[p / positions], kept, biases[p / positions], p % positions);
    expect(whole, "rsk_sum_4", kept, positions);
    struct rsk_taps_s8 taps = {cells, list, NULL, {weights_s8, weights_s8 + MOST}, kept, 0};
    const int32_t biases_s8[2] = {77, -123456};
    for (uint32_t filters = 1; filters <= 2; filters++) {
      (filters == 1 ? rsk_sum_s8 : rsk_sum_2_s8)(&taps, biases_s8, sums_s8, POSITIONS + 16, (positions + RSK_BLOCK_S8 - 1) / RSK_BLOCK_S8);
      for (uint32_t p = 0; p < filters * positions; p++) {
        const uint32_t f = p / positions, position = p % positions;
        int32_t sum = biases_s8[f];
        for (uint32_t k = 0; k < kept; k++) sum += weights_s8[f * MOST + k] * panel_s8[list[k] + position];
        whole &= sum == sums_s8[f * (POSITIONS + 16) + position];
      }
    }
    expect(whole, "rsk_sum_s8", kept, positions);
  }
}

static void check_dots(uint32_t kept) {
  float kept_sum = 0, sum = 0;
  int32_t kept_s8 = -5, sum_s8 = -5;
  for (uint32_t k = 0; k < kept; k++) {
    kept_sum += weights[k] * panel[list[k]], sum += weights[k] * panel[k];
    kept_s8 += weights_s8[k] * inputs_s8[list[k]], sum_s8 += weights_s8[k] * inputs_s8[k];
  }
  expect(rsk_dot_kept(weights, panel, list, kept) == kept_sum, "rsk_dot_kept", kept, 1);
  expect(rsk_dot(weights, panel, kept) == sum, "rsk_dot", kept, 1);
  expect(rsk_dot_kept_s8(weights_s8, inputs_s8, list, kept, -5) == kept_s8, "rsk_dot_kept_s8", kept, 1);
  expect(rsk_dot_s8(weights_s8, inputs_s8, kept, -5) == sum_s8, "rsk_dot_s8", kept, 1);
  int32_t sums[RSK_DOTS_S8];
  for (uint32_t i = 0; i < RSK_DOTS_S8; i++) sums[i] = -5;
  rsk_dots_s8(weights_s8, MOST / 3, inputs_s8, kept, sums);
  for (uint32_t i = 0; i < RSK_DOTS_S8; i++) expect(sums[i] == rsk_dot_s8(weights_s8 + i * (MOST / 3), inputs_s8, kept, -5), "rsk_dots_s8", kept, i);
}

static void check_kernels(uint32_t taps, uint32_t channels, rsk_summer* summed) {
  const struct rsk_weight weight = {.values = weights, .index = ids};
  const float biases[FILTERS] = {3, -1, 0.5f};
  for (uint32_t positions = 1; positions <= POSITIONS; positions += positions < 12 ? 1 : 7)
    for (uint32_t added = 0; added < 2; added++) {
      const uint32_t vectors = (positions + RSK_LANES - 1) / RSK_LANES, pitch = vectors * RSK_LANES + added;
      const float low = added ? -2.5f : -INFINITY;
      const struct rsk_sums of = {places, panel, added ? biases : NULL, added ? sums : NULL, sums, channels, pitch, PLANE, channels, FILTERS, low};
      int whole = 1;
      for (uint32_t p = 0; p < FILTERS * pitch; p++) sums[p] = panel[CELLS - 1 - p]; /* a residual may be replaced by the sums */
      summed(&weight, &of, vectors);
      for (uint32_t p = 0; p < FILTERS * positions; p++) {
        const uint32_t filter = p / positions, at = filter * pitch + p % positions, first = channels * (filter + 1);
        float sum = added ? biases[filter] + panel[CELLS - 1 - at] : 0;
        for (uint32_t k = 0; k < channels * taps; k++)
          sum += weights[first * taps + k] * panel[k / taps * PLANE + places[ids[first + k / taps] * taps + k % taps] + p % positions];
        whole &= (sum < low ? low : sum) == sums[at];
      }
      expect(whole, "sums of kernels", taps, positions);
    }
}

static void check_kernels_s8(uint32_t taps, rsk_summer_s8* summed) {
  for (uint32_t positions = 1; positions <= POSITIONS; positions += positions < 12 ? 1 : 7) {
    const struct rsk_taps_s8 of = {cells, places, ids, {weights_s8, NULL}, CHANNELS * taps, PLANE};
    const int32_t bias = -99;
    int whole = 1;
    summed(&of, &bias, sums_s8, 0, (positions + RSK_BLOCK_S8 - 1) / RSK_BLOCK_S8);
    for (uint32_t p = 0; p < positions; p++) {
      int32_t sum = bias;
      for (uint32_t k = 0; k < CHANNELS * taps; k++) sum += weights_s8[k] * panel_s8[k / taps * PLANE + places[ids[k / taps] * taps + k % taps] + p];
      whole &= sum == sums_s8[p];
    }
    expect(whole, taps == 2 ? "rsk_sum_kernels_2_s8" : "rsk_sum_kernels_4_s8", taps, positions);
  }
}

static void check_pools(void) {
  for (uint32_t width = 1; width <= 20; width++) {
    const uint32_t in_width = 2 * width + 1;
    const struct rsk_pool pool = {.planes = 2,
                                  .height = 4,
                                  .width = in_width,
                                  .out_height = 2,
                                  .out_width = width,
                                  .stride_y = 2,
                                  .stride_x = 2,
                                  .size_y = 2,
                                  .size_x = 2,
                                  .dilation_y = 1,
                                  .dilation_x = 1};
    int8_t found[4 * 20];
    rsk_pool_s8(&pool, panel_s8, found);
    for (uint32_t i = 0; i < 4 * width; i++) {
      const int8_t *above = panel_s8 + i / width * 2 * in_width + i % width * 2, *below = above + in_width;
      int8_t best = above[0];
      if (above[1] > best) best = above[1];
      if (below[0] > best) best = below[0];
      if (below[1] > best) best = below[1];
      expect(found[i] == best, "rsk_pool_s8", width, i);
    }
  }
}

static void check_endings(void) {
  const int32_t multipliers[] = {(1 << 30) - 1, 0, 1 << 29}, lowest[] = {-127, 0, -127};
  const uint8_t shifts[] = {52, 62, 51};
  for (uint32_t i = 0; i < POSITIONS; i++) sums_s8[i] = (int32_t)(drawn(1u << 24) * 128) - (1 << 30);
  for (uint32_t filter = 0; filter < 3; filter++)
    for (uint32_t count = 1; count < 20; count++) {
      const struct rsk_requant requant = {
          .multipliers = multipliers, .shifts = shifts, .residual_multiplier = (1 << 30) - 7, .residual_shift = 31, .low = lowest[filter], .high = 126};
      int8_t found[20];
      rsk_requantise(&requant, filter, sums_s8, count, filter ? inputs_s8 : NULL, found, 0, 1, count);
      for (uint32_t i = 0; i < count; i++) {
        const int32_t residual = filter ? rsk_scaled(inputs_s8[i], requant.residual_multiplier, 31) : 0;
        expect(found[i] == rsk_clamped(rsk_scaled(sums_s8[i], multipliers[filter], shifts[filter]) + residual, lowest[filter], 126), "rsk_requantise", filter,
               i);
      }
    }
}

/* A channel of one row, as it is. */
static struct rsk_panel row_of(uint32_t width) {
  const struct rsk_panel row = {.height = 1,
                                .width = width,
                                .stride_y = 1,
                                .stride_x = 1,
                                .spread_y = 1,
                                .spread_x = 1,
                                .phases_y = 1,
                                .phases_x = 1,
                                .shift = 1,
                                .rows = 1,
                                .pitch = width,
                                .plane = width};
  return row;
}

#if RSK_ALONE_S8
/* The largest sums there can be, of more taps than are summed at once. */
static void check_parts(void) {
  enum { KEPT = 1203, CHECKED = 11, ROOM = 12 };
  static rsk_place none[KEPT + 3];
  static int8_t lowest[KEPT], inputs[4 * CHECKED];
  const struct rsk_panel whole = row_of(4 * CHECKED);
  const int32_t bias = 1 << 20;
  memset(lowest, -127, sizeof lowest);
  for (uint32_t i = 0; i < sizeof inputs; i++) inputs[i] = i % 2 ? 127 : -127;
  rsk_pack_s8(&whole, inputs, 1, 0, cells);
  for (uint32_t kept = 501; kept <= KEPT; kept += 78) {
    const struct rsk_taps_s8 listed = {cells, none, NULL, {lowest, NULL}, kept, 0};
    rsk_sum_parts_s8(rsk_sum_s8, listed, 1, &bias, sums_s8, ROOM, ROOM, ROOM / RSK_BLOCK_S8);
    for (uint32_t p = 0; p < CHECKED; p++) expect(sums_s8[p] == bias + (int32_t)kept * (p % 2 ? -16129 : 16129), "rsk_sum_parts_s8", kept, p);
    rsk_sum_parts_s8(rsk_sum_runs_s8, listed, 3, &bias, sums_s8, ROOM, ROOM, ROOM / RSK_BLOCK_S8);
    for (uint32_t p = 0; p < CHECKED && kept % 3 == 0; p++)
      expect(sums_s8[p] == bias + (int32_t)(kept / 3) * (p % 2 ? -16129 : 16129), "rsk_sum_runs_s8", kept, p);
  }
}
#else
static void check_parts(void) {}
#endif

int main(void) {
  for (uint32_t i = 0; i < CELLS; i++) {
    panel[i] = (float)((int32_t)drawn(129) - 64) / 8;
    panel_s8[i] = (int8_t)(i % 5 ? (int32_t)drawn(255) - 127 : -127);
    inputs_s8[i] = (int8_t)(i % 9 ? (int32_t)drawn(255) - 127 : -127);
  }
  for (uint32_t i = 0; i < 4 * MOST; i++) weights[i] = (float)((int32_t)drawn(129) - 64) / 8;
  for (uint32_t i = 0; i < 2 * MOST; i++) weights_s8[i] = (int8_t)(i % 7 ? (int32_t)drawn(255) - 127 : -127);
  for (uint32_t i = 0; i < MOST; i++) list[i] = (rsk_place)drawn(CELLS - POSITIONS - 16);
  const struct rsk_panel whole = row_of(CELLS);
  rsk_pack_s8(&whole, panel_s8, 1, 0, cells);
  for (uint32_t i = 0; i < PATTERNS * 4; i++) places[i] = (rsk_place)drawn(PLANE);
  for (uint32_t i = 0; i < (1 + FILTERS) * CHANNELS; i++) ids[i] = (uint8_t)drawn(PATTERNS);
  for (uint32_t kept = 0; kept < MOST; kept += kept < 20 ? 1 : 25) check_lists(kept), check_dots(kept);
  for (uint32_t channels = 1; channels <= CHANNELS; channels++) check_kernels(4, channels, rsk_sum_kernels_4);
  for (uint32_t channels = 2; channels <= CHANNELS; channels++) check_kernels(2, channels, channels % 2 ? rsk_sum_kernels_2_odd : rsk_sum_kernels_2);
  check_kernels_s8(2, rsk_sum_kernels_2_s8);
  check_kernels_s8(4, rsk_sum_kernels_4_s8);
  check_pools();
  check_endings();
  check_parts();
  printf("%d failures\n", failures);
  return failures != 0;
}
