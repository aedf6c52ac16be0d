"""What is known of every value of an ONNX graph: its type, its shape at each batch size, and its elements where they do not depend on the input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsk_deploy.errors import CorruptFileError, UnsupportedError
from rsk_deploy.ir import Shape
from rsk_deploy.ir.graph import BATCH
from rsk_deploy.ir.layers import MAX_ELEMENTS
from rsk_deploy.readers.onnx.load import onnx_says

HALVES = ("float16", "bfloat16")
FLOATS = (*HALVES, "float32", "float64")


@dataclass(frozen=True, eq=False)
class Value:
    """One value, at every batch size that is evaluated.

    ``arrays`` holds its elements if they are known; the same object twice says that they do not depend on the batch.
    ``source`` is the stored tensor that it was made from by moving or converting elements, or its own name.
    """

    dtype: np.dtype[Any]
    shapes: tuple[Shape, ...]
    arrays: tuple[NDArray[Any], ...] | None = None
    source: str = ""

    @property
    def constant(self) -> NDArray[Any] | None:
        """The elements, if they are known and the same at every batch size."""
        if self.arrays is None or any(array is not self.arrays[0] for array in self.arrays):
            return None
        return self.arrays[0]

    @property
    def rank(self) -> int:
        """How many axes it has."""
        return len(self.shapes[0])

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The shape, None where it depends on the batch."""
        return tuple(dims[0] if len(set(dims)) == 1 else None for dims in zip(*self.shapes, strict=True))

    @property
    def floating(self) -> bool:
        """Whether it is what the graph calls float32."""
        return self.dtype.name in FLOATS


def constant(array: NDArray[Any], batches: int, source: str) -> Value:
    """A value that does not depend on the batch."""
    return Value(array.dtype, (array.shape,) * batches, (array,) * batches, source)


def per_batch(arrays: Sequence[NDArray[Any]], source: str) -> Value:
    """A value with elements for each batch size; equal ones become the same object."""
    first = arrays[0]
    if all(array.shape == first.shape and array.tobytes() == first.tobytes() for array in arrays[1:]):
        return constant(first, len(arrays), source)
    return Value(first.dtype, tuple(array.shape for array in arrays), tuple(arrays), source)


def dtype_of(code: int, name: str) -> np.dtype[Any]:
    """Numpy's name for an ONNX element type."""
    from onnx import helper

    try:
        dtype: np.dtype[Any] = np.dtype(helper.tensor_dtype_to_np_dtype(code))
    except KeyError:
        raise CorruptFileError(f"{name}: unknown element type {code}") from None
    return dtype


def graph_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type that a value has in the graph: every floating one is float32."""
    return np.dtype(np.float32) if dtype.name in FLOATS else dtype


def open_shape(value: Value, batches: tuple[int, ...], name: str) -> tuple[int | str, ...]:
    """The shape with ``"batch"`` where it is the batch size."""
    dims: list[int | str] = []
    for each in zip(*value.shapes, strict=True):
        if len(set(each)) > 1 and each != batches:
            raise UnsupportedError(
                f"{name}: has shapes {value.shapes} for batch sizes {batches}, which is more than the batch size alone. Read the model with a fixed batch size."
            )
        dims.append(each[0] if len(set(each)) == 1 else BATCH)
    return tuple(dims)


def tensor_array(tensor: Any) -> NDArray[Any]:
    """The elements of a stored tensor."""
    from onnx import numpy_helper

    if any(dim < 0 for dim in tensor.dims) or prod(tensor.dims) > MAX_ELEMENTS:
        raise CorruptFileError(f"{tensor.name}: a tensor of shape {tuple(tensor.dims)}")
    with onnx_says(f"{tensor.name}: a tensor of shape {tuple(tensor.dims)} that cannot be read"):
        return np.asarray(numpy_helper.to_array(tensor))


def sparse_array(sparse: Any, limit: int) -> NDArray[Any]:
    """The elements of a stored sparse tensor, if there are at most ``limit`` of them."""
    values, indices, name = tensor_array(sparse.values), tensor_array(sparse.indices), sparse.values.name
    shape = tuple(sparse.dims)
    if any(dim < 1 for dim in shape) or prod(shape) > limit:
        raise CorruptFileError(f"{name}: a sparse tensor of shape {shape}")
    with onnx_says(f"{name}: its indices do not fit its shape {shape}"):
        flat = np.ravel_multi_index(tuple(indices.T), shape) if indices.ndim == 2 else indices
        if flat.size and (flat.min() < 0 or flat.shape != values.shape):
            raise CorruptFileError(f"{name}: {flat.shape} indices from {flat.min()} on for {values.shape} values")
        dense = np.zeros(shape, values.dtype)
        dense.reshape(-1)[flat] = values
    return dense
