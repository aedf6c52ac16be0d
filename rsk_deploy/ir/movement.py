"""Operations that move elements or resample space: joining, cutting, padding, reshaping, resizing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, prod

import numpy as np
from numpy.typing import NDArray

from rsk_deploy.ir.layers import Layer, expect
from rsk_deploy.ir.weights import Shape


@dataclass(frozen=True, eq=False, kw_only=True)
class Concat(Layer):
    """Join values along one axis."""

    ARITY = None
    axis: int

    def shape(self, *shapes: Shape) -> Sequence[int]:
        first = shapes[0] if shapes else ()
        rest = {(*shape[: self.axis], *shape[self.axis + 1 :]) for shape in shapes}
        expect(
            0 <= self.axis < len(first) and len(rest) == 1 and len({len(shape) for shape in shapes}) == 1,
            f"shapes {list(shapes)} do not join along axis {self.axis}",
        )
        return [*first[: self.axis], sum(shape[self.axis] for shape in shapes), *first[self.axis + 1 :]]


@dataclass(frozen=True, eq=False, kw_only=True)
class Slice(Layer):
    """``x[start:stop:step]`` along one axis, ``0 <= start < stop <= size``, ``step >= 1``."""

    axis: int
    start: int
    stop: int
    step: int = 1

    def shape(self, *shapes: Shape) -> Sequence[int]:
        (x,) = shapes
        expect(0 <= self.axis < len(x), f"axis {self.axis} of an input of shape {x}")
        expect(0 <= self.start < self.stop <= x[self.axis] and self.step >= 1, f"slice {self.start}:{self.stop}:{self.step} of axis {self.axis} of {x}")
        return [*x[: self.axis], len(range(self.start, self.stop, self.step)), *x[self.axis + 1 :]]


@dataclass(frozen=True, eq=False, kw_only=True)
class Gather(Layer):
    """``numpy.take(x, indices, axis)`` with fixed, non-negative indices along one axis: a permutation, a flip, a repeat."""

    axis: int
    indices: NDArray[np.int64]

    def shape(self, *shapes: Shape) -> Sequence[int]:
        (x,) = shapes
        expect(0 <= self.axis < len(x) and self.indices.ndim == 1 and self.indices.size > 0, f"axis {self.axis} of an input of shape {x}")
        expect(int(self.indices.min()) >= 0 and int(self.indices.max()) < x[self.axis], f"index outside axis {self.axis} of {x}")
        return [*x[: self.axis], self.indices.size, *x[self.axis + 1 :]]


@dataclass(frozen=True, eq=False, kw_only=True)
class Pad(Layer):
    """Pads over all axes ``(begin…, end…)``, of ``mode`` constant, reflect or edge."""

    pads: tuple[int, ...]
    mode: str = "constant"
    value: float = 0.0

    def shape(self, *shapes: Shape) -> Sequence[int]:
        (x,) = shapes
        expect(self.mode in ("constant", "reflect", "edge"), f"unknown pad mode {self.mode!r}")
        expect(len(self.pads) == 2 * len(x) and all(pad >= 0 for pad in self.pads), f"pads {self.pads} for an input of shape {x}")
        begin, end = self.pads[: len(x)], self.pads[len(x) :]
        expect(
            self.mode != "reflect" or all(max(b, e) < dim for b, e, dim in zip(begin, end, x, strict=True)),
            f"reflecting pads {self.pads} for an input of shape {x}",
        )
        return [b + dim + e for b, dim, e in zip(begin, x, end, strict=True)]


@dataclass(frozen=True, eq=False, kw_only=True)
class Reshape(Layer):
    """Same elements, other shape. One ``-1`` takes what is left: the batch, where it is open."""

    target: tuple[int, ...]

    def shape(self, *shapes: Shape) -> Sequence[int]:
        (x,) = shapes
        known = prod(dim for dim in self.target if dim != -1)
        expect(all(dim >= 1 or dim == -1 for dim in self.target) and self.target.count(-1) <= 1, f"target {self.target}")
        expect(prod(x) % known == 0 and (-1 in self.target or prod(x) == known), f"{x} does not reshape to {self.target}")
        return [prod(x) // known if dim == -1 else dim for dim in self.target]


@dataclass(frozen=True, eq=False, kw_only=True)
class Transpose(Layer):
    """Permute the axes."""

    perm: tuple[int, ...]

    def shape(self, *shapes: Shape) -> Sequence[int]:
        (x,) = shapes
        expect(sorted(self.perm) == list(range(len(x))), f"permutation {self.perm} of an input of shape {x}")
        return [x[axis] for axis in self.perm]


@dataclass(frozen=True, eq=False, kw_only=True)
class Resize(Layer):
    """Resample the spatial axes to ``sizes``.

    ``mode`` nearest or linear; ``scales`` (output / input per spatial axis) is what coordinates are computed with;
    ``coordinates`` half-pixel, pytorch-half-pixel, align-corners or asymmetric; ``rounding`` (nearest) floor, ceil,
    round-prefer-floor or round-prefer-ceil.
    """

    sizes: tuple[int, ...]
    scales: tuple[float, ...]
    mode: str
    coordinates: str = "half-pixel"
    rounding: str = "round-prefer-floor"

    def shape(self, *shapes: Shape) -> Sequence[int]:
        (x,) = shapes
        expect(self.mode in ("nearest", "linear"), f"unknown resize mode {self.mode!r}")
        expect(self.coordinates in ("half-pixel", "pytorch-half-pixel", "align-corners", "asymmetric"), f"unknown coordinates {self.coordinates!r}")
        expect(self.rounding in ("floor", "ceil", "round-prefer-floor", "round-prefer-ceil"), f"unknown rounding {self.rounding!r}")
        expect(
            len(self.sizes) == len(self.scales) == len(x) - 2 >= 1 and all(0 < scale < inf for scale in self.scales),
            f"sizes {self.sizes} and scales {self.scales} for an input of shape {x}",
        )
        return [*x[:2], *self.sizes]
