"""Compressed rows: a column for each kept value, for weights with few of them. A filter is a row.

``columns`` has the smallest unsigned type that holds every column of the weight; row r's are ``columns[rows[r]:rows[r + 1]]``, rising.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from rsk_deploy.formats.stored import check_arrays, check_kept, check_shape, scatter
from rsk_deploy.ir import BoolArray, FloatArray, Mask, Packed, Shape
from rsk_deploy.ir.layers import expect

HOLDS = "any weight"


def column_dtype(shape: Shape) -> np.dtype[Any]:
    """The smallest type for a column of a weight of that shape."""
    return np.min_scalar_type(prod(shape[1:]) - 1)


def nbytes(mask: Mask, itemsize: int) -> int:
    """A value and a column for each place, and the row pointers."""
    shape: Shape = mask.support.shape
    return mask.kept * (itemsize + column_dtype(shape).itemsize) + 4 * (shape[0] + 1)


def encode(values: FloatArray, mask: Mask) -> Packed:
    """The kept values with their columns, row by row."""
    matrix = mask.support.reshape(values.shape[0], -1)
    rows = np.zeros(len(matrix) + 1, np.uint32)
    np.cumsum(np.count_nonzero(matrix, axis=1), out=rows[1:])
    columns = np.concatenate([row.nonzero()[0].astype(column_dtype(values.shape)) for row in matrix])
    return Packed("csr", values.shape, {"values": values[mask.support], "rows": rows, "columns": columns})


def support(packed: Packed) -> BoolArray:
    """The listed columns of each row."""
    rows, columns = packed.arrays["rows"], packed.arrays["columns"]
    places = np.zeros((packed.shape[0], prod(packed.shape[1:])), np.bool_)
    for place, start, end in zip(places, rows[:-1], rows[1:], strict=True):
        place[columns[start:end]] = True
    return places.reshape(packed.shape)


def decode(packed: Packed) -> FloatArray:
    """The values at the listed places."""
    return scatter(packed, support(packed))


def validate(packed: Packed) -> None:
    """Pointers that split the columns into rows, and columns that rise within each and stay inside it."""
    check_shape(packed.shape)
    row_count, width = packed.shape[0], prod(packed.shape[1:])
    check_arrays(packed, {"rows": (["uint32"], (row_count + 1,)), "columns": ([column_dtype(packed.shape).name], (None,))})
    rows, columns = packed.arrays["rows"], packed.arrays["columns"]
    expect(rows[0] == 0 and rows[-1] == columns.size, f"array rows runs from {rows[0]} to {rows[-1]}, not from 0 to the {columns.size} columns")
    expect(bool((rows[1:] >= rows[:-1]).all()), "array rows falls")
    expect(columns.size == 0 or int(columns.max()) < width, f"array columns reaches {columns.max(initial=0)} in rows of {width}")
    rises = columns[1:] > columns[:-1]
    inner = rows[(rows > 0) & (rows < columns.size)]  # where a row begins: it may start lower than the last one ended
    rises[inner - 1] = True
    expect(bool(rises.all()), "array columns does not rise within a row")
    check_kept(packed, columns.size)
