/* The innermost loops of the C runtime against their definitions, on sizes around every tile and vector. Prints what differs. */
#include <stdio.h>

#include "rsk_conv.h"
#include "rsk_conv_s8.h"
#include "rsk_kernels.h"
#include "rsk_linear.h"
#include "rsk_linear_s8.h"

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
static int16_t panel_s8[CELLS];
static int8_t weights_s8[MOST], inputs_s8[CELLS];
static int32_t sums_s8[POSITIONS + 16];
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
    rsk_sum_s8(panel_s8, list, kept, weights_s8, 77, sums_s8, positions);
    for (uint32_t p = 0; p < positions; p++) {
      int32_t sum = 77;
      for (uint32_t k = 0; k < kept; k++) sum += weights_s8[k] * panel_s8[list[k] + p];
      whole &= sum == sums_s8[p];
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
}

static void check_kernels(uint32_t taps, rsk_summer* summed) {
  const struct rsk_weight weight = {.values = weights, .index = ids, .channels = CHANNELS};
  const float biases[FILTERS] = {3, -1, 0.5f};
  for (uint32_t positions = 1; positions <= POSITIONS; positions += positions < 12 ? 1 : 7)
    for (uint32_t added = 0; added < 2; added++) {
      const uint32_t vectors = (positions + RSK_LANES - 1) / RSK_LANES, pitch = vectors * RSK_LANES + added;
      const float low = added ? -2.5f : -INFINITY;
      const struct rsk_sums of = {places, panel, added ? biases : NULL, added ? sums : NULL, sums, CHANNELS, pitch, PLANE, FILTERS, low};
      int whole = 1;
      for (uint32_t p = 0; p < FILTERS * pitch; p++) sums[p] = panel[CELLS - 1 - p]; /* a residual may be replaced by the sums */
      summed(&weight, &of, vectors);
      for (uint32_t p = 0; p < FILTERS * positions; p++) {
        const uint32_t filter = p / positions, at = filter * pitch + p % positions, first = CHANNELS * (filter + 1);
        float sum = added ? biases[filter] + panel[CELLS - 1 - at] : 0;
        for (uint32_t k = 0; k < CHANNELS * taps; k++)
          sum += weights[first * taps + k] * panel[k / taps * PLANE + places[ids[first + k / taps] * taps + k % taps] + p % positions];
        whole &= (sum < low ? low : sum) == sums[at];
      }
      expect(whole, taps == 2 ? "rsk_sum_kernels_2" : "rsk_sum_kernels_4", taps, positions);
    }
}

int main(void) {
  for (uint32_t i = 0; i < CELLS; i++) {
    panel[i] = (float)((int32_t)drawn(129) - 64) / 8;
    panel_s8[i] = (int16_t)((int32_t)drawn(255) - 127);
    inputs_s8[i] = (int8_t)(i % 9 ? (int32_t)drawn(255) - 127 : -127);
  }
  for (uint32_t i = 0; i < 4 * MOST; i++) weights[i] = (float)((int32_t)drawn(129) - 64) / 8;
  for (uint32_t i = 0; i < MOST; i++) weights_s8[i] = (int8_t)(i % 7 ? (int32_t)drawn(255) - 127 : -127), list[i] = (rsk_place)drawn(CELLS - POSITIONS - 16);
  for (uint32_t i = 0; i < PATTERNS * 4; i++) places[i] = (rsk_place)drawn(PLANE);
  for (uint32_t i = 0; i < (1 + FILTERS) * CHANNELS; i++) ids[i] = (uint8_t)drawn(PATTERNS);
  for (uint32_t kept = 0; kept < MOST; kept += kept < 20 ? 1 : 25) check_lists(kept), check_dots(kept);
  check_kernels(2, rsk_sum_kernels_2);
  check_kernels(4, rsk_sum_kernels_4);
  printf("%d failures\n", failures);
  return failures != 0;
}
