"""torch models (modules, exported programs, .pt, .pth, .pt2, .safetensors) to a folded graph. Nothing in a file is executed."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsk_deploy.errors import MissingExtraError, UnsupportedError, UsageError, about
from rsk_deploy.ir import Dense, Graph, Json, LogEntry
from rsk_deploy.readers import ReadOptions, Source
from rsk_deploy.readers.torch.call import example_call, output_names, runner
from rsk_deploy.readers.torch.lower import casts_to_half, exported, to_onnx
from rsk_deploy.readers.torch.quiet import quiet
from rsk_deploy.readers.torch.sparse import check_finite, evaluation_copy, fold_training, widened, with_declared
from rsk_deploy.torchfiles import kind_of, load_pickled, load_safetensors

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram


def read(model: Any, options: ReadOptions) -> Source:
    """Read an ``nn.Module``, an ``ExportedProgram``, or a file that holds one, or its weights."""
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError("torch", "torch", "reading a torch model") from error
    if isinstance(model, torch.nn.Module):
        return _read_module(model, options)
    if isinstance(model, torch.export.ExportedProgram):
        return _read_program(model, options)
    if isinstance(model, Path):
        with about(str(model)):
            return _read_file(model, options)
    raise UsageError(f"cannot read a {type(model).__name__}; pass a path, a torch.nn.Module, or what torch.export.export gives")


def _read_file(path: Path, options: ReadOptions) -> Source:
    from torch import nn

    from rsk_deploy.readers.torch import pt2, states

    if path.suffix.lower() == ".safetensors":
        content: Any = load_safetensors(path)
    elif (kind := kind_of(path)) == "program":
        return _read_program(pt2.load(path, options.allow_pickle), options)
    else:
        content = load_pickled(path, kind, options.allow_pickle)
    if isinstance(content, nn.Module):
        return _read_module(content, options)
    if isinstance(content, dict) and "rsk_checkpoint" in content:
        return _read_checkpoint(content, options)
    state, log = states.state_of(content)
    model = states.architecture(options)
    log += states.load_into(model, state)
    meta = {"architecture": {"name": options.arch, "args": dict(options.arch_args)}}
    return _read_module(model, options, log, meta)


def _read_checkpoint(content: Any, options: ReadOptions) -> Source:
    from rsk_deploy.nn.checkpoint import parse_checkpoint
    from rsk_deploy.readers.torch import states

    checkpoint = parse_checkpoint(content)
    log: list[LogEntry] = []
    if options.arch is None:
        model = checkpoint.model(trusted=options.allow_pickle)
        options = replace(options, arch=checkpoint.architecture, arch_args=checkpoint.args)
    else:
        model = states.architecture(options)
        log = states.load_into(model, dict(checkpoint.state))
    meta = {"architecture": {"name": options.arch, "args": dict(options.arch_args)}, "labels": checkpoint.labels and list(checkpoint.labels)}
    meta = states.metadata(**meta, preprocessing=dict(checkpoint.preprocessing))
    return _read_module(model, replace(options, input_shape=options.input_shape or checkpoint.input_shape), log, meta)


def _read_module(model: nn.Module, options: ReadOptions, log: Sequence[LogEntry] = (), meta: dict[str, Json] | None = None) -> Source:
    """Read a module by way of a copy; the module itself is not touched."""
    original = evaluation_copy(model)
    check_finite({**dict(original.named_parameters()), **dict(original.named_buffers())})
    plain = copy.deepcopy(original)
    folding = fold_training(plain, options.rsk_mode, options.rsk_seed)
    call = example_call(plain, options)
    program = exported(plain, call, options)
    graph = _lowered(program, tuple(call.inputs), call.outputs, replace(options, input_shape=None))
    graph = replace(with_declared(graph, plain, folding.declared), log=(*log, *widened((*model.parameters(), *model.buffers())), *folding.log), meta=meta or {})
    run_original = runner(original, call.outputs, tuple(call.inputs))
    run_plain = runner(plain, call.outputs, tuple(call.inputs)) if folding.changed else run_original
    return Source(graph, run_plain, before_rsk=run_original if folding.changed else None, half=casts_to_half(program))


def _read_program(program: ExportedProgram, options: ReadOptions) -> Source:
    """Read an exported program, whose shapes and folding are settled."""
    import torch
    from torch.utils import _pytree as pytree

    tensors = {**program.state_dict, **{name: value for name, value in program.constants.items() if isinstance(value, torch.Tensor)}}
    if name := next((name for name, value in tensors.items() if value.dtype == torch.bfloat16), None):
        raise UnsupportedError(f"{name} is bfloat16, and ONNX has no convolution in bfloat16. Export the program again from model.float().")
    check_finite(tensors)
    out_spec = program.call_spec.out_spec
    inputs = program.graph_signature.user_inputs
    outputs = output_names(pytree.tree_unflatten([torch.empty(0)] * out_spec.num_leaves, out_spec), [*inputs, *program.state_dict])
    graph = _lowered(program, inputs, outputs, options)
    with quiet():
        module = program.module(check_guards=False)
    return Source(graph, runner(module, outputs, inputs), half=casts_to_half(program))


def _lowered(program: ExportedProgram, inputs: Sequence[str], outputs: Sequence[str], options: ReadOptions) -> Graph[Dense]:
    from rsk_deploy.readers import onnx

    return onnx.read(to_onnx(program, inputs, outputs), options).graph
