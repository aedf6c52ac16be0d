"""How the kernels of a convolution are summed: which loop of the runtime, from a list of places or straight from patterns, over which strips."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rsk_deploy.converters.c.geometry import Geometry
from rsk_deploy.converters.c.targets import Target
from rsk_deploy.converters.c.weights import taps_of_kernels
from rsk_deploy.ir import Packed

LANES = 8
"""The most floats in a vector of any target: sums are rounded up to whole vectors, and inputs read accordingly."""
DIRECT = (2, 4)
"""Taps of a pattern, as many in every kernel, from which sums come straight."""
QUARTET = 4
"""Values that such a sum takes at once, and needs."""
NEARBY, LISTABLE = 96, 511
"""Cells, for each position of a target's strips, of a panel that all filters read from the nearest cache, or that its memory has room for; or from the next
cache, at places of 16 bits."""
CACHED = 8192
"""Cells of a panel that stay in the nearest cache while all filters read them."""
BLOCK = 32
"""Channels at a time of a larger panel: ResNet18 takes 12 to 17 % less than with all, and about as much with 16, 3 % more with 64."""
WORTH = 0.05
"""The share of the positions that is worth such a panel: it takes 24 % off ResNet18's layers of 4 x 4, where 0.2 are saved, and nothing at 32 x 32, 0.03."""
PACKING = 0.5
"""What packing a cell costs, in multiplications of four neighbouring positions."""
FINISHING = 3
"""What moving four sums to the output costs, in the same."""
TILE, ROOM, LARGE = 8, 64, 1024
"""Positions that the DSP kernels sum at once, and that a panel of theirs serves unless its cells are more than this."""
RUN = 3
"""Taps side by side that the DSP kernels take at once."""


@dataclass(frozen=True)
class Sums:
    """The loop of a convolution: what it adds to the fields of its structure, filters that it sums at once where they share their taps, and taps side by
    side that are one place of its list; or it is ``straight``, without lists.
    """

    fields: dict[str, Any]
    filters: int
    run: int = 1
    straight: bool = False


def sums(weight: Packed, geometry: Geometry, target: Target, *, eight: bool) -> Sums:
    """The loop for a weight as it is stored."""
    taps, channels = taps_of_kernels(weight), weight.shape[1]
    summer = f"rsk_sum_kernels_{taps}" if taps in DIRECT and channels * taps >= QUARTET else None
    odd = channels * taps % QUARTET > 0
    if eight:
        lines = int(by_lines(geometry, weight, target))
        if target.neighbours and in_runs(geometry, weight):
            lines += geometry.out[1] <= TILE // 2 and geometry.strip % 2 == geometry.out[0] % 2 == 0
            return Sums({"sum": ("rsk_sum_runs_s8", "rsk_sum_runs_2_s8")[lines - 1], "run": RUN, "lines": lines}, 2, RUN)
        straight = summer is not None and not odd
        return Sums({"sum": f"{summer}_s8" if straight else 0, "run": 1, "lines": lines}, 2, straight=straight)
    if summer is None or weight.arrays["values"].dtype != np.float32:
        return Sums({}, 4)
    return Sums({"sum": summer + "_odd" * odd, "block": blocked(geometry, channels, target)}, 4, straight=True)


def in_runs(geometry: Geometry, weight: Packed) -> bool:
    """Whether every tap is kept, and those of a kernel's row lie side by side."""
    return weight.format == "dense" and geometry.kernel[1] == RUN and geometry.stride[1] == geometry.dilation[1] == 1 and not geometry.columnwise


def by_lines(geometry: Geometry, weight: Packed, target: Target) -> bool:
    """Whether the 8-bit kernels sum one or two rows at once: those are whole tiles, or kernels come in runs."""
    return target.neighbours and not geometry.columnwise and (geometry.out[1] % TILE == 0 or in_runs(geometry, weight))


def blocked(geometry: Geometry, channels: int, target: Target) -> int:
    """Channels that all filters add up before the next ones: fewer than all where the panel is larger than the cache and sums lie as the output does."""
    height, width = geometry.out
    whole = geometry.pitch == width and all(rows * width % LANES == 0 for rows in (geometry.strip, height % geometry.strip))
    large = channels * geometry.plane > CACHED and channels % 2 == 0  # the summer of an odd number sums no even ones
    return BLOCK if target.memory is None and whole and large else channels


def positions(target: Target, width: int, *, eight: bool) -> int:
    """Of a strip. With panels of neighbours they are few, or rows that are summed one by one, if those are whole tiles."""
    if not (eight and target.neighbours):
        return target.positions
    return TILE if width % TILE else ROOM


def arranged(geometry: Geometry, weight: Packed, target: Target, *, eight: bool) -> Geometry:
    """Columnwise where the positions that it saves outweigh the cells that it adds to the panel."""
    if eight and by_lines(geometry, weight, target):
        while geometry.strip > 1 and weight.shape[1] * geometry.plane > LARGE:
            geometry = replace(geometry, positions=geometry.positions // 2)
        return geometry
    if geometry.spread[1] > 1:
        return geometry
    other = replace(geometry, columnwise=True)
    vectors, fewer = (-(-each.summed // 4) for each in (geometry, other))
    saved = (vectors - fewer) * weight.arrays["values"].size + FINISHING * fewer * weight.shape[0] * (geometry.pitch > other.pitch)
    cells, more = weight.shape[1] * other.plane, weight.shape[1] * (other.plane - geometry.plane)
    room = LISTABLE if target.memory is None and vectors - fewer > WORTH * vectors else NEARBY
    return other if cells <= room * target.positions and saved > PACKING * more else geometry
