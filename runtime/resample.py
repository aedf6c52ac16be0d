"""Where each resampled element comes from, along one axis. Exact fractions: a tie is a tie, as in the reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from rsk_deploy.ir import Resize

Index: TypeAlias = NDArray[np.int32]
HALF = Fraction(1, 2)
ROUNDINGS: Mapping[str, Callable[[Fraction], int]] = {
    "floor": math.floor,
    "ceil": math.ceil,
    "round-prefer-floor": lambda position: math.ceil(position - HALF),
    "round-prefer-ceil": lambda position: math.floor(position + HALF),
}


def positions(kind: str, old: int, new: int, scale: float) -> list[Fraction]:
    """The place of each of ``new`` elements among ``old``. A scale that is ``new / old`` but for its rounding is that fraction."""
    ratio = Fraction(new, old) if math.isclose(scale, new / old, rel_tol=1e-6) else Fraction(scale)
    if kind == "align-corners":
        return [Fraction(i * (old - 1), max(new - 1, 1)) for i in range(new)]
    if kind == "pytorch-half-pixel" and new == 1:
        return [Fraction(0)]
    shift = Fraction(0) if kind == "asymmetric" else HALF
    return [(i + shift) / ratio - shift for i in range(new)]


def resampling(layer: Resize, old: int, new: int, scale: float) -> tuple[Index, Index, NDArray[np.float32]]:
    """The elements below and above each new one, and the share of the one above; nearest takes the one below."""
    places = positions(layer.coordinates, old, new, scale)
    if layer.mode == "nearest":
        nearest = np.array([min(max(ROUNDINGS[layer.rounding](place), 0), old - 1) for place in places], np.int32)
        return nearest, nearest, np.zeros(new, np.float32)
    places = [min(max(place, Fraction(0)), Fraction(old - 1)) for place in places]
    low = np.array([math.floor(place) for place in places], np.int32)
    share = np.array([float(place - math.floor(place)) for place in places], np.float32)
    return low, np.minimum(low + 1, old - 1).astype(np.int32), share
