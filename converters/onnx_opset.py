"""Which version of ai.onnx a file declares: the lowest usual one in which everything in it means what it says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rsk_deploy.converters.onnx_layers import least_opset
from rsk_deploy.errors import UnsupportedError, UsageError
from rsk_deploy.ir import Graph, Layer, Opaque, Packed, Shape

LOWEST, USUAL, HIGHEST = 13, 17, 26
"""17 is read by every current runtime and has layer norm; 26 is the highest that onnxruntime 1.31 accepts."""


def choose_opset(graph: Graph[Packed], asked: int | None) -> int:
    """``asked`` if the network can be written in it; by default 17, or the nearest above or below that can hold every layer."""
    from onnx.defs import onnx_opset_version

    known = range(LOWEST, min(HIGHEST, onnx_opset_version()) + 1)
    allowed = list(known)
    if asked is not None and asked not in known:
        raise UsageError(f"opset {asked} cannot be written; {known[0]} to {known[-1]} can")
    shapes = graph.shapes()
    for layer in graph.layers:
        fitting = [version for version in allowed if _holds(layer, shapes, version)]
        what = f"{layer.name} ({layer.op if isinstance(layer, Opaque) else type(layer).__name__})"
        if not fitting:
            meant = f" as it is meant in opset {layer.opset}" if isinstance(layer, Opaque) else ""
            raise UnsupportedError(f"no opset from {known[0]} to {known[-1]} holds {what}{meant}, together with the layers before it")
        if asked is not None and asked not in fitting:
            raise UsageError(f"opset {asked} cannot hold {what}; {fitting[0]} to {fitting[-1]} can. Leave --opset out to have one chosen")
        allowed = fitting
    return asked or next((version for version in allowed if version >= USUAL), allowed[-1])


def _holds(layer: Layer, shapes: Mapping[str, Shape], version: int) -> bool:
    """Whether the layer can be written in this version, and means the same there if it is a node that was read."""
    if not isinstance(layer, Opaque):
        return not layer.inputs or least_opset(layer, shapes[layer.inputs[0]]) <= version
    if layer.domain not in ("", "ai.onnx"):
        return True
    from onnx import NodeProto

    return all(_same(op, layer.opset, version) for op in _ops(NodeProto.FromString(layer.node)))


def _ops(node: Any) -> Iterator[str]:
    """The standard operators of a node and of the graphs inside it."""
    if node.domain in ("", "ai.onnx"):
        yield node.op_type
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from _ops(inner)


def _same(op: str, old: int, new: int) -> bool:
    """Whether an operator is the same in two versions: the same attributes, defaults and inputs, and no fewer types."""
    from onnx.defs import SchemaError, get_schema

    try:
        a, b = get_schema(op, old), get_schema(op, new)
    except SchemaError:
        return False
    return a.since_version == b.since_version or (not b.deprecated and _interface(a) == _interface(b) and _types(a) <= _types(b))


def _interface(schema: Any) -> tuple[Any, ...]:
    attributes = {name: (entry.type, entry.required, entry.default_value.SerializeToString(deterministic=True)) for name, entry in schema.attributes.items()}
    return attributes, [(entry.name, entry.option) for entry in schema.inputs], [(entry.name, entry.option) for entry in schema.outputs]


def _types(schema: Any) -> set[str]:
    return {kind for constraint in schema.type_constraints for kind in constraint.allowed_type_strs}
