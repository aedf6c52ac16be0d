"""Graph[Packed] → a program for one batch size: fused steps, buffers by liveness, a kernel and a reason for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from math import prod

from rsk_deploy.errors import UnsupportedError, about
from rsk_deploy.ir import Concat, Constant, Graph, Layer, Opaque, Packed, Reshape, Slice, Transpose
from rsk_deploy.runtime.build import Builder, Slot
from rsk_deploy.runtime.choose import choose
from rsk_deploy.runtime.convolutions import Choice, decide, near, require
from rsk_deploy.runtime.fuse import Unit, fused
from rsk_deploy.runtime.layout import Groups, plain
from rsk_deploy.runtime.lower import LOWERINGS
from rsk_deploy.runtime.records import Buffer, Program
from rsk_deploy.runtime.schedule import Scheduler, scheduled
from rsk_deploy.runtime.segments import Places, places

VIEWS = (Constant, Reshape, Slice, Transpose)
"""Layers whose output is another view of what is there already."""


def check(graph: Graph[Packed]) -> None:
    """Refuse what the runtime has no step for."""
    for layer in graph.layers:
        if isinstance(layer, Opaque):
            place = f" (from {layer.origin})" if layer.origin else ""
            raise UnsupportedError(f"{layer.name}: the runtime cannot execute the ONNX operation {layer.op}{place}; only the ONNX export carries it")
        if type(layer) not in LOWERINGS:
            raise UnsupportedError(f"{layer.name}: the runtime has no step for {type(layer).__name__}")
    for entry in graph.inputs:
        if entry.dtype != "float32":
            raise UnsupportedError(f"input {entry.name!r} is {entry.dtype}; the runtime computes in float32 and takes float32 inputs alone")


def planned(
    graph: Graph[Packed], batch: int, kernels: Sequence[str], exact: bool = False, choice: Choice | None = None, schedule: Scheduler = scheduled
) -> Program:
    """The program that runs ``graph`` at one batch size on a machine with these kernels, best first; ``choice`` picks among them, else the model of cost."""
    check(graph)
    choice = choice or partial(choose, kernels=kernels, exact=exact)
    shapes = graph.shapes(batch)
    units = fused(graph, shapes)
    at_hand = near(units)
    whole, segments = schedule(units, shapes, [entry.name for entry in graph.inputs], kernels, exact)
    live = places(shapes, graph.outputs, units, segments, whole)
    callers = {*(entry.name for entry in graph.inputs), *graph.outputs}
    decisions = {
        unit.output: decide(
            unit,
            live.shape(unit.layer.inputs[0], segment),
            live.shape(unit.output, segment),
            lambda work: choice(replace(work, near=at_hand)),
            segment.wide,
            callers,
        )
        for unit, segment in zip(units, segments, strict=True)
        if unit.layer.inputs
    }
    groups = Groups()
    slots = slots_of(graph, units, live)
    for name, slot in slots.items():
        groups.join((slot.whole, live.home[name]), (name, live.home[name]))
    for unit, segment in zip(units, segments, strict=True):
        for decision in decisions.get(unit.output, []):
            require(groups, unit, decision, live, segment)
    outputs = {name: index for index, name in reversed(list(enumerate(graph.outputs)))}
    builder = Builder(live, whole, groups, slots, outputs, decisions)
    for index, entry in enumerate(graph.inputs):
        builder.views[entry.name] = plain(Buffer("input", prod(shapes[entry.name]), index), shapes[entry.name])
    for unit, builder.segment in zip(units, segments, strict=True):
        with about(unit.layer.name):
            LOWERINGS[type(unit.layer)](builder, unit, unit.layer)
    return builder.finish([entry.name for entry in graph.inputs], graph.outputs)


def slots_of(graph: Graph[Packed], units: Sequence[Unit], live: Places) -> dict[str, Slot]:
    """The values that are computed straight into the concatenation that reads them: by one step, for one such reader."""
    made = {unit.output for unit in units if not isinstance(unit.layer, VIEWS)}
    slots: dict[str, Slot] = {}
    for layer in joins(graph.layers):
        first = 0
        for name in layer.inputs:
            alone = name in made and name not in slots and name not in graph.outputs and layer.inputs.count(name) == 1
            if alone and live.home[name] is live.home[layer.outputs[0]]:
                slots[name] = Slot(layer.outputs[0], first)
            first += live.shapes[name][1]
    return slots


def joins(layers: Sequence[Layer]) -> list[Concat]:
    """The concatenations of channels."""
    return [layer for layer in layers if isinstance(layer, Concat) and layer.axis == 1]
