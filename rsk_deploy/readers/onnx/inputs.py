"""Which inputs a model has, and at which batch sizes it is evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rsk_deploy.errors import UnsupportedError, UsageError
from rsk_deploy.ir import Input, Shape
from rsk_deploy.ir.graph import BATCH
from rsk_deploy.readers import ReadOptions
from rsk_deploy.readers.onnx.values import dtype_of, graph_dtype

BATCHES = (2, 7)
"""A dimension that is equal at both does not depend on the batch. Two and seven differ also when halved, or divided by four."""


@dataclass(frozen=True)
class Inputs:
    """The graph's inputs, and for each the shape at every batch size that is evaluated. ``relaxed``: the file fixes another batch size."""

    entries: tuple[Input, ...]
    batches: tuple[int, ...]
    relaxed: bool

    def shapes(self) -> dict[str, tuple[Shape, ...]]:
        """By name, one shape for each of ``batches``."""
        return {entry.name: tuple(entry.at(batch) for batch in self.batches) for entry in self.entries}


def declared_shape(entry: Any) -> tuple[int | str, ...]:
    """What the file says of an input: a number, or a name where the dimension is open."""
    kind = entry.type.WhichOneof("value")
    if kind != "tensor_type" or not entry.type.tensor_type.HasField("shape"):
        raise UnsupportedError(
            f"input {entry.name!r} is {'a tensor of any rank' if kind == 'tensor_type' else kind or 'of no type'}; inputs are tensors of known rank"
        )
    dims = entry.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or f"dim{axis}" for axis, dim in enumerate(dims))


def asked_shape(name: str, names: list[str], options: ReadOptions) -> Shape | None:
    """The shape that the options give for one input, if any."""
    if isinstance(options.input_shape, Mapping):
        if unknown := sorted(set(options.input_shape) - set(names)):
            raise UsageError(f"an input shape is given for {unknown[0]!r}; the inputs are {', '.join(names)}")
        given = options.input_shape.get(name)
    else:
        if options.input_shape is not None and len(names) > 1:
            raise UsageError(f"one input shape {tuple(options.input_shape)} is given, and the inputs are {', '.join(names)}: give a shape for each, by name")
        given = options.input_shape
    return None if given is None else tuple(int(dim) for dim in given)


def resolve(name: str, declared: tuple[int | str, ...], asked: Shape | None) -> Shape:
    """The shape to read the model at: what is asked where the file leaves it open or fixes only another batch size, and batch 1 if nothing is said."""
    if asked is not None:
        if len(asked) != len(declared) or any(isinstance(dim, int) and dim != want for dim, want in zip(declared[1:], asked[1:], strict=True)):
            raise UsageError(f"input {name!r} has shape {declared} in the file; {asked} is asked")
        return asked
    if any(isinstance(dim, str) for dim in declared[1:]):
        raise UsageError(
            f"input {name!r} has shape {declared}, open beyond the batch: give its shape with --input-shape (input_shape= in Python), for example 1,3,224,224"
        )
    return tuple(1 if isinstance(dim, str) else dim for dim in declared)


def plan_inputs(model: Any, options: ReadOptions) -> Inputs:
    """The inputs of ``model`` as ``options`` ask for them."""
    stored = {tensor.name for tensor in model.graph.initializer} | {tensor.values.name for tensor in model.graph.sparse_initializer}
    entries = [entry for entry in model.graph.input if entry.name not in stored]
    names = [entry.name for entry in entries]
    declared = {entry.name: declared_shape(entry) for entry in entries}
    shapes = {name: resolve(name, declared[name], asked_shape(name, names, options)) for name in names}
    leading = {declared[name][0] for name in names if declared[name]}
    batch = next((declared[name][0] for name in names if declared[name] and isinstance(declared[name][0], str)), next(iter(leading), None))
    inputs = []
    for entry in entries:
        shape: tuple[int | str, ...] = shapes[entry.name]
        if options.dynamic_batch and shape and declared[entry.name][0] == batch:
            shape = (BATCH, *shape[1:])
        dtype = graph_dtype(dtype_of(entry.type.tensor_type.elem_type, entry.name))
        if dtype.kind not in "biuf":
            raise UnsupportedError(f"input {entry.name!r} holds {dtype}; inputs are numbers")
        inputs.append(Input(entry.name, shape, dtype.name))
    dynamic = any(BATCH in entry.shape for entry in inputs)
    relaxed = any(declared[entry.name] and isinstance(declared[entry.name][0], int) and entry.shape[0] != declared[entry.name][0] for entry in inputs)
    return Inputs(tuple(inputs), BATCHES if dynamic else (1,), relaxed)


def relax(model: Any, inputs: Inputs) -> None:
    """Take the fixed batch size out of a model's declarations."""
    for entry in model.graph.input:
        declared = next((given for given in inputs.entries if given.name == entry.name), None)
        if declared is not None and declared.shape:
            entry.type.tensor_type.shape.dim[0].dim_param = BATCH
    for entry in model.graph.output:
        entry.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
