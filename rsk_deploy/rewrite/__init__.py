"""Structured convolutions as ordinary dense ones: exact, with fewer multiplications, for runtimes that know no sparse kernels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from math import prod

import numpy as np

from rsk_deploy.ir import Binary, Conv, Dense, Graph, Layer, LogEntry, Shape
from rsk_deploy.ir.graph import with_options
from rsk_deploy.registry import known
from rsk_deploy.rewrite.blocks import Blocks, found
from rsk_deploy.rewrite.build import Arrange, built
from rsk_deploy.rewrite.channels import Channels, Orders, channels_of, sorted_by
from rsk_deploy.rewrite.costs import DEFAULTS, TARGETS, Costs
from rsk_deploy.rewrite.permute import permuted, weighted
from rsk_deploy.rewrite.record import Record, record_of
from rsk_deploy.rewrite.terms import Term, share, terms

__all__ = ["ALWAYS", "AUTO", "MODES", "TARGETS", "lower", "lower_for", "record_of"]

AUTO, NONE, ALWAYS = "auto", "none", "always"
MODES = (AUTO, NONE, ALWAYS)
WORTH = 0.95
"""A rewrite that is estimated to take more than this share of the time is left."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A convolution with a structure, and the terms that it is a sum of."""

    layer: Conv[Dense]
    blocks: Blocks
    terms: tuple[Term, ...]


def lower(graph: Graph[Dense], target: str, how: str = AUTO) -> Graph[Dense]:
    """The network with structured convolutions as sums of smaller dense ones, for the runtime ``target`` of TARGETS.

    ``how`` is auto (where the costs of the target say it pays), always (where it is possible) or none. Exact: every nonzero weight
    is in one convolution, bit for bit; only the order of additions changes. Channels are put into the order of their classes, all
    through the network, except where that order matters. The log tells of every layer that has a structure what was done or why not.
    """
    costs = TARGETS[known(dict.fromkeys(TARGETS, ""), target, "runtime to lower for")]
    if known(dict.fromkeys(MODES, ""), how, "way to lower") == NONE:
        return graph
    searched = {layer.name: candidate(layer) for layer in graph.layers if isinstance(layer, Conv)}
    refused = {name: found for name, found in searched.items() if isinstance(found, str) and found}
    left = {name: found for name, found in searched.items() if isinstance(found, Candidate)}
    shapes = graph.shapes()
    names = {*shapes, *(layer.name for layer in graph.layers)}
    work = Work(names, shapes, channels_of(graph), additions(graph), costs, np.inf if how == ALWAYS else WORTH)
    while True:
        orders = work.orders(left.values())
        results = {name: work.attempt(found, orders) for name, found in left.items()}
        failed = {name: result for name, result in results.items() if isinstance(result, str)}
        if not failed:
            break
        refused |= failed
        left = {name: found for name, found in left.items() if name not in failed}
    lowered = {name: result for name, result in results.items() if not isinstance(result, str)}
    if not lowered and not refused:
        return graph
    return assembled(graph, orders, lowered, work.additions, refused, target)


def lower_for(graph: Graph[Dense], format: str, how: str = AUTO) -> Graph[Dense]:
    """The network lowered as ``--lower`` asks for a file of that format: auto, none or always, for the format's usual runtime, or auto for the one named.

    Where a format's runtime executes nonzeros, auto leaves the network as it is.
    """
    known(dict.fromkeys((*MODES, *TARGETS), ""), how, "way to lower")
    target = how if how in TARGETS else DEFAULTS.get(format, "onnx")
    if how == AUTO and TARGETS[target].nonzeros:
        return graph
    return lower(graph, target, AUTO if how in TARGETS else how)


def candidate(layer: Conv[Dense]) -> Candidate | str:
    """The convolution as a sum of terms; or why it is not one ("" where it is just dense)."""
    blocks = found(layer)
    if isinstance(blocks, str):
        return blocks
    parts = terms(blocks)
    if share(blocks, parts) < 1:
        return Candidate(layer, blocks, parts)
    for what, labels in (("outputs", blocks.outputs), ("input channels", blocks.inputs)):
        sizes = np.bincount(labels)
        if len({*sizes.tolist()}) > 1:
            return f"its {len(sizes)} classes do not divide the {len(labels)} {what}"
    return "as dense convolutions it would take no fewer multiplications"


@dataclass(frozen=True)
class Work:
    """What a candidate is judged by. ``limit`` is the largest share of the dense convolution's time."""

    names: set[str]
    shapes: dict[str, Shape]
    channels: Channels
    additions: dict[str, Binary]
    costs: Costs
    limit: float

    def orders(self, candidates: Iterable[Candidate]) -> Orders:
        """The order of all channels, as those candidates wish that save most multiplications."""
        ranked = sorted(candidates, key=lambda found: -(1 - share(found.blocks, found.terms)) * multiplications([found.layer], self.shapes))
        wishes = [(found.layer.inputs[0], found.blocks.inputs) for found in ranked] + [(found.layer.outputs[0], found.blocks.outputs) for found in ranked]
        return sorted_by(self.channels, wishes)

    def attempt(self, found: Candidate, orders: Orders) -> tuple[Layer, ...] | str:
        """The layers that replace a convolution; or why it stays."""
        layer, shape = found.layer, self.shapes[found.layer.inputs[0]]
        before, after = orders.of(layer.inputs[0]), orders.of(layer.outputs[0])
        moved = weighted(layer, before, after)
        inputs, outputs = (labels if order is None else labels[order] for labels, order in ((found.blocks.inputs, before), (found.blocks.outputs, after)))
        blocks = replace(found.blocks, inputs=inputs, outputs=outputs)
        addition = self.additions.get(layer.name)
        options = {arrange: layers for arrange in Arrange if (layers := built(moved, shape, blocks, found.terms, arrange, addition))}
        if not options:
            why = self.channels.why_held(layer.inputs[0]) or self.channels.why_held(layer.outputs[0])
            return f"its classes of channels are too many separate runs: {why or 'other layers sort them otherwise'}"
        costs = {
            arrange: self.costs.of(layers, self.shapes) * (self.costs.exchange if arrange is Arrange.OUTPUTS else 1) for arrange, layers in options.items()
        }
        best = min(costs, key=costs.__getitem__)
        ratio = costs[best] / self.costs.of([layer, addition] if addition else [layer], self.shapes)
        if taken := {part.name for part in options[best]} & self.names - {layer.name, addition.name if addition else ""}:
            return f"one of its parts would be called {min(taken)!r}, as another layer or value is"
        if ratio > self.limit:
            return f"the sum of {len(found.terms)} convolutions is estimated to take {ratio:.2f} of the time"
        return options[best]


def multiplications(layers: Iterable[Layer], shapes: dict[str, Shape]) -> int:
    """Multiplications of the convolutions among layers, zeros included, given the shapes of what the others compute."""
    return sum(prod(layer.weight.shape) * prod(shapes[layer.outputs[0]][2:]) for layer in layers if isinstance(layer, Conv))


def additions(graph: Graph[Dense]) -> dict[str, Binary]:
    """The addition that alone reads a convolution, by the convolution's name; one convolution for each."""
    readers: dict[str, list[Layer]] = {}
    for layer in graph.layers:
        for name in layer.inputs:
            readers.setdefault(name, []).append(layer)
    shapes, found = graph.shapes(), dict[str, Binary]()
    for layer in graph.layers:
        match readers.get(layer.outputs[0]), layer:
            case [Binary(kind="add") as reader], Conv() if layer.outputs[0] not in graph.outputs and {shapes[name] for name in reader.inputs} == {
                shapes[layer.outputs[0]]
            }:
                found = {name: other for name, other in found.items() if other is not reader} | {layer.name: reader}
    return found


def assembled(
    graph: Graph[Dense], orders: Orders, lowered: Mapping[str, tuple[Layer, ...]], sums: Mapping[str, Binary], refused: Mapping[str, str], target: str
) -> Graph[Dense]:
    """The network with the lowered layers in their places, all others in the new order of channels, and the log and the record of it."""
    places = {sums[name].name if name in sums else name: parts for name, parts in lowered.items()}
    layers = [
        part for layer in graph.layers if layer.name not in lowered or layer.name in places for part in places.get(layer.name, (permuted(layer, orders),))
    ]
    result = graph.with_layers(tuple(layers))
    before, after = graph.shapes(), result.shapes()
    log = []
    for layer in graph.layers:
        if parts := lowered.get(layer.name):
            counts = Counter(filter(None, map(described, parts)))
            fewer = f"{multiplications([layer], before) / 1e6:.4g} M multiplications become {multiplications(parts, after) / 1e6:.4g} M"
            log.append(LogEntry(layer.name, "lowered", f"{' + '.join(f'{count} x {what}' for what, count in counts.items())}: {fewer}"))
        elif layer.name in refused:
            log.append(LogEntry(layer.name, "not lowered", refused[layer.name]))
    record = Record(
        runtime=target,
        layers=len(lowered),
        convolutions=sum(isinstance(layer, Conv) for layer in graph.layers),
        multiplications=multiplications(result.layers, after),
        dense_multiplications=multiplications(graph.layers, before),
        weights=weights(result),
        dense_weights=weights(graph),
    )
    return replace(result, log=graph.log + tuple(log), meta=with_options(graph.meta, lower=asdict(record)) if lowered else graph.meta)


def weights(graph: Graph[Dense]) -> int:
    """How many weights a network has, zeros included."""
    return sum(prod(layer.weight.shape) for layer in graph.weighted())


def described(layer: Layer) -> str:
    """A convolution in a word: ``2x2 in 4 groups``; "" for other layers."""
    if not isinstance(layer, Conv):
        return ""
    dilated = "" if set(layer.dilation) == {1} else f" dilated {'x'.join(map(str, layer.dilation))}"
    return "x".join(map(str, layer.weight.shape[2:])) + dilated + (f" in {layer.groups} groups" if layer.groups > 1 else "")
