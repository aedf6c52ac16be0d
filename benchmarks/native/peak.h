// What one core can do at most: loops of one instruction, no dependence between its neighbours. Prints rates per second, and
// returns multiply-adds of single floats per second, in 10⁹.
#pragma once

double print_peak_avx512();
double print_peak_avx2();

// The same rate of multiply-adds alone, now: 0.3 ms.
double peak_avx512();
double peak_avx2();
