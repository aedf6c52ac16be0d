/* Runs a network once, from the file `inputs` to the file `outputs`, bit for bit. rsk_network.h names it, and says how many floats they hold. */
#include <stdio.h>
#include <string.h>

#include "rsk_network.h"

static float in[INPUTS], out[OUTPUTS], scratch[SCRATCH];

int main(void) {
  FILE* file = fopen("inputs", "rb");
  if (file == NULL || fread(in, sizeof *in, INPUTS, file) != INPUTS || fclose(file) != 0) return 2;
  memset(scratch, 0xff, sizeof scratch); /* NaN: nothing may be read that was not written */
  RUN(in, out, scratch);
  file = fopen("outputs", "wb");
  if (file == NULL || fwrite(out, sizeof *out, OUTPUTS, file) != OUTPUTS) return 3;
  return fclose(file) == 0 ? 0 : 3;
}
