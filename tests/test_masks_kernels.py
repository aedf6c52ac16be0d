"""Kernels as numbers and tables, against the obvious loops."""

from itertools import combinations

import numpy as np
import pytest

from rsk_deploy.errors import UsageError
from rsk_deploy.masks.kernels import as_kernels, distinct_patterns, grid, kernel_counts, pattern_ids, pattern_table


@pytest.mark.parametrize(("kernel", "word"), [((), np.uint32), ((3, 3), np.uint32), ((4, 8), np.uint32), ((33,), np.uint64), ((4, 4, 4), np.uint64)])
def test_a_pattern_number_has_bit_t_for_tap_t(kernel, word):
    support = np.random.default_rng(0).random((5, 7, *kernel)) < 0.5
    ids = pattern_ids(support)
    assert ids.dtype == word
    assert ids.tolist() == [[sum(1 << tap for tap, kept in enumerate(support[o, i].ravel()) if kept) for i in range(7)] for o in range(5)]


def test_a_kernel_above_64_taps_has_no_number():
    support = np.ones((2, 2, 9, 9), bool)
    with pytest.raises(UsageError, match="a kernel of 81 taps has no pattern number; kernels of up to 64 taps have"):
        pattern_ids(support)
    assert distinct_patterns(support) is None


@pytest.mark.parametrize("taps", [1, 9, 49, 300])
def test_kernel_counts_count_taps(taps):
    kernels = np.random.default_rng(1).random((211, 97, taps)) < 0.7
    assert np.array_equal(kernel_counts(kernels), kernels.sum(2))


@pytest.mark.parametrize(("taps", "kept"), [(9, 4), (9, 2), (5, 5), (6, 0), (25, 3)])
def test_the_pattern_table_lists_all_patterns_by_ascending_number(taps, kept):
    table = pattern_table(taps, kept)
    numbers = sorted(sum(1 << tap for tap in places) for places in combinations(range(taps), kept))
    assert (table @ (1 << np.arange(taps))).tolist() == numbers


@pytest.mark.parametrize(("taps", "kept"), [(49, 24), (10**6, 2), (10**9, 10**8)])
def test_too_many_patterns_are_refused_before_they_are_counted(taps, kept):
    with pytest.raises(UsageError, match=f"there are too many patterns of {kept} among {taps} taps"):
        pattern_table(taps, kept)


def test_distinct_patterns_are_counted_for_small_and_large_kernels():
    support = np.zeros((4, 4, 5, 5), bool)
    support[0, 0, 4, 4] = support[1, 1, 0, 0] = True
    assert distinct_patterns(support) == 3
    assert distinct_patterns(support[..., :1]) == 2


def test_a_matrix_has_kernels_of_one_tap():
    assert grid((4, 6)) == (4, 6, 1)
    assert as_kernels(np.zeros((4, 6))).shape == (4, 6, 1)
