"""One ONNX node at a time becomes layers: what a lowering sees of the node, and where its layers go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsk_deploy.errors import CorruptFileError, UnsupportedError
from rsk_deploy.ir import Constant, Dense, FloatArray, Layer, Shape
from rsk_deploy.readers.onnx.origin import origin
from rsk_deploy.readers.onnx.trace import Trace, label
from rsk_deploy.readers.onnx.values import Value

WEIGHT_SUFFIXES = (".weight", ".kernel")


class NotModelled(Exception):
    """The graph has no layers for this node: it stays opaque."""


class Names:
    """Names in the order in which they were taken, so that the last can be given back."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._wanted = {name: name for name in names}  # by the name that was given
        self._numbers: dict[str, int] = {}  # the last number behind each wanted name: to search from 1 is quadratic

    def __contains__(self, name: str) -> bool:
        return name in self._wanted

    def __len__(self) -> int:
        return len(self._wanted)

    def take(self, wanted: str) -> str:
        """``wanted``, or ``wanted_2``, ``wanted_3`` and so on."""
        name, number = wanted, self._numbers.get(wanted, 1)
        while name in self._wanted:
            number += 1
            name = f"{wanted}_{number}"
        self._wanted[name], self._numbers[wanted] = wanted, number
        return name

    def keep(self, count: int) -> None:
        """Give back all but the first ``count``."""
        while len(self._wanted) > count:
            _, wanted = self._wanted.popitem()
            self._numbers[wanted] = max(1, self._numbers[wanted] - 1)


class Builder:
    """The layers so far.

    ``exact``: the file is ours, every name and node in it is taken literally. ``by_nodes`` appends the nodes that compute
    a known value that depends on the batch size.
    """

    def __init__(self, trace: Trace, exact: bool, by_nodes: Callable[[str], None]) -> None:
        self.trace, self.exact, self.by_nodes = trace, exact, by_nodes
        self.layers: list[Layer] = []
        self.alias: dict[str, str] = {}
        self._layer_names, self._values, self._computed = Names(), Names(trace.values), Names()

    def constant(self, name: str) -> str:
        """Make sure that a known value has its layer."""
        if not self.has(name):
            value = self.trace.values[name]
            array = value.constant
            if array is None:
                self.by_nodes(name)
                return name
            if array.dtype.kind not in "biuf":
                raise UnsupportedError(f"{name}: a constant of type {value.dtype} cannot be part of the network")
            values = np.asarray(array.astype(np.float32) + np.float32(0)) if value.floating else array
            self.append(Constant(name=self.layer_name(self.trace.named.get(name, name)), inputs=(), outputs=(name,), values=values))
        return name

    def has(self, name: str) -> bool:
        """Whether a layer computes this value already."""
        return name in self._computed

    def append(self, layer: Layer) -> None:
        """Append a layer."""
        self.layers.append(layer)
        for name in layer.outputs:
            self._computed.take(name)

    def layer_name(self, wanted: str) -> str:
        """``wanted``, or with the first free number behind it."""
        return self._layer_names.take(wanted)

    def value_name(self, wanted: str) -> str:
        """A name that no value of the model has, ``wanted`` if possible."""
        return self._values.take(wanted)

    def mark(self) -> tuple[int, ...]:
        """Where to roll back to."""
        return tuple(len(each) for each in (self.layers, self._layer_names, self._values, self._computed))

    def roll_back(self, mark: tuple[int, ...]) -> None:
        """Take back every layer since ``mark``, and its names."""
        count, *counts = mark
        del self.layers[count:]
        for names, known in zip((self._layer_names, self._values, self._computed), counts, strict=True):
            names.keep(known)


class Node:
    """A node as its lowering sees it: attributes with defaults, inputs as constants or as values of the graph, and two ways to append a layer."""

    def __init__(self, proto: Any, builder: Builder) -> None:
        from onnx import helper

        self.proto, self.builder = proto, builder
        self.op = proto.op_type
        self.opset = builder.trace.opset(proto)
        self.origin = origin(proto, builder.exact)
        self.attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in proto.attribute}
        self._name = ""

    def attribute(self, name: str, default: Any) -> Any:
        """An attribute, text decoded."""
        value = self.attributes.get(name, default)
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else value

    def integers(self, name: str, default: Sequence[int]) -> tuple[int, ...]:
        """A list attribute."""
        return tuple(int(value) for value in self.attributes.get(name, default))

    def has(self, index: int) -> bool:
        """Whether an optional input is given."""
        return index < len(self.proto.input) and bool(self.proto.input[index])

    def value(self, index: int) -> Value:
        """What is known of an input."""
        if not self.has(index):
            raise CorruptFileError(f"{label(self.proto)}: its input {index} is missing")
        return self.builder.trace.values[self.proto.input[index]]

    @property
    def output(self) -> Value:
        """What is known of the first output."""
        return self.builder.trace.values[self.proto.output[0]]

    def used(self, index: int) -> bool:
        """Whether a further output is asked for."""
        return index < len(self.proto.output) and bool(self.proto.output[index])

    def shape(self, index: int = 0) -> tuple[int | None, ...]:
        """An input's shape, None where it depends on the batch."""
        return self.value(index).shape

    def sizes(self, axes: Sequence[int], index: int = 0) -> Shape:
        """An input's sizes along ``axes``, which must not depend on the batch."""
        sizes = [self.shape(index)[axis] for axis in axes]
        if any(size is None for size in sizes):
            raise NotModelled
        return tuple(size for size in sizes if size is not None)

    def constant(self, index: int) -> NDArray[Any] | None:
        """The elements of an input that depends on nothing."""
        return self.value(index).constant if self.has(index) else None

    def known(self, index: int, attribute: str = "") -> NDArray[Any] | None:
        """A parameter given as an attribute (older opsets) or as an input; None if it is not given. Computed ones are not modelled."""
        if attribute in self.attributes:
            return np.asarray(self.attributes[attribute])
        if not self.has(index):
            return None
        if (array := self.constant(index)) is None:
            raise NotModelled
        return array

    def floats(self, index: int) -> FloatArray:
        """An input as float32 without -0.0; refused if it is not finite, not modelled if it is computed."""
        array = self.known(index)
        if array is None:
            raise CorruptFileError(f"{label(self.proto)}: its input {index} is missing")
        return weight_values(array, self.value(index).source)

    def read(self, index: int = 0) -> str:
        """An input as a value of the graph."""
        return self.resolve(self.proto.input[index])

    def resolve(self, name: str) -> str:
        """A value of the model as a value of the graph; a known one gets a layer."""
        name = self.builder.alias.get(name, name)
        known = self.builder.trace.values[name].arrays if name in self.builder.trace.values else None
        return name if known is None else self.builder.constant(name)

    def same_as(self, name: str) -> None:
        """The first output is another value of the graph."""
        self.builder.alias[self.proto.output[0]] = name

    def weight(self, index: int) -> Dense:
        """An input as the layer's weight, which also names the layer."""
        self.named_after(index)
        return Dense(self.floats(index))

    def named_after(self, index: int) -> None:
        """Call the layer as the module that holds this input, if its name says so."""
        if self.builder.exact:
            return
        source = self.value(index).source
        for suffix in WEIGHT_SUFFIXES:
            if source.endswith(suffix) and len(source) > len(suffix):
                self._name = source.removesuffix(suffix)

    @property
    def name(self) -> str:
        """The name of the node's layer."""
        proto = self.proto
        if not self._name:
            self._name = proto.name or f"{proto.op_type.lower()}.{proto.output[0]}"
        return self._name

    def emit(self, layer: type[Layer], /, *inputs: str, **fields: Any) -> None:
        """Append the layer that computes the node's (first) output."""
        name = self.builder.layer_name(self.name)
        self.builder.append(layer(name=name, inputs=inputs, outputs=(self.proto.output[0],), origin=self.origin, **fields))

    def step(self, what: str, layer: type[Layer], /, *inputs: str, output: str = "", **fields: Any) -> str:
        """Append an auxiliary layer and give its value."""
        name = self.builder.layer_name(f"{self.name}/{what}")
        value = output or self.builder.value_name(name)
        self.builder.append(layer(name=name, inputs=inputs, outputs=(value,), origin=self.origin, **fields))
        return value

    def fixed(self, what: str, values: NDArray[Any]) -> str:
        """Append a constant of the lowering's own."""
        return self.step(what, Constant, values=values)


def weight_values(array: NDArray[Any], source: str) -> FloatArray:
    """A stored tensor as float32 without -0.0; refused with a count and a place if it is not finite."""
    with np.errstate(over="ignore"):
        values = array.astype(np.float32) + np.float32(0.0)
    if not (finite := np.isfinite(values)).all():
        first = tuple(int(index) for index in np.argwhere(~finite)[0])
        raise CorruptFileError(
            f"{source}: {int((~finite).sum())} of {values.size} weights are not finite, the first at {first} ({array[first]}). Train or save the model again."
        )
    return values
