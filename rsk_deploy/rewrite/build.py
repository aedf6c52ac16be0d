"""The layers that compute a structured convolution: slices of its input, dense convolutions, and their sum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from rsk_deploy.ir import Binary, Concat, Conv, Dense, FloatArray, Layer, Shape, Slice
from rsk_deploy.rewrite.blocks import Blocks
from rsk_deploy.rewrite.channels import Order
from rsk_deploy.rewrite.terms import Term

RUNS_PER_CLASS = 4
"""A value is not cut into more runs of channels than this for each class: channels that are scattered would take a gather."""


class Arrange(Enum):
    """Which side of the grouped convolutions is put into another order: the channels they read, or those they give."""

    INPUTS = "inputs"
    OUTPUTS = "outputs"


@dataclass
class Builder:
    """Layers for one convolution, with slices and joins that several terms share made once."""

    layer: Conv[Dense]
    shape: Shape
    layers: list[Layer] = field(default_factory=list)
    made: dict[tuple[object, ...], str] = field(default_factory=dict)

    def add(self, kind: str, key: tuple[object, ...], make: Layer) -> str:
        """Append a layer under a name of its own, unless the same was made before; the value it computes."""
        if key not in self.made:
            name = f"{self.layer.name}.{kind}{sum(part.name.startswith(f'{self.layer.name}.{kind}') for part in self.layers) + 1}"
            self.layers.append(replace(make, name=name, outputs=(name,)))
            self.made[key] = name
        return self.made[key]

    def cut(self, value: str, axis: int, start: int, stop: int) -> str:
        """Part of a value along one axis."""
        return self.add(
            "slice", (value, axis, start, stop), Slice(name="", inputs=(value,), outputs=("",), origin=self.layer.origin, axis=axis, start=start, stop=stop)
        )

    def join(self, values: Sequence[str]) -> str:
        """Values in a row along the channels."""
        if len(values) == 1:
            return values[0]
        return self.add("concat", tuple(values), Concat(name="", inputs=tuple(values), outputs=("",), origin=self.layer.origin, axis=1))

    def take(self, value: str, order: Order, count: int, classes: int) -> str | None:
        """The channels, of so many classes, of a value of ``count`` channels in that order; None where they are scattered."""
        if order.size == count and (order == np.arange(count)).all():
            return value
        runs = np.split(order, np.flatnonzero(np.diff(order) != 1) + 1)
        if len(runs) > RUNS_PER_CLASS * classes:
            return None
        return self.join([self.cut(value, 1, int(run[0]), int(run[-1]) + 1) for run in runs])

    def add_up(self, values: Sequence[str]) -> str:
        """The sum of values, the first two first."""
        total, *rest = values
        for value in rest:
            total = self.add("sum", (total, value), Binary(name="", inputs=(total, value), outputs=("",), origin=self.layer.origin, kind="add"))
        return total

    def convolve(self, value: str, term: Term, weight: FloatArray, bias: FloatArray | None) -> str | None:
        """The convolution of one term; None where it would see nothing but pads."""
        layer, rectangle, rank = self.layer, term.rectangle, len(self.shape) - 2
        pads = list(layer.pads)
        for axis in range(rank):
            dilation, kernel = layer.dilation[axis], layer.weight.shape[2 + axis]
            pads[axis] -= rectangle.start[axis] * dilation
            pads[axis + rank] -= (kernel - 1 - rectangle.stop[axis]) * dilation
            size, cropped = self.shape[2 + axis], (max(0, -pads[axis]), max(0, -pads[axis + rank]))
            if sum(cropped) >= size:
                return None
            if any(cropped):
                value = self.cut(value, 2 + axis, cropped[0], size - cropped[1])
        conv = replace(
            layer,
            inputs=(value,),
            weight=Dense(weight),
            bias=bias,
            pads=tuple(max(0, pad) for pad in pads),
            dilation=tuple(step * dilation for step, dilation in zip(rectangle.step, layer.dilation, strict=True)),
            groups=len(term.groups),
        )
        return self.add("part", (value, term), conv)


def built(layer: Conv[Dense], shape: Shape, blocks: Blocks, terms: Sequence[Term], arrange: Arrange, addition: Binary | None) -> tuple[Layer, ...] | None:
    """Layers that compute the convolution, from its input of that shape to its output; None where that takes too many slices.

    ``layer`` and ``blocks`` are in the order that the channels have. With ``addition``, the layer's only reader, they compute its sum.
    """
    builder, bias, parts = Builder(layer, shape), layer.bias, dict[bytes, tuple[Order, list[str]]]()
    for term in terms:
        rows, columns = channels_of(term, blocks, arrange)
        order = np.concatenate(rows)
        value = builder.take(layer.inputs[0], np.concatenate(columns), shape[1], sum(len(group[1]) for group in term.groups))
        if value is None:
            return None
        kernels = [weights_of(layer.weight.values, term, blocks, *group) for group in zip(rows, columns, strict=True)]
        result = builder.convolve(value, term, np.concatenate(kernels), None if bias is None else bias[order])
        if result is not None:
            parts.setdefault(order.tobytes(), (order, []))[1].append(result)
            bias = None
    total = [name for name in addition.inputs if name != layer.outputs[0]] if addition else []
    for order, values in sorted(parts.values(), key=lambda part: ascending(part[0])):
        if ascending(order):
            total += values  # added one by one to what comes before: runtimes fuse each of these additions into its convolution
        elif (value := builder.take(builder.add_up(values), np.argsort(order), layer.filters, len(set(blocks.outputs.tolist())))) is not None:
            total.append(value)
        else:
            return None
    if not parts:
        return None
    last, end = builder.add_up(total), addition or layer
    return tuple(replace(made, name=end.name, outputs=end.outputs) if made.name == last else made for made in builder.layers)


def ascending(order: Order) -> bool:
    """Whether channels are in order."""
    return bool((np.diff(order) > 0).all())


def channels_of(term: Term, blocks: Blocks, arrange: Arrange) -> tuple[list[Order], list[Order]]:
    """The outputs and the inputs of each group, the groups by their first channel on the side that stays in order."""
    groups = [(members(blocks.outputs, rows), members(blocks.inputs, columns)) for rows, columns in term.groups]
    groups.sort(key=lambda group: int(group[arrange is Arrange.OUTPUTS][0]))
    return [rows for rows, _ in groups], [columns for _, columns in groups]


def members(labels: NDArray[np.intp], classes: Sequence[int]) -> Order:
    """The channels of some classes, ascending."""
    return np.flatnonzero(np.isin(labels, classes))


def weights_of(weight: FloatArray, term: Term, blocks: Blocks, rows: Order, columns: Order) -> FloatArray:
    """The weights of one group, zero where a pair of classes does not use the rectangle."""
    values = weight[np.ix_(rows, columns)][(slice(None), slice(None), *term.rectangle.slices)]
    used = term.used[np.ix_(blocks.outputs[rows], blocks.inputs[columns])]
    return values if used.all() else np.where(used.reshape(used.shape + (1,) * (values.ndim - 2)), values, np.float32(0))
