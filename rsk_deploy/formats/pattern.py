"""A table of kernel patterns and an id per kernel: for masks drawn kernel by kernel from few patterns.

``patterns`` (patterns, taps) holds the distinct tap masks as bytes 0 and 1, sorted as rows, so that one gather by ``ids``
rebuilds the mask. ``ids`` (filters / block, channels) is stored once for each block of filters that share it: once for all
where patterns depend on the input channel alone. An entry of a matrix is a kernel of one tap.
"""

from __future__ import annotations

from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsk_deploy.errors import UsageError
from rsk_deploy.formats.stored import check_arrays, check_kept, check_patterns, check_shape, kernel_grid, scatter
from rsk_deploy.ir import BoolArray, FloatArray, Mask, Packed
from rsk_deploy.ir.layers import expect

HOLDS = "at most 65536 distinct kernel patterns"
MAX_PATTERNS = 1 << 16
MAX_CODE_TAPS = 16


def nbytes(mask: Mask, itemsize: int) -> int | None:
    """The kept values, the table and the ids; None where there are too many patterns."""
    patterns, ids = numbered(mask.support)
    return None if len(patterns) > MAX_PATTERNS else mask.kept * itemsize + patterns.nbytes + ids.nbytes // shared(ids)


def encode(values: FloatArray, mask: Mask) -> Packed:
    """The kept values, and the pattern of each kernel."""
    patterns, ids = numbered(mask.support)
    if len(patterns) > MAX_PATTERNS:
        raise UsageError(f"format pattern holds {HOLDS}; this mask has {len(patterns)}")
    return Packed("pattern", values.shape, {"values": values[mask.support], "patterns": patterns, "ids": ids[:: shared(ids)]})


def numbered(mask: BoolArray) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """The distinct patterns, sorted as rows, and the number of each kernel's."""
    kernels = mask.reshape(kernel_grid(mask.shape))
    taps = kernels.shape[-1]
    if taps > MAX_CODE_TAPS:
        rows = np.packbits(kernels, axis=-1)
        distinct, ids = np.unique(rows.view(f"V{rows.shape[-1]}"), return_inverse=True)
        patterns = np.unpackbits(distinct.view(np.uint8).reshape(len(distinct), -1), axis=1, count=taps)
        return patterns, ids.reshape(kernels.shape[:2]).astype(id_dtype(patterns))
    bit_of_tap: NDArray[Any] = np.left_shift(1, np.arange(taps)[::-1]).astype(np.uint8 if taps <= 8 else np.uint16)
    codes = kernels.view(np.uint8) @ bit_of_tap
    seen = np.zeros(1 << taps, np.bool_)
    seen[codes] = True
    patterns = (np.flatnonzero(seen)[:, None] & bit_of_tap != 0).astype(np.uint8)
    number_of_code = (np.cumsum(seen) - 1).astype(id_dtype(patterns))
    return patterns, number_of_code[codes]


def shared(ids: NDArray[Any]) -> int:
    """How many neighbouring filters have the same ids: the largest block that holds for all."""
    changes = 1 + np.flatnonzero((ids[1:] != ids[:-1]).any(axis=1))
    return gcd(len(ids), *changes.tolist())


def id_dtype(patterns: NDArray[np.uint8]) -> np.dtype[np.unsignedinteger[Any]]:
    """The smallest type for a row number of the table."""
    return np.min_scalar_type(len(patterns) - 1)


def support(packed: Packed) -> BoolArray:
    """The pattern of each kernel, a row of ids for each block of filters."""
    kernels = np.take(packed.arrays["patterns"].view(np.bool_), packed.arrays["ids"], axis=0)
    block = packed.shape[0] // len(kernels)
    return (kernels if block == 1 else np.repeat(kernels, block, axis=0)).reshape(packed.shape)


def decode(packed: Packed) -> FloatArray:
    """The values at the taps of each kernel's pattern."""
    return scatter(packed, support(packed))


def validate(packed: Packed) -> None:
    """A sorted table without spare rows, ids inside it, and blocks as large as can be."""
    check_shape(packed.shape)
    filters, channels, taps = kernel_grid(packed.shape)
    check_arrays(packed, {"patterns": (["uint8"], (None, taps)), "ids": (["uint8", "uint16"], (None, channels))})
    patterns, ids = packed.arrays["patterns"], packed.arrays["ids"]
    check_patterns(patterns)
    expect(len(patterns) <= MAX_PATTERNS and ids.dtype == id_dtype(patterns), f"array ids is {ids.dtype} for {len(patterns)} patterns")
    expect(len(ids) >= 1 and filters % len(ids) == 0, f"array ids has {len(ids)} rows for {filters} filters")
    expect(ids.max() < len(patterns), f"array ids reaches {ids.max()} in a table of {len(patterns)} patterns")
    expect(shared(ids) == 1, f"array ids repeats every row {shared(ids)} times")
    uses = np.bincount(ids.reshape(-1), minlength=len(patterns))
    distinct, _ = np.unique(patterns, axis=0, return_index=True)  # without the index numpy would import numpy.ma: 10 ms of loading a file
    expect(bool(uses.all()) and np.array_equal(distinct, patterns), "array patterns is not sorted, or has rows twice or without use")
    check_kept(packed, int(uses @ patterns.sum(axis=1, dtype=np.int64)) * (filters // len(ids)))
