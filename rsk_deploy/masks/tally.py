"""How far a weight agrees with a structure: counts of its nonzeros per group of kernels that would share their taps.

A kept weight can be 0 by chance, so the support is the union over each group. That union always covers the weight; it
*explains* it only if it leaves few zeros inside. Kernels that are zero throughout (a filter that batch norm scaled by 0)
say nothing about their group's taps and are left out of the vote.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rsk_deploy.ir import BoolArray
from rsk_deploy.masks.kernels import counted, kernel_counts

Counts: TypeAlias = NDArray[np.unsignedinteger[Any]]

SLACK = 16
"""A structure may leave one kept weight in this many zero; masks found by accident leave a third and more."""

SAMPLE = (128, 32)  # outputs × inputs of the corner that is looked at before the whole weight


class Tally(NamedTuple):
    """Counts per group (leading axes) and tap (last axis)."""

    nonzero: Counts
    """Kernels of the group that are nonzero at the tap."""
    live: Counts
    """Kernels of the group that are nonzero anywhere; (groups…, 1)."""
    size: Counts
    """Kernels of the group; (groups…, 1)."""

    @property
    def union(self) -> BoolArray:
        """The taps that any kernel of the group uses."""
        return self.nonzero > 0

    @property
    def kept(self) -> int:
        """Places of live kernels inside the union."""
        return int(np.where(self.union, self.live, 0).sum(dtype=np.int64))

    @property
    def holes(self) -> int:
        """Zeros of live kernels inside the union."""
        return self.kept - int(self.nonzero.sum(dtype=np.int64))

    @property
    def outside(self) -> int:
        """Zeros outside the union: what the structure explains."""
        return int(np.where(self.union, 0, self.size).sum(dtype=np.int64))

    @property
    def explains(self) -> bool:
        """Few holes, no more than the zeros explained, and no tap that only a minority of a group uses: that is an exception, not a structure."""
        minority = self.union & (self.live > 2) & (self.nonzero <= self.live // 2)
        return self.holes * SLACK <= self.kept and self.holes <= self.outside and bool(self.outside) and not minority.any()

    @property
    def evidence(self) -> str:
        """What a finding should add about zeros that it does not explain."""
        dead = int(self.size.sum(dtype=np.int64)) - int(self.live.sum(dtype=np.int64))
        notes = [f"{counted(self.holes, 'kept weight')} 0 by chance"] * bool(self.holes) + [f"{counted(dead, 'kernel')} zero throughout"] * bool(dead)
        return f" ({', '.join(notes)})" if notes else ""


def corner(kernels: BoolArray) -> BoolArray:
    """A small part of a weight that has the structure of the whole."""
    return kernels[: SAMPLE[0], : SAMPLE[1]]


def explained(kernels: BoolArray, tally: Callable[[BoolArray], Tally]) -> Tally | None:
    """The tally of the whole weight if the structure explains it. A corner far off the structure, or full, settles it without reading the rest."""
    part = tally(corner(kernels))
    if part.holes * SLACK > 2 * part.kept or part.holes > part.outside or not part.outside:
        return None
    whole = tally(kernels)
    return whole if whole.explains else None


def by_block(kernels: BoolArray, block: int) -> Tally:
    """Groups of ``block`` consecutive outputs, per input: counts (blocks, inputs, taps)."""
    nonzero = _block_sums(kernels, block)
    size = np.broadcast_to(_block_sums(np.ones((len(kernels), 1, 1), bool), block), (*nonzero.shape[:2], 1))
    live = size if kernels.shape[2] == 1 else _block_sums((kernel_counts(kernels) > 0)[..., None], block)
    return Tally(nonzero, live, size)


def by_class(kernels: BoolArray, period: int) -> Tally:
    """Groups of equal (output + input) mod ``period``: counts (classes, taps)."""
    outputs, inputs, taps = kernels.shape
    nonzero = _class_sums(kernels, period)
    rows, columns = (np.bincount(np.arange(count) % period, minlength=period) for count in (outputs, inputs))
    size = _antidiagonals(np.multiply.outer(rows, columns)[..., None])
    live = size if taps == 1 else _class_sums((kernel_counts(kernels) > 0)[..., None], period)
    return Tally(nonzero, live, size)


def by_residues(kernels: BoolArray, classes: int) -> Tally:
    """Groups of equal output mod ``classes`` and equal input mod ``classes``: counts (classes, classes, taps)."""
    outputs, inputs, taps = kernels.shape
    rows, columns = (np.bincount(np.arange(count) % classes, minlength=classes) for count in (outputs, inputs))
    size = np.multiply.outer(rows, columns)[..., None]
    live = size if taps == 1 else _residue_sums((kernel_counts(kernels) > 0)[..., None], classes)
    return Tally(_residue_sums(kernels, classes), live, size)


def _column_sums(flags: BoolArray) -> Counts:
    """Sum over the first axis, in bytes as long as they cannot overflow: eight times as fast as in words."""
    parts = [flags[start : start + 255].view(np.uint8).sum(axis=0, dtype=np.uint8) for start in range(0, len(flags), 255)]
    sums: Counts = parts[0] if len(parts) == 1 else np.sum(parts, axis=0, dtype=np.uint32)
    return sums


def _block_sums(flags: BoolArray, block: int) -> Counts:
    """Sum over blocks of outputs; the last block may be shorter."""
    whole, inputs, taps = len(flags) // block, *flags.shape[1:]
    blocks = flags[: whole * block].reshape(whole, block, inputs, taps)
    if block <= 255:
        sums = blocks.view(np.uint8).sum(axis=1, dtype=np.uint8)
    else:
        sums = np.stack([_column_sums(rows) for rows in blocks]) if whole else np.zeros((0, inputs, taps), np.uint32)
    rest = flags[whole * block :]
    return np.concatenate([sums, _column_sums(rest)[None]]) if len(rest) else sums


def _class_sums(flags: BoolArray, period: int) -> Counts:
    """Sum over the kernels of each class of (output + input) mod ``period``."""
    return _antidiagonals(_residue_sums(flags, period))


def _residue_sums(flags: BoolArray, period: int) -> Counts:
    """Sum over the kernels of each pair of an output and an input mod ``period``: (period, period, taps)."""
    _, inputs, taps = flags.shape
    rows = np.zeros((period, -(-inputs // period) * period, taps), np.uint32)
    for residue in range(period):
        rows[residue, :inputs] = _column_sums(flags[residue::period])
    sums: Counts = rows.reshape(period, -1, period, taps).sum(axis=1, dtype=np.uint32)
    return sums


def _antidiagonals(square: NDArray[Any]) -> NDArray[Any]:
    """Sum a (period, period, …) array over all pairs of residues with the same sum mod period."""
    residue = np.arange(len(square))
    sums: NDArray[Any] = square[residue[:, None], (residue[None, :] - residue[:, None]) % len(square)].sum(axis=0)
    return sums
