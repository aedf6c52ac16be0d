"""All outputs keep the same taps of an input channel; the channels differ. Pruned input channels are of this kind."""

from __future__ import annotations

from typing import Any

import numpy as np

from rsk_deploy.ir import BoolArray, FloatArray, Mask, Shape
from rsk_deploy.masks.checks import taps_kept
from rsk_deploy.masks.draw import Draw, regular_kernels
from rsk_deploy.masks.kernels import as_kernels, counted, each_keeps, grid
from rsk_deploy.masks.tally import by_block


def detect(values: FloatArray, nonzero: BoolArray) -> Mask | None:
    """The taps that each input channel uses, if nearly all outputs use nearly all of them and the channels are not all alike."""
    kernels = as_kernels(nonzero)
    outputs, inputs, _ = kernels.shape
    if outputs < 2:
        return None
    found = by_block(kernels, outputs)  # of the whole weight at once: a few pruned channels need not show in a corner
    if not found.explains or (found.union == found.union[0, 0]).all():
        return None
    support = np.broadcast_to(found.union, kernels.shape).reshape(values.shape)
    return Mask("per-input", support, {}, f"{counted(outputs, 'output')} agree on the taps of each of {inputs} input channels{found.evidence}")


def generate(shape: Shape, *, taps_per_kernel: Any = 4, seed: Any = 0) -> Mask:
    """``taps_per_kernel`` random taps for each input channel; every tap is kept in some channel."""
    outputs, inputs, taps = grid(shape)
    row = regular_kernels(Draw(seed), 1, inputs, taps, taps_kept(taps_per_kernel, taps))
    support = np.broadcast_to(row, (outputs, inputs, taps)).reshape(shape)
    return Mask("per-input", support, {}, f"{counted(outputs, 'output')} share the taps of each of {inputs} input channels")


def describe(mask: Mask) -> str:
    """``shared by all outputs, 4 of 9 per kernel``."""
    return f"shared by all outputs, {each_keeps(mask)}"
