"""How a model is called: which inputs it takes, what its outputs are named, and what it computes."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rsk_deploy.errors import UnsupportedError, UsageError
from rsk_deploy.ir import FloatArray
from rsk_deploy.readers import ReadOptions
from rsk_deploy.readers.torch.quiet import quiet
from rsk_deploy.registry import Runner

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Call:
    """How a model is called: its inputs by the names of forward's arguments, in order, and the names of its outputs."""

    inputs: Mapping[str, torch.Tensor]
    outputs: tuple[str, ...]

    @property
    def arguments(self) -> tuple[torch.Tensor, ...]:
        """The positional arguments."""
        return tuple(self.inputs.values())


def example_call(model: nn.Module, options: ReadOptions) -> Call:
    """Inputs of the asked shapes, tried on the model."""
    import torch

    shapes = _input_shapes(model, options)
    generator = torch.Generator().manual_seed(0)
    try:
        inputs = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        with torch.no_grad(), quiet():
            outputs = model(*inputs.values())
    except Exception as error:  # the user's forward runs here
        asked = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise UsageError(f"the model does not run on an input of shape {asked}: {type(error).__name__}: {error}") from error
    return Call(inputs, output_names(outputs, [*inputs, *model.state_dict()]))


def _input_shapes(model: nn.Module, options: ReadOptions) -> dict[str, tuple[int, ...]]:
    parameters = inspect.signature(model.forward).parameters.values()
    given = options.input_shape
    names: list[str] = []
    for entry in parameters:
        if entry.kind is entry.VAR_POSITIONAL:
            more = len(given) - len(names) if isinstance(given, Mapping) else 1
            names += [f"{entry.name}_{index}" for index in range(max(1, more))]
        elif entry.kind is not entry.VAR_KEYWORD:
            names.append(entry.name)
    if given is None:
        raise UsageError(f"the model's input shape is not known; give it with --input-shape (input_shape= in Python), for example {_example_shape(model)}")
    shapes = {name: tuple(shape) for name, shape in given.items()} if isinstance(given, Mapping) else {names[0] if names else "input": tuple(given)}
    if list(shapes) != names[: len(shapes)]:
        raise UsageError(f"input shapes are given for {', '.join(shapes)}; forward takes {', '.join(names) or 'nothing'}, in this order")
    for name, shape in shapes.items():
        if not shape:
            raise UsageError(f"the shape of {name} is {shape}; it has at least the batch")
    if options.dynamic_batch:  # torch.export takes an example of batch 1 for a constant
        return {name: (max(2, shape[0]), *shape[1:]) for name, shape in shapes.items()}
    return shapes


def _example_shape(model: nn.Module) -> str:
    from torch import nn

    for module in model.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            return ",".join(map(str, [1, module.in_channels] + [224] * len(module.kernel_size)))
        if isinstance(module, nn.Linear):
            return f"1,{module.in_features}"
    return "1,3,224,224"


def output_names(outputs: Any, taken: Sequence[str]) -> tuple[str, ...]:
    """``output``; ``output_0``… of a sequence; the keys of a dict; with ``_`` behind what is ``taken`` by an input, a weight or an earlier output."""
    import torch
    from torch.utils import _pytree as pytree

    leaves = [(path, leaf) for path, leaf in pytree.tree_flatten_with_path(outputs)[0] if isinstance(leaf, torch.Tensor)]
    if not leaves:
        raise UnsupportedError(f"the model returns a {type(outputs).__name__} without a tensor in it")
    names = ["_".join(str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", "")))) for key in path) for path, _ in leaves]
    distinct: list[str] = []
    for name in ("output" if not name else f"output_{name}" if name[0].isdigit() else name for name in names):
        while name in (*taken, *distinct):
            name += "_"
        distinct.append(name)
    return tuple(distinct)


def runner(model: nn.Module, outputs: Sequence[str], inputs: Sequence[str]) -> Runner:
    """The model on numpy arrays, in float64; in float32 where its forward insists on it."""
    import torch

    precise: list[nn.Module] = []  # made on first use

    def compute(network: nn.Module, dtype: torch.dtype, values: Mapping[str, np.ndarray[Any, Any]]) -> Any:
        with torch.no_grad(), quiet():
            return network(*(torch.from_numpy(np.ascontiguousarray(values[name])).to(dtype) for name in inputs))

    def run(values: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, FloatArray]:
        if not precise:
            with quiet():  # an exported program warns when copied
                precise.append(copy.deepcopy(model).double())
        try:
            result = compute(precise[0], torch.float64, values)
        except RuntimeError:
            result = compute(model, torch.float32, values)
        leaves = [leaf for leaf in torch.utils._pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        return {name: leaf.detach().double().numpy() for name, leaf in zip(outputs, leaves, strict=True)}

    return run
