"""What runs as one step: a convolution, a linear layer or a scaling with the residual it is added to and the activation behind it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from rsk_deploy.ir import Activation, Affine, Binary, Conv, ConvTranspose, Graph, Layer, Linear, Pool, Reshape, Shape

CONV_ACTIVATIONS = ("identity", "relu", "clip", "leaky-relu", "hard-swish", "silu", "sigmoid")
"""What a convolution can end with, in the order of ``Activation`` in native/conv.h."""


@dataclass(frozen=True, eq=False)
class Unit:
    """One layer, and those that run with it: ``residual`` is a value added to it, ``activation`` the function applied last."""

    layer: Layer
    output: str
    residual: str | None = None
    activation: Activation | None = None
    names: tuple[str, ...] = ()


@dataclass
class _Chains:
    """What can still join the layers seen so far."""

    graph: Graph[Any]

    def __post_init__(self) -> None:
        self.uses = Counter(name for layer in self.graph.layers for name in layer.inputs) + Counter(self.graph.outputs)
        self.unit_of: dict[str, int] = {}
        self.units: list[Unit | None] = []

    def add(self, unit: Unit) -> None:
        self.unit_of[unit.output] = len(self.units)
        self.units.append(unit)

    def open_end(self, name: str) -> Unit | None:
        """The unit that computes the value, if nobody else reads it."""
        number = self.unit_of.get(name)
        return None if number is None or self.uses[name] != 1 else self.units[number]

    def extend(self, name: str, unit: Unit) -> None:
        """Replace the unit that computes ``name``: it runs here, where all that it reads is known."""
        self.units[self.unit_of.pop(name)] = None
        self.add(unit)


def fused(graph: Graph[Any], shapes: dict[str, Shape]) -> list[Unit]:
    """The units of a graph, in an order in which they can run."""
    chains = _Chains(graph)
    for layer in map(without_work, graph.layers):
        unit = with_activation(chains, layer) or with_residual(chains, layer, shapes)
        if unit is None:
            chains.add(Unit(layer, layer.outputs[0] if layer.outputs else "", names=(layer.name,)))
    return [unit for unit in chains.units if unit is not None]


def without_work(layer: Layer) -> Layer:
    """The layer; a pooling of single elements is another name for what it reads."""
    if isinstance(layer, Pool) and all(size == 1 for size in (*layer.kernel, *layer.stride)) and not any(layer.pads):
        return Reshape(name=layer.name, inputs=layer.inputs, outputs=layer.outputs, target=(-1,))
    return layer


def with_activation(chains: _Chains, layer: Layer) -> Unit | None:
    """Let an activation join what it is applied to."""
    if not isinstance(layer, Activation):
        return None
    before = chains.open_end(layer.inputs[0])
    if before is None or before.activation is not None:
        return None
    if not (isinstance(before.layer, Affine | Linear) or (isinstance(before.layer, Conv | ConvTranspose) and layer.kind in CONV_ACTIVATIONS)):
        return None
    unit = Unit(before.layer, layer.outputs[0], before.residual, layer, (*before.names, layer.name))
    chains.extend(layer.inputs[0], unit)
    return unit


def with_residual(chains: _Chains, layer: Layer, shapes: dict[str, Shape]) -> Unit | None:
    """Let an addition join the later of the convolutions that it adds."""
    if not isinstance(layer, Binary) or layer.kind != "add" or layer.inputs[0] == layer.inputs[1]:
        return None
    ends = [(chains.unit_of.get(name, -1), name, other) for name, other in (layer.inputs, layer.inputs[::-1]) if shapes[name] == shapes[other]]
    for _, name, other in sorted(ends, reverse=True):
        before = chains.open_end(name)
        if before is not None and isinstance(before.layer, Conv | ConvTranspose) and before.residual is None and before.activation is None:
            unit = Unit(before.layer, layer.outputs[0], other, None, (*before.names, layer.name))
            chains.extend(name, unit)
            return unit
    return None
