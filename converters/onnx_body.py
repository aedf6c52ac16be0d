"""The body of an ONNX graph while it is written: nodes and initializers as plain data, one scope a layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rsk_deploy.errors import UnsupportedError
from rsk_deploy.ir import Layer, Opaque, Shape

Array: TypeAlias = NDArray[Any]


FLOAT, UINT8, INT32, INT64 = 1, 2, 6, 7
"""Element types as ONNX numbers them."""

BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
"""The eight bits of each byte, the lowest first."""


@dataclass(frozen=True)
class Node:
    """One ONNX node; ``verbatim`` is the serialised node it repeats, if it is not ours."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    name: str
    doc: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    verbatim: bytes = b""


@dataclass(frozen=True)
class Sequence:
    """Values of ``count`` states of one shift register, from the state 1 on, and how to start from another.

    ``places`` (4, count) says where the bytes of each state have their products in a row of ``products`` (seeds, 1024);
    ``seeds`` gives the row of each seed.
    """

    count: int
    places: str
    products: str
    seeds: Mapping[int, int]


@dataclass(frozen=True)
class Sparse:
    """A tensor of which a file holds the nonzero values alone, and where they are among all its elements."""

    values: Array
    places: NDArray[np.int64]
    shape: Shape


class Body:
    """Nodes in order and initializers by name. Every value has one origin: a name that is taken is refused."""

    def __init__(self, opset: int, inputs: Iterable[str], *, as_sparse: bool = False) -> None:
        self.opset, self.as_sparse = opset, as_sparse
        self.nodes: list[Node] = []
        self.initializers: dict[str, Array] = {}
        self.sparse: dict[str, Sparse] = {}
        self.sequences: dict[int, Sequence] = {}
        self._taken = set(inputs)
        self._shared: dict[tuple[str, Shape, bytes], str] = {}

    def take(self, name: str) -> str:
        """Reserve the name of a value."""
        if name in self._taken:
            raise UnsupportedError(f"two values of the file would be called {name!r}; rename the layer or the value of that name")
        self._taken.add(name)
        return name

    def initializer(self, name: str, values: Array) -> str:
        """Store an array under its own name."""
        self.initializers[self.take(name)] = values
        return name

    def sparse_initializer(self, name: str, tensor: Sparse) -> str:
        """Store a sparse tensor under its own name."""
        self.sparse[self.take(name)] = tensor
        return name

    def constant(self, values: Array) -> str:
        """A small array of the writer's own, stored once however many nodes read it."""
        key = (values.dtype.str, values.shape, values.tobytes())
        if key not in self._shared:
            self._shared[key] = self.initializer(f"rsk.constant.{len(self._shared)}", values)
        return self._shared[key]


class Scope:
    """Writes auxiliary nodes, all under one name."""

    def __init__(self, body: Body, name: str) -> None:
        self.body, self.name = body, name

    @property
    def opset(self) -> int:
        """The version of ai.onnx that the file declares."""
        return self.body.opset

    def tensor(self, what: str, values: Array) -> str:
        """Store an array as ``name.what``."""
        return self.body.initializer(f"{self.name}.{what}", values)

    def floats(self, *values: float) -> str:
        """Float constants: a scalar, or a vector of several."""
        return self.body.constant(np.array(values[0] if len(values) == 1 else values, np.float32))

    def ints(self, values: Iterable[int]) -> str:
        """A vector of int64 constants."""
        return self.body.constant(np.array(list(values), np.int64))

    def scalar(self, value: int, dtype: DTypeLike = np.int64) -> str:
        """A scalar integer constant."""
        return self.body.constant(np.array(value, dtype))

    def step(self, what: str, op: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """A node ``name/what``; its value has the same name unless ``output`` is given."""
        name = f"{self.name}/{what}"
        value = self.body.take(output or name)
        self.body.nodes.append(Node(op, inputs, (value,), name, attributes=attributes))
        return value

    def halves(self, what: str, value: str, axis: int) -> tuple[str, str]:
        """The two halves of a value along an axis, at opset 18 or higher."""
        name = f"{self.name}/{what}"
        halves = (self.body.take(f"{name}/low"), self.body.take(f"{name}/high"))
        self.body.nodes.append(Node("Split", (value,), halves, name, attributes={"axis": axis, "num_outputs": 2}))
        return halves


class LayerScope(Scope):
    """Writes the nodes of one layer. ``shapes`` are its input shapes at batch 1."""

    def __init__(self, body: Body, layer: Layer, shapes: tuple[Shape, ...]) -> None:
        super().__init__(body, layer.name)
        self.layer, self.shapes = layer, shapes

    @property
    def x(self) -> str:
        """The layer's first input."""
        return self.layer.inputs[0]

    def result(self, op: str, *inputs: str, **attributes: Any) -> None:
        """The node that computes the layer's output."""
        self.body.nodes.append(Node(op, inputs, (self.body.take(self.layer.outputs[0]),), self.name, self.layer.origin, attributes))

    def verbatim(self, layer: Opaque) -> None:
        """The opaque layer's node as it was read."""
        outputs = tuple(self.body.take(name) for name in layer.outputs)
        self.body.nodes.append(Node(layer.op, layer.inputs, outputs, self.name, layer.origin, verbatim=layer.node))
