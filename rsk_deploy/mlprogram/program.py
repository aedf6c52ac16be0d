"""An ML program that can be run: a list of operations over named values.

fp16 is emulated: an operation reads fp16 values, computes in fp32, and its result is rounded to fp16. That is what Core ML
promises at most: its processors round sums in between as they like.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsk_deploy.errors import CorruptFileError, RskError, UnsupportedError, UsageError, about
from rsk_deploy.ir import Json
from rsk_deploy.mlprogram.constants import CONSTANTS
from rsk_deploy.mlprogram.operations import OPERATIONS
from rsk_deploy.mlprogram.package import Package, read, tensor_type
from rsk_deploy.mlprogram.wire import Message

Array = NDArray[Any]
MOST_OPERATIONS = 200_000
MOST_BYTES = 8 << 30
"""Of all constants together: many may point to one blob."""


@dataclass(frozen=True)
class Operation:
    """One operation: parameters by name, each the name of a value, several of them, or what the file gives itself."""

    kind: str
    inputs: Mapping[str, tuple[str, ...]]
    given: Mapping[str, Any]
    outputs: tuple[Message, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Of what it computes."""
        return tuple(output.get("name", "") for output in self.outputs)


@dataclass(frozen=True)
class Program:
    """The main function of a package: its inputs by name with their types, and its operations, constants unfolded."""

    package: Package
    inputs: Mapping[str, Message]
    operations: tuple[Operation, ...]
    constants: Mapping[str, Any]

    @property
    def values(self) -> frozenset[str]:
        """The names of everything computed."""
        return frozenset(name for operation in self.operations for name in operation.names)

    @property
    def said(self) -> Mapping[str, Json]:
        """What rsk-deploy left in the package's metadata."""
        return self.package.said

    def run(self, inputs: Mapping[str, Array], wanted: Iterable[str]) -> dict[str, Any]:
        """The values asked for. A label is a string, probabilities are by label."""
        names = list(wanted)
        known: dict[str, Any] = {name: self._accepted(name, type_, inputs) for name, type_ in self.inputs.items()}
        batch = next((len(known[name]) for name, type_ in self.inputs.items() if _is_open(type_)), 0)
        last = {name: index for index, operation in enumerate(self.operations) for names in operation.inputs.values() for name in names}
        for index, operation in enumerate(self.operations):
            with _sound(operation):
                known |= self._computed(operation, known, batch)
            for name in {name for names in operation.inputs.values() for name in names}:
                if last[name] == index and name not in names:
                    known.pop(name, None)
        if missing := [name for name in names if name not in known]:
            raise CorruptFileError(f"computes no value {missing[0]!r}")
        return {name: known[name] for name in names}

    def _accepted(self, name: str, type_: Message, inputs: Mapping[str, Array]) -> Array:
        if name not in inputs:
            raise UsageError(f"input {name!r} is missing; the program reads {', '.join(self.inputs)}")
        x = np.asarray(inputs[name])
        element, _, shape = tensor_type(type_, batch=x.shape[0] if x.ndim else 0)
        if x.shape != shape or x.size == 0:
            raise UsageError(f"input {name!r} has shape {x.shape}; the program reads {shape}")
        return x.astype(element)

    def _computed(self, operation: Operation, known: Mapping[str, Any], batch: int) -> dict[str, Any]:
        """The operation's values; they are what their types say."""
        given = dict(operation.given)
        for name, values in operation.inputs.items():
            several = [self._value(each, known) for each in values]
            given[name] = several if name == "values" else several[0]
        if operation.kind == "classify":
            return _classified(operation, given)
        result = OPERATIONS[operation.kind](**{name: _widened(value) for name, value in given.items()})
        (output,) = operation.outputs
        return {output.get("name", ""): _typed(result, output, batch)}

    def _value(self, name: str, known: Mapping[str, Any]) -> Any:
        if name in known:
            return known[name]
        if name not in self.constants:
            raise CorruptFileError(f"reads {name!r}, which no earlier operation computes")
        return self.constants[name]


def load(path: Path) -> Program:
    """The program in a package. Everything but the values that come of its inputs is checked here."""
    with about(str(path)):
        package = read(path)
        function = package.model.get("mlProgram", {}).get("functions", {}).get("main")
        if function is None:
            raise CorruptFileError("is a Core ML model, but no ML program: it has no function 'main'")
        block = function.get("blocks", {}).get(function.get("opset", ""), {})
        inputs = {entry.get("name", ""): entry.get("type", {}) for entry in function.get("inputs", [])}
        for name, type_ in inputs.items():
            with about(f"input {name}"):
                tensor_type(type_, batch=1)
        return Program(package, inputs, *_sorted(package, block.get("operations", [])))


def _sorted(package: Package, messages: Sequence[Message]) -> tuple[tuple[Operation, ...], dict[str, Any]]:
    """The operations to run, and the constants that the others stand for."""
    if len(messages) > MOST_OPERATIONS:
        raise CorruptFileError(f"has {len(messages)} operations; at most {MOST_OPERATIONS} are read")
    operations: list[Operation] = []
    constants: dict[str, Any] = {}
    unfolded = 0
    for message in messages:
        operation = _operation(package, message)
        with _sound(operation):
            if operation.kind == "const":
                constants[operation.names[0]] = operation.given["val"]
            elif operation.kind in CONSTANTS:
                constants |= _unfolded(operation, constants)
                unfolded += sum(constants[name].nbytes for name in operation.names)
            elif operation.kind in OPERATIONS or operation.kind == "classify":
                operations.append(operation)
            else:
                raise UnsupportedError("is an operation that the interpreter does not have")
        if unfolded > MOST_BYTES:
            raise CorruptFileError(f"its constants unfold to more than {MOST_BYTES} bytes")
    return tuple(operations), constants


def _operation(package: Package, message: Message) -> Operation:
    """The message, with what it holds itself as arrays."""
    inputs: dict[str, tuple[str, ...]] = {}
    given: dict[str, Any] = {}
    outputs = tuple(message.get("outputs", []))
    operation = Operation(message.get("type", ""), inputs, given, outputs)
    with _sound(operation):
        for key, value in message.get("attributes", {}).items():
            if key != "name":
                given[key] = package.value(value)
        for key, argument in message.get("inputs", {}).items():
            bindings = argument.get("arguments", [])
            if any("value" in binding for binding in bindings):
                given[key] = package.value(bindings[0].get("value", {}))
            else:
                inputs[key] = tuple(binding.get("name", "") for binding in bindings)
        if not outputs or message.get("blocks"):
            raise CorruptFileError("has no output, or operations inside")
    return operation


def _unfolded(operation: Operation, constants: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a compressed constant."""
    given = {**operation.given, **{key: constants[names[0]] for key, names in operation.inputs.items()}}
    results = CONSTANTS[operation.kind](**given)
    several = results if isinstance(results, tuple) else (results,)
    for output, result in zip(operation.outputs, several, strict=True):
        _, _, shape = tensor_type(output.get("type", {}))
        if result.shape != shape:
            raise CorruptFileError(f"unfolds to shape {result.shape}, not {shape}")
    return dict(zip(operation.names, several, strict=True))


def _classified(operation: Operation, given: Mapping[str, Any]) -> dict[str, Any]:
    """The likeliest label, and the probability of each."""
    labels, numbers = given["classes"], given["probabilities"].reshape(-1)
    if len(labels) != len(numbers):
        raise CorruptFileError(f"{len(labels)} labels for {len(numbers)} classes")
    label, probabilities = operation.names
    return {label: labels[int(numbers.argmax())], probabilities: dict(zip(labels, numbers.tolist(), strict=True))}


def _typed(result: Array, output: Message, batch: int) -> Array:
    element, _, shape = tensor_type(output.get("type", {}), batch)
    open_ = _is_open(output.get("type", {}))
    if (len(result.shape) != len(shape) if open_ else result.shape != shape) or prod(result.shape) == 0:
        raise CorruptFileError(f"computes shape {result.shape}, not {shape}")
    return result.astype(element, copy=False)


def _is_open(type_: Message) -> bool:
    return any("constant" not in dim for dim in type_.get("tensor", {}).get("dimensions", []))


def _widened(value: Any) -> Any:
    """fp16 as fp32, to compute with."""
    if isinstance(value, list):
        return [_widened(each) for each in value]
    return value.astype(np.float32) if isinstance(value, np.ndarray) and value.dtype == np.float16 else value


@contextmanager
def _sound(operation: Operation) -> Iterator[None]:
    """What numpy refuses is the file's fault; the operation is named."""
    what = f"{operation.kind} {next(iter(operation.names), '')}"
    with about(what):
        try:
            with np.errstate(all="ignore"):
                yield
        except RskError:
            raise
        except (ValueError, TypeError, IndexError, KeyError, OverflowError, AttributeError, MemoryError, ZeroDivisionError) as error:
            raise CorruptFileError(f"its parameters do not fit: {type(error).__name__}: {error}") from error
