"""Convolutions and pools."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rsk_deploy.errors import CorruptFileError
from rsk_deploy.ir import AveragePool, Conv, ConvTranspose, FloatArray, MaxPool, Reduce, Shape
from rsk_deploy.readers.onnx.build import Node, NotModelled


def same_pads(totals: Sequence[int], where: str) -> tuple[int, ...]:
    """Pads of these totals; the odd one goes to the end (upper) or to the beginning (lower)."""
    small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return (*small, *large) if where == "SAME_UPPER" else (*large, *small)


def auto_pad(node: Node) -> str:
    """How the pads are chosen."""
    auto = str(node.attribute("auto_pad", "NOTSET"))
    if auto not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise CorruptFileError(f"auto_pad is {auto!r}; NOTSET, VALID, SAME_UPPER and SAME_LOWER are known")
    return auto


def spatial_axes(kernel: Shape) -> range:
    """The axes that a kernel slides over."""
    return range(2, 2 + len(kernel))


def window(node: Node, kernel: Shape) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Stride, pads and dilation of a window, with ``auto_pad`` resolved."""
    rank = len(kernel)
    stride, dilation = node.integers("strides", (1,) * rank), node.integers("dilations", (1,) * rank)
    auto = auto_pad(node)
    if auto == "VALID":
        return stride, (0,) * (2 * rank), dilation
    if auto == "NOTSET":
        return stride, node.integers("pads", (0,) * (2 * rank)), dilation
    sizes = node.sizes(spatial_axes(kernel))
    spans = [step * (size - 1) + 1 for size, step in zip(kernel, dilation, strict=True)]
    totals = [max(0, (-(-size // step) - 1) * step + span - size) for size, step, span in zip(sizes, stride, spans, strict=True)]
    return stride, same_pads(totals, auto), dilation


def bias(node: Node, index: int) -> FloatArray | None:
    """The bias, if there is one; a computed one of zeros only says that there is none (torch's exporter writes it so)."""
    if not node.has(index):
        return None
    values = node.floats(index)
    return None if not values.any() and not node.builder.trace.stored(node.proto.input[index]) else values


def conv(node: Node) -> None:
    """Convolution; a computed weight stays opaque."""
    weight = node.weight(1)
    stride, pads, dilation = window(node, weight.shape[2:])
    node.emit(Conv, node.read(), weight=weight, bias=bias(node, 2), stride=stride, pads=pads, dilation=dilation, groups=node.attribute("group", 1))


def conv_transpose(node: Node) -> None:
    """Transposed convolution; a wanted output shape becomes pads and output pads."""
    weight = node.weight(1)
    kernel = weight.shape[2:]
    rank = len(kernel)
    stride, dilation = node.integers("strides", (1,) * rank), node.integers("dilations", (1,) * rank)
    output_pads = node.integers("output_padding", (0,) * rank)
    pads, auto = node.integers("pads", (0,) * (2 * rank)), auto_pad(node)
    if auto == "VALID":
        pads = (0,) * (2 * rank)
    elif "output_shape" in node.attributes or auto != "NOTSET":
        sizes = node.sizes(spatial_axes(kernel))
        default = tuple(size * step for size, step in zip(sizes, stride, strict=True))
        wanted = node.integers("output_shape", default)[-rank:]
        full = [
            step * (size - 1) + more + gap * (taps - 1) + 1 for step, size, more, gap, taps in zip(stride, sizes, output_pads, dilation, kernel, strict=True)
        ]
        totals = [have - want for have, want in zip(full, wanted, strict=True)]
        pads = same_pads([max(0, total) for total in totals], auto)
        output_pads = tuple(more - min(0, total) for more, total in zip(output_pads, totals, strict=True))
    groups = node.attribute("group", 1)
    node.emit(
        ConvTranspose, node.read(), weight=weight, bias=bias(node, 2), stride=stride, pads=pads, dilation=dilation, output_pads=output_pads, groups=groups
    )


def pool_kernel(node: Node) -> Shape:
    """The size of a pool's window, which has no default."""
    if "kernel_shape" not in node.attributes:
        raise CorruptFileError(f"{node.name}: a pool without kernel_shape")
    return node.integers("kernel_shape", ())


def max_pool(node: Node) -> None:
    """Max pooling."""
    if node.used(1):
        raise NotModelled  # the places of the maxima
    kernel = pool_kernel(node)
    stride, pads, dilation = window(node, kernel)
    node.emit(MaxPool, node.read(), kernel=kernel, stride=stride, pads=pads, dilation=dilation, ceil_mode=bool(node.attribute("ceil_mode", 0)))


def average_pool(node: Node) -> None:
    """Average pooling."""
    kernel = pool_kernel(node)
    stride, pads, dilation = window(node, kernel)
    modes = {"ceil_mode": bool(node.attribute("ceil_mode", 0)), "count_pads": bool(node.attribute("count_include_pad", 0))}
    node.emit(AveragePool, node.read(), kernel=kernel, stride=stride, pads=pads, dilation=dilation, **modes)


def global_average_pool(node: Node) -> None:
    """The mean over the spatial axes."""
    node.emit(Reduce, node.read(), kind="mean", axes=tuple(range(2, len(node.shape()))))


def global_max_pool(node: Node) -> None:
    """The maximum over the spatial axes."""
    node.emit(Reduce, node.read(), kind="max", axes=tuple(range(2, len(node.shape()))))


def reduce(node: Node) -> None:
    """A reduction; without axes over all of them."""
    kind = {"ReduceMean": "mean", "ReduceSum": "sum", "ReduceMax": "max", "ReduceMin": "min", "ReduceL2": "l2", "ReduceProd": "prod"}[node.op]
    rank = len(node.shape())
    axes = node.known(1, "axes")
    if (axes is None or axes.size == 0) and node.attribute("noop_with_empty_axes", 0):
        return node.same_as(node.read())
    wanted = range(rank) if axes is None or axes.size == 0 else np.unique(axes.reshape(-1) % rank)
    return node.emit(Reduce, node.read(), kind=kind, axes=tuple(int(axis) for axis in wanted), keep_axes=bool(node.attribute("keepdims", 1)))
