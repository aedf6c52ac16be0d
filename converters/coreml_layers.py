"""Layers as operations of ML programs: one function a layer class, one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isinf
from typing import Any, TypeAlias

import numpy as np

from rsk_deploy.converters.coreml_body import Array, Scope, Var
from rsk_deploy.converters.coreml_weights import write_weight
from rsk_deploy.converters.coreml_windows import average_pool, bias, conv, conv_transpose, interleaved, max_pool, resize
from rsk_deploy.errors import UnsupportedError
from rsk_deploy.ir import (
    LRN,
    Activation,
    Affine,
    AveragePool,
    Binary,
    Concat,
    Constant,
    Conv,
    ConvTranspose,
    FloatArray,
    Gather,
    GroupNorm,
    Layer,
    LayerNorm,
    Linear,
    MatMul,
    MaxPool,
    Packed,
    Pad,
    PRelu,
    Reduce,
    Reshape,
    Resize,
    Slice,
    Softmax,
    Transpose,
)

Write: TypeAlias = Callable[[Scope, Any], None]


def write_layer(scope: Scope) -> None:
    """Append the operations that compute the scope's layer."""
    TABLE[type(scope.layer)](scope, scope.layer)


def _shaped(scope: Scope) -> list[int]:
    """The layer's own shape, to reshape to: what is left for the batch, where it is open."""
    return [-1 if axis in scope.open else size for axis, size in enumerate(scope.y)]


def _flat(scope: Scope, groups: int) -> list[int]:
    """The batch, groups of channels, and what is in them."""
    inner = int(np.prod(scope.y[1:])) // groups
    return [-1, groups, inner] if 0 in scope.open else [scope.y[0], groups, -1 if scope.open else inner]


def _linear(scope: Scope, layer: Linear[Packed]) -> None:
    """Core ML's reads at most three axes."""
    parameters = {"weight": write_weight(scope, layer), "bias": bias(scope, layer)}
    if len(scope.y) <= 3:
        return scope.result("linear", x=scope.x, **parameters)
    flat = scope.step("flat", "reshape", x=scope.x, shape=[-1, scope.shapes[0][-1]])
    return scope.result("reshape", x=scope.step("product", "linear", x=flat, **parameters), shape=_shaped(scope))


def _scaled(scope: Scope, x: Var, scale: Array, shift: Array) -> None:
    scope.result("add", x=scope.step("scaled", "mul", x=x, y=scale), y=shift)


def _affine(scope: Scope, layer: Affine) -> None:
    _scaled(scope, scope.x, scope.per_channel(layer.scale, "scale"), scope.per_channel(layer.shift, "shift"))


def _epsilon(scope: Scope, epsilon: float) -> Any:
    """Not 0 where it was not: what is constant would be divided by 0."""
    stored = scope.number(epsilon, "epsilon")
    return np.finfo(scope.body.dtype).smallest_subnormal if epsilon > 0 and stored == 0 else stored


def _layer_norm(scope: Scope, layer: LayerNorm) -> None:
    """Of at most four axes: GPUs do not normalise over a fifth."""
    gamma, beta, epsilon = scope.floats(layer.scale, "scale"), scope.floats(layer.shift, "shift"), _epsilon(scope, layer.epsilon)
    if len(scope.y) <= 4:
        axes = list(range(len(scope.y) - layer.scale.ndim, len(scope.y)))
        return scope.result("layer_norm", x=scope.x, axes=axes, gamma=gamma, beta=beta, epsilon=epsilon)
    flat = scope.step("flat", "reshape", x=scope.x, shape=[-1, gamma.size])
    normal = scope.step("normal", "layer_norm", x=flat, axes=[1], gamma=gamma.reshape(-1), beta=beta.reshape(-1), epsilon=epsilon)
    return scope.result("reshape", x=normal, shape=_shaped(scope))


def _group_norm(scope: Scope, layer: GroupNorm) -> None:
    """A layer norm of each group."""
    grouped = scope.step("grouped", "reshape", x=scope.x, shape=_flat(scope, layer.groups))
    normal = scope.step("normal", "layer_norm", x=grouped, axes=[2], epsilon=_epsilon(scope, layer.epsilon))
    back = scope.step("back", "reshape", x=normal, shape=_shaped(scope))
    _scaled(scope, back, scope.per_channel(layer.scale, "scale"), scope.per_channel(layer.shift, "shift"))


def _lrn(scope: Scope, layer: LRN) -> None:
    """Core ML's has as many neighbours below as above, and four axes (of three, it may take the first for channels); others are a product with a band."""
    parameters = {"alpha": layer.alpha, "beta": layer.beta, "k": layer.bias}
    numbers = {key: scope.number(value, key) for key, value in parameters.items()}
    if layer.size % 2 and len(scope.y) == 4:
        return scope.result("local_response_norm", x=scope.x, size=layer.size, **numbers)
    channels = scope.y[1]
    distance = np.subtract.outer(np.arange(channels), np.arange(channels))  # i - j: the channel i reads the channels j
    band = (distance <= (layer.size - 1) // 2) & (-distance <= layer.size // 2)
    flat = scope.step("flat", "reshape", x=scope.x, shape=_flat(scope, channels))
    squares = scope.step("squares", "mul", x=flat, y=flat)
    energy = scope.step("energy", "matmul", x=scope.floats(band * (layer.alpha / layer.size), "alpha"), y=squares)
    power = scope.step("power", "pow", x=scope.step("shifted", "add", x=energy, y=numbers["k"]), y=numbers["beta"])
    divided = scope.step("divided", "real_div", x=flat, y=power)
    return scope.result("reshape", x=divided, shape=_shaped(scope))


def _one(**names: str) -> Write:
    """An operation whose parameters are the activation's."""
    op = names.pop("op")

    def write(scope: Scope, layer: Activation) -> None:
        scope.result(op, x=scope.x, **{key: scope.number(getattr(layer, field), field) for key, field in names.items()})

    return write


def _gelu(scope: Scope, layer: Activation) -> None:
    scope.result("gelu", x=scope.x, mode="EXACT" if layer.kind == "gelu" else "TANH_APPROXIMATION")


def _hard_swish(scope: Scope, layer: Activation) -> None:
    gate = scope.step("gate", "sigmoid_hard", x=scope.x, alpha=scope.number(1 / 6, "alpha"), beta=scope.number(0.5, "beta"))
    scope.result("mul", x=scope.x, y=gate)


BEND = 8.0
"""From here on softplus is its argument, in fp16. The Neural Engine's own is 0 above 10.4: its exponential overflows (so do its logarithms of sums)."""


def _bounded(scope: Scope) -> Var:
    """The first input as far as the bend, if there is one."""
    return scope.x if scope.body.dtype != np.float16 else scope.step("bounded", "minimum", x=scope.x, y=scope.number(BEND, "bend"))


def _softplus(scope: Scope, layer: Activation) -> None:
    if scope.body.dtype != np.float16:
        return scope.result("softplus", x=scope.x)
    bent = scope.step("softplus", "softplus", x=_bounded(scope))
    beyond = scope.step("beyond", "relu", x=scope.step("moved", "sub", x=scope.x, y=scope.number(BEND, "bend")))
    return scope.result("add", x=bent, y=beyond)


def _mish(scope: Scope, layer: Activation) -> None:
    gate = scope.step("tanh", "tanh", x=scope.step("softplus", "softplus", x=_bounded(scope)))
    scope.result("mul", x=scope.x, y=gate)


def _log(scope: Scope, layer: Activation) -> None:
    scope.result("log", x=scope.x, epsilon=_epsilon(scope, 1e-45))


def _neg(scope: Scope, layer: Activation) -> None:
    scope.result("mul", x=scope.x, y=scope.number(-1, "sign"))


def _reciprocal(scope: Scope, layer: Activation) -> None:
    scope.result("real_div", x=scope.number(1, "one"), y=scope.x)


def _celu(scope: Scope, layer: Activation) -> None:
    if layer.alpha <= 0:
        raise UnsupportedError(f"Core ML has no celu with alpha {layer.alpha:g}; it has those above 0")
    if layer.alpha == 1:
        return scope.result("elu", x=scope.x, alpha=scope.number(1, "alpha"))
    inner = scope.step("inner", "mul", x=scope.x, y=scope.number(1 / layer.alpha, "1 / alpha"))
    return scope.result("mul", x=scope.step("elu", "elu", x=inner, alpha=scope.number(1, "alpha")), y=scope.number(layer.alpha, "alpha"))


def _selu(scope: Scope, layer: Activation) -> None:
    scope.result("mul", x=scope.step("elu", "elu", x=scope.x, alpha=scope.number(layer.alpha, "alpha")), y=scope.number(layer.beta, "beta"))


def _clip(scope: Scope, layer: Activation) -> None:
    """Bounds beyond the range of the type bound nothing."""
    largest = float(np.finfo(scope.body.dtype).max)
    low, high = (bound if abs(bound) <= largest else np.sign(bound) * np.inf for bound in (layer.alpha, layer.beta))
    if isinf(low) and isinf(high):
        return scope.result("identity", x=scope.x)
    if isinf(low) or isinf(high):
        return scope.result("minimum" if isinf(low) else "maximum", x=scope.x, y=scope.number(high if isinf(low) else low, "bound"))
    return scope.result("clip", x=scope.x, alpha=scope.number(low, "bound"), beta=scope.number(high, "bound"))


ACTIVATIONS: Mapping[str, Write] = {
    **{kind: _one(op=kind) for kind in ("identity", "relu", "sigmoid", "tanh", "silu", "softsign", "exp", "sqrt", "abs", "erf")},
    "leaky-relu": _one(op="leaky_relu", alpha="alpha"), "elu": _one(op="elu", alpha="alpha"),
    "hard-sigmoid": _one(op="sigmoid_hard", alpha="alpha", beta="beta"), "gelu": _gelu, "gelu-tanh": _gelu, "hard-swish": _hard_swish,
    "softplus": _softplus, "mish": _mish, "log": _log, "neg": _neg, "reciprocal": _reciprocal, "celu": _celu, "selu": _selu, "clip": _clip,
}  # fmt: skip


def _activation(scope: Scope, layer: Activation) -> None:
    ACTIVATIONS[layer.kind](scope, layer)


def _prelu(scope: Scope, layer: PRelu) -> None:
    """Core ML's has a slope each of several channels, and four axes."""
    slope = scope.floats(layer.slope, "slope")
    if (slope == slope[0]).all():
        return scope.result("leaky_relu", x=scope.x, alpha=slope[0])
    if len(scope.y) == 4:
        return scope.result("prelu", x=scope.x, alpha=slope)
    below = scope.step("below", "minimum", x=scope.x, y=scope.number(0, "zero"))
    sloped = scope.step("sloped", "mul", x=below, y=scope.per_channel(layer.slope, "slope"))
    return scope.result("add", x=scope.step("above", "relu", x=scope.x), y=sloped)


def _softmax(scope: Scope, layer: Softmax) -> None:
    if not layer.log:
        return scope.result("softmax", x=scope.x, axis=layer.axis)
    along = {"axes": [layer.axis], "keep_dims": True}
    below = scope.step("below", "sub", x=scope.x, y=scope.step("largest", "reduce_max", x=scope.x, **along))
    total = scope.step("total", "reduce_sum", x=scope.step("powers", "exp", x=below), **along)
    return scope.result("sub", x=below, y=scope.step("logarithm", "log", x=total, epsilon=_epsilon(scope, 1e-45)))


BINARIES = {"add": "add", "sub": "sub", "mul": "mul", "div": "real_div", "max": "maximum", "min": "minimum", "pow": "pow"}


def _binary(scope: Scope, layer: Binary) -> None:
    a, b = scope.inputs
    scope.result(BINARIES[layer.kind], x=a, y=b)


def _matmul(scope: Scope, layer: MatMul) -> None:
    a, b = scope.inputs
    scope.result("matmul", x=a, y=b)


def _constant(scope: Scope, layer: Constant) -> None:
    if layer.values.dtype.kind != "f":
        raise UnsupportedError(f"is a constant of {layer.values.dtype}; Core ML models here compute with floating-point numbers")
    values: FloatArray = layer.values
    scope.result("const", val=scope.floats(values, "constant")[()])


def _concat(scope: Scope, layer: Concat) -> None:
    scope.result("concat", values=list(scope.inputs), axis=layer.axis)


def _slice(scope: Scope, layer: Slice) -> None:
    rank = range(len(scope.y))
    begin, end = ([value if axis == layer.axis else 0 for axis in rank] for value in (layer.start, layer.stop))
    whole = [axis != layer.axis for axis in rank]
    stride = [layer.step if axis == layer.axis else 1 for axis in rank]
    scope.result("slice_by_index", x=scope.x, begin=begin, end=end, stride=stride, begin_mask=whole, end_mask=whole)


def _gather(scope: Scope, layer: Gather) -> None:
    scope.result("gather", x=scope.x, indices=layer.indices.astype(np.int32), axis=layer.axis)


def _pad(scope: Scope, layer: Pad) -> None:
    """Core ML repeats and reflects the last two axes, as often as they are long; others are gathered."""
    rank = len(scope.y)
    begin, end = layer.pads[:rank], layer.pads[rank:]
    if not any(layer.pads):
        return scope.result("identity", x=scope.x)
    if layer.mode == "constant":
        return scope.result("pad", x=scope.x, pad=interleaved(layer.pads), mode="constant", constant_val=scope.number(layer.value, "value"))
    if rank >= 2 and not any((*begin[:-2], *end[:-2])) and all(max(pads) <= size for *pads, size in zip(begin, end, scope.shapes[0], strict=True)):
        pads = interleaved((*begin[-2:], *end[-2:]))
        return scope.result("pad", x=scope.x, pad=pads, mode="reflect" if layer.mode == "reflect" else "replicate", constant_val=scope.number(0, "value"))
    if any(begin[axis] or end[axis] for axis in scope.open):
        raise UnsupportedError(f"Core ML does not {layer.mode}-pad an open batch; export without --dynamic batch")
    x = scope.x
    axes = [axis for axis in range(rank) if begin[axis] or end[axis]]
    for axis in axes[:-1]:
        x = scope.step(f"axis{axis}", "gather", x=x, indices=_padded(scope, layer, axis), axis=axis)
    return scope.result("gather", x=x, indices=_padded(scope, layer, axes[-1]), axis=axes[-1])


def _padded(scope: Scope, layer: Pad, axis: int) -> Array:
    """The indices along an axis, padded as the values are."""
    widths = (layer.pads[axis], layer.pads[axis + len(scope.y)])
    return np.pad(np.arange(scope.shapes[0][axis], dtype=np.int32), widths, mode="reflect" if layer.mode == "reflect" else "edge")


def _reshape(scope: Scope, layer: Reshape) -> None:
    if not scope.y:
        return scope.result("squeeze", x=scope.x, axes=list(range(len(scope.shapes[0]))))
    return scope.result("reshape", x=scope.x, shape=list(layer.target))


def _transpose(scope: Scope, layer: Transpose) -> None:
    scope.result("transpose", x=scope.x, perm=list(layer.perm))


REDUCTIONS = {"mean": "reduce_mean", "sum": "reduce_sum", "max": "reduce_max", "min": "reduce_min", "l2": "reduce_l2_norm", "prod": "reduce_prod"}


def _reduce(scope: Scope, layer: Reduce) -> None:
    scope.result(REDUCTIONS[layer.kind], x=scope.x, axes=list(layer.axes), keep_dims=layer.keep_axes)


TABLE: Mapping[type[Layer], Write] = {
    Conv: conv,
    ConvTranspose: conv_transpose,
    Linear: _linear,
    Affine: _affine,
    LayerNorm: _layer_norm,
    GroupNorm: _group_norm,
    LRN: _lrn,
    MaxPool: max_pool,
    AveragePool: average_pool,
    Activation: _activation,
    PRelu: _prelu,
    Softmax: _softmax,
    Binary: _binary,
    MatMul: _matmul,
    Constant: _constant,
    Concat: _concat,
    Slice: _slice,
    Gather: _gather,
    Pad: _pad,
    Reshape: _reshape,
    Transpose: _transpose,
    Resize: resize,
    Reduce: _reduce,
}
"""Every layer class but Opaque, which Core ML does not have."""
