"""Packed weights as the sparse matrices that the native steps read: a row a filter, a column for each (channel, tap)."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from rsk_deploy.ir import BoolArray, FloatArray, Packed
from rsk_deploy.registry import format_named
from rsk_deploy.runtime import _native

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


def filled(weight: Packed, kept: BoolArray, groups: int) -> Matrix:
    """The same with its zeros written out."""
    return rows_of(spread(weight, kept), np.ones(weight.shape, np.bool_), groups)


def spread(weight: Packed, kept: BoolArray) -> NDArray[np.float32]:
    """The dense values, one behind the other, of a weight and its support."""
    values = weight.arrays["values"].astype(np.float32, copy=False)
    if values.size == kept.size:
        return values
    dense = np.zeros(kept.size, np.float32)
    dense[np.flatnonzero(kept)] = values
    return dense


def rows_of(values: FloatArray, kept: BoolArray, groups: int) -> Matrix:
    """The matrix with ``values`` at the places of ``kept``, one behind the other."""
    filters, taps = len(kept), prod(kept.shape[1:])
    places = kept.reshape(filters, taps)
    start = np.zeros(filters + 1, np.uint32)
    np.cumsum(np.count_nonzero(places, axis=1), out=start[1:])
    if start[-1] == places.size:
        columns = np.tile(np.arange(taps, dtype=np.uint32), filters)
    else:
        room = np.empty(int(start[-1]) + 1, np.uint32)
        _native.columns(np.ascontiguousarray(places), room)
        columns = room[:-1]
    if groups > 1:
        columns += (np.arange(filters, dtype=np.uint32) // np.uint32(filters // groups) * np.uint32(taps)).repeat(np.diff(start))
    return Matrix(start, columns, values)


def turned(weight: Packed, groups: int) -> tuple[FloatArray, BoolArray]:
    """The dense values and the support of a transposed convolution's weight (channels, filters / groups, *kernel), filters first."""
    return turned_array(decoded(weight), groups), turned_array(support(weight), groups)


def turned_array(values: NDArray[Scalar], groups: int) -> NDArray[Scalar]:
    """One array of a weight, turned."""
    channels, filters, *kernel = values.shape
    grouped = values.reshape(groups, channels // groups, filters, *kernel).swapaxes(1, 2)
    return grouped.reshape(groups * filters, channels // groups, *kernel)
