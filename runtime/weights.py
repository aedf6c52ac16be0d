"""Packed weights as the sparse matrices that the native steps read: a row a filter, a column for each (channel, tap)."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from rsk_deploy.ir import BoolArray, FloatArray, Mask, Packed
from rsk_deploy.registry import format_named

Index: TypeAlias = NDArray[np.uint32]
Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True, eq=False)
class Matrix:
    """Compressed rows: row r has ``columns[start[r]:start[r + 1]]``, rising."""

    start: Index
    columns: Index
    values: NDArray[np.float32]


def support(weight: Packed) -> BoolArray:
    """Where the encoding keeps values (a kept value may be 0)."""
    return format_named(weight.format).support(weight)


def decoded(weight: Packed) -> FloatArray:
    """The dense values."""
    return format_named(weight.format).decode(weight)


def compressed(weight: Packed, kept: BoolArray, groups: int = 1) -> Matrix:
    """The matrix of a weight (filters, channels / groups, *kernel) and its support; other groups' channels are zeros."""
    return rows_of(weight.arrays["values"].astype(np.float32, copy=False), kept, groups)


def filled(weight: Packed, groups: int) -> Matrix:
    """The same with its zeros written out."""
    return rows_of(decoded(weight).reshape(-1), np.ones(weight.shape, np.bool_), groups)


def rows_of(values: FloatArray, kept: BoolArray, groups: int) -> Matrix:
    """The matrix with ``values`` at the places of ``kept``, one behind the other."""
    filters, taps = len(kept), prod(kept.shape[1:])
    places = kept.reshape(filters, taps)
    counts = np.count_nonzero(places, axis=1)
    start = np.zeros(filters + 1, np.uint32)
    np.cumsum(counts, out=start[1:])
    row = np.arange(filters)
    first_of_row = taps * row - taps * (row // (filters // groups))
    columns = np.flatnonzero(places) - np.repeat(first_of_row, counts)
    return Matrix(start, columns.astype(np.uint32), values)


def turned(weight: Packed, groups: int) -> Packed:
    """A transposed convolution's weight (channels, filters / groups, *kernel) as that of a convolution, taps reversed."""
    kept = turned_array(support(weight), groups)
    return format_named("bitmask").encode(turned_array(decoded(weight), groups), Mask("unstructured", kept))


def turned_array(values: NDArray[Scalar], groups: int) -> NDArray[Scalar]:
    """One array of a weight, turned."""
    channels, filters, *kernel = values.shape
    grouped = values.reshape(groups, channels // groups, filters, *kernel).swapaxes(1, 2)
    return np.flip(grouped.reshape(groups * filters, channels // groups, *kernel), axis=tuple(range(2, values.ndim)))
