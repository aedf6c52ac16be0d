"""The oracle: executes any graph slowly and obviously in numpy. What it computes is what a graph means."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rsk_deploy.errors import UnsupportedError, UsageError, about
from rsk_deploy.ir import Graph, Input, Layer, Opaque
from rsk_deploy.reference.operations import OPERATIONS

Array = NDArray[Any]

__all__ = ["execute", "run"]


def run(graph: Graph[Any], inputs: Mapping[str, Array], values: Iterable[str] = (), dtype: DTypeLike = np.float64) -> dict[str, Array]:
    """Give the outputs of ``graph``, and the inner ``values`` asked for, by name.

    Floating-point inputs, weights and constants become ``dtype`` first; other inputs take the dtype that the graph
    declares. Packed weights are decoded. A value is freed after the last layer that reads it.
    """
    wanted = dict.fromkeys([*graph.outputs, *values])
    check_known(graph, wanted)
    for layer in graph.layers:
        if isinstance(layer, Opaque):
            place = f" (from {layer.origin})" if layer.origin else ""
            raise UnsupportedError(f"{layer.name}: the reference cannot execute the ONNX operation {layer.op}{place}; only the ONNX export carries it")
    known = accepted(graph, inputs, np.dtype(dtype))
    last_reader = {name: index for index, layer in enumerate(graph.layers) for name in layer.inputs}
    with np.errstate(all="ignore"):
        for index, layer in enumerate(graph.layers):
            with about(layer.name):
                known[layer.outputs[0]] = OPERATIONS[type(layer)](layer, np.dtype(dtype), *(known[name] for name in layer.inputs))
            for name in {*layer.inputs, *layer.outputs}:
                if name not in wanted and last_reader.get(name, index) == index:
                    del known[name]
    return {name: known[name] for name in wanted}


def execute(layer: Layer, *inputs: Array) -> Array:
    """What one layer computes in float64 from these values."""
    with np.errstate(all="ignore"), about(layer.name):
        return OPERATIONS[type(layer)](layer, np.dtype(np.float64), *(np.asarray(x, np.float64) for x in inputs))


def check_known(graph: Graph[Any], names: Iterable[str]) -> None:
    """Refuse names of values that the graph does not compute."""
    known = graph.shapes()
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise UsageError(f"the network computes no value {name!r}" + (f". Did you mean {near[0]!r}?" if near else ""))


def accepted(graph: Graph[Any], inputs: Mapping[str, Array], dtype: np.dtype[Any]) -> dict[str, Array]:
    """Take the inputs as the graph wants them; refuse names, shapes and dtypes that it does not have."""
    names = [entry.name for entry in graph.inputs]
    if missing := [name for name in names if name not in inputs]:
        raise UsageError(f"input {missing[0]!r} is missing; the network reads {', '.join(names)}")
    if unknown := [name for name in inputs if name not in names]:
        raise UsageError(f"unknown input {unknown[0]!r}; the network reads {', '.join(names)}")
    batch: int | None = None
    result = {}
    for entry in graph.inputs:
        x = np.asarray(inputs[entry.name])
        if x.dtype.kind not in "biuf":
            raise UsageError(f"input {entry.name!r} holds {x.dtype}, not numbers; the network reads {entry.dtype}")
        batch = checked_batch(entry, x, batch)
        result[entry.name] = x.astype(dtype if entry.dtype.startswith("float") else entry.dtype, copy=False)
    return result


def checked_batch(entry: Input, x: Array, batch: int | None) -> int | None:
    """Give the batch size, now that this input is seen too; ``batch`` is what the inputs before it had. Refuse shapes that do not fit."""
    wanted = ", ".join(str(dim) for dim in entry.shape)
    if len(x.shape) != len(entry.shape) or 0 in x.shape or entry.at(x.shape[0] if x.shape else 1) != x.shape:
        raise UsageError(f"input {entry.name!r} has shape {x.shape}; the network reads ({wanted})")
    if all(isinstance(dim, int) for dim in entry.shape):
        return batch
    if batch not in (None, x.shape[0]):
        raise UsageError(f"input {entry.name!r} has batch size {x.shape[0]}, the inputs before it {batch}")
    return int(x.shape[0])
