"""Kernels of equal (output + input) mod P share their taps: the periodic pre-defined sparse kernels (periodic pSConv)."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from rsk_deploy.errors import UsageError
from rsk_deploy.ir import BoolArray, FloatArray, Mask, Shape
from rsk_deploy.masks.checks import tap_set, taps_kept, whole
from rsk_deploy.masks.draw import Draw, regular_kernels
from rsk_deploy.masks.kernels import as_kernels, counted, each_keeps, grid
from rsk_deploy.masks.tally import by_class, corner, explained

PERIODS = (*range(2, 17), 32)
"""Periods that are looked for, smallest first."""

MAX_PERIOD = 1024

SQUARES = [[0, 1, 3, 4], [1, 2, 4, 5], [3, 4, 6, 7], [4, 5, 7, 8]]
"""The four 2×2 corner squares of a 3×3 kernel."""

PAIRS = [[0, 1], [1, 2], [3, 4], [4, 5], [6, 7], [7, 8]]
"""The six horizontal pairs of a 3×3 kernel."""


def published_taps(taps_per_kernel: int, period: int) -> list[list[int]]:
    """The tap sets that the authors of pSConv published for 3×3 kernels.

    Squares (4 taps) or horizontal pairs (2) in turn, and one dense kernel at the end of each period.
    """
    sets = {4: SQUARES, 2: PAIRS}.get(taps_per_kernel)
    if sets is None:
        raise UsageError(f"no periodic kernels with {taps_per_kernel} taps were published; 4 (squares) and 2 (pairs) were")
    whole("period", period, 2, MAX_PERIOD)
    return [*(sets[residue % len(sets)] for residue in range(period - 1)), list(range(9))]


def detect(values: FloatArray, nonzero: BoolArray) -> Mask | None:
    """The smallest period whose classes explain the weight. A period of 1 is the one-pattern family's."""
    kernels = as_kernels(nonzero)
    if not _shifts(corner(kernels)):
        return None
    for period in PERIODS:
        if kernels.shape[0] * kernels.shape[1] < 2 * period:
            break
        if found := explained(kernels, partial(by_class, period=period)):
            union = found.union
            if (union == union[0]).all():
                return None
            taps = [np.flatnonzero(row).tolist() for row in union]
            return _mask(values.shape, taps, f"{counted(int(found.live.sum()), 'kernel')} repeat with period {period} in output + input{found.evidence}")
    return None


def generate(shape: Shape, *, period: Any = None, taps_per_kernel: Any = 4, seed: Any = 0, taps: Any = None) -> Mask:
    """One tap set per class: ``taps`` as given, or drawn so that every tap is kept in some class."""
    if taps is not None:
        if not isinstance(taps, list | tuple):
            raise UsageError("the taps of a periodic mask are a list of tap sets, one per class of (output + input) mod period")
        period = whole("period", len(taps) if period is None else period, 1, MAX_PERIOD)
        if len(taps) != period:
            raise UsageError(f"a mask of period {period} needs {counted(period, 'tap set')}, not {len(taps)}")
        sets = [tap_set(places, grid(shape)[2]) for places in taps]
    else:
        period = whole("period", 8 if period is None else period, 1, MAX_PERIOD)
        kept = taps_kept(taps_per_kernel, grid(shape)[2])
        sets = [np.flatnonzero(row).tolist() for row in regular_kernels(Draw(seed), 1, period, grid(shape)[2], kept)[0]]
    return _mask(shape, sets, f"kernels repeat with period {period} in output + input")


def describe(mask: Mask) -> str:
    """``period 8 in output + input, 4 of 9 per kernel``."""
    return f"period {mask.params['period']} in output + input, {each_keeps(mask)}"


def _shifts(kernels: BoolArray) -> bool:
    """Whether kernels mostly equal their neighbour one output up and one input down, as with any period."""
    here, there = kernels[1:, :-1], kernels[:-1, 1:]
    both = here.any(axis=2) & there.any(axis=2) | (kernels.shape[2] == 1)
    return 2 * int(np.count_nonzero((here != there).any(axis=2) & both)) <= int(np.count_nonzero(both))


def _mask(shape: Shape, taps: list[list[int]], evidence: str) -> Mask:
    outputs, inputs, per_kernel = grid(shape)
    table = np.zeros((len(taps), per_kernel), bool)
    for row, places in zip(table, taps, strict=True):
        row[places] = True
    classes = (np.arange(outputs)[:, None] + np.arange(inputs)) % len(taps)
    return Mask("periodic", table[classes].reshape(shape), {"period": len(taps), "taps": taps}, evidence)
