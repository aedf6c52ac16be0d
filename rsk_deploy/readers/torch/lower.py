"""From a plain model to an ONNX model: torch.export, then torch.onnx.export."""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from rsk_deploy.errors import RskError, UnsupportedError, about, needing
from rsk_deploy.ir.graph import BATCH
from rsk_deploy.readers import ReadOptions
from rsk_deploy.readers.torch.call import Call
from rsk_deploy.readers.torch.quiet import quiet

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

_HERE = os.path.dirname(__file__)


def exported(model: nn.Module, call: Call, options: ReadOptions) -> ExportedProgram:
    """The model as torch.export sees it, the batch left open where asked."""
    import torch

    batch, shapes = torch.export.Dim(BATCH), torch.export.ShapesCollection()
    for tensor in call.arguments if options.dynamic_batch else ():
        shapes[tensor] = {0: batch}
    try:
        with torch.no_grad(), quiet():
            program = torch.export.export(model, call.arguments, dynamic_shapes=shapes if options.dynamic_batch else None)
    except Exception as error:  # torch.export has no common exception
        advice = " With a fixed batch it may work: leave out --dynamic batch." if options.dynamic_batch else ""
        raise UnsupportedError(
            f"{_where(model, error)}: torch.export cannot follow the model: {type(error).__name__}: {_told(error)}. Take what depends on the data "
            f"(Python ifs and loops over tensor values, .item()) out of forward, or export to ONNX yourself and pass the .onnx file.{advice}"
        ) from error
    for node in program.graph.nodes:  # what called the model is no part of it
        if trace := node.meta.get("stack_trace"):
            node.meta["stack_trace"] = re.split(rf'File "{re.escape(_HERE)}.*\n.*\n', trace)[-1]
    return program


def casts_to_half(program: ExportedProgram) -> bool:
    """Whether the program itself converts to half precision; otherwise it computes in whatever precision its weights and inputs have."""
    import torch

    return any(value in (torch.float16, torch.bfloat16) for node in program.graph.nodes for value in (*node.args, *node.kwargs.values()))


def _where(model: nn.Module, error: BaseException) -> str:
    """Module path and source line of the innermost frame of the user's program."""
    import torch

    paths = {id(module): name or type(module).__name__ for name, module in model.named_modules()}
    place, module = "", type(model).__name__
    for frame, line in traceback.walk_tb(error.__traceback__):
        owner = frame.f_locals.get("self")
        if id(owner) in paths and frame.f_code.co_name == "forward":
            module = paths[id(owner)]
        if not frame.f_code.co_filename.startswith((torch.__path__[0], _HERE)):
            place = f" ({frame.f_code.co_filename}:{line})"
    return module + place


def _told(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:400] if lines else "no message"


def to_onnx(program: ExportedProgram, inputs: Sequence[str], outputs: Sequence[str]) -> Any:
    """The program as an unoptimised ModelProto: weights keep the module's names, nodes their place in the user's program."""
    import torch

    with needing("onnxscript", "onnx", "reading a torch model"):
        import onnxscript  # noqa: F401  # torch.onnx needs it, and says so less plainly
    from rsk_deploy.readers.torch.pools import translations

    try:
        with torch.no_grad(), quiet():
            chosen = {"input_names": list(inputs), "custom_translation_table": translations()}
            converted = torch.onnx.export(program, (), dynamo=True, optimize=False, verbose=False, **chosen)
            _name_outputs(converted.model.graph, outputs)
            proto = converted.model_proto
    except Exception as error:  # the exporter wraps whatever happens
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        place = _node_at_fault(program, f"{error} {cause}")
        if isinstance(cause, RskError):
            with about(place):
                raise cause from error
        raise UnsupportedError(
            f"{place}: torch.onnx has no translation: {_told(cause)}. Replace the operation, or export to ONNX yourself and pass the .onnx file."
        ) from error
    return _with_batch_named(proto)


def _name_outputs(graph: Any, names: Sequence[str]) -> None:
    """Name the outputs; one that is also an input, a weight or an earlier output becomes a value of its own."""
    import onnx_ir

    for value in (output for node in graph.all_nodes() for output in node.outputs):
        if value.name in names:  # the exporter names inner values as it likes
            value.name = f"{value.name}/inner"
    for index, name in enumerate(names):
        value = graph.outputs[index]
        if value.producer() is None or value in graph.outputs[:index]:
            copied = onnx_ir.node("Identity", [value])
            graph.append(copied)
            graph.outputs[index] = copied.outputs[0]
            copied.outputs[0].type, copied.outputs[0].shape = value.type, value.shape
        graph.outputs[index].name = name


def _node_at_fault(program: ExportedProgram, message: str) -> str:
    """The first node whose operation the message names: operation, module path, source line."""
    graphs = [program.graph]
    with quiet(), suppress(Exception):  # what failed in the exporter can fail here as well
        graphs.append(program.run_decompositions().graph)
    for node in (node for graph in graphs for node in graph.nodes if node.op == "call_function"):
        name, _, overload = str(node.target).rpartition(".")
        if f"{name}.{overload}" in message or f"op='{name}', overload='{overload}'" in message:
            path = [scope[0] for scope in (node.meta.get("nn_module_stack") or {}).values()]
            lines = [line for line in re.findall(r'File "([^"]+)", line (\d+)', node.meta.get("stack_trace") or "") if "/torch/" not in line[0]]
            return f"{name} in {(path[-1] if path else '') or 'the model'}" + (f" ({':'.join(lines[-1])})" if lines else "")
    return "the model"


def _with_batch_named(proto: Any) -> Any:
    """The exporter's own symbol for an open first dimension becomes ``batch``."""
    symbols = {entry.type.tensor_type.shape.dim[0].dim_param for entry in proto.graph.input if entry.type.tensor_type.shape.dim} - {""}
    for entry in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for dim in entry.type.tensor_type.shape.dim:
            if dim.dim_param in symbols:
                dim.dim_param = BATCH
    return proto
