"""One set of taps for every kernel of the layer: the skeleton kernel's cross, pruned kernel rows or columns."""

from __future__ import annotations

from typing import Any

import numpy as np

from rsk_deploy.errors import UsageError
from rsk_deploy.ir import BoolArray, FloatArray, Mask, Shape
from rsk_deploy.masks.checks import tap_set
from rsk_deploy.masks.kernels import as_kernels, counted, grid
from rsk_deploy.masks.tally import Tally, by_block, explained


def cross(kernel: Shape) -> list[int] | None:
    """The skeleton kernel: the middle row and the middle column ([1, 3, 4, 5, 7] of 3×3); None where there are none."""
    if len(kernel) != 2 or kernel[0] % 2 == 0 or kernel[1] % 2 == 0:
        return None
    rows, columns = np.indices(kernel)
    return np.flatnonzero((rows == kernel[0] // 2) | (columns == kernel[1] // 2)).tolist()


def detect(values: FloatArray, nonzero: BoolArray) -> Mask | None:
    """The taps that the layer uses, if nearly every kernel uses nearly all of them and some taps are zero everywhere."""
    kernels = as_kernels(nonzero)
    if kernels.shape[0] * kernels.shape[1] < 2 or (found := explained(kernels, _tally)) is None:
        return None
    taps = np.flatnonzero(found.union).tolist()
    live = int(found.live.sum())
    return _mask(values.shape, taps, f"{counted(live, 'kernel')} of {kernels.shape[0] * kernels.shape[1]} stay inside the taps {taps}{found.evidence}")


def generate(shape: Shape, *, taps: Any = "cross") -> Mask:
    """Every kernel keeps ``taps``: a list of places in C order, or ``"cross"`` for 2-D kernels of odd sizes."""
    if isinstance(taps, str) and taps == "cross":
        taps = cross(tuple(shape[2:]))
        if taps is None:
            raise UsageError(f"a cross is the middle row and column of a kernel, and a weight of shape {tuple(shape)} has none; give the taps as a list")
    places = tap_set(taps, grid(shape)[2])
    return _mask(shape, places, f"every kernel keeps the taps {places}")


def describe(mask: Mask) -> str:
    """``one pattern for all kernels: cross, 5 of 9``."""
    taps = mask.params["taps"]
    name = "cross, " if taps == cross(mask.support.shape[2:]) else ""
    return f"one pattern for all kernels: {name}{len(taps)} of {grid(mask.support.shape)[2]}"


def _tally(kernels: BoolArray) -> Tally:
    """One group: all kernels."""
    return Tally(*(part.sum(axis=(0, 1), keepdims=True, dtype=np.uint64) for part in by_block(kernels, len(kernels))))


def _mask(shape: Shape, taps: list[int], evidence: str) -> Mask:
    support = np.zeros(grid(shape), bool)
    support[:, :, taps] = True
    return Mask("one-pattern", support.reshape(shape), {"taps": taps}, evidence)
