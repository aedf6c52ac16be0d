"""torch models (modules, exported programs, .pt, .pth, .pt2, .safetensors) to a folded graph. Nothing in a file is executed."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsk_deploy.errors import UnsupportedError, UsageError, about, needing
from rsk_deploy.ir import Dense, Graph, Json, LogEntry
from rsk_deploy.readers import ReadOptions, Source, refuse
from rsk_deploy.readers.torch import states
from rsk_deploy.readers.torch.call import example_call, output_names, runner
from rsk_deploy.readers.torch.lower import casts_to_half, exported, to_onnx
from rsk_deploy.readers.torch.quiet import quiet
from rsk_deploy.readers.torch.sparse import check_finite, evaluation_copy, fold_training, widened, with_declared
from rsk_deploy.torchfiles import kind_of, load_pickled, load_safetensors

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram


@dataclass(frozen=True)
class _Found:
    """A network with its weights, how to read it, what was done to it so far, and what its file says beside."""

    model: nn.Module
    options: ReadOptions
    log: Sequence[LogEntry] = ()
    meta: Mapping[str, Json] = field(default_factory=dict)


def read(model: Any, options: ReadOptions) -> Source:
    """Read an ``nn.Module``, an ``ExportedProgram``, or a file that holds one, or its weights."""
    with needing("torch", "torch", "reading a torch model"):
        import torch
    if isinstance(model, torch.nn.Module):
        return _read_module(_Found(model, options))
    if isinstance(model, torch.export.ExportedProgram):
        return _read_program(model, options)
    if isinstance(model, Path):
        with about(str(model)):
            return _read_file(model, options)
    raise UsageError(f"cannot read a value of type {type(model).__name__}; pass a path, a torch.nn.Module, or what torch.export.export gives")


def _read_file(path: Path, options: ReadOptions) -> Source:
    from torch import nn

    from rsk_deploy.nn.psconv import CoverageWarning
    from rsk_deploy.readers.torch import pt2

    if path.suffix.lower() == ".safetensors":
        content: Any = load_safetensors(path)
    elif (kind := kind_of(path)) == "program":
        return _read_program(pt2.load(path, options.allow_pickle), options)
    else:
        content = load_pickled(path, kind, options.allow_pickle)
    if isinstance(content, nn.Module):
        refuse(options, ("arch", "arch_args"), "the file holds a whole network")
        return _read_module(_Found(content, options), ours=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CoverageWarning)  # of masks that the file's replace
        found = _of_checkpoint(content, options) if isinstance(content, dict) and "rsk_checkpoint" in content else _of_state(content, options)
    del content  # its weights are the model's now, or were copied
    return _read_module(found, ours=True)


def _of_state(content: Any, options: ReadOptions) -> _Found:
    state, log = states.state_of(content)
    model = states.architecture(options)
    log += states.load_into(model, state)
    return _Found(model, options, log, {"architecture": {"name": options.arch, "args": dict(options.arch_args)}})


def _of_checkpoint(content: Any, options: ReadOptions) -> _Found:
    from rsk_deploy.nn.checkpoint import parse_checkpoint

    checkpoint = parse_checkpoint(content)
    if options.arch in (None, checkpoint.architecture):
        trusted = options.arch is not None or options.allow_pickle
        checkpoint = replace(checkpoint, args={**checkpoint.args, **options.arch_args})
        options = replace(options, arch=checkpoint.architecture, arch_args=checkpoint.args)
        model = checkpoint.network(trusted=trusted)
    else:
        model = states.architecture(options)
    log = states.load_into(model, dict(checkpoint.state))
    meta = {"architecture": {"name": options.arch, "args": dict(options.arch_args)}, "labels": checkpoint.labels and list(checkpoint.labels)}
    meta = states.metadata(**meta, preprocessing=dict(checkpoint.preprocessing))
    return _Found(model, replace(options, input_shape=options.input_shape or checkpoint.input_shape), log, meta)


def _read_module(found: _Found, *, ours: bool = False) -> Source:
    """Read a module by way of a copy. The module itself is not touched, unless it is ``ours``: made here, from a file."""
    model, options = found.model, found.options
    log = [*found.log, *widened((*model.parameters(), *model.buffers()))]
    original = evaluation_copy(model, ours=ours)
    check_finite({**dict(original.named_parameters()), **dict(original.named_buffers())})
    plain = copy.deepcopy(original, {id(parameter): parameter for parameter in original.parameters()})  # folding replaces them
    folding = fold_training(plain, options.rsk_mode, options.rsk_seed)
    call = example_call(plain, options)
    program = exported(plain, call, options)
    graph = _lowered(program, tuple(call.inputs), call.outputs, replace(options, input_shape=None))
    graph = replace(with_declared(graph, plain, folding.declared), log=(*log, *folding.log), meta=found.meta)
    run_original = runner(original, call.outputs, tuple(call.inputs))
    run_plain = runner(plain, call.outputs, tuple(call.inputs)) if folding.changed else run_original
    return Source(graph, run_plain, before_rsk=run_original if folding.changed else None, half=casts_to_half(program))


def _read_program(program: ExportedProgram, options: ReadOptions) -> Source:
    """Read an exported program, whose shapes and folding are settled."""
    import torch
    from torch.utils import _pytree as pytree

    refuse(options, ("arch", "arch_args", "rsk_mode"), "an exported program is a network without training-time layers")
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

    return onnx.read_own(to_onnx(program, inputs, outputs), options)
