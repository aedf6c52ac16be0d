"""Resampling, with coordinates as exact fractions: a tie is a tie."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsk_deploy.ir import Resize

Array = NDArray[Any]
HALF = Fraction(1, 2)

ROUNDINGS: dict[str, Callable[[Fraction], int]] = {
    "floor": math.floor,
    "ceil": math.ceil,
    "round-prefer-floor": lambda position: math.ceil(position - HALF),
    "round-prefer-ceil": lambda position: math.floor(position + HALF),
}


def coordinates(kind: str, old: int, new: int, scale: float) -> list[Fraction]:
    """Say where each of the ``new`` elements lies between the ``old`` ones.

    A scale that is ``new / old`` but for its rounding is taken as that fraction.
    """
    ratio = Fraction(new, old) if math.isclose(scale, new / old, rel_tol=1e-6) else Fraction(scale)
    if kind == "asymmetric":
        return [i / ratio for i in range(new)]
    if kind == "align-corners":
        return [Fraction(i * (old - 1), max(new - 1, 1)) for i in range(new)]
    if kind == "pytorch-half-pixel" and new == 1:
        return [Fraction(0)]
    return [(i + HALF) / ratio - HALF for i in range(new)]


def resize(layer: Resize, dtype: np.dtype[Any], x: Array) -> Array:
    """Resample one axis after the other: nearest and linear are separable."""
    for axis, (size, scale) in enumerate(zip(layer.sizes, layer.scales, strict=True), start=2):
        last = x.shape[axis] - 1
        positions = coordinates(layer.coordinates, x.shape[axis], size, scale)
        if layer.mode == "nearest":
            x = x.take([min(max(ROUNDINGS[layer.rounding](position), 0), last) for position in positions], axis)
            continue
        positions = [min(max(position, Fraction(0)), Fraction(last)) for position in positions]
        below = [math.floor(position) for position in positions]
        share = np.array([float(position - low) for position, low in zip(positions, below, strict=True)], dtype).reshape(-1, *[1] * (x.ndim - 1 - axis))
        x = x.take(below, axis) * (1 - share) + x.take([min(low + 1, last) for low in below], axis) * share
    return x
