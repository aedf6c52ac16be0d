"""A weight as (outputs, inputs, taps): the taps are the places of one kernel in C order, a matrix has kernels of one tap."""

from __future__ import annotations

from functools import lru_cache
from itertools import chain, combinations
from math import comb, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsk_deploy.errors import UsageError
from rsk_deploy.ir import BoolArray, Mask, Shape

MAX_TABLE = 1 << 24
"""A table of patterns has at most this many entries (patterns × taps)."""

CHUNK = 1 << 14  # kernels whose taps stay in the cache while they are read tap by tap


def grid(shape: Shape) -> tuple[int, int, int]:
    """(outputs, inputs, taps per kernel) of a weight of this shape."""
    if len(shape) < 2:
        raise UsageError(f"a mask is over the kernels of a weight (outputs, inputs, …); shape {tuple(shape)} has none")
    return shape[0], shape[1], prod(shape[2:])


def as_kernels(array: NDArray[Any]) -> NDArray[Any]:
    """A view of a weight, or of its support, as (outputs, inputs, taps)."""
    return array.reshape(grid(array.shape))


def kernel_counts(kernels: BoolArray) -> NDArray[np.unsignedinteger[Any]]:
    """How many taps of each kernel are set, as (outputs, inputs)."""
    taps = kernels.shape[2]
    flat = kernels.reshape(-1, taps).view(np.uint8)
    counts = np.zeros(len(flat), np.min_scalar_type(taps))
    for start in range(0, len(flat), CHUNK):
        for tap in range(taps):  # numpy's own sum over a short last axis takes three times as long
            counts[start : start + CHUNK] += flat[start : start + CHUNK, tap]
    return counts.reshape(kernels.shape[:2])


def pattern_ids(support: BoolArray) -> NDArray[np.uint32] | NDArray[np.uint64]:
    """One number a kernel, (outputs, inputs): bit t is tap t. uint32 up to 32 taps, uint64 up to 64."""
    outputs, inputs, taps = grid(support.shape)
    if taps > 64:
        raise UsageError(f"a kernel of {taps} taps has no pattern number; kernels of up to 64 taps have")
    word: type[np.uint32 | np.uint64] = np.uint32 if taps <= 32 else np.uint64
    flat = support.reshape(-1, taps)
    ids: NDArray[Any] = np.zeros(len(flat), word)
    for start in range(0, len(flat), CHUNK):
        for tap in range(taps):
            ids[start : start + CHUNK] |= flat[start : start + CHUNK, tap] * word(1 << tap)
    return ids.reshape(outputs, inputs)


@lru_cache(maxsize=16)
def pattern_table(taps: int, kept: int) -> BoolArray:
    """Every pattern of ``kept`` among ``taps`` as a row, in ascending order of its number (colexicographic)."""
    if taps > 4096 or comb(taps, kept) * taps > MAX_TABLE:
        raise UsageError(f"there are too many patterns of {kept} among {taps} taps to number them; use fewer taps, or another kind of mask")
    patterns = comb(taps, kept)
    descending = chain.from_iterable(combinations(range(taps - 1, -1, -1), kept))
    places = np.fromiter(descending, np.intp, patterns * kept).reshape(patterns, kept)[::-1]
    table = np.zeros((patterns, taps), bool)
    table[np.arange(patterns)[:, None], places] = True
    table.flags.writeable = False
    return table


def distinct_patterns(support: BoolArray) -> int | None:
    """How many different kernels a support has; None for kernels above 64 taps."""
    taps = grid(support.shape)[2]
    if taps > 64:
        return None
    ids = pattern_ids(support).ravel()
    return int(np.count_nonzero(np.bincount(ids))) if taps <= 16 else len(np.unique(ids))


def counted(number: int, noun: str) -> str:
    """``1 kernel``, ``2 kernels``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def each_keeps(mask: Mask) -> str:
    """``4 of 9 per kernel``, or the average where kernels differ."""
    outputs, inputs, taps = grid(mask.support.shape)
    average = mask.kept / max(1, outputs * inputs)
    return f"{average:.3g} of {taps} per kernel"
