"""Constants that a program stores compressed: what each ``constexpr`` operation unfolds to, before the program runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsk_deploy.errors import CorruptFileError
from rsk_deploy.mlprogram.package import MOST_ELEMENTS

Array = NDArray[Any]


def sparse(nonzero_data: Array, mask: Array) -> Array:
    """Values at the places of a mask, zeros elsewhere."""
    if nonzero_data.ndim != 1 or np.count_nonzero(mask) != nonzero_data.size:
        raise CorruptFileError(f"{nonzero_data.size} values for {np.count_nonzero(mask)} places")
    dense = np.zeros(mask.shape, nonzero_data.dtype)
    dense[mask != 0] = nonzero_data
    return dense


def sparse_to_dense(nonzero_data: Array, mask: Array, shape: Array | None = None) -> Array:
    """The older form has the mask as bytes, the lowest bit first, and the shape beside it."""
    if shape is None:
        return sparse(nonzero_data, mask)
    sizes = tuple(int(size) for size in shape.reshape(-1))
    if prod(sizes) > MOST_ELEMENTS or mask.dtype != np.uint8 or mask.size * 8 < prod(sizes):
        raise CorruptFileError(f"a mask of {mask.size} bytes for the shape {sizes}")
    return sparse(nonzero_data, np.unpackbits(mask.reshape(-1), count=prod(sizes), bitorder="little").reshape(sizes))


def blockwise(data: Array, scale: Array, offset: Array | None = None) -> Array:
    """``scale · (data - offset)``, a scale each block."""
    if scale.ndim != data.ndim or any(size == 0 or dim % size for dim, size in zip(data.shape, scale.shape, strict=True)):
        raise CorruptFileError(f"scales of shape {scale.shape} for data of shape {data.shape}")
    shifted = data.astype(np.float32) - (0 if offset is None else _spread(offset, data.shape).astype(np.float32))
    return (shifted * _spread(scale, data.shape).astype(np.float32)).astype(scale.dtype)


def lookup(indices: Array, lut: Array, vector_axis: Array | None = None) -> Array:
    """One palette of single values for all places; other palettes are refused."""
    if lut.ndim != indices.ndim + 2 or prod(lut.shape) != lut.shape[-2]:
        raise CorruptFileError(f"a palette of shape {lut.shape} for indices of shape {indices.shape}; one of single values is read")
    if indices.size and int(indices.max()) >= lut.size:
        raise CorruptFileError(f"place {int(indices.max())} of a palette of {lut.size}")
    return lut.reshape(-1)[indices]


def sparse_blockwise(data_mask: Array, nonzero_data: Array, scale: Array, offset: Array | None = None) -> tuple[Array, Array]:
    """The mask, and the values at its places."""
    return data_mask, blockwise(sparse(nonzero_data, data_mask), scale, offset)[data_mask != 0]


def sparse_lookup(indices_mask: Array, indices_nonzero_data: Array, lut: Array, vector_axis: Array | None = None) -> tuple[Array, Array]:
    """The mask, and the values at its places."""
    return indices_mask, lookup(sparse(indices_nonzero_data, indices_mask), lut)[indices_mask != 0]


def _spread(blocks: Array, shape: tuple[int, ...]) -> Array:
    """Each block's number at all of its places."""
    if blocks.ndim != len(shape):
        raise CorruptFileError(f"blocks of shape {blocks.shape} for data of shape {shape}")
    for axis, size in enumerate(shape):
        blocks = np.repeat(blocks, size // blocks.shape[axis], axis=axis) if blocks.shape[axis] not in (1, size) else blocks
    return np.broadcast_to(blocks, shape)


CONSTANTS: Mapping[str, Callable[..., Any]] = {
    "constexpr_sparse_to_dense": sparse_to_dense,
    "constexpr_blockwise_shift_scale": blockwise,
    "constexpr_lut_to_dense": lookup,
    "constexpr_sparse_blockwise_shift_scale": sparse_blockwise,
    "constexpr_lut_to_sparse": sparse_lookup,
}
"""By the operation's name: from its parameters to its value, or its several."""
