"""Our own packed ONNX files: the graph that was exported, with every weight as it was stored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from rsk_deploy.errors import CorruptFileError, UsageError, about
from rsk_deploy.ir import Choice, Dense, Graph, Json, Layer, LogEntry, Packed, Weighted
from rsk_deploy.readers import ReadOptions
from rsk_deploy.readers.onnx.inputs import declared_shape, plan_inputs
from rsk_deploy.readers.onnx.load import load
from rsk_deploy.readers.onnx.lower import lower
from rsk_deploy.readers.onnx.trace import Trace
from rsk_deploy.readers.onnx.values import tensor_array
from rsk_deploy.registry import FORMATS, format_named

PROPERTY = "rsk"
VERSION = 1


def read_packed(path: Path) -> Graph[Packed]:
    """Read a file that our converter wrote: the graph equals the one that was exported.

    What the file's own nodes compute is the truth: each stored weight must decode to it, bit for bit.
    """
    with about(str(path)):
        proto = load(path)
        metadata = parse(next((entry.value for entry in proto.metadata_props if entry.key == PROPERTY), None))
        dynamic = any(isinstance(dim, str) for entry in proto.graph.input for dim in declared_shape(entry)[:1])
        graph = lower(Trace(proto, plan_inputs(proto, ReadOptions(dynamic_batch=dynamic))), exact=True)
        weights = metadata["weights"]
        if {layer.name for layer in graph.weighted()} != set(weights):
            differing = sorted({layer.name for layer in graph.weighted()} ^ set(weights))
            raise CorruptFileError(
                f"its metadata lists {len(weights)} weights and its graph has {len(list(graph.weighted()))}; {differing[0]!r} is in one only"
            )
        order = {node.name: index for index, node in enumerate(proto.graph.node)}
        arrays = {tensor.name: tensor for tensor in proto.graph.initializer}
        sparse = {tensor.values.name: tensor for tensor in proto.graph.sparse_initializer}
        layers = [stored(layer, weights[layer.name], arrays, sparse) if isinstance(layer, Weighted) else layer for layer in graph.layers]
        layers.sort(key=lambda layer: order.get(layer.name, -1))
        return Graph(graph.inputs, graph.outputs, tuple(layers), tuple(LogEntry(*entry) for entry in metadata["log"]), metadata["meta"])


def parse(text: str | None) -> Mapping[str, Json]:
    """The metadata, with every part of the type it must have."""
    if text is None:
        raise UsageError(f"carries no {PROPERTY!r} metadata: it is an ordinary ONNX file. Read it with rsk_deploy.read, then pack it.")
    try:
        metadata = json.loads(text, parse_constant=not_finite)
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"its {PROPERTY!r} metadata is no JSON: {error}") from error
    if not isinstance(metadata, dict) or metadata.get("version") != VERSION:
        found = metadata.get("version") if isinstance(metadata, dict) else type(metadata).__name__
        raise CorruptFileError(f"its {PROPERTY!r} metadata has version {found!r}; this program reads version {VERSION}")
    for key, kind in (("weights", dict), ("log", list), ("meta", dict)):
        if not isinstance(metadata.get(key), kind):
            raise CorruptFileError(f"its {PROPERTY!r} metadata has no {key}, or not as a {kind.__name__}")
    for entry in metadata["log"]:
        if not (isinstance(entry, list) and len(entry) == 3 and all(isinstance(part, str) for part in entry)):
            raise CorruptFileError(f"its {PROPERTY!r} metadata logs {entry!r}, which is not layer, action and detail")
    return metadata


def not_finite(word: str) -> NoReturn:
    """Refuse the numbers that JSON does not have."""
    raise ValueError(f"it contains {word}")


def stored(layer: Weighted[Dense], entry: Json, tensors: Mapping[str, Any], sparse: Mapping[str, Any]) -> Layer:
    """The layer with its weight as the file stores it."""
    name = f"{layer.name}.weight"
    with about(layer.name):
        rows = sparse.get(name, sparse.get(f"{name}.values"))
        weight = packed_weight(entry, weight_arrays(name, tensors) if rows is None else row_arrays(rows))
        encoding = format_named(weight.format)
        encoding.validate(weight)
        decoded = encoding.decode(weight)
        if weight.shape != layer.weight.shape or decoded.tobytes() != layer.weight.values.astype(np.float32).tobytes():
            raise CorruptFileError("the metadata disagrees with the graph: the stored weight does not decode to what the file computes with")
        return replace(layer, weight=weight)  # type: ignore[arg-type]  # from Dense to Packed


def weight_arrays(name: str, tensors: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """The arrays of one weight: ``name.array``, or ``name`` alone for a dense one."""
    if name in tensors:
        return {"values": tensor_array(tensors[name]).reshape(-1)}
    parts = {full.removeprefix(f"{name}."): tensor for full, tensor in tensors.items() if full.startswith(f"{name}.")}
    return {part: tensor_array(tensor) for part, tensor in parts.items() if "." not in part}


def row_arrays(sparse: Any) -> dict[str, NDArray[Any]]:
    """The arrays of compressed rows, from a sparse initializer that lists its places in rising order."""
    places, shape = tensor_array(sparse.indices), tuple(sparse.dims)
    if places.ndim != 1 or bool((places[1:] <= places[:-1]).any()):
        raise CorruptFileError(f"its sparse initializer has places of shape {places.shape} that do not rise; the metadata promises compressed rows")
    width = prod(shape[1:])
    rows = np.searchsorted(places, width * np.arange(shape[0] + 1)).astype(np.uint32)
    columns = (places % width).astype(np.min_scalar_type(width - 1))
    return {"values": tensor_array(sparse.values).reshape(-1), "rows": rows, "columns": columns}


def packed_weight(entry: Json, arrays: dict[str, NDArray[Any]]) -> Packed:
    """A weight from its metadata and arrays, which are still to be validated against each other."""
    expected = {"format": str, "shape": list, "params": dict}
    if not isinstance(entry, dict) or any(not isinstance(entry.get(key), kind) for key, kind in expected.items()) or entry["format"] not in FORMATS:
        raise CorruptFileError(f"its metadata says {str(entry)[:200]}; a format of {', '.join(FORMATS)}, a shape and parameters are needed")
    return Packed(entry["format"], tuple(entry["shape"]), arrays, entry["params"], choice(entry.get("choice")))


def choice(entry: Json) -> Choice | None:
    """Why the weight is stored so, if the file says."""
    if entry is None:
        return None
    words = ("mask", "description", "evidence", "reason")
    sizes = entry.get("sizes") if isinstance(entry, dict) else None
    whole = isinstance(sizes, dict) and all(type(size) is int for size in sizes.values()) and set(entry) == {*words, "sizes"}
    if not whole or any(not isinstance(entry[word], str) for word in words):
        raise CorruptFileError(f"its metadata gives {str(entry)[:200]} as the reason for its format")
    return Choice(**entry)
