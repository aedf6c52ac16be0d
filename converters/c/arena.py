"""Places in one scratch memory for values that live for a while: two that live at the same time do not overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ALIGNED = 4
"""Floats that every place is a multiple of."""


@dataclass(frozen=True)
class Block:
    """``size`` floats that are used from step ``first`` to step ``last``."""

    size: int
    first: int
    last: int


def placed(blocks: Sequence[Block]) -> tuple[list[int], int]:
    """Where each block begins, and floats in all: the largest first, each at the lowest place that is free while it lives."""
    starts = [0] * len(blocks)
    done: list[int] = []
    total = 0
    for index in sorted(range(len(blocks)), key=lambda index: (-blocks[index].size, blocks[index].first)):
        block = blocks[index]
        taken = sorted((starts[other], starts[other] + blocks[other].size) for other in done if _together(block, blocks[other]))
        start = 0
        for begin, end in taken:
            if start + block.size <= begin:
                break
            start = max(start, -(-end // ALIGNED) * ALIGNED)
        starts[index] = start
        done.append(index)
        total = max(total, start + block.size)
    return starts, total


def _together(a: Block, b: Block) -> bool:
    return a.first <= b.last and b.first <= a.last
