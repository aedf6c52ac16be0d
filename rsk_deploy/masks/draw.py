"""Pseudo-random regular kernels from a seed: the same bits with every numpy, on every machine.

Only raw PCG64 words are used: numpy promises their stream, and not that of the distributions made from it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsk_deploy.ir import BoolArray
from rsk_deploy.masks.checks import whole
from rsk_deploy.masks.kernels import counted

WORDS = 1 << 20  # drawn at a time, which bounds the memory


class Draw:
    """A stream of 64-bit words."""

    def __init__(self, seed: Any) -> None:
        self._words = np.random.PCG64(whole("seed", seed, 0, 2**64 - 1))

    def words(self, *shape: int) -> NDArray[np.uint64]:
        """The next words of the stream."""
        return self._words.random_raw(int(np.prod(shape))).reshape(shape)

    def orders(self, *shape: int) -> NDArray[np.intp]:
        """Random permutations along the last axis."""
        return np.argsort(self.words(*shape), axis=-1, kind="stable")

    def subsets(self, rows: int, taps: int, kept: int) -> BoolArray:
        """Rows of ``taps`` places, each keeping ``kept`` of them."""
        words = self.words(rows, taps)
        words >>= np.uint64(taps.bit_length())
        words <<= np.uint64(taps.bit_length())
        words |= np.arange(taps, dtype=np.uint64)  # no two words of a row are equal, so exactly ``kept`` are among the smallest
        kept_words: BoolArray = words <= np.partition(words, kept - 1, axis=1)[:, kept - 1 : kept]
        return kept_words


def regular_kernels(draw: Draw, filters: int, channels: int, taps: int, kept: int) -> BoolArray:
    """Kernels (filters, channels, taps) that each keep ``kept`` taps, so that every filter keeps every tap in some channel.

    Where ``kept · channels < taps``, every filter keeps ``kept · channels`` different taps.
    """
    kernels = np.empty((filters, channels, taps), bool)
    rows = max(1, WORDS // max(1, channels * taps))
    for start in range(0, filters, rows):
        part = kernels[start : start + rows]
        part[:] = draw.subsets(len(part) * channels, taps, kept).reshape(part.shape)
    poor = np.flatnonzero(covered(kernels) < min(taps, kept * channels))
    dealt = min(channels, -(-taps // kept))
    kernels[poor, :dealt] = False
    places = draw.orders(len(poor), taps)[:, deal(dealt, taps, kept)]
    kernels[poor[:, None, None], np.arange(dealt)[None, :, None], places] = True
    return kernels


def deal(channels: int, taps: int, kept: int) -> NDArray[np.intp]:
    """Deal ``taps`` cards round by round: the ``kept`` that each channel gets. No card comes again before all are dealt."""
    hands: NDArray[np.intp] = (np.arange(channels)[:, None] * kept + np.arange(kept)) % taps
    return hands


def covered(kernels: BoolArray) -> NDArray[np.intp]:
    """How many different taps each filter keeps."""
    reached: NDArray[np.intp] = kernels.any(axis=1).sum(axis=1, dtype=np.intp)
    return reached


def coverage(kernels: BoolArray) -> str:
    """A phrase on how many taps the filters reach."""
    reached = covered(kernels)
    poorest = int(reached.min()) if len(reached) else 0
    taps = kernels.shape[2]
    if poorest == taps:
        return f"every filter keeps every one of the {taps} taps in some channel"
    missing = f"{np.count_nonzero(reached < taps)} of {len(reached)} filters do not reach every tap"
    return f"{missing}: the poorest keeps {poorest} of {taps} over its {counted(kernels.shape[1], 'channel')}"
