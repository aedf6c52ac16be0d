"""A plan under construction: where each value lives so far, and the steps that compute them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsk_deploy.ir import Shape
from rsk_deploy.runtime.arena import place
from rsk_deploy.runtime.layout import Groups, broadcast, channels, permuted, plain, plain_in_arena, planes_in_arena
from rsk_deploy.runtime.records import Buffer, Program, Step, View
from rsk_deploy.runtime.segments import Key, Places, Segment, portion


@dataclass(frozen=True)
class Slot:
    """A value's place in the concatenation that joins it: from channel ``first`` of ``whole``."""

    whole: str
    first: int


def in_order(step: Step) -> Step:
    """An element-wise step with the axes in the order in which its output lies."""
    if step.op not in ("unary", "binary", "scale", "copy"):
        return step
    order = sorted(range(len(step.output.shape)), key=lambda axis: -step.output.strides[axis])
    inputs = tuple(None if view is None else permuted(view, order) for view in step.inputs)
    return replace(step, inputs=inputs, output=permuted(step.output, order))


@dataclass
class Builder:
    """Collects the steps of one ``segment`` after the other. ``slots`` are values written straight into a concatenation, ``direct`` outputs
    written to the caller's arrays; ``views`` are the values as they live, ``homes`` those that a step writes.
    """

    places: Places
    segment: Segment
    groups: Groups
    slots: Mapping[str, Slot]
    direct: Mapping[str, int]
    decisions: Mapping[str, Any]
    steps: list[Step] = field(default_factory=list)
    views: dict[str, View] = field(default_factory=dict)
    homes: set[str] = field(default_factory=set)
    copies: dict[Key, View] = field(default_factory=dict)
    constants: list[NDArray[np.float32]] = field(default_factory=list)
    constant_floats: int = 0

    def emit(self, step: Step) -> None:
        """Add a step, and let the buffers it touches live."""
        number = len(self.steps)
        for view in (*step.inputs, step.output):
            if view is not None:
                view.buffer.born = number if view.buffer.born < 0 else view.buffer.born
                view.buffer.dies = number
        self.steps.append(replace(in_order(step), loop=self.segment.number, turns=self.segment.turns))

    def shape(self, name: str) -> Shape:
        """What a turn sees of a value, as a shape."""
        return self.places.shape(name, self.segment)

    def view(self, name: str) -> View:
        """What a turn sees of a value."""
        return self.views[name] if self.places.home[name] is self.segment else portion(self.views[name], self.segment)

    def output(self, name: str) -> View:
        """Where the step that computes ``name`` writes it."""
        self._settle(name)
        return self.view(name)

    def _settle(self, name: str) -> View:
        if name not in self.views:
            self.views[name] = self._home(name)
            self.homes.add(name)
        return self.views[name]

    def _home(self, name: str) -> View:
        home = self.places.home[name]
        shape = self.places.shape(name, home)
        if name in self.slots:
            slot = self.slots[name]
            return channels(self._settle(slot.whole), slot.first, shape[1])
        needs = self.groups.of((name, home))
        if needs.planar and len(shape) in (3, 4):
            return planes_in_arena(shape, needs)
        if name in self.direct:
            return plain(Buffer("output", prod(shape), self.direct[name]), shape)
        return plain_in_arena(shape)

    def planar(self, name: str) -> View:
        """The value in planes with the halo of its group, copied if it lives otherwise or is part of another's planes."""
        view, key = self.view(name), self.places.key(name, self.segment)
        if view.buffer.planar and name in self.homes and self.places.home[name] is key[1]:
            return view
        copied = name, self.segment
        if copied not in self.copies:
            self.copies[copied] = planes_in_arena(self.shape(name), self.groups.of(key))
            how = f"puts {self.segment.images} images of {name} side by side" if self.segment.wide else f"puts zeros around the planes of {name}"
            self.emit(Step("copy", (view,), self.copies[copied], (), reason=how))
        return self.copies[copied]

    def contiguous(self, view: View, layers: tuple[str, ...]) -> View:
        """The view, copied if its elements do not lie one behind the other."""
        if view.contiguous:
            return view
        copy = plain_in_arena(view.shape)
        self.emit(Step("copy", (view,), copy, layers, reason="puts the elements one behind the other"))
        return copy

    def rows(self, view: View) -> View:
        """The view, copied if the elements of its last axis do not lie one behind the other."""
        return view if view.strides[-1] == 1 or view.shape[-1] == 1 else self.contiguous(view, ())

    def constant(self, values: NDArray[Any]) -> View:
        """Values that no run changes."""
        array = np.ascontiguousarray(values, np.float32).reshape(-1)
        room = np.zeros(-(-array.size // 16) * 16, np.float32)
        room[: array.size] = array
        buffer = Buffer("constant", array.size, start=self.constant_floats)
        self.constants.append(room)
        self.constant_floats += room.size
        return plain(buffer, values.shape)

    def constant_like(self, values: NDArray[Any], shape: Shape) -> View:
        """Values repeated to a shape."""
        return broadcast(self.constant(values), shape)

    def finish(self, inputs: Sequence[str], outputs: Sequence[str]) -> Program:
        """Copy the outputs that live elsewhere, place all buffers."""
        self.segment = self.places.whole
        for index, name in enumerate(outputs):
            buffer = self.views[name].buffer
            if (buffer.space, buffer.index) != ("output", index):  # a reshaped output lies in that of its operand
                home = plain(Buffer("output", prod(self.places.shapes[name]), index), self.places.shapes[name])
                self.emit(Step("copy", (self.views[name],), home, (), reason=f"hands out {name}"))
        constants = np.concatenate(self.constants) if self.constants else np.zeros(0, np.float32)
        input_floats, output_floats = ([prod(self.places.shapes[name]) for name in names] for names in (inputs, outputs))
        return Program(self.steps, input_floats, output_floats, constants, place(self.steps))
