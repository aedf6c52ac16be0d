"""Operations that compute new elements from old: element-wise functions, normalisations, products and reductions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rsk_deploy.errors import CorruptFileError
from rsk_deploy.ir.layers import Layer, expect
from rsk_deploy.ir.weights import FloatArray, Shape

ACTIVATIONS = {
    "identity": (), "relu": (), "sigmoid": (), "tanh": (), "silu": (), "gelu": (), "gelu-tanh": (), "hard-swish": (), "softplus": (),
    "softsign": (), "mish": (), "exp": (), "log": (), "sqrt": (), "abs": (), "neg": (), "erf": (), "reciprocal": (),
    "leaky-relu": ("alpha",), "elu": ("alpha",), "celu": ("alpha",), "selu": ("alpha", "beta"), "hard-sigmoid": ("alpha", "beta"),
    "clip": ("alpha", "beta"),
}  # fmt: skip
"""Element-wise functions of one value, and the parameters each takes. ``clip`` keeps [alpha, beta]."""

BINARIES = ("add", "sub", "mul", "div", "max", "min", "pow")
REDUCTIONS = ("mean", "sum", "max", "min", "l2", "prod")


@dataclass(frozen=True, eq=False, kw_only=True)
class Affine(Layer):
    """``x · scale + shift`` per channel (axis 1): batch norm at evaluation."""

    scale: FloatArray
    shift: FloatArray

    def shape(self, *shapes: Shape) -> Sequence[int]:
        (x,) = shapes
        expect(
            len(x) >= 2 and self.scale.shape == self.shift.shape == (x[1],), f"scale {self.scale.shape} and shift {self.shift.shape} for an input of shape {x}"
        )
        return x


@dataclass(frozen=True, eq=False, kw_only=True)
class LayerNorm(Layer):
    """Normalise over the trailing axes that ``scale`` and ``shift`` (same shape) span."""

    scale: FloatArray
    shift: FloatArray
    epsilon: float

    def shape(self, *shapes: Shape) -> Sequence[int]:
        (x,) = shapes
        rank = self.scale.ndim
        expect(
            1 <= rank < len(x) and self.scale.shape == self.shift.shape == x[-rank:],
            f"scale {self.scale.shape} and shift {self.shift.shape} for an input of shape {x}",
        )
        return x


@dataclass(frozen=True, eq=False, kw_only=True)
class GroupNorm(Layer):
    """Normalise each of ``groups`` groups of channels over itself and space, then scale and shift per channel."""

    groups: int
    scale: FloatArray
    shift: FloatArray
    epsilon: float

    def shape(self, *shapes: Shape) -> Sequence[int]:
        (x,) = shapes
        expect(
            len(x) >= 2 and self.scale.shape == self.shift.shape == (x[1],), f"scale {self.scale.shape} and shift {self.shift.shape} for an input of shape {x}"
        )
        expect(self.groups >= 1 and x[1] % self.groups == 0, f"{x[1]} channels in {self.groups} groups")
        return x


@dataclass(frozen=True, eq=False, kw_only=True)
class LRN(Layer):
    """Local response normalisation over ``size`` neighbouring channels: ``x / (bias + alpha/size · Σ x²)^beta``."""

    size: int
    alpha: float
    beta: float
    bias: float

    def shape(self, *shapes: Shape) -> Sequence[int]:
        expect(self.size >= 1 and len(shapes[0]) >= 2, f"size {self.size} for an input of shape {shapes[0]}")
        return shapes[0]


@dataclass(frozen=True, eq=False, kw_only=True)
class Activation(Layer):
    """An element-wise function, ``kind`` of ACTIVATIONS."""

    kind: str
    alpha: float = 0.0
    beta: float = 0.0

    def shape(self, *shapes: Shape) -> Sequence[int]:
        expect(self.kind in ACTIVATIONS, f"unknown activation {self.kind!r}")
        return shapes[0]


@dataclass(frozen=True, eq=False, kw_only=True)
class PRelu(Layer):
    """``x`` where positive, else ``slope · x``; ``slope`` per channel, or one for all."""

    slope: FloatArray

    def shape(self, *shapes: Shape) -> Sequence[int]:
        (x,) = shapes
        expect(self.slope.shape == (1,) or (len(x) >= 2 and self.slope.shape == (x[1],)), f"slope of shape {self.slope.shape} for an input of shape {x}")
        return x


@dataclass(frozen=True, eq=False, kw_only=True)
class Softmax(Layer):
    """Softmax along one axis; with ``log`` its logarithm."""

    axis: int
    log: bool = False

    def shape(self, *shapes: Shape) -> Sequence[int]:
        expect(0 <= self.axis < len(shapes[0]), f"axis {self.axis} of an input of shape {shapes[0]}")
        return shapes[0]


@dataclass(frozen=True, eq=False, kw_only=True)
class Binary(Layer):
    """An element-wise function of two values with numpy's broadcasting, ``kind`` of BINARIES."""

    ARITY = 2
    kind: str

    def shape(self, *shapes: Shape) -> Sequence[int]:
        expect(self.kind in BINARIES, f"unknown operation {self.kind!r}")
        try:
            return np.broadcast_shapes(*shapes)
        except ValueError:
            raise CorruptFileError(f"shapes {shapes[0]} and {shapes[1]} do not broadcast") from None


@dataclass(frozen=True, eq=False, kw_only=True)
class MatMul(Layer):
    """Matrix product of two computed values, with numpy's broadcasting over leading axes."""

    ARITY = 2

    def shape(self, *shapes: Shape) -> Sequence[int]:
        a, b = shapes
        expect(len(a) >= 2 and len(b) >= 2 and a[-1] == b[-2], f"shapes {a} and {b} do not multiply")
        try:
            return [*np.broadcast_shapes(a[:-2], b[:-2]), a[-2], b[-1]]
        except ValueError:
            raise CorruptFileError(f"shapes {a} and {b} do not broadcast") from None


@dataclass(frozen=True, eq=False, kw_only=True)
class Reduce(Layer):
    """Reduce over ``axes``, ``kind`` of REDUCTIONS. Global pooling is a reduction that keeps its axes."""

    kind: str
    axes: tuple[int, ...]
    keep_axes: bool = True

    def shape(self, *shapes: Shape) -> Sequence[int]:
        (x,) = shapes
        expect(self.kind in REDUCTIONS, f"unknown reduction {self.kind!r}")
        expect(len(self.axes) == len(set(self.axes)) >= 1 and all(0 <= axis < len(x) for axis in self.axes), f"axes {self.axes} of an input of shape {x}")
        return [1 if axis in self.axes else dim for axis, dim in enumerate(x) if self.keep_axes or axis not in self.axes]
