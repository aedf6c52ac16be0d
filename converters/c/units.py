"""What runs as one call: a convolution or matrix with the value that is added to it and the activation behind it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from rsk_deploy.ir import Activation, Binary, Conv, ConvTranspose, Graph, Layer, Linear, Packed, Shape


@dataclass(frozen=True, eq=False)
class Unit:
    """A layer; ``residual`` names a value of its output's shape that is added, ``activation`` is applied last, ``output`` is what it computes."""

    layer: Layer
    output: str
    residual: str | None = None
    activation: Activation | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """All values read."""
        return self.layer.inputs + ((self.residual,) if self.residual else ())


def units(graph: Graph[Packed], shapes: dict[str, Shape]) -> list[Unit]:
    """The calls of a graph in an order in which they can run."""
    uses = Counter(name for layer in graph.layers for name in layer.inputs) + Counter(graph.outputs)
    result: list[Unit] = []
    for layer in graph.layers:
        unit = _joined(layer, result, uses, shapes)
        if unit is None:
            unit = Unit(layer, layer.outputs[0])
        result.append(unit)
    return result


def _joined(layer: Layer, done: list[Unit], uses: Counter[str], shapes: dict[str, Shape]) -> Unit | None:
    """The unit that ``layer`` completes, taken out of ``done``: it runs here, where all that it reads is known."""
    for name in reversed(layer.inputs):
        before = next((unit for unit in reversed(done) if unit.output == name), None)
        if before is None or uses[name] != 1 or before.activation or not isinstance(before.layer, Conv | ConvTranspose | Linear):
            continue
        unit = None
        if isinstance(layer, Activation):
            unit = replace(before, output=layer.outputs[0], activation=layer)
        elif isinstance(layer, Binary) and layer.kind == "add" and not isinstance(before.layer, Linear) and before.residual is None:
            other = layer.inputs[0] if name == layer.inputs[1] else layer.inputs[1]
            if shapes[other] == shapes[name] and other != name:
                unit = replace(before, output=layer.outputs[0], residual=other)
        if unit is not None:
            done.remove(before)
            return unit
    return None
