"""The operations a network is made of, in one normal form: NCHW, explicit pads, fp32, one meaning each.

Here: what every layer is, those with weights, windows, constants, and what is not modelled.

Each class says what it needs, checks it, and gives the shapes of its outputs. Pads are ``(begin…, end…)`` over the
spatial axes; axes are never negative. A value has the shape of the network's batch: only axis 0 can change with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, Generic

import numpy as np
from numpy.typing import NDArray

from rsk_deploy.errors import CorruptFileError
from rsk_deploy.ir.weights import Comparable, FloatArray, Shape, Weight, frozen

MAX_ELEMENTS = 1 << 31
"""No value of a network is larger than this many elements; a file that asks for more is refused before memory is."""


def expect(condition: bool, message: str) -> None:
    """Refuse a layer that contradicts itself or its inputs."""
    if not condition:
        raise CorruptFileError(message)


def sized(shape: Sequence[int]) -> Shape:
    """``shape``, if a machine can hold it."""
    expect(all(dim >= 1 for dim in shape), f"computes an empty value of shape {tuple(shape)}")
    expect(prod(shape) <= MAX_ELEMENTS, f"computes a value of shape {tuple(shape)}: more than {MAX_ELEMENTS} elements")
    return tuple(int(dim) for dim in shape)


@dataclass(frozen=True, eq=False, kw_only=True)
class Layer(Comparable):
    """One operation. ``origin`` is where it stands in the user's program (module path, source line), for messages."""

    ARITY: ClassVar[int | None] = 1
    RESULTS: ClassVar[int | None] = 1

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    origin: str = ""

    def __post_init__(self) -> None:
        expect(self.ARITY is None or len(self.inputs) == self.ARITY, f"{self.name}: has {len(self.inputs)} inputs, not {self.ARITY}")
        expect(self.RESULTS is None or len(self.outputs) == self.RESULTS, f"{self.name}: has {len(self.outputs)} outputs, not one")
        for key, value in vars(self).items():
            if isinstance(value, np.ndarray):
                object.__setattr__(self, key, frozen(value))

    def shape(self, *shapes: Shape) -> Sequence[int]:
        """The shape of the output, from the shapes of the inputs."""
        raise AssertionError(f"{type(self).__name__} gives no shape")

    def shapes(self, shapes: Sequence[Shape], batch: int) -> tuple[Shape, ...]:
        """The shape of every output for one batch size."""
        return (sized(self.shape(*shapes)),)


def window(size: Sequence[int], kernel: Sequence[int], layer: Conv[Any] | Pool, pads: Sequence[int], ceil_mode: bool = False) -> list[int]:
    """Output size of a sliding window over the spatial axes."""
    rank = len(kernel)
    expect(len(size) == rank, f"needs {rank} spatial axes, its input has {len(size)}")
    result = []
    for axis in range(rank):
        span = layer.dilation[axis] * (kernel[axis] - 1) + 1
        padded = size[axis] + pads[axis] + pads[axis + rank]
        expect(padded >= span, f"window of {span} does not fit the padded input of {padded} along spatial axis {axis}")
        rest = padded - span
        count = (-(-rest // layer.stride[axis]) if ceil_mode else rest // layer.stride[axis]) + 1
        if ceil_mode and (count - 1) * layer.stride[axis] >= size[axis] + pads[axis]:
            count -= 1  # a window must start inside the input or its left pad
        result.append(count)
    return result


def check_window(layer: Conv[Any] | ConvTranspose[Any] | Pool, rank: int) -> None:
    """Refuse strides, dilations and pads of the wrong length or sign."""
    expect(rank >= 1, "has no spatial axes")
    for what, values, length, least in (("stride", layer.stride, rank, 1), ("dilation", layer.dilation, rank, 1), ("pads", layer.pads, 2 * rank, 0)):
        expect(len(values) == length and all(value >= least for value in values), f"{layer.name}: {what} {values} for {rank} spatial axes")


@dataclass(frozen=True, eq=False, kw_only=True)
class Weighted(Layer, Generic[Weight]):
    """A layer with a weight that can be sparse, and a bias per output channel."""

    weight: Weight
    bias: FloatArray | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        expect(all(dim >= 1 for dim in self.weight.shape), f"{self.name}: weight of shape {self.weight.shape} is empty")
        expect(
            self.bias is None or self.bias.shape == (self.filters,),
            f"{self.name}: bias of shape {getattr(self.bias, 'shape', None)} for {self.filters} filters",
        )

    @property
    def filters(self) -> int:
        """Output channels."""
        return self.weight.shape[0]


@dataclass(frozen=True, eq=False, kw_only=True)
class Conv(Weighted[Weight]):
    """Convolution over 1 to 3 spatial axes. Weight (filters, channels / groups, *kernel)."""

    stride: tuple[int, ...]
    pads: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1

    def __post_init__(self) -> None:
        expect(len(self.weight.shape) in (3, 4, 5), f"{self.name}: weight of shape {self.weight.shape} is no convolution kernel")
        super().__post_init__()
        check_window(self, len(self.weight.shape) - 2)
        expect(self.groups >= 1 and self.filters % self.groups == 0, f"{self.name}: {self.filters} filters in {self.groups} groups")

    def shape(self, *shapes: Shape) -> Sequence[int]:
        (x,) = shapes
        filters, channels, *kernel = self.weight.shape
        expect(
            len(x) == len(kernel) + 2 and x[1] == channels * self.groups,
            f"kernel {self.weight.shape} in {self.groups} groups does not fit an input of shape {x}",
        )
        return [x[0], filters] + window(x[2:], kernel, self, self.pads)  # noqa: RUF005  # mypy loses starred items in a class generic in a constrained variable


@dataclass(frozen=True, eq=False, kw_only=True)
class ConvTranspose(Weighted[Weight]):
    """Transposed convolution. Weight (channels, filters / groups, *kernel)."""

    stride: tuple[int, ...]
    pads: tuple[int, ...]
    dilation: tuple[int, ...]
    output_pads: tuple[int, ...]
    groups: int = 1

    def __post_init__(self) -> None:
        expect(len(self.weight.shape) in (3, 4, 5), f"{self.name}: weight of shape {self.weight.shape} is no convolution kernel")
        expect(self.groups >= 1 and self.weight.shape[0] % self.groups == 0, f"{self.name}: {self.weight.shape[0]} channels in {self.groups} groups")
        super().__post_init__()
        check_window(self, len(self.weight.shape) - 2)
        expect(
            len(self.output_pads) == len(self.weight.shape) - 2 and all(pad >= 0 for pad in self.output_pads), f"{self.name}: output pads {self.output_pads}"
        )

    @property
    def filters(self) -> int:
        return self.weight.shape[1] * self.groups

    def shape(self, *shapes: Shape) -> Sequence[int]:
        (x,) = shapes
        channels, _, *kernel = self.weight.shape
        rank = len(kernel)
        expect(len(x) == rank + 2 and x[1] == channels, f"kernel {self.weight.shape} does not fit an input of shape {x}")
        spatial = [
            (x[2 + axis] - 1) * self.stride[axis]
            + self.dilation[axis] * (kernel[axis] - 1)
            + 1
            + self.output_pads[axis]
            - self.pads[axis]
            - self.pads[axis + rank]
            for axis in range(rank)
        ]
        return [x[0], self.filters] + spatial  # noqa: RUF005  # mypy loses starred items in a class generic in a constrained variable


@dataclass(frozen=True, eq=False, kw_only=True)
class Linear(Weighted[Weight]):
    """``x @ weight.T + bias`` over the last axis. Weight (outputs, inputs)."""

    def __post_init__(self) -> None:
        expect(len(self.weight.shape) == 2, f"{self.name}: weight of shape {self.weight.shape} is no matrix")
        super().__post_init__()

    def shape(self, *shapes: Shape) -> Sequence[int]:
        (x,) = shapes
        outputs, inputs = self.weight.shape
        expect(len(x) >= 2 and x[-1] == inputs, f"a matrix for {inputs} inputs does not fit an input of shape {x}")
        return x[:-1] + (outputs,)  # noqa: RUF005  # mypy loses starred items in a class generic in a constrained variable


@dataclass(frozen=True, eq=False, kw_only=True)
class Pool(Layer):
    """A window slid over the spatial axes. With ``ceil_mode`` the last window may hang over the end."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pads: tuple[int, ...]
    dilation: tuple[int, ...]
    ceil_mode: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_window(self, len(self.kernel))
        expect(all(size >= 1 for size in self.kernel), f"{self.name}: kernel {self.kernel}")

    def shape(self, *shapes: Shape) -> Sequence[int]:
        (x,) = shapes
        return [*x[:2], *window(x[2:], self.kernel, self, self.pads, self.ceil_mode)]


@dataclass(frozen=True, eq=False, kw_only=True)
class MaxPool(Pool):
    """Largest element under the window; pads never win."""


@dataclass(frozen=True, eq=False, kw_only=True)
class AveragePool(Pool):
    """Mean under the window. With ``count_pads`` the pads count as zeros (what hangs over them in ceil mode never counts)."""

    count_pads: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class Constant(Layer):
    """A value that does not depend on the input. Any dtype: opaque nodes read integers too."""

    ARITY = 0
    values: NDArray[Any]

    def shape(self, *shapes: Shape) -> Sequence[int]:
        return self.values.shape


@dataclass(frozen=True, eq=False, kw_only=True)
class Opaque(Layer):
    """An ONNX node that the graph does not model: only the ONNX converter writes it (back, unchanged); others refuse it by name.

    ``node`` is the serialised NodeProto (its own name, inputs and outputs are ours to set: an empty input is an omitted
    optional one), ``op`` its type for messages, ``opset`` the version of its ``domain``; ``output_shapes`` are what ONNX
    infers, ``"batch"`` where open.
    """

    ARITY = None
    RESULTS = None
    op: str
    node: bytes
    domain: str
    opset: int
    output_shapes: tuple[tuple[int | str, ...], ...]
    output_dtypes: tuple[str, ...]

    def shapes(self, shapes: Sequence[Shape], batch: int) -> tuple[Shape, ...]:
        expect(len(self.output_shapes) == len(self.output_dtypes) == len(self.outputs) >= 1, f"{len(self.outputs)} outputs, {len(self.output_shapes)} shapes")
        return tuple(sized([batch if isinstance(dim, str) else dim for dim in shape]) for shape in self.output_shapes)
