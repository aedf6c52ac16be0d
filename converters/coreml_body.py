"""The body of an ML program while it is written: coremltools' variables by the graph's value names, one scope a layer."""

from __future__ import annotations

import logging
import re
import signal
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rsk_deploy.errors import UnsupportedError, needing
from rsk_deploy.ir import FloatArray, Layer, Shape

Array: TypeAlias = NDArray[Any]
Var: TypeAlias = Any  # a variable of coremltools, which has no types

RESERVED = frozenset(
    [
        *("any", "bool", "program", "func", "tensor", "list", "dict", "tuple", "true", "false", "string", "state", "bf16", "fp16", "fp32", "fp64"),
        *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    ]
)
"""Names that mean something in the language of ML programs."""


@contextmanager
def coremltools() -> Iterator[Any]:
    """The package, quietly: on Linux it logs the parts of Core ML that are missing, and versions of torch and scikit-learn that it does not know."""
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with interrupts_held(), needing("coremltools", "coreml", "writing Core ML models"):
                import coremltools as package
                from coremltools.converters.mil.backend.mil import load  # noqa: F401 - imports what logs, while that is silenced

            yield package
    finally:
        logger.setLevel(level)


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Ctrl-C and other requests to end wait for the end: bare ``except:`` clauses that run while coremltools is imported would swallow what they raise."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    requests = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: handler for number in requests if callable(handler := signal.getsignal(number))}
    held: list[int] = []
    for number in before:
        signal.signal(number, lambda number, _: held.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])


def identifier(name: str) -> str:
    """The name as ML programs can spell it: letters, digits and underscores, a letter or underscore first."""
    plain = re.sub(r"\W", "_", name, flags=re.ASCII)
    return f"_{plain}" if not plain or plain[0].isdigit() or plain in RESERVED else plain


class Body:
    """What is written so far. The program computes in ``dtype``, the oldest system to run it is ``target``, and ``compress`` says how weights are rounded."""

    def __init__(self, builder: Any, target: int, dtype: type[np.floating[Any]], compress: str | None) -> None:
        self.builder, self.target, self.dtype, self.compress = builder, target, np.dtype(dtype), compress
        self.values: dict[str, Var] = {}
        self._taken: set[str] = set()

    def take(self, name: str) -> str:
        """A free identifier that is, or begins with, the name's."""
        plain = free = identifier(name)
        count = 1
        while free in self._taken:
            count += 1
            free = f"{plain}_{count}"
        self._taken.add(free)
        return free

    def tell_apart(self, function: Any) -> None:
        """Rename what coremltools named itself, after operations (constants, one of several results), and called as a value is called."""
        values = {id(value) for value in self.values.values()}
        for operation in function.operations:
            named = operation.op_type != "const" and len(operation.outputs) == 1
            for value in operation.outputs:
                if not named and value.name in self._taken and id(value) not in values:
                    value.name = self.take(value.name)
                    operation.name = value.name if operation.op_type == "const" else operation.name


class Scope:
    """Writes the operations of one layer. ``shapes`` are its input shapes at batch 1, ``y`` that of its output, whose axes ``open`` follow an open batch."""

    def __init__(self, body: Body, layer: Layer, shapes: Mapping[str, Shape], doubled: Mapping[str, Shape]) -> None:
        self.body, self.layer = body, layer
        self.shapes = tuple(shapes[name] for name in layer.inputs)
        (output,) = layer.outputs
        self.y = shapes[output]
        self.open = [axis for axis, (once, twice) in enumerate(zip(self.y, doubled[output], strict=True)) if once != twice]

    @property
    def inputs(self) -> tuple[Var, ...]:
        """The layer's inputs."""
        return tuple(self.body.values[name] for name in self.layer.inputs)

    @property
    def x(self) -> Var:
        """The layer's first input."""
        return self.inputs[0]

    def step(self, what: str, op: str, **parameters: Any) -> Var:
        """An auxiliary operation, called after the layer and ``what``. What is None is left out."""
        return self._append(self.body.take(f"{self.layer.name}_{what}"), op, parameters)

    def result(self, op: str, **parameters: Any) -> None:
        """The operation that computes the layer's output."""
        (output,) = self.layer.outputs
        self.body.values[output] = self._append(self.body.take(output), op, parameters)

    def floats(self, values: FloatArray | float, what: str) -> Array:
        """Constants in the type that the program computes in; a number beyond its range is refused."""
        values = np.asarray(values)
        with np.errstate(over="ignore"):
            stored = values.astype(self.body.dtype)
        if (lost := np.isinf(stored) & np.isfinite(values)).any():
            raise UnsupportedError(
                f"the {what} holds {values.reshape(-1)[lost.argmax()]:.9g}, which does not fit {self.body.dtype.name} (largest 65504). Give --precision fp32"
            )
        return stored

    def number(self, value: float, what: str) -> Any:
        """One constant."""
        return self.floats(value, what)[()]

    def per_channel(self, vector: FloatArray, what: str) -> Array:
        """A vector over the channels, shaped to broadcast against the first input."""
        return self.floats(vector.reshape(1, -1, *[1] * (len(self.shapes[0]) - 2)), what)

    def _append(self, name: str, op: str, parameters: Mapping[str, Any]) -> Var:
        given = {key: value for key, value in parameters.items() if value is not None}
        try:
            return getattr(self.body.builder, op)(**given, name=name)
        except (ValueError, TypeError, AssertionError, NotImplementedError) as error:  # coremltools' checks raise all of these
            raise UnsupportedError(f"Core ML has no such {type(self.layer).__name__}: {error}") from error
