// What one core can do at most: loops of one instruction, no dependence between its neighbours. Prints rates per second, and
// returns multiply-adds of single floats per second, in 10⁹.
#pragma once

double print_peak_avx512();
double print_peak_avx2();

// How fast the core is now: the same peak, and the rate of multiply-adds that take a load and two instructions more each. The latter
// is as high where nobody else is on the core, and far lower beside a second thread, which the former need not notice. 0.2 ms.
struct Moment {
  double peak, crowded;
};
Moment moment_avx512();
Moment moment_avx2();
