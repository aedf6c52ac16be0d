"""A plan under construction: where each value lives so far, and the steps that compute them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsk_deploy.ir import Shape
from rsk_deploy.runtime.arena import place
from rsk_deploy.runtime.layout import Groups, broadcast, channels, plain, plain_in_arena, planes_in_arena
from rsk_deploy.runtime.records import Buffer, Program, Step, View


@dataclass(frozen=True)
class Slot:
    """A value's place in the concatenation that joins it: from channel ``first`` of ``whole``."""

    whole: str
    first: int


@dataclass
class Builder:
    """Collects steps. ``slots`` are values written straight into a concatenation, ``direct`` outputs written to the caller's arrays."""

    shapes: Mapping[str, Shape]
    groups: Groups
    slots: Mapping[str, Slot]
    direct: Mapping[str, int]
    decisions: Mapping[str, Any]
    steps: list[Step] = field(default_factory=list)
    views: dict[str, View] = field(default_factory=dict)
    homes: set[str] = field(default_factory=set)
    copies: dict[str, View] = field(default_factory=dict)
    constants: list[NDArray[np.float32]] = field(default_factory=list)
    constant_floats: int = 0

    def emit(self, step: Step) -> None:
        """Add a step, and let the buffers it touches live."""
        number = len(self.steps)
        for view in (*step.inputs, step.output):
            if view is not None:
                view.buffer.born = number if view.buffer.born < 0 else view.buffer.born
                view.buffer.dies = number
        self.steps.append(step)

    def output(self, name: str) -> View:
        """Where the step that computes ``name`` writes it."""
        if name not in self.views:
            self.views[name] = self._home(name)
            self.homes.add(name)
        return self.views[name]

    def _home(self, name: str) -> View:
        shape = self.shapes[name]
        if name in self.slots:
            slot = self.slots[name]
            return channels(self.output(slot.whole), slot.first, shape[1])
        needs = self.groups.of(name)
        if needs.planar and len(shape) in (3, 4):
            return planes_in_arena(shape, needs)
        if name in self.direct:
            return plain(Buffer("output", int(np.prod(shape)), self.direct[name]), shape)
        return plain_in_arena(shape)

    def planar(self, name: str) -> View:
        """The value in planes with the halo of its group, copied if it lives otherwise or is part of another's planes."""
        view = self.views[name]
        if view.buffer.planar and name in self.homes:
            return view
        if name not in self.copies:
            self.copies[name] = planes_in_arena(self.shapes[name], self.groups.of(name))
            self.emit(Step("copy", (view,), self.copies[name], (), reason=f"puts zeros around the planes of {name}"))
        return self.copies[name]

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
        for index, name in enumerate(outputs):
            buffer = self.views[name].buffer
            if (buffer.space, buffer.index) != ("output", index):  # a reshaped output lies in that of its operand
                home = plain(Buffer("output", int(np.prod(self.shapes[name])), index), self.shapes[name])
                self.emit(Step("copy", (self.views[name],), home, (), reason=f"hands out {name}"))
        constants = np.concatenate(self.constants) if self.constants else np.zeros(0, np.float32)
        input_floats, output_floats = ([int(np.prod(self.shapes[name])) for name in names] for names in (inputs, outputs))
        return Program(self.steps, input_floats, output_floats, constants, place(self.steps))
