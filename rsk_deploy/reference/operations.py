"""What each layer computes, one short function a class, and the table of them all."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    Gather,
    GroupNorm,
    Layer,
    LayerNorm,
    Linear,
    MatMul,
    MaxPool,
    Pad,
    PRelu,
    Reduce,
    Reshape,
    Resize,
    Slice,
    Softmax,
    Transpose,
)
from rsk_deploy.reference.resize import resize
from rsk_deploy.reference.windows import average_pool, conv, conv_transpose, max_pool, per_channel, weight_of

Array = NDArray[Any]
DType = np.dtype[Any]


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x))."""
    from scipy.special import expit

    return np.asarray(expit(x))


def erf(x: Array) -> Array:
    """Gauss error function."""
    from scipy import special

    return np.asarray(special.erf(x))


def softplus(x: Array) -> Array:
    """log(1 + exp(x))."""
    return np.asarray(np.logaddexp(x.dtype.type(0), x))


def gelu_tanh(x: Array) -> Array:
    """Compute x · Φ(x) in its tanh approximation."""
    return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))


ACTIVATIONS: Mapping[str, Callable[[Array, float, float], Array]] = {
    "identity": lambda x, _a, _b: x,
    "relu": lambda x, _a, _b: np.maximum(x, 0),
    "sigmoid": lambda x, _a, _b: sigmoid(x),
    "tanh": lambda x, _a, _b: np.tanh(x),
    "silu": lambda x, _a, _b: x * sigmoid(x),
    "gelu": lambda x, _a, _b: 0.5 * x * (1 + erf(x * math.sqrt(0.5))),
    "gelu-tanh": lambda x, _a, _b: gelu_tanh(x),
    "hard-swish": lambda x, _a, _b: x * np.clip(x / 6 + 0.5, 0, 1),
    "softplus": lambda x, _a, _b: softplus(x),
    "softsign": lambda x, _a, _b: x / (1 + np.abs(x)),
    "mish": lambda x, _a, _b: x * np.tanh(softplus(x)),
    "exp": lambda x, _a, _b: np.exp(x),
    "log": lambda x, _a, _b: np.log(x),
    "sqrt": lambda x, _a, _b: np.sqrt(x),
    "abs": lambda x, _a, _b: np.abs(x),
    "neg": lambda x, _a, _b: -x,
    "erf": lambda x, _a, _b: erf(x),
    "reciprocal": lambda x, _a, _b: 1 / x,
    "leaky-relu": lambda x, alpha, _b: np.where(x >= 0, x, alpha * x),
    "elu": lambda x, alpha, _b: np.where(x >= 0, x, alpha * np.expm1(x)),
    "celu": lambda x, alpha, _b: np.maximum(x, 0) + np.minimum(alpha * np.expm1(x / alpha), 0),
    "selu": lambda x, alpha, beta: beta * np.where(x >= 0, x, alpha * np.expm1(x)),
    "hard-sigmoid": lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1),
    "clip": lambda x, alpha, beta: np.clip(x, alpha, beta),
}
BINARIES: Mapping[str, Callable[[Array, Array], Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
    "pow": np.power,
}
REDUCTIONS: Mapping[str, Callable[..., Array]] = {
    "mean": np.mean,
    "sum": np.sum,
    "max": np.max,
    "min": np.min,
    "l2": lambda x, axis, keepdims: np.sqrt(np.sum(np.square(x), axis=axis, keepdims=keepdims)),
    "prod": np.prod,
}


def linear(layer: Linear[Any], dtype: DType, x: Array) -> Array:
    """Multiply the last axis by the matrix."""
    y = x @ weight_of(layer.weight, dtype).T
    return y if layer.bias is None else y + layer.bias.astype(dtype)


def affine(layer: Affine, dtype: DType, x: Array) -> Array:
    """Scale and shift each channel."""
    return x * per_channel(layer.scale, x, dtype) + per_channel(layer.shift, x, dtype)


def normalised(x: Array, axes: tuple[int, ...], epsilon: float) -> Array:
    """Bring ``x`` to mean 0 and variance 1 over ``axes``."""
    centred = x - x.mean(axes, keepdims=True)
    return np.asarray(centred / np.sqrt(np.square(centred).mean(axes, keepdims=True) + epsilon))


def layer_norm(layer: LayerNorm, dtype: DType, x: Array) -> Array:
    """Normalise over the trailing axes."""
    axes = tuple(range(x.ndim - layer.scale.ndim, x.ndim))
    return np.asarray(normalised(x, axes, layer.epsilon) * layer.scale.astype(dtype) + layer.shift.astype(dtype))


def group_norm(layer: GroupNorm, dtype: DType, x: Array) -> Array:
    """Normalise each group of channels."""
    y = normalised(x.reshape(x.shape[0], layer.groups, -1), (2,), layer.epsilon).reshape(x.shape)
    return y * per_channel(layer.scale, x, dtype) + per_channel(layer.shift, x, dtype)


def lrn(layer: LRN, dtype: DType, x: Array) -> Array:
    """Divide by the neighbouring channels' energy. An even ``size`` reaches one channel further up than down, as in ONNX."""
    below, above = (min(reach, x.shape[1] - 1) for reach in ((layer.size - 1) // 2, layer.size // 2))
    squares = np.pad(np.square(x), [(0, 0), (below, above), *[(0, 0)] * (x.ndim - 2)])
    total = sum(squares[:, shift : shift + x.shape[1]] for shift in range(below + above + 1))
    return np.asarray(x / (layer.bias + layer.alpha / layer.size * total) ** layer.beta)


def prelu(layer: PRelu, dtype: DType, x: Array) -> Array:
    """Slope the negative elements."""
    slope = layer.slope.astype(dtype) if layer.slope.shape == (1,) else per_channel(layer.slope, x, dtype)
    return np.where(x >= 0, x, slope * x)


def softmax(layer: Softmax, dtype: DType, x: Array) -> Array:
    """Subtract the largest element first: nothing overflows."""
    x = x - x.max(layer.axis, keepdims=True)
    total = np.exp(x).sum(layer.axis, keepdims=True)
    return np.asarray(x - np.log(total) if layer.log else np.exp(x) / total)


def constant(layer: Constant, dtype: DType) -> Array:
    """Take floating-point values in ``dtype``, others as they are."""
    return layer.values.astype(dtype) if layer.values.dtype.kind == "f" else layer.values


def piece(layer: Slice, dtype: DType, x: Array) -> Array:
    """Slice one axis."""
    return x[*[slice(None)] * layer.axis, layer.start : layer.stop : layer.step]


def pad(layer: Pad, dtype: DType, x: Array) -> Array:
    """Pad all axes."""
    widths = list(zip(layer.pads[: x.ndim], layer.pads[x.ndim :], strict=True))
    if layer.mode == "constant":
        return np.pad(x, widths, constant_values=layer.value)
    return np.pad(x, widths, mode="reflect" if layer.mode == "reflect" else "edge")


OPERATIONS: Mapping[type[Layer], Callable[..., Array]] = {
    Conv: conv,
    ConvTranspose: conv_transpose,
    Linear: linear,
    Affine: affine,
    LayerNorm: layer_norm,
    GroupNorm: group_norm,
    LRN: lrn,
    MaxPool: max_pool,
    AveragePool: average_pool,
    Activation: lambda layer, _dtype, x: ACTIVATIONS[layer.kind](x, layer.alpha, layer.beta),
    PRelu: prelu,
    Softmax: softmax,
    Binary: lambda layer, _dtype, a, b: BINARIES[layer.kind](a, b),
    MatMul: lambda _layer, _dtype, a, b: a @ b,
    Constant: constant,
    Concat: lambda layer, _dtype, *parts: np.concatenate(parts, layer.axis),
    Slice: piece,
    Gather: lambda layer, _dtype, x: x.take(layer.indices, layer.axis),
    Pad: pad,
    Reshape: lambda layer, _dtype, x: x.reshape(layer.target),
    Transpose: lambda layer, _dtype, x: x.transpose(layer.perm),
    Resize: resize,
    Reduce: lambda layer, _dtype, x: REDUCTIONS[layer.kind](x, axis=layer.axes, keepdims=layer.keep_axes),
}
"""Every layer class but Opaque: ``(layer, dtype, *inputs)`` to the output."""
