"""Convolutions as native steps: the matrix, the window, the kernel chosen, and what their inputs and outputs must look like."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from math import prod
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from rsk_deploy.ir import BoolArray, Conv, ConvTranspose, FloatArray, Linear, Packed, Shape, Weighted
from rsk_deploy.runtime.build import Builder
from rsk_deploy.runtime.choose import Plan
from rsk_deploy.runtime.cost import Window, Work, masks_taps
from rsk_deploy.runtime.fuse import CONV_ACTIVATIONS, Unit
from rsk_deploy.runtime.layout import Groups, Planes, images_last, lattice, long_rows, planes_in_arena, side_by_side, volume
from rsk_deploy.runtime.linear import across, fits_convolution, flat, is_linear, may_pay, pays, stream
from rsk_deploy.runtime.phases import ABSENT, Phase, phases
from rsk_deploy.runtime.records import Step, View
from rsk_deploy.runtime.segments import Places, Segment
from rsk_deploy.runtime.weights import Matrix, Scalar, compressed, filled, rows_of, spread, support, turned

Choice: TypeAlias = Callable[[Work], Plan]

CACHED_NONZEROS = 3_000_000
"""As many as the third-level cache holds in every kernel's form: up to 16 bytes each."""


@dataclass(frozen=True, eq=False)
class Decision:
    """How a convolution computes its output, or (transposed) one phase of it."""

    matrix: Matrix
    work: Work
    plan: Plan
    bias: FloatArray | None
    phase: tuple[Phase, ...] = ()


def windows(kernel: tuple[int, ...], layer: Conv[Packed], size: Shape, out: Shape) -> tuple[Window, Window, Window]:
    """The axes of a convolution, three of them."""
    rank = len(kernel)
    return three(
        [
            Window(kernel[axis], layer.stride[axis], layer.pads[axis], layer.pads[axis + rank], layer.dilation[axis], size[2 + axis], out[2 + axis])
            for axis in range(rank)
        ]
    )


def three(axes: list[Window]) -> tuple[Window, Window, Window]:
    """Depth, height and width, the missing ones in front."""
    deep, high, wide = [ABSENT] * (3 - len(axes)) + axes
    return deep, high, wide


def decide(unit: Unit, x: Shape, out: Shape, choice: Choice, wide: bool = False, callers: Collection[str] = ()) -> list[Decision]:
    """How the unit's convolution runs, in one step or several; none if it is no convolution. ``wide``: with its images side by side. ``callers``: the
    values that are the caller's arrays.
    """
    layer = unit.layer
    if isinstance(layer, ConvTranspose):
        return decide_phases(layer, x, out, choice)
    if is_linear(unit, x):
        return decide_product(unit, x, choice)
    if not isinstance(layer, Conv):
        return []
    kept = support(layer.weight)
    work = work_of(layer, kept, x, out)
    work = widened(work) if wide else replace(work, enters=layer.inputs[0] in callers, leaves=unit.output in callers)
    plan = choice(work)
    return [Decision(matrix_for(plan, layer.weight, kept, layer.groups), work, plan, layer.bias)]


def work_of(layer: Conv[Packed], kept: BoolArray, x: Shape, out: Shape) -> Work:
    """What a convolution has to do."""
    axes = windows(layer.weight.shape[2:], layer, x, out)
    nonzeros = np.count_nonzero(kept.reshape(len(kept), -1), axis=1)
    fewest = int(nonzeros[nonzeros > 0].min(initial=nonzeros.max()))
    return Work(x[0], x[1], out[1], layer.groups, int(nonzeros.sum()), lists(kept) * layer.groups, axes, fewest=fewest)


def widened(work: Work) -> Work:
    """The same for images side by side: one image of long rows, or where windows move on by several elements with the images as the last axis."""
    (deep, high, wide), images = work.axes, work.batch
    if high.stride > 1 or wide.stride > 1:
        return replace(work, batch=1, axes=(high, wide, Window(1, 1, 0, 0, 1, images, images)), images_last=True)
    begin, end, dilation, size, out = (images * value for value in (wide.begin, wide.end, wide.dilation, wide.size, wide.out))
    return replace(work, batch=1, axes=(deep, high, Window(wide.kernel, 1, begin, end, dilation, size, out)))


def decide_product(unit: Unit, x: Shape, choice: Choice) -> list[Decision]:
    """How a linear layer runs as a convolution over its rows; not at all where a stream of its weights is as fast."""
    layer: Linear[Packed] | Conv[Packed] = unit.layer  # type: ignore[assignment]  # is_linear says so
    kept, rows = support(layer.weight), x[:1] if isinstance(layer, Conv) else x[:-1]
    if not fits_convolution(unit, x) or not may_pay(prod(rows), np.count_nonzero(kept) / kept.size):
        return []
    batch, space = (1, rows) if len(rows) == 1 else (rows[0], rows[1:])
    axes = three([Window(1, 1, 0, 0, 1, size, size) for size in space])
    filters, channels = layer.weight.shape[:2]
    work = Work(batch, channels, filters, 1, int(np.count_nonzero(kept)), lists(kept), axes, rows=False)
    plan = choice(work)
    return [Decision(matrix_for(plan, layer.weight, kept, 1), work, plan, layer.bias)] if pays(work, plan) else []


def decide_phases(layer: ConvTranspose[Packed], x: Shape, out: Shape, choice: Choice) -> list[Decision]:
    """How each phase of a transposed convolution runs."""
    dense, support_of_all = turned(layer.weight, layer.groups)
    every = phases(layer, x, out)
    decisions = []
    for phase in every:
        values, kept = picked(dense, phase), picked(support_of_all, phase)
        work = Work(
            x[0], x[1], out[1], layer.groups, int(np.count_nonzero(kept)), lists(kept) * layer.groups, three([axis.window for axis in phase]), whole=False
        )
        plan = choice(work)
        places = np.ones_like(kept) if plan.filled else kept
        decisions.append(Decision(rows_of(values[places], places, layer.groups), work, plan, layer.bias, phase if len(every) > 1 else ()))
    return decisions


def picked(array: NDArray[Scalar], phase: tuple[Phase, ...]) -> NDArray[Scalar]:
    """The taps of a phase; one tap of zeros where it has none."""
    for axis, of_axis in enumerate(phase, start=2):
        array = array.take(of_axis.taps, axis) if of_axis.taps else np.zeros_like(array.take([0], axis))
    return array


def matrix_for(plan: Plan, weight: Packed, kept: BoolArray, groups: int) -> Matrix:
    """The weights as the plan's kernel reads them: Winograd the values alone."""
    if plan.winograd:
        return Matrix(np.zeros(0, np.uint32), np.zeros(0, np.uint32), spread(weight, kept))
    return filled(weight, kept, groups) if plan.filled else compressed(weight, kept, groups)


def near(units: Iterable[Unit]) -> bool:
    """Whether a cache holds all weights from one inference to the next, with their index and code."""
    kept = (unit.layer.weight.arrays["values"].size for unit in units if isinstance(unit.layer, Weighted))
    return int(sum(kept)) <= CACHED_NONZEROS


def lists(kept: BoolArray) -> int:
    """How many different lists of taps the filters have."""
    return len({row.tobytes() for row in np.packbits(kept.reshape(len(kept), -1), axis=1)})


def require(groups: Groups, unit: Unit, decision: Decision, places: Places, segment: Segment) -> None:
    """Tell the layout what the convolution needs around its planes."""
    name, out, residual = (places.key(name, segment) for name in (unit.layer.inputs[0], unit.output, unit.residual or unit.output))
    if segment.wide:
        for key in (name, out, residual):
            groups.require(key, Planes(planar=True, images=segment.images))
    if decision.work.images_last:
        rows, columns, _ = decision.work.axes
        halo = segment.images * max(columns.begin, columns.end)
        groups.require(name, Planes(planar=True, top=rows.begin, bottom=rows.end, columns=halo))
        return
    if decision.plan.winograd or not decision.work.rows:
        return
    _, high, wide = decision.work.axes
    width = decision.plan.vectors * 16
    together = [out, residual]
    if not decision.plan.packed:
        halo = max(wide.begin, wide.end)
        room = {"beyond" if masks_taps(decision.work, decision.plan.kernel) else "columns": halo}
        groups.require(name, Planes(planar=True, top=high.begin, bottom=high.end, **room))
        if (high.size, wide.size) == (high.out, wide.out):
            together.append(name)
    if decision.phase or len(places.shapes[unit.output]) > 4:
        return
    if wide.out % width:
        groups.require(out, Planes(planar=True, width=width))
        groups.join(*together)


def lower_conv(builder: Builder, unit: Unit, layer: Conv[Packed] | ConvTranspose[Packed]) -> None:
    """Convolutions of the input as it lies, of a copy in planes, or packed to a panel."""
    decisions: list[Decision] = builder.decisions[unit.output]
    if isinstance(layer, Conv) and is_linear(unit, builder.shape(layer.inputs[0])):
        lower_product(builder, unit, layer, flat(builder.view(layer.inputs[0])), flat(builder.output(unit.output)))
        return
    if builder.segment.wide:
        lower_wide(builder, unit, layer, decisions[0])
        return
    residual = None if unit.residual is None else builder.view(unit.residual)
    for decision in decisions:
        x = builder.view(layer.inputs[0]) if decision.plan.packed else builder.planar(layer.inputs[0])
        emit(builder, unit, decision, x, written(builder.output(unit.output), decision.phase), residual)


def lower_wide(builder: Builder, unit: Unit, layer: Conv[Packed] | ConvTranspose[Packed], decision: Decision) -> None:
    """A convolution of images side by side: as one image with long rows, or with one axis of space more."""
    turned = images_last if decision.work.images_last else long_rows
    residual = None if unit.residual is None else turned(builder.planar(unit.residual))
    x, home = turned(builder.planar(layer.inputs[0])), builder.output(unit.output)
    out = home if side_by_side(home) else planes_in_arena(home.shape, builder.groups.of((unit.output, builder.segment)))
    emit(builder, unit, decision, x, volume(turned(out)), residual)
    if out is not home:
        builder.emit(Step("copy", (out,), home, (), reason=f"puts the images of {unit.output} one behind the other"))


def lower_linear(builder: Builder, unit: Unit, layer: Linear[Packed]) -> None:
    """Multiply the last axis by the matrix."""
    lower_product(builder, unit, layer, builder.view(layer.inputs[0]), builder.output(unit.output))


def lower_product(builder: Builder, unit: Unit, layer: Linear[Packed] | Conv[Packed], x: View, out: View) -> None:
    """A convolution over the rows, or a stream of the weights."""
    decisions: list[Decision] = builder.decisions[unit.output]
    for decision in decisions:
        emit(builder, unit, decision, across(x), volume(across(out)))
    if not decisions:
        stream(builder, unit, layer, x, out)


def emit(builder: Builder, unit: Unit, decision: Decision, x: View, out: View, added: View | None = None) -> None:
    """The native step."""
    plan, last, matrix = decision.plan, unit.activation, decision.matrix
    axes = decision.work.axes
    ints = tuple(value for field in ("kernel", "stride", "begin", "dilation") for value in (getattr(axis, field) for axis in axes))
    residual = None if added is None else written(added, decision.phase)
    if plan.winograd:
        x, residual = builder.rows(x), None if residual is None else builder.rows(residual)
    place = f"outputs {', '.join(f'{axis.first}::{axis.stride}' for axis in decision.phase)}: " if decision.phase else ""
    step = Step(
        "conv",
        (volume(x), residual),
        out,
        unit.names,
        kind=int(plan.exact),
        activation=0 if last is None else CONV_ACTIVATIONS.index(last.kind),
        floats=() if last is None else (last.alpha, last.beta),
        kernel=plan.kernel,
        ints=(*ints, plan.vectors, int(plan.packed)),
        blobs=(matrix.start, matrix.columns, matrix.values, decision.bias),
        reason=place + plan.reason,
    )
    builder.emit(step)


def written(view: View, phase: tuple[Phase, ...]) -> View:
    """What a phase computes of a view, or adds of a residual; all of it where there are no phases."""
    return volume(lattice(view, [axis.first for axis in phase], [axis.stride for axis in phase]) if phase else view)
