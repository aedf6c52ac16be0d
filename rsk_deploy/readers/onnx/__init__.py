"""ONNX into the graph: opset 11 and newer, from any exporter, and our own packed files back to what was exported."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from rsk_deploy.errors import CorruptFileError, RskError, UsageError, about
from rsk_deploy.ir import Dense, Graph
from rsk_deploy.readers import ReadOptions, Source, refuse
from rsk_deploy.readers.onnx.inputs import Inputs, plan_inputs, relax
from rsk_deploy.readers.onnx.load import load, prepare
from rsk_deploy.readers.onnx.lower import computes_in_half, lower
from rsk_deploy.readers.onnx.packed import read_packed
from rsk_deploy.readers.onnx.run import runner
from rsk_deploy.readers.onnx.trace import Trace

__all__ = ["read", "read_own", "read_packed"]


def read(model: Any, options: ReadOptions) -> Source:
    """Read a path or an ``onnx.ModelProto``. Nothing in it is executed, nothing outside its folder is read.

    The batch is open if ``options.dynamic_batch``, whether the file fixes it or not; else it is that of
    ``options.input_shape``, the file's, or 1. Every other dimension must be fixed by the file or by the options.
    """
    path = model if isinstance(model, Path) else None
    with about(str(path) if path else "the ONNX model"):
        proto = load(model)
        if path:
            refuse(options, ("arch", "arch_args", "rsk_mode"), "an ONNX file is a network without training-time layers")
        inputs = plan_inputs(proto, options)
        trace, graph = lowered(proto, inputs, options)
        if inputs.relaxed:
            relax(proto, inputs)
    return Source(graph, runner(path if path and not inputs.relaxed else proto), half=computes_in_half(trace))


def read_own(proto: Any, options: ReadOptions) -> Graph[Dense]:
    """The graph of a ModelProto that nobody else has: it is prepared in place, since a copy would hold all weights again."""
    with about("the ONNX model"):
        prepare(proto)
        return lowered(proto, plan_inputs(proto, options), options)[1]


def lowered(proto: Any, inputs: Inputs, options: ReadOptions) -> tuple[Trace, Graph[Dense]]:
    """The model traced, and its graph."""
    try:
        trace = Trace(proto, inputs)
        return trace, lower(trace)
    except CorruptFileError as error:
        if options.dynamic_batch and readable(proto, replace(options, dynamic_batch=False)):
            raise UsageError(
                f"can be read with a fixed batch size only: {error}. Leave out --dynamic batch, or export the model with a dynamic batch."
            ) from error
        raise


def readable(proto: Any, options: ReadOptions) -> bool:
    """Whether a model can be read with these options."""
    with suppress(RskError):
        lower(Trace(proto, plan_inputs(proto, options)))
        return True
    return False
