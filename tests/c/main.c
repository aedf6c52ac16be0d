/* Runs the network once on the input of input.h and prints its outputs, bit for bit. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "input.h"
#include "net.h"

static float out[NET_OUT_SIZE], scratch[NET_SCRATCH_BYTES / 4];

int main(void) {
  net_run((const float*)input, out, scratch);
  for (int i = 0; i < NET_OUT_SIZE; i++) {
    uint32_t bits;
    memcpy(&bits, &out[i], sizeof bits);
    printf("%08" PRIx32 "\n", bits);
  }
  return 0;
}
