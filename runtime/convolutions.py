"""Convolutions as native steps: the matrix, the window, the kernel chosen, and what their inputs and outputs must look like."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rsk_deploy.ir import BoolArray, Conv, ConvTranspose, FloatArray, Packed, Shape
from rsk_deploy.runtime.build import Builder
from rsk_deploy.runtime.choose import Plan, Window, Work, choose
from rsk_deploy.runtime.fuse import CONV_ACTIVATIONS, Unit
from rsk_deploy.runtime.layout import Groups, Planes, plain_in_arena, planes_in_arena, volume
from rsk_deploy.runtime.linear import is_linear, lower_as_linear
from rsk_deploy.runtime.records import Step, View
from rsk_deploy.runtime.weights import Matrix, compressed, filled, support, turned


@dataclass(frozen=True, eq=False)
class Decision:
    """How one convolution runs. ``source`` is the shape of what it slides over: the input, or (transposed) the input with zeros between its elements."""

    matrix: Matrix
    work: Work
    plan: Plan
    bias: FloatArray | None
    source: Shape


def windows(kernel: tuple[int, ...], layer: Conv[Packed], size: Shape, out: Shape) -> tuple[Window, Window, Window]:
    """The axes of a convolution, three of them."""
    rank = len(kernel)
    axes = [
        Window(kernel[axis], layer.stride[axis], layer.pads[axis], layer.pads[axis + rank], layer.dilation[axis], size[2 + axis], out[2 + axis])
        for axis in range(rank)
    ]
    missing = [Window(1, 1, 0, 0, 1, 1, 1)] * (3 - rank)
    deep, high, wide = missing + axes
    return deep, high, wide


def decide(unit: Unit, x: Shape, out: Shape, kernels: list[str], exact: bool) -> Decision | None:
    """How the unit's convolution runs; None if it is none."""
    layer = unit.layer
    if not isinstance(layer, Conv | ConvTranspose) or is_linear(unit, x):
        return None
    weight, source = layer.weight, x
    if isinstance(layer, ConvTranspose):
        weight = turned(weight, layer.groups)
        kernel = weight.shape[2:]
        spans = [dilation * (size - 1) + 1 for dilation, size in zip(layer.dilation, kernel, strict=True)]
        source = (*x[:2], *(dim + span - 1 for dim, span in zip(out[2:], spans, strict=True)))
        axes = windows(kernel, plainly_slid(layer, len(kernel)), source, out)
    else:
        axes = windows(weight.shape[2:], layer, x, out)
    kept = support(weight)
    work = Work(x[0], x[1], out[1], layer.groups, int(np.count_nonzero(kept)), lists(kept) * layer.groups, axes)
    plan = choose(work, kernels, exact)
    matrix = filled(weight, layer.groups) if plan.filled else compressed(weight, kept, layer.groups)
    return Decision(matrix, work, plan, layer.bias, source)


def lists(kept: BoolArray) -> int:
    """How many different lists of taps the filters have."""
    return len({row.tobytes() for row in np.packbits(kept.reshape(len(kept), -1), axis=1)})


def plainly_slid(layer: ConvTranspose[Packed], rank: int) -> Conv[Packed]:
    """The convolution that slides over the stuffed input."""
    return Conv(
        name=layer.name, inputs=layer.inputs, outputs=layer.outputs, weight=layer.weight, stride=(1,) * rank, pads=(0,) * 2 * rank, dilation=layer.dilation
    )


def require(groups: Groups, unit: Unit, decision: Decision, shapes: dict[str, Shape]) -> None:
    """Tell the layout what the convolution needs around its planes."""
    name, out = unit.layer.inputs[0], unit.output
    if len(shapes[out]) > 4:
        return
    _, high, wide = decision.work.axes
    width = decision.plan.vectors * 16
    groups.require(out, Planes(planar=True, width=width))
    together = [out] if unit.residual is None else [out, unit.residual]
    if not decision.plan.packed and isinstance(unit.layer, Conv):
        groups.require(name, Planes(planar=True, top=high.begin, bottom=high.end, columns=max(wide.begin, wide.end)))
        if (high.size, wide.size) == (high.out, wide.out):
            together.append(name)
    if wide.out % width:
        groups.join(*together)


def lower_conv(builder: Builder, unit: Unit, layer: Conv[Packed]) -> None:
    """A convolution of the input as it lies, of a copy in planes, or packed to a panel."""
    decision: Decision | None = builder.decisions[unit.output]
    if decision is None:
        lower_as_linear(builder, unit, layer)
        return
    packed = decision.plan.packed
    x = builder.views[layer.inputs[0]] if packed else builder.planar(layer.inputs[0])
    emit(builder, unit, decision, x)


def lower_transposed(builder: Builder, unit: Unit, layer: ConvTranspose[Packed]) -> None:
    """A convolution of the input with zeros between its elements."""
    decision: Decision = builder.decisions[unit.output]
    x = builder.views[layer.inputs[0]]
    for axis, size in list(enumerate(decision.source))[2:]:
        space = axis - 2
        source = np.arange(size) - (layer.dilation[space] * (layer.weight.shape[axis] - 1) - layer.pads[space])
        step = layer.stride[space]
        inside = (source >= 0) & (source % step == 0) & (source // step < x.shape[axis])
        indices = np.where(inside, source // step, -1).astype(np.int32)
        shape = (*x.shape[:axis], size, *x.shape[axis + 1 :])
        last = axis == len(x.shape) - 1 and len(shape) < 5
        out = planes_in_arena(shape, Planes()) if last and not decision.plan.packed else plain_in_arena(shape)
        builder.emit(Step("take", (x,), out, unit.names, ints=(axis,), blobs=(indices,), reason="puts zeros between the elements"))
        x = out
    emit(builder, unit, decision, x)


def emit(builder: Builder, unit: Unit, decision: Decision, x: View) -> None:
    """The native step."""
    plan, last, matrix = decision.plan, unit.activation, decision.matrix
    axes = decision.work.axes
    ints = tuple(value for field in ("kernel", "stride", "begin", "dilation") for value in (getattr(axis, field) for axis in axes))
    residual = None if unit.residual is None else volume(builder.views[unit.residual])
    step = Step(
        "conv",
        (volume(x), residual),
        volume(builder.output(unit.output)),
        unit.names,
        kind=int(plan.exact),
        activation=0 if last is None else CONV_ACTIVATIONS.index(last.kind),
        floats=() if last is None else (last.alpha, last.beta),
        kernel=plan.kernel,
        ints=(*ints, plan.vectors, int(plan.packed)),
        blobs=(matrix.start, matrix.columns, matrix.values, decision.bias),
        reason=plan.reason,
    )
    builder.emit(step)
