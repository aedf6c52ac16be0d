"""Element-wise functions of one value and of two."""

from __future__ import annotations

import numpy as np

from rsk_deploy.ir import Activation, Affine, Binary, FloatArray, PRelu, Reshape, Softmax
from rsk_deploy.readers.onnx.build import Node, NotModelled
from rsk_deploy.readers.onnx.moving import target

PLAIN = {
    "Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh", "HardSwish": "hard-swish", "Softplus": "softplus", "Softsign": "softsign", "Mish": "mish",
    "Exp": "exp", "Log": "log", "Sqrt": "sqrt", "Abs": "abs", "Neg": "neg", "Erf": "erf", "Reciprocal": "reciprocal",
}  # fmt: skip
WITH_PARAMETERS = {
    "LeakyRelu": ("leaky-relu", (("alpha", 0.01),)),
    "Elu": ("elu", (("alpha", 1.0),)),
    "Celu": ("celu", (("alpha", 1.0),)),
    "Selu": ("selu", (("alpha", 1.67326319217681884765625), ("gamma", 1.05070102214813232421875))),
    "HardSigmoid": ("hard-sigmoid", (("alpha", 0.2), ("beta", 0.5))),
}
"""Names and defaults of the attributes, in the order of ``Activation.alpha`` and ``beta``."""

BINARY = {"Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "Pow": "pow"}
VARIADIC = {"Sum": "add", "Max": "max", "Min": "min"}


def plain(node: Node) -> None:
    """A function without parameters."""
    node.emit(Activation, node.read(), kind=PLAIN[node.op])


def with_parameters(node: Node) -> None:
    """A function with parameters, in float32 as the file holds them."""
    kind, parameters = WITH_PARAMETERS[node.op]
    values = (float(np.float32(node.attribute(name, default))) for name, default in parameters)
    node.emit(Activation, node.read(), kind=kind, **dict(zip(("alpha", "beta"), values, strict=False)))


def gelu(node: Node) -> None:
    """GELU, exact or by tanh."""
    node.emit(Activation, node.read(), kind="gelu-tanh" if node.attribute("approximate", "none") == "tanh" else "gelu")


def swish(node: Node) -> None:
    """Swish with alpha 1 is SiLU."""
    if node.attribute("alpha", 1.0) != 1:
        raise NotModelled
    node.emit(Activation, node.read(), kind="silu")


def bound(node: Node, index: int, attribute: str) -> float | None:
    """A limit of Clip; None where it limits nothing."""
    array = node.known(index, attribute)
    if array is None or array.size != 1 or not abs(float(array.reshape(()))) < np.finfo(np.float32).max:
        return None
    return float(np.float32(array.reshape(())))


def clip(node: Node) -> None:
    """Between two limits. With one it is a maximum or a minimum: no infinity is needed."""
    low, high = bound(node, 1, "min"), bound(node, 2, "max")
    if low is not None and high is not None:
        return node.emit(Activation, node.read(), kind="clip", alpha=low, beta=high)
    if low is None and high is None:
        return node.same_as(node.read())
    if low == 0:
        return node.emit(Activation, node.read(), kind="relu")
    kind, limit = ("max", low) if high is None else ("min", high)
    return node.emit(Binary, node.read(), node.fixed("limit", np.array(limit, np.float32)), kind=kind)


def prelu(node: Node) -> None:
    """PReLU with a slope for all or for each channel."""
    slope, shape = node.floats(1), node.shape()
    if slope.size == 1:
        return node.emit(PRelu, node.read(), slope=slope.reshape(1))
    aligned = (1,) * (len(shape) - slope.ndim) + slope.shape
    if len(shape) < 2 or aligned != tuple(size if axis == 1 else 1 for axis, size in enumerate(shape)):
        raise NotModelled
    return node.emit(PRelu, node.read(), slope=slope.reshape(-1))


def softmax(node: Node) -> None:
    """Before opset 13, softmax over everything from ``axis`` on at once."""
    shape, log = node.shape(), node.op == "LogSoftmax"
    axis = node.attribute("axis", 1 if node.opset < 13 else -1) % len(shape)
    if node.opset >= 13 or all(size == 1 for size in shape[axis + 1 :]):
        return node.emit(Softmax, node.read(), axis=axis, log=log)
    rows = int(np.prod(node.sizes(range(axis, len(shape)))))
    flat = node.step("flat", Reshape, node.read(), target=(-1, rows))
    return node.emit(Reshape, node.step("softmax", Softmax, flat, axis=1, log=log), target=target(node.output))


def per_channel(values: FloatArray, node: Node, index: int) -> FloatArray | None:
    """A constant operand as one value per channel (axis 1) of the other, if it is that."""
    shape = node.shape(index)
    aligned = (1,) * (len(shape) - values.ndim) + values.shape
    if len(shape) < 3 or values.size == 1 or aligned != tuple(size if axis == 1 else 1 for axis, size in enumerate(shape)):
        return None
    return values.reshape(-1)


def binary(node: Node) -> None:
    """An operation on two values; with a constant per channel it is a scale or a shift."""
    kind = BINARY[node.op]
    for index, other in ((0, 1), (1, 0)):
        constant = node.constant(other)
        if node.builder.exact or kind not in ("add", "mul", "sub") or constant is None or node.constant(index) is not None:
            continue
        channels = per_channel(constant.astype(np.float32), node, index)
        if channels is None or not np.isfinite(channels).all():
            continue
        node.named_after(other)
        one, zero = np.ones_like(channels), np.zeros_like(channels)
        scale, shift = {"mul": (channels, zero), "add": (one, channels), "sub": (one, -channels) if other == 1 else (-one, channels)}[kind]
        return node.emit(Affine, node.read(index), scale=scale + np.float32(0), shift=shift + np.float32(0))
    return node.emit(Binary, node.read(0), node.read(1), kind=kind)


def variadic(node: Node) -> None:
    """An operation on any number of values, two at a time."""
    kind, count = VARIADIC[node.op], len(node.proto.input)
    total = node.read(0)
    if count == 1:
        return node.same_as(total)
    for index in range(1, count - 1):
        total = node.step(f"{kind}{index}", Binary, total, node.read(index), kind=kind)
    return node.emit(Binary, total, node.read(count - 1), kind=kind)
