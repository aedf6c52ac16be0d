"""ONNX into the graph: opset 11 and newer, from any exporter, and our own packed files back to what was exported."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from rsk_deploy.errors import CorruptFileError, RskError, UsageError, about
from rsk_deploy.readers import ReadOptions, Source
from rsk_deploy.readers.onnx.inputs import plan_inputs, relax
from rsk_deploy.readers.onnx.load import load
from rsk_deploy.readers.onnx.lower import computes_in_half, lower
from rsk_deploy.readers.onnx.packed import read_packed
from rsk_deploy.readers.onnx.run import runner
from rsk_deploy.readers.onnx.trace import Trace

__all__ = ["read", "read_packed"]


def read(model: Any, options: ReadOptions) -> Source:
    """Read a path or an ``onnx.ModelProto``. Nothing in it is executed, nothing outside its folder is read.

    The batch is open if ``options.dynamic_batch``, whether the file fixes it or not; else it is that of
    ``options.input_shape``, the file's, or 1. Every other dimension must be fixed by the file or by the options.
    """
    path = model if isinstance(model, Path) else None
    with about(str(path) if path else "the ONNX model"):
        proto = load(model)
        inputs = plan_inputs(proto, options)
        try:
            trace = Trace(proto, inputs)
            graph = lower(trace)
        except CorruptFileError as error:
            if options.dynamic_batch and readable(proto, replace(options, dynamic_batch=False)):
                raise UsageError(
                    f"can be read with a fixed batch size only: {error}. Leave out --dynamic batch, or export the model with a dynamic batch."
                ) from error
            raise
        if inputs.relaxed:
            relax(proto, inputs)
    return Source(graph, runner(path if path and not inputs.relaxed else proto), half=computes_in_half(trace))


def readable(proto: Any, options: ReadOptions) -> bool:
    """Whether a model can be read with these options."""
    with suppress(RskError):
        lower(Trace(proto, plan_inputs(proto, options)))
        return True
    return False
