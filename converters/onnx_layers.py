"""Layers as standard ONNX operators: one function a layer class, one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil, floor, isinf, pi, sqrt
from typing import Any, TypeAlias

import numpy as np

from rsk_deploy.converters.onnx_body import LayerScope
from rsk_deploy.converters.onnx_decode import decode
from rsk_deploy.converters.onnx_lfsr import OPSET as LFSR_OPSET
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
    Gather,
    GroupNorm,
    Layer,
    LayerNorm,
    Linear,
    MatMul,
    MaxPool,
    Opaque,
    Packed,
    Pad,
    Pool,
    PRelu,
    Reduce,
    Reshape,
    Resize,
    Shape,
    Slice,
    Softmax,
    Transpose,
    Weighted,
)

Write: TypeAlias = Callable[[LayerScope, Any], None]


def write_layer(scope: LayerScope) -> None:
    """Append the nodes that compute the scope's layer."""
    TABLE[type(scope.layer)](scope, scope.layer)


def least_opset(layer: Layer, x: Shape) -> int:
    """The first version of ai.onnx that can hold the layer, given the shape of its first input."""
    if isinstance(layer, Weighted) and layer.weight.format == "lfsr":
        return LFSR_OPSET
    if isinstance(layer, Pool) and layer.ceil_mode and _drops_window(layer, x):
        return 22
    return 19 if isinstance(layer, AveragePool) and _dilated(layer) else 1


def _drops_window(layer: Pool, x: Shape) -> bool:
    """Whether ceil mode leaves out a last window that starts in the end pad: ONNX counted it before opset 22."""
    rank = len(layer.kernel)
    spans = [step * (size - 1) + 1 for step, size in zip(layer.dilation, layer.kernel, strict=True)]
    padded = [x[2 + axis] + layer.pads[axis] + layer.pads[axis + rank] for axis in range(rank)]
    return [ceil((size - span) / stride) + 1 for size, span, stride in zip(padded, spans, layer.stride, strict=True)] != list(layer.shape(x))[2:]


def _dilated(layer: Pool) -> bool:
    return any(step > 1 for step in layer.dilation)


def _with_bias(scope: LayerScope, layer: Weighted[Packed]) -> tuple[str, ...]:
    bias = () if layer.bias is None else (scope.tensor("bias", layer.bias.astype(np.float32)),)
    return (scope.x, decode(scope, layer.weight), *bias)


def _window(layer: Any) -> dict[str, Any]:
    return {"strides": layer.stride, "pads": layer.pads, "dilations": layer.dilation}


def _conv(scope: LayerScope, layer: Conv[Packed]) -> None:
    scope.result("Conv", *_with_bias(scope, layer), kernel_shape=layer.weight.shape[2:], group=layer.groups, **_window(layer))


def _conv_transpose(scope: LayerScope, layer: ConvTranspose[Packed]) -> None:
    inputs = _with_bias(scope, layer)
    scope.result("ConvTranspose", *inputs, kernel_shape=layer.weight.shape[2:], group=layer.groups, output_padding=layer.output_pads, **_window(layer))


def _linear(scope: LayerScope, layer: Linear[Packed]) -> None:
    x, weight, *bias = _with_bias(scope, layer)
    if len(scope.shapes[0]) == 2:
        return scope.result("Gemm", x, weight, *bias, transB=1)
    transposed = scope.step("transpose", "Transpose", weight, perm=(1, 0))
    if not bias:
        return scope.result("MatMul", x, transposed)
    return scope.result("Add", scope.step("matmul", "MatMul", x, transposed), *bias)


def _affine(scope: LayerScope, layer: Affine) -> None:
    zero, one = np.zeros_like(layer.scale), np.ones_like(layer.scale)
    parameters = (scope.tensor("scale", layer.scale), scope.tensor("shift", layer.shift), scope.body.constant(zero), scope.body.constant(one))
    scope.result("BatchNormalization", scope.x, *parameters, epsilon=0.0)


def _layer_norm(scope: LayerScope, layer: LayerNorm) -> None:
    scale, shift = scope.tensor("scale", layer.scale), scope.tensor("shift", layer.shift)
    axes = tuple(range(-layer.scale.ndim, 0))
    if scope.opset >= 17:
        return scope.result("LayerNormalization", scope.x, scale, shift, axis=axes[0], epsilon=layer.epsilon)
    centred = scope.step("centred", "Sub", scope.x, scope.step("mean", "ReduceMean", scope.x, axes=axes))
    variance = scope.step("variance", "ReduceMean", scope.step("square", "Mul", centred, centred), axes=axes)
    deviation = scope.step("deviation", "Sqrt", scope.step("offset", "Add", variance, scope.floats(layer.epsilon)))
    scaled = scope.step("scaled", "Mul", scope.step("normal", "Div", centred, deviation), scale)
    return scope.result("Add", scaled, shift)


def _group_norm(scope: LayerScope, layer: GroupNorm) -> None:
    (shape,) = scope.shapes
    scale, shift = scope.tensor("scale", layer.scale), scope.tensor("shift", layer.shift)
    if layer.groups == shape[1] and len(shape) > 2:
        return scope.result("InstanceNormalization", scope.x, scale, shift, epsilon=layer.epsilon)
    if scope.opset >= 21:
        return scope.result("GroupNormalization", scope.x, scale, shift, num_groups=layer.groups, epsilon=layer.epsilon)
    one, zero = (scope.body.constant(np.full(layer.groups, value, np.float32)) for value in (1, 0))
    grouped = scope.step("grouped", "Reshape", scope.x, scope.ints([0, layer.groups, -1]))
    normal = scope.step("normal", "InstanceNormalization", grouped, one, zero, epsilon=layer.epsilon)
    back = scope.step("back", "Reshape", normal, scope.ints([-1, *shape[1:]]))
    channels = scope.body.constant(np.zeros(shape[1], np.float32)), scope.body.constant(np.ones(shape[1], np.float32))
    return scope.result("BatchNormalization", back, scale, shift, *channels, epsilon=0.0)


def _lrn(scope: LayerScope, layer: LRN) -> None:
    scope.result("LRN", scope.x, size=layer.size, alpha=layer.alpha, beta=layer.beta, bias=layer.bias)


def _max_pool(scope: LayerScope, layer: MaxPool) -> None:
    scope.result("MaxPool", scope.x, kernel_shape=layer.kernel, ceil_mode=int(layer.ceil_mode), **_window(layer))


def _average_pool(scope: LayerScope, layer: AveragePool) -> None:
    window = _window(layer)
    if not _dilated(layer):
        del window["dilations"]  # the attribute came with opset 19
    scope.result("AveragePool", scope.x, kernel_shape=layer.kernel, ceil_mode=int(layer.ceil_mode), count_include_pad=int(layer.count_pads), **window)


def _silu(scope: LayerScope, layer: Activation) -> None:
    scope.result("Mul", scope.x, scope.step("sigmoid", "Sigmoid", scope.x))


def _gelu(scope: LayerScope, layer: Activation) -> None:
    if scope.opset >= 20:
        return scope.result("Gelu", scope.x)
    erf = scope.step("erf", "Erf", scope.step("scaled", "Div", scope.x, scope.floats(sqrt(2))))
    product = scope.step("product", "Mul", scope.x, scope.step("shifted", "Add", erf, scope.floats(1)))
    return scope.result("Mul", product, scope.floats(0.5))


def _gelu_tanh(scope: LayerScope, layer: Activation) -> None:
    if scope.opset >= 20:
        return scope.result("Gelu", scope.x, approximate="tanh")
    cube = scope.step("cube", "Mul", scope.step("square", "Mul", scope.x, scope.x), scope.x)
    inner = scope.step("inner", "Add", scope.x, scope.step("cubic", "Mul", cube, scope.floats(0.044715)))
    tanh = scope.step("tanh", "Tanh", scope.step("scaled", "Mul", inner, scope.floats(sqrt(2 / pi))))
    product = scope.step("product", "Mul", scope.x, scope.step("shifted", "Add", tanh, scope.floats(1)))
    return scope.result("Mul", product, scope.floats(0.5))


def _hard_swish(scope: LayerScope, layer: Activation) -> None:
    if scope.opset >= 14:
        return scope.result("HardSwish", scope.x)
    return scope.result("Mul", scope.x, scope.step("gate", "HardSigmoid", scope.x, alpha=1 / 6, beta=0.5))


def _mish(scope: LayerScope, layer: Activation) -> None:
    if scope.opset >= 18:
        return scope.result("Mish", scope.x)
    return scope.result("Mul", scope.x, scope.step("tanh", "Tanh", scope.step("softplus", "Softplus", scope.x)))


def _clip(scope: LayerScope, layer: Activation) -> None:
    bounds = ["" if isinf(bound) else scope.floats(bound) for bound in (layer.alpha, layer.beta)]
    scope.result("Clip", scope.x, *bounds)


ACTIVATIONS: Mapping[str, str | Write] = {
    "identity": "Identity", "relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "silu": _silu, "gelu": _gelu, "gelu-tanh": _gelu_tanh,
    "hard-swish": _hard_swish, "softplus": "Softplus", "softsign": "Softsign", "mish": _mish, "exp": "Exp", "log": "Log", "sqrt": "Sqrt",
    "abs": "Abs", "neg": "Neg", "erf": "Erf", "reciprocal": "Reciprocal", "leaky-relu": "LeakyRelu", "elu": "Elu", "celu": "Celu",
    "selu": "Selu", "hard-sigmoid": "HardSigmoid", "clip": _clip,
}  # fmt: skip
ATTRIBUTES = {"leaky-relu": ("alpha",), "elu": ("alpha",), "celu": ("alpha",), "selu": ("alpha", "gamma"), "hard-sigmoid": ("alpha", "beta")}


def _activation(scope: LayerScope, layer: Activation) -> None:
    write = ACTIVATIONS[layer.kind]
    if not isinstance(write, str):
        return write(scope, layer)
    return scope.result(write, scope.x, **dict(zip(ATTRIBUTES.get(layer.kind, ()), (layer.alpha, layer.beta), strict=False)))


def _prelu(scope: LayerScope, layer: PRelu) -> None:
    trailing = (1,) * (len(scope.shapes[0]) - 2) if layer.slope.size > 1 else ()
    scope.result("PRelu", scope.x, scope.tensor("slope", layer.slope.reshape(-1, *trailing)))


def _softmax(scope: LayerScope, layer: Softmax) -> None:
    scope.result("LogSoftmax" if layer.log else "Softmax", scope.x, axis=layer.axis)


def _binary(scope: LayerScope, layer: Binary) -> None:
    scope.result(layer.kind.capitalize(), *layer.inputs)


def _matmul(scope: LayerScope, layer: MatMul) -> None:
    scope.result("MatMul", *layer.inputs)


def _constant(scope: LayerScope, layer: Constant) -> None:
    scope.result("Constant", value=layer.values)


def _concat(scope: LayerScope, layer: Concat) -> None:
    scope.result("Concat", *layer.inputs, axis=layer.axis)


def _slice(scope: LayerScope, layer: Slice) -> None:
    scope.result("Slice", scope.x, *(scope.ints([value]) for value in (layer.start, layer.stop, layer.axis, layer.step)))


def _gather(scope: LayerScope, layer: Gather) -> None:
    scope.result("Gather", scope.x, scope.tensor("indices", layer.indices), axis=layer.axis)


def _pad(scope: LayerScope, layer: Pad) -> None:
    """Zeros as -0.0: onnxruntime hands pads of +0.0 on to a pool, where they never win a maximum, and where it refuses many."""
    value = (scope.floats(layer.value or -0.0),) if layer.mode == "constant" else ()
    scope.result("Pad", scope.x, scope.ints(layer.pads), *value, mode=layer.mode)


def _reshape(scope: LayerScope, layer: Reshape) -> None:
    scope.result("Reshape", scope.x, scope.ints(layer.target))


def _transpose(scope: LayerScope, layer: Transpose) -> None:
    scope.result("Transpose", scope.x, perm=layer.perm)


def _resize(scope: LayerScope, layer: Resize) -> None:
    """By scales where they give the sizes, else by sizes where those give the scales: coordinates depend on the scales."""
    (x,) = scope.shapes
    attributes = {"mode": layer.mode, "coordinate_transformation_mode": layer.coordinates.replace("-", "_")}
    if layer.mode == "nearest":
        attributes["nearest_mode"] = layer.rounding.replace("-", "_")
    scales = [float(np.float32(scale)) for scale in layer.scales]
    triples = list(zip(x[2:], layer.sizes, scales, strict=True))
    if all(floor(dim * scale) == size == floor(np.float32(dim) * np.float32(scale)) for dim, size, scale in triples):
        return scope.result("Resize", scope.x, "", scope.floats(1, 1, *scales), **attributes)
    if layer.coordinates != "align-corners" and any(np.float32(size / dim) != np.float32(scale) for dim, size, scale in triples):
        raise UnsupportedError(f"{layer.name}: ONNX has no resize of {x[2:]} to {layer.sizes} with scales {layer.scales}; scales of size / input are allowed")
    outer = scope.step("outer", "Slice", scope.step("shape", "Shape", scope.x), scope.ints([0]), scope.ints([2]))
    return scope.result("Resize", scope.x, "", "", scope.step("sizes", "Concat", outer, scope.ints(layer.sizes), axis=0), **attributes)


REDUCTIONS = {"mean": "ReduceMean", "sum": "ReduceSum", "max": "ReduceMax", "min": "ReduceMin", "l2": "ReduceL2", "prod": "ReduceProd"}


def _reduce(scope: LayerScope, layer: Reduce) -> None:
    spatial = tuple(range(2, len(scope.shapes[0])))
    if layer.kind in ("mean", "max") and layer.keep_axes and spatial and sorted(layer.axes) == list(spatial):
        return scope.result("GlobalAveragePool" if layer.kind == "mean" else "GlobalMaxPool", scope.x)
    op, keep = REDUCTIONS[layer.kind], int(layer.keep_axes)
    if op == "ReduceSum" or scope.opset >= 18:
        return scope.result(op, scope.x, scope.ints(layer.axes), keepdims=keep)
    return scope.result(op, scope.x, axes=layer.axes, keepdims=keep)


TABLE: Mapping[type[Layer], Write] = {
    Conv: _conv,
    ConvTranspose: _conv_transpose,
    Linear: _linear,
    Affine: _affine,
    LayerNorm: _layer_norm,
    GroupNorm: _group_norm,
    LRN: _lrn,
    MaxPool: _max_pool,
    AveragePool: _average_pool,
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
    Resize: _resize,
    Reduce: _reduce,
    Opaque: LayerScope.verbatim,
}
