"""Rectangles of taps, dilated ones included: what a dense convolution of the kernel's own stride can compute alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import prod
from typing import TypeAlias

import numpy as np

from rsk_deploy.ir import Shape

Taps: TypeAlias = tuple[int, ...]
"""Places of a kernel in C order, ascending."""

MOST_RECTANGLES = 3
"""Tap sets that need more are left as they are: any four of nine taps need at most three."""
MOST_TAPS = 64


@dataclass(frozen=True)
class Rectangle:
    """Along each axis of a kernel, ``size`` taps from ``start`` on, ``step`` apart. One tap has step 1."""

    start: Shape
    step: Shape
    size: Shape

    @property
    def stop(self) -> Shape:
        """The last tap along each axis."""
        return tuple(start + step * (size - 1) for start, step, size in zip(self.start, self.step, self.size, strict=True))

    @property
    def slices(self) -> tuple[slice, ...]:
        """The index of the rectangle in a kernel."""
        return tuple(slice(start, stop + 1, step) for start, stop, step in zip(self.start, self.stop, self.step, strict=True))

    def taps(self, kernel: Shape) -> Taps:
        """Its places in a kernel of that shape."""
        return tuple(np.arange(prod(kernel)).reshape(kernel)[self.slices].ravel().tolist())

    def __str__(self) -> str:
        spread = "" if set(self.step) == {1} else f" dilated {'x'.join(map(str, self.step))}"
        return "x".join(map(str, self.size)) + spread


@lru_cache(maxsize=64)
def rectangles(kernel: Shape) -> dict[Rectangle, Taps]:
    """Every rectangle of a kernel of that shape, with its taps: the fullest first, then the least dilated."""
    if not 1 < prod(kernel) <= MOST_TAPS:
        return {}
    axes = [
        [(start, step, size) for size in range(1, length + 1) for step in range(1, length if size > 1 else 2) for start in range(length - step * (size - 1))]
        for length in kernel
    ]
    found = [Rectangle(*(tuple(column) for column in zip(*axis, strict=True))) for axis in product(*axes)]
    found.sort(key=lambda rectangle: (-prod(rectangle.size), rectangle.step[::-1], rectangle.start))
    return {rectangle: rectangle.taps(kernel) for rectangle in found}


@lru_cache(maxsize=4096)
def covered(taps: Taps, kernel: Shape) -> tuple[Rectangle, ...] | None:
    """The fewest rectangles without a common tap that make up ``taps``; None where that takes more than MOST_RECTANGLES."""
    if not taps:
        return ()
    inside = [(rectangle, frozenset(places)) for rectangle, places in rectangles(kernel).items() if set(places) <= set(taps)]
    for count in range(1, MOST_RECTANGLES + 1):
        if found := _search(frozenset(taps), inside, count):
            return found
    return None


def _search(taps: frozenset[int], inside: list[tuple[Rectangle, frozenset[int]]], count: int) -> tuple[Rectangle, ...] | None:
    """A cover of exactly ``count`` rectangles: one of them starts at the first tap."""
    first = min(taps)
    for rectangle, places in inside:
        if first in places and places <= taps:
            rest = taps - places
            if not rest and count == 1:
                return (rectangle,)
            if rest and count > 1 and (others := _search(rest, inside, count - 1)):
                return (rectangle, *others)
    return None
