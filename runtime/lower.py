"""Each layer class as native steps: a table, one short function a class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rsk_deploy.errors import UnsupportedError
from rsk_deploy.ir import (
    ACTIVATIONS,
    BINARIES,
    LRN,
    REDUCTIONS,
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
    Pool,
    PRelu,
    Reduce,
    Reshape,
    Resize,
    Slice,
    Softmax,
    Transpose,
)
from rsk_deploy.runtime.build import Builder
from rsk_deploy.runtime.convolutions import lower_conv, lower_linear
from rsk_deploy.runtime.fuse import Unit
from rsk_deploy.runtime.layout import broadcast, images_last, permuted, plain_in_arena, reshaped, side_by_side, sliced, split_channels, volume
from rsk_deploy.runtime.records import Step
from rsk_deploy.runtime.resample import resampling

PRELU = len(BINARIES)
OUTSIDE = -1
"""The index of what is no element."""

PAD_MODES: Mapping[str, Literal["reflect", "edge"]] = {"reflect": "reflect", "edge": "edge"}


def per_channel(values: NDArray[Any], rank: int) -> NDArray[Any]:
    """A vector over axis 1."""
    return values.reshape(-1, *[1] * (rank - 2))


def pool(builder: Builder, unit: Unit, layer: Pool) -> None:
    """Slide a window."""
    rank = len(layer.kernel)
    rows = (layer.kernel, layer.stride, layer.pads[:rank], layer.dilation, layer.pads[rank:])
    ints = tuple(value for row, missing in zip(rows, (1, 1, 0, 1, 0), strict=True) for value in (*[missing] * (3 - rank), *row))
    kind = 0 if isinstance(layer, MaxPool) else 1 + getattr(layer, "count_pads", False)
    x, out = builder.view(layer.inputs[0]), builder.output(unit.output)
    if side_by_side(x) and side_by_side(out):
        x, out = images_last(x), images_last(out)
        ints = tuple(value for row, missing in enumerate((1, 1, 0, 1, 0)) for value in (*ints[3 * row + 1 : 3 * row + 3], missing))
    builder.emit(Step("pool", (volume(x),), volume(out), unit.names, kind=kind, ints=ints))


def activation(builder: Builder, unit: Unit, layer: Activation) -> None:
    """Apply a function of one value."""
    kind = list(ACTIVATIONS).index(layer.kind)
    step = Step("unary", (builder.view(layer.inputs[0]),), builder.output(unit.output), unit.names, kind=kind, floats=(layer.alpha, layer.beta))
    builder.emit(step)


def binary(builder: Builder, unit: Unit, layer: Binary) -> None:
    """Combine two values."""
    out = builder.output(unit.output)
    a, b = (broadcast(builder.view(name), out.shape) for name in layer.inputs)
    builder.emit(Step("binary", (a, b), out, unit.names, kind=BINARIES.index(layer.kind)))


def affine(builder: Builder, unit: Unit, layer: Affine) -> None:
    """Scale and shift channels, and apply the activation."""
    x, out = builder.view(layer.inputs[0]), builder.output(unit.output)
    scale, shift = (builder.constant_like(per_channel(values, len(x.shape)), x.shape) for values in (layer.scale, layer.shift))
    last = unit.activation
    kind, floats = (0, ()) if last is None else (list(ACTIVATIONS).index(last.kind), (last.alpha, last.beta))
    builder.emit(Step("scale", (x, scale, shift), out, unit.names, kind=kind, floats=floats))


def prelu(builder: Builder, unit: Unit, layer: PRelu) -> None:
    """Slope the negative elements."""
    x, out = builder.view(layer.inputs[0]), builder.output(unit.output)
    slope = layer.slope if layer.slope.shape == (1,) else per_channel(layer.slope, len(x.shape))
    builder.emit(Step("binary", (x, builder.constant_like(slope, x.shape)), out, unit.names, kind=PRELU))


def layer_norm(builder: Builder, unit: Unit, layer: LayerNorm) -> None:
    """Normalise the trailing axes."""
    x, out = builder.view(layer.inputs[0]), builder.output(unit.output)
    scale, shift = (builder.constant_like(values, x.shape) for values in (layer.scale, layer.shift))
    builder.emit(Step("norm", (x, scale, shift), out, unit.names, floats=(layer.epsilon,), ints=(layer.scale.ndim,)))


def group_norm(builder: Builder, unit: Unit, layer: GroupNorm) -> None:
    """Normalise groups of channels."""
    x, out = builder.view(layer.inputs[0]), builder.output(unit.output)
    scale, shift = (builder.constant_like(per_channel(values, len(x.shape)), x.shape) for values in (layer.scale, layer.shift))
    views = tuple(split_channels(view, layer.groups) for view in (x, scale, shift))
    builder.emit(Step("norm", views, split_channels(out, layer.groups), unit.names, floats=(layer.epsilon,), ints=(len(x.shape) - 1,)))


def lrn(builder: Builder, unit: Unit, layer: LRN) -> None:
    """Divide by the neighbouring channels' energy."""
    x, out = builder.view(layer.inputs[0]), builder.output(unit.output)
    floats, reach = (layer.alpha / layer.size, layer.beta, layer.bias), ((layer.size - 1) // 2, layer.size // 2)
    builder.emit(Step("lrn", (x,), out, unit.names, floats=floats, ints=reach))


def reduce(builder: Builder, unit: Unit, layer: Reduce) -> None:
    """Reduce some axes: they come last, and the output loses them."""
    x, out = builder.view(layer.inputs[0]), builder.output(unit.output)
    kept = [axis for axis in range(len(x.shape)) if axis not in layer.axes]
    numbers = {axis: axis if layer.keep_axes else number for number, axis in enumerate(kept)}
    if side_by_side(x) and layer.kind == "mean" and kept == [0, 1]:  # an average over whole planes, of a vector of images at a time
        size = (*x.shape[2:], *[1] * (5 - len(x.shape)))
        spread = permuted(out, [numbers[1], numbers[0]])
        last = replace(spread, shape=(1, x.shape[1], 1, 1, x.shape[0]), strides=(0, spread.strides[0], 0, 0, spread.strides[1]))
        ints = (*size, 1, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0)
        builder.emit(Step("pool", (volume(images_last(x)),), last, unit.names, kind=1, ints=ints))
        return
    out_axes = [numbers[axis] for axis in kept]
    builder.emit(
        Step(
            "reduce", (permuted(x, [*kept, *layer.axes]),), permuted(out, out_axes), unit.names, kind=REDUCTIONS.index(layer.kind), ints=(len(layer.axes),)
        )
    )  # fmt: skip


def softmax(builder: Builder, unit: Unit, layer: Softmax) -> None:
    """Softmax along an axis: it comes last."""
    x, out = builder.view(layer.inputs[0]), builder.output(unit.output)
    order = [*(axis for axis in range(len(x.shape)) if axis != layer.axis), layer.axis]
    builder.emit(Step("softmax", (permuted(x, order),), permuted(out, order), unit.names, kind=int(layer.log)))


def matmul(builder: Builder, unit: Unit, layer: MatMul) -> None:
    """Multiply matrices."""
    out = builder.output(unit.output)
    views = [builder.view(name) for name in layer.inputs]
    spread = tuple(broadcast(view, (*out.shape[:-2], *view.shape[-2:])) for view in views)
    builder.emit(Step("matmul", spread, out, unit.names))


def constant(builder: Builder, unit: Unit, layer: Constant) -> None:
    """Keep the values."""
    if layer.values.dtype.kind != "f":
        raise UnsupportedError(f"{layer.name}: the runtime computes in float32; this constant holds {layer.values.dtype}")
    builder.views[unit.output] = builder.constant(layer.values)


def concat(builder: Builder, unit: Unit, layer: Concat) -> None:
    """Copy what does not stand in its slot yet."""
    out, first = builder.output(unit.output), 0
    for name in layer.inputs:
        view = builder.view(name)
        slot = sliced(out, layer.axis, first, view.shape[layer.axis], 1)
        if not (name in builder.slots and builder.slots[name].whole == unit.output):
            builder.emit(Step("copy", (view,), slot, unit.names))
        first += view.shape[layer.axis]


def piece(builder: Builder, unit: Unit, layer: Slice) -> None:
    """See a part; nothing is copied."""
    count = len(range(layer.start, layer.stop, layer.step))
    builder.views[unit.output] = sliced(builder.view(layer.inputs[0]), layer.axis, layer.start, count, layer.step)


def transpose(builder: Builder, unit: Unit, layer: Transpose) -> None:
    """See the axes in another order; nothing is copied."""
    builder.views[unit.output] = permuted(builder.view(layer.inputs[0]), layer.perm)


def reshape(builder: Builder, unit: Unit, layer: Reshape) -> None:
    """See the elements in another shape."""
    builder.views[unit.output] = reshaped(builder.contiguous(builder.view(layer.inputs[0]), unit.names), builder.shape(unit.output))


@dataclass(frozen=True, eq=False)
class Pass:
    """A native step along one axis, and the size that it gives the axis."""

    axis: int
    size: int
    op: str
    blobs: tuple[NDArray[Any], ...]
    fill: float = 0.0


def along(builder: Builder, unit: Unit, passes: Sequence[Pass]) -> None:
    """Run one pass after the other; the last writes the output."""
    x = builder.view(unit.layer.inputs[0])
    if not passes:
        builder.emit(Step("copy", (x,), builder.output(unit.output), unit.names))
    for step in passes:
        last = step is passes[-1]
        out = builder.output(unit.output) if last else plain_in_arena((*x.shape[: step.axis], step.size, *x.shape[step.axis + 1 :]))
        builder.emit(Step(step.op, (x,), out, unit.names, floats=(step.fill,), ints=(step.axis,), blobs=step.blobs))
        x = out


def gather(builder: Builder, unit: Unit, layer: Gather) -> None:
    """Pick elements along an axis."""
    along(builder, unit, [Pass(layer.axis, layer.indices.size, "take", (layer.indices.astype(np.int32),))])


def pad(builder: Builder, unit: Unit, layer: Pad) -> None:
    """Pick the element that each pad shows, or the value."""
    shape, passes = builder.shape(layer.inputs[0]), []
    for axis, (size, begin, end) in enumerate(zip(shape, layer.pads[: len(shape)], layer.pads[len(shape) :], strict=True)):
        inside, widths = np.arange(size, dtype=np.int32), (begin, end)
        if begin or end:
            picked = np.pad(inside, widths, constant_values=OUTSIDE) if layer.mode == "constant" else np.pad(inside, widths, mode=PAD_MODES[layer.mode])
            passes.append(Pass(axis, picked.size, "take", (picked,), layer.value))
    along(builder, unit, passes)


def resize(builder: Builder, unit: Unit, layer: Resize) -> None:
    """Resample one axis after the other, those that shrink first."""
    shape, passes = builder.shape(layer.inputs[0]), []
    for axis, (size, scale) in enumerate(zip(layer.sizes, layer.scales, strict=True), start=2):
        low, high, share = resampling(layer, shape[axis], size, scale)
        passes.append(Pass(axis, size, "take", (low,)) if layer.mode == "nearest" else Pass(axis, size, "blend", (low, high, share)))
    along(builder, unit, sorted(passes, key=lambda step: step.size / shape[step.axis]))


LOWERINGS: Mapping[type[Layer], Callable[[Builder, Unit, Any], None]] = {
    Activation: activation,
    Affine: affine,
    AveragePool: pool,
    Binary: binary,
    Concat: concat,
    Constant: constant,
    Conv: lower_conv,
    ConvTranspose: lower_conv,
    Gather: gather,
    GroupNorm: group_norm,
    LayerNorm: layer_norm,
    Linear: lower_linear,
    LRN: lrn,
    MatMul: matmul,
    MaxPool: pool,
    PRelu: prelu,
    Pad: pad,
    Reduce: reduce,
    Reshape: reshape,
    Resize: resize,
    Slice: piece,
    Softmax: softmax,
    Transpose: transpose,
}
"""Every layer class but Opaque."""
