"""Blocks of B consecutive outputs keep the same taps of each input channel (block sparsity along the outputs)."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from rsk_deploy.ir import BoolArray, FloatArray, Mask, Shape
from rsk_deploy.masks.checks import taps_kept, whole
from rsk_deploy.masks.draw import Draw, regular_kernels
from rsk_deploy.masks.kernels import as_kernels, counted, each_keeps, grid
from rsk_deploy.masks.tally import by_block, corner, explained

BLOCKS = range(64, 3, -1)
"""Blocks that are looked for, largest first. Two or three outputs cannot outvote an exception among them."""


def detect(values: FloatArray, nonzero: BoolArray) -> Mask | None:
    """The largest block whose outputs agree. Blocks that are all alike are the per-input family's."""
    kernels = as_kernels(nonzero)
    first = by_block(corner(kernels)[: BLOCKS[-1]], BLOCKS[-1])
    if first.holes > first.outside:
        return None
    for block in BLOCKS:
        if len(kernels) > block and (found := explained(kernels, partial(by_block, block=block))):
            union = found.union
            if (union == union[0]).all():
                return None
            evidence = f"{counted(len(union), 'block')} of {block} outputs share the taps of each of {kernels.shape[1]} input channels{found.evidence}"
            return Mask("block-shared", _spread(union, block, values.shape), {"block": block}, evidence)
    return None


def generate(shape: Shape, *, block: Any = 8, taps_per_kernel: Any = 4, seed: Any = 0) -> Mask:
    """``taps_per_kernel`` random taps for each block and input channel. Outputs that do not fill a block form a shorter last one."""
    outputs, inputs, taps = grid(shape)
    block = whole("block", block, 1, 2**31)
    blocks = -(-outputs // block)
    rows = regular_kernels(Draw(seed), blocks, inputs, taps, taps_kept(taps_per_kernel, taps))
    evidence = f"{counted(blocks, 'block')} of {block} outputs share the taps of each of {inputs} input channels"
    return Mask("block-shared", _spread(rows, block, shape), {"block": block}, evidence)


def describe(mask: Mask) -> str:
    """``shared by blocks of 8 outputs, 4 of 9 per kernel``."""
    return f"shared by blocks of {mask.params['block']} outputs, {each_keeps(mask)}"


def _spread(rows: BoolArray, block: int, shape: Shape) -> BoolArray:
    """The support in which output o has the taps of row o // block."""
    spread: BoolArray = rows[np.arange(shape[0]) // block].reshape(shape)
    return spread
