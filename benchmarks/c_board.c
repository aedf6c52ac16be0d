/* Runs a network once on a Cortex-M and prints how many instructions it took, by the system timer: of a loop it is known how many it takes. */
#include <stdio.h>

#include "rsk_network.h"

enum { TURNS = 1000000, MOST = 0xffffff };

static volatile unsigned* const timer = (volatile unsigned*)0xE000E010u; /* control, most, value: it counts down, from the most once it is written to */
static float in[INPUTS], out[OUTPUTS], scratch[SCRATCH];

int main(void) {
  unsigned turns = TURNS, known, taken;
  timer[1] = MOST, timer[2] = 0, timer[0] = 5; /* on, by the processor's clock */
  __asm__ volatile("1: subs %0, %0, #1\n bne 1b" : "+r"(turns) : : "cc");
  known = MOST - timer[2];
  timer[2] = 0;
  RUN(in, out, scratch);
  taken = MOST - timer[2];
  if (timer[0] >> 16 & 1) return 1; /* it passed 0 */
  printf("%.0f\n", 2.0 * TURNS * taken / known);
  return 0;
}
