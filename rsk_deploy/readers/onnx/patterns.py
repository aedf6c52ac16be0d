"""Several layers that say one thing: a bias added to a product, ``x·sigmoid(x)``, the long forms of GELU, a norm taken apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import isclose, pi, sqrt
from typing import TypeAlias, TypeVar

import numpy as np

from rsk_deploy.ir import Activation, Affine, Binary, Constant, FloatArray, GroupNorm, Layer, LayerNorm, Linear, Opaque, Reduce, Reshape

Shapes: TypeAlias = Mapping[str, tuple[int | None, ...]]
Kind = TypeVar("Kind", bound=Layer)


class Look:
    """The layers around one layer. ``exact``: only layers that our converter took apart (``name/part``) belong together."""

    def __init__(self, layers: Sequence[Layer], outputs: set[str], shapes: Shapes, exact: bool) -> None:
        self.shapes, self.exact = shapes, exact
        self.producers = {name: layer for layer in layers for name in layer.outputs}
        self.readers = Counter(name for layer in layers for name in layer.inputs) + Counter(outputs)

    def inner(self, final: Layer, name: str, kind: type[Kind], readers: int = 1) -> Kind | None:
        """The layer of that kind that computes ``name`` for nobody else."""
        layer = self.producers.get(name)
        fits = isinstance(layer, kind) and self.readers[name] == readers and (not self.exact or base(layer.name) in (final.name, base(final.name)))
        return layer if fits and isinstance(layer, kind) else None

    def activation(self, final: Layer, name: str, kind: str) -> str | None:
        """What an activation of that kind is applied to."""
        layer = self.inner(final, name, Activation)
        return layer.inputs[0] if layer is not None and layer.kind == kind else None

    def values(self, name: str) -> FloatArray | None:
        """The elements of a constant."""
        layer = self.producers.get(name)
        return layer.values if isinstance(layer, Constant) and layer.values.dtype.kind == "f" else None

    def scalar(self, name: str) -> float | None:
        """The number that a constant holds."""
        values = self.values(name)
        return float(values.reshape(())) if values is not None and values.size == 1 and values.ndim <= 1 else None

    def operands(self, final: Layer, name: str, kind: str, readers: int = 1) -> tuple[str, ...]:
        """The operands of a binary layer of that kind; none if it is something else."""
        layer = final if name in final.outputs else self.inner(final, name, Binary, readers)
        return layer.inputs if isinstance(layer, Binary) and layer.kind == kind else ()

    def plus(self, final: Layer, name: str, number: float) -> str | None:
        """``v`` where ``name`` is ``v + number``."""
        for a, b in swapped(self.operands(final, name, "add")):
            if close(self.scalar(b), number):
                return a
        return None

    def factors(self, final: Layer, name: str) -> tuple[float, list[str]]:
        """A product as a number and the values multiplied, sorted."""
        number, values, pending = 1.0, [], [name]
        while pending:
            value = pending.pop()
            if (scalar := self.scalar(value)) is not None:
                number *= scalar
            elif parts := self.operands(final, value, "mul", self.readers[value]):
                pending += parts
            elif (parts := self.operands(final, value, "div", self.readers[value])) and (divisor := self.scalar(parts[1])):
                number /= divisor
                pending.append(parts[0])
            else:
                values.append(value)
        return number, sorted(values)


def base(name: str) -> str:
    """The layer that a part belongs to."""
    return name.rpartition("/")[0] or name


def swapped(pair: Sequence[str]) -> list[Sequence[str]]:
    """Both orders of two operands."""
    return [pair, pair[::-1]] if pair else []


def close(value: float | None, wanted: float) -> bool:
    """Whether a constant is this number, as precisely as float32 says."""
    return value is not None and isclose(value, wanted, rel_tol=1e-5)


def bias(look: Look, layer: Layer) -> Layer | None:
    """Linear without bias, plus one constant per output."""
    for product, addend in swapped(look.operands(layer, layer.outputs[0], "add")):
        linear, values = look.inner(layer, product, Linear), look.values(addend)
        if (
            linear is None
            or linear.bias is not None
            or values is None
            or values.ndim not in (1, 2)
            or values.shape not in ((linear.filters,), (1, linear.filters))
        ):
            continue
        if np.isfinite(values).all():
            return replace(
                linear, name=layer.name if look.exact else linear.name, outputs=layer.outputs, bias=values.reshape(-1), origin=linear.origin or layer.origin
            )
    return None


def gate(look: Look, layer: Layer) -> Layer | None:
    """``x`` times a function of ``x``."""
    if not (isinstance(layer, Binary) and layer.kind in ("mul", "div")):
        return None
    number, values = look.factors(layer, layer.outputs[0])
    if len(values) != 2:
        return None
    for x, other in swapped(values):
        for kind, scale, matches in GATES:
            if close(number, scale) and matches(look, layer, x, other):
                return Activation(name=layer.name, inputs=(x,), outputs=layer.outputs, origin=layer.origin, kind=kind)
    return None


def is_hard(look: Look, layer: Layer, x: str, gate: str) -> bool:
    """Whether ``gate`` is the hard sigmoid of ``x`` that hard-swish has."""
    sigmoid = look.inner(layer, gate, Activation)
    return sigmoid is not None and sigmoid.inputs == (x,) and sigmoid.kind == "hard-sigmoid" and close(sigmoid.alpha, 1 / 6) and sigmoid.beta == 0.5


def is_clipped(look: Look, layer: Layer, x: str, gate: str) -> bool:
    """Whether ``gate`` is ``clip(x + 3, 0, 6)``."""
    clip = look.inner(layer, gate, Activation)
    return clip is not None and (clip.kind, clip.alpha, clip.beta) == ("clip", 0, 6) and look.plus(layer, clip.inputs[0], 3) == x


def is_erf(look: Look, layer: Layer, x: str, gate: str) -> bool:
    """Whether ``gate`` is ``1 + erf(x / √2)``."""
    inner = look.activation(layer, look.plus(layer, gate, 1) or "", "erf")
    number, values = look.factors(layer, inner or "")
    return values == [x] and close(number, sqrt(0.5))


def is_tanh(look: Look, layer: Layer, x: str, gate: str) -> bool:
    """Whether ``gate`` is ``1 + tanh(√(2/π) · (x + 0.044715 · x³))``."""
    inner = look.activation(layer, look.plus(layer, gate, 1) or "", "tanh")
    number, values = look.factors(layer, inner or "")
    if len(values) != 1 or not close(number, sqrt(2 / pi)):
        return False
    return any(a == x and is_cube(look, layer, x, b) for a, b in swapped(look.operands(layer, values[0], "add")))


def is_cube(look: Look, layer: Layer, x: str, name: str) -> bool:
    """Whether ``name`` is ``0.044715 · x³``."""
    number, values = look.factors(layer, name)
    power = look.operands(layer, values[0], "pow") if len(values) == 1 else ()
    return close(number, 0.044715) and (values == [x] * 3 or (bool(power) and power[0] == x and look.scalar(power[1]) == 3))


GATES: Sequence[tuple[str, float, Callable[[Look, Layer, str, str], bool]]] = (
    ("silu", 1, lambda look, layer, x, gate: look.activation(layer, gate, "sigmoid") == x),
    ("mish", 1, lambda look, layer, x, gate: look.activation(layer, look.activation(layer, gate, "tanh") or "", "softplus") == x),
    ("hard-swish", 1, is_hard),
    ("hard-swish", 1 / 6, is_clipped),
    ("gelu", 0.5, is_erf),
    ("gelu-tanh", 0.5, is_tanh),
)
"""What ``x`` is multiplied with, and by which number."""


def guarded_softplus(look: Look, layer: Layer) -> Layer | None:
    """Torch's exporter lets large numbers pass softplus by: ``where(s > 20, x, softplus(s) / b)`` with ``s = b·x``."""
    if not (isinstance(layer, Opaque) and layer.op == "Where" and len(layer.inputs) == 3):
        return None
    condition, x, soft = layer.inputs
    greater = look.inner(layer, condition, Opaque)
    number, values = look.factors(layer, soft)
    inner = look.producers.get(values[0]) if len(values) == 1 else None
    if greater is None or greater.op != "Greater" or not isinstance(inner, Activation) or inner.kind != "softplus" or greater.inputs[0] != inner.inputs[0]:
        return None
    scale, scaled = look.factors(layer, inner.inputs[0]) if inner.inputs[0] != x else (1.0, [x])
    if scaled != [x] or not close(scale * number, 1) or (look.scalar(greater.inputs[1]) or 0) < 15:
        return None
    if scale == 1:
        return Activation(name=layer.name, inputs=(x,), outputs=layer.outputs, origin=layer.origin, kind="softplus")
    return replace(look.producers[soft], name=layer.name, outputs=layer.outputs)


def grouped(look: Look, layer: Layer) -> Layer | None:
    """An instance norm between two reshapes is a group norm."""
    norm = look.inner(layer, layer.inputs[0], GroupNorm) if isinstance(layer, Reshape) else None
    apart = None if norm is None else look.inner(layer, norm.inputs[0], Reshape)
    if norm is None or apart is None or norm.groups != norm.scale.size or (norm.scale != 1).any() or norm.shift.any():
        return None
    shape, inner = look.shapes.get(apart.inputs[0], ()), look.shapes.get(apart.outputs[0], ())
    if len(shape) < 2 or shape != look.shapes.get(layer.outputs[0]) or shape[0] != inner[0] or not shape[1] or shape[1] % norm.groups:
        return None
    one = np.ones(shape[1], np.float32)
    return replace(norm, name=layer.name, inputs=apart.inputs, outputs=layer.outputs, origin=layer.origin, scale=one, shift=0 * one)


def rescaled(look: Look, layer: Layer) -> Layer | None:
    """Scale and shift that come one after the other, behind a group norm or by themselves."""
    if not isinstance(layer, Affine):
        return None
    for kind in (GroupNorm, Affine):
        before = look.inner(layer, layer.inputs[0], kind)
        if isinstance(before, GroupNorm | Affine) and not before.shift.any() and ((before.scale == 1).all() or (layer.scale == 1).all()):
            return replace(before, name=layer.name, outputs=layer.outputs, origin=layer.origin, scale=before.scale * layer.scale, shift=layer.shift)
    return None


def layer_norm(look: Look, layer: Layer) -> Layer | None:
    """``(x − mean) / sqrt(variance + epsilon) · scale + shift``."""
    for scaled, shift in swapped(look.operands(layer, layer.outputs[0], "add")):
        for normal, scale in swapped(look.operands(layer, scaled, "mul")):
            weight, offset, found = look.values(scale), look.values(shift), standardised(look, layer, normal)
            if weight is None or offset is None or found is None or weight.shape != offset.shape:
                continue
            x, axes, epsilon = found
            rank = len(look.shapes.get(x, ()))
            if axes == tuple(range(rank - weight.ndim, rank)) and 1 <= weight.ndim < rank and look.shapes[x][-weight.ndim :] == weight.shape:
                name = layer.name if look.exact or not scale.endswith(".weight") else scale.removesuffix(".weight")
                return LayerNorm(name=name, inputs=(x,), outputs=layer.outputs, origin=layer.origin, scale=weight, shift=offset, epsilon=epsilon)
    return None


def standardised(look: Look, final: Layer, name: str) -> tuple[str, tuple[int, ...], float] | None:
    """``x``, the axes and the epsilon, where ``name`` is ``x`` with mean 0 and variance 1 over those axes."""
    centred, deviation = look.operands(final, name, "div") or ("", "")
    total = look.activation(final, deviation, "sqrt") or ""
    x, mean = look.operands(final, centred, "sub", look.readers[centred]) or ("", "")
    for variance, epsilon in swapped(look.operands(final, total, "add")):
        outer, inner, number = look.inner(final, variance, Reduce), look.inner(final, mean, Reduce), look.scalar(epsilon)
        if outer is None or inner is None or number is None or inner.inputs != (x,) or {outer.kind, inner.kind} != {"mean"} or outer.axes != inner.axes:
            continue
        power = look.operands(final, outer.inputs[0], "pow")
        squared = (bool(power) and power[0] == centred and look.scalar(power[1]) == 2) or look.operands(final, outer.inputs[0], "mul") == (centred, centred)
        if squared and outer.keep_axes and inner.keep_axes:
            return x, outer.axes, number
    return None


PATTERNS = (bias, gate, guarded_softplus, layer_norm, grouped, rescaled)


def simplify(layers: Sequence[Layer], outputs: set[str], shapes: Shapes, exact: bool) -> list[Layer]:
    """The layers with every pattern replaced by the layer it stands for; what nobody reads any more is left for the caller to drop."""
    look = Look(layers, outputs, shapes, exact)
    result = []
    for layer in layers:
        new = next((found for pattern in PATTERNS if (found := pattern(look, layer)) is not None), layer)
        if new is not layer:
            look.producers[new.outputs[0]] = new
        result.append(new)
    return result
