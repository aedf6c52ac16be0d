"""A ``.rsk`` file as a model: what was packed once can be exported to every other format."""

from __future__ import annotations

from typing import Any

from rsk_deploy import reference, store
from rsk_deploy.errors import UsageError, about
from rsk_deploy.ir import Graph, Packed
from rsk_deploy.ir.graph import BATCH
from rsk_deploy.packing import unpack
from rsk_deploy.readers import ReadOptions, Source, refuse
from rsk_deploy.readers.onnx.inputs import asked_shape


def read(model: Any, options: ReadOptions) -> Source:
    """Read the file, which says everything itself. The original to verify against is the reference.

    Weights that have changed since are refused: their copies would be proven equal to them.
    """
    refuse(options, ("arch", "arch_args", "rsk_mode"), f"{model} holds a network without training-time layers")
    saved = store.read_checked(model)
    with about(str(model)):
        check_inputs(saved.graph, options)
    graph = unpack(saved.graph)
    return Source(graph, lambda inputs: reference.run(graph, inputs))


def check_inputs(graph: Graph[Packed], options: ReadOptions) -> None:
    """Refuse other shapes than those that the file is for."""
    if options.dynamic_batch and not any(BATCH in entry.shape for entry in graph.inputs):
        raise UsageError("was packed for a fixed batch size. For --dynamic batch export the model again that it was packed from")
    names = [entry.name for entry in graph.inputs]
    for entry in graph.inputs:
        asked = asked_shape(entry.name, names, options)
        if asked and (len(asked) != len(entry.shape) or any(isinstance(dim, int) and dim != want for dim, want in zip(entry.shape, asked, strict=True))):
            raise UsageError(f"input {entry.name!r} has shape {entry.shape} in the file; {asked} is asked. Export the model again for another shape")
