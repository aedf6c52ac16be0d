"""Whose channels are whose: the runs of channels that a network's values share, so that one order holds wherever they go.

A weight's filters start a run; element-wise layers, pools, batch norms and depthwise convolutions keep it, an addition makes two
runs one, a concatenation puts them in a row. What depends on the order (the network's inputs and outputs, opaque nodes, grouped
convolutions, reshapes other than a flattening) holds it as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rsk_deploy.ir import (
    Activation,
    Affine,
    Binary,
    Concat,
    Conv,
    Dense,
    Graph,
    Layer,
    Linear,
    Opaque,
    Pad,
    Pool,
    PRelu,
    Reduce,
    Reshape,
    Resize,
    Shape,
    Slice,
    Transpose,
    Weighted,
)

Order = NDArray[np.intp]
"""For each place, the channel of the original network that is there."""


@dataclass(frozen=True)
class Place:
    """Where a value has its channels: the axis, the runs in a row, and how many elements in a row each channel is (after a flattening)."""

    axis: int
    runs: tuple[int, ...]
    repeat: int = 1


@dataclass
class Channels:
    """The place of every value that has channels, the length of every run, and why a run's order is held (by its representative)."""

    places: dict[str, Place] = field(default_factory=dict)
    lengths: list[int] = field(default_factory=list)
    held: dict[int, str] = field(default_factory=dict)
    parents: list[int] = field(default_factory=list)

    def run(self, length: int) -> int:
        """A new run."""
        self.lengths.append(length)
        self.parents.append(len(self.parents))
        return len(self.parents) - 1

    def root(self, run: int) -> int:
        """The representative of the runs that are one."""
        while self.parents[run] != run:
            self.parents[run] = self.parents[self.parents[run]]
            run = self.parents[run]
        return run

    def unite(self, a: int, b: int) -> None:
        """Make two runs of equal length one."""
        a, b = self.root(a), self.root(b)
        if a != b:
            self.parents[b] = a
            if b in self.held:
                self.held.setdefault(a, self.held.pop(b))

    def hold(self, value: str, why: str) -> None:
        """Keep the order of a value's channels."""
        if place := self.places.get(value):
            for run in place.runs:
                self.held.setdefault(self.root(run), why)

    def why_held(self, value: str) -> str:
        """Why the order of a value's channels is held; "" if it is free."""
        place = self.places.get(value)
        reasons = [self.held[self.root(run)] for run in place.runs if self.root(run) in self.held] if place else [f"nothing is known of the order of {value}"]
        return reasons[0] if reasons else ""


def channels_of(graph: Graph[Dense]) -> Channels:
    """Follow the channels through a network."""
    found, shapes = Channels(), graph.shapes()
    for entry in graph.inputs:
        if len(shape := shapes[entry.name]) > 1:
            found.places[entry.name] = Place(1, (found.run(shape[1]),))
            found.hold(entry.name, f"the network's input {entry.name} keeps its order")
    for layer in graph.layers:
        if (place := follow(found, layer, shapes)) is not None:
            found.places[layer.outputs[0]] = place
    for name in graph.outputs:
        found.hold(name, f"the network's output {name} keeps its order")
    return found


def follow(found: Channels, layer: Layer, shapes: dict[str, Shape]) -> Place | None:
    """The place of the channels of a layer's output; None, and the inputs held, where the order matters and nothing is known of the output."""
    places = [found.places.get(name) for name in layer.inputs]
    first = places[0] if places else None
    inputs, output = [shapes[name] for name in layer.inputs], shapes[layer.outputs[0]]
    if isinstance(layer, Weighted) and reads_all(layer, first, inputs[0]):
        return Place(len(output) - 1 if isinstance(layer, Linear) else 1, (found.run(layer.filters),))
    if first is not None and keeps(layer, first, inputs[0]):
        return first
    moved = None
    if isinstance(layer, Binary | Concat) and any(places):
        moved = joined(found, layer, places, inputs)
    elif first is not None:
        moved = carried(found, layer, first, inputs[0], output)
    if moved is None:
        kind = layer.op if isinstance(layer, Opaque) else type(layer).__name__
        for name in layer.inputs:
            found.hold(name, f"{layer.name} ({kind}) depends on the order of its channels")
    return moved


def reads_all(layer: Weighted[Dense], place: Place | None, shape: Shape) -> bool:
    """Whether a layer sums over all of its input's channels, and so gives its output's an order of their own."""
    axis = len(shape) - 1 if isinstance(layer, Linear) else 1
    return (place is None or place.axis == axis) and getattr(layer, "groups", 1) == 1


def keeps(layer: Layer, place: Place, shape: Shape) -> bool:
    """Whether the output's channels are the input's, one by one."""
    if isinstance(layer, Conv):
        return layer.groups == layer.filters == shape[1] and place.axis == 1 and place.repeat == 1
    if isinstance(layer, Affine) or (isinstance(layer, PRelu) and layer.slope.size > 1):
        return place.axis == 1
    if isinstance(layer, Pad):
        return not any(layer.pads[place.axis :: len(shape)])
    if isinstance(layer, Slice):
        return layer.axis != place.axis
    return isinstance(layer, Activation | PRelu) or (isinstance(layer, Pool | Resize) and place.axis == 1)


def joined(found: Channels, layer: Binary | Concat, places: Sequence[Place | None], shapes: Sequence[Shape]) -> Place | None:
    """The runs of an addition or its kin, which become one, or of a concatenation, which are put in a row."""
    known = [place for place in places if place is not None]
    axis = known[0].axis
    if isinstance(layer, Concat) and layer.axis == axis and len(known) == len(places) and {(place.axis, place.repeat) for place in known} == {(axis, 1)}:
        return Place(axis, tuple(run for place in known for run in place.runs))
    if len({len(shape) for shape in shapes}) > 1 and not all(np.prod(shape) == 1 for shape in shapes if len(shape) != len(shapes[0])):
        return None
    alike: Place | None = None
    for place, shape in zip(places, shapes, strict=True):
        if len(shape) <= axis or (shape[axis] == 1 and isinstance(layer, Binary)):
            continue
        if place is None or (alike and (place.axis, place.repeat) != (alike.axis, alike.repeat)):
            return None
        if alike and [found.lengths[run] for run in alike.runs] != [found.lengths[run] for run in place.runs]:
            return None
        for a, b in zip(alike.runs, place.runs, strict=True) if alike else ():
            found.unite(a, b)
        alike = alike or place
    return alike


def carried(found: Channels, layer: Layer, place: Place, shape: Shape, output: Shape) -> Place | None:
    """The place after a layer that moves axes or channels as a whole."""
    if isinstance(layer, Transpose):
        return Place(layer.perm.index(place.axis), place.runs, place.repeat)
    if isinstance(layer, Reduce) and place.axis not in layer.axes:
        return Place(place.axis - (0 if layer.keep_axes else sum(axis < place.axis for axis in layer.axes)), place.runs, place.repeat)
    if isinstance(layer, Reshape) and place.axis == 1 and len(output) >= 2 and output[0] == shape[0]:
        if output[1] == shape[1]:
            return place
        if len(output) == 2:
            return Place(1, place.runs, place.repeat * int(np.prod(shape[2:])))
    if isinstance(layer, Slice) and layer.step == 1 and place.repeat == 1:
        ends = np.cumsum([0, *(found.lengths[run] for run in place.runs)]).tolist()
        if layer.start in ends and layer.stop in ends:
            return Place(place.axis, place.runs[ends.index(layer.start) : ends.index(layer.stop)])
    return None


@dataclass(frozen=True)
class Orders:
    """The order chosen for every run of a network."""

    channels: Channels
    chosen: dict[int, Order]

    def of(self, value: str) -> Order | None:
        """The order of a value's elements along its channel axis; None where it is the original one."""
        place = self.channels.places.get(value)
        if place is None or not any(self.channels.root(run) in self.chosen for run in place.runs):
            return None
        starts = np.cumsum([0, *(self.channels.lengths[run] for run in place.runs)])
        rows = [start + self.chosen.get(self.channels.root(run), np.arange(self.channels.lengths[run])) for start, run in zip(starts, place.runs, strict=False)]
        order: Order = (np.concatenate(rows)[:, None] * place.repeat + np.arange(place.repeat)).ravel()
        return order


def sorted_by(channels: Channels, wishes: Sequence[tuple[str, NDArray[np.intp]]]) -> Orders:
    """Orders in which channels of one class are neighbours, for (value, class of each channel), the most important wish first.

    Where two wishes meet, the later sorts within the classes of the earlier.
    """
    keys: dict[int, list[NDArray[np.intp]]] = {}
    for value, labels in wishes:
        runs = channels.places[value].runs if value in channels.places else ()
        starts = np.cumsum([0, *(channels.lengths[run] for run in runs)])
        for start, run in zip(starts, runs, strict=False):
            if (root := channels.root(run)) not in channels.held:
                keys.setdefault(root, []).append(labels[start : start + channels.lengths[run]])
    orders = {root: np.lexsort(rows[::-1]) for root, rows in keys.items()}
    return Orders(channels, {root: order for root, order in orders.items() if (np.diff(order) < 0).any()})
