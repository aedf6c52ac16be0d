"""A pattern for each residue of (filter + channel) mod P, and no index at all: periodic masks, and one pattern for all (P = 1).

``patterns`` (P, taps) holds the tap mask of each residue as bytes 0 and 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rsk_deploy.errors import UsageError
from rsk_deploy.formats.stored import check_arrays, check_kept, check_patterns, check_shape, kernel_grid, scatter
from rsk_deploy.ir import BoolArray, FloatArray, Mask, Packed
from rsk_deploy.ir.layers import expect

HOLDS = "one tap set for all kernels, or one for each (filter + channel) mod P"


def nbytes(mask: Mask, itemsize: int) -> int | None:
    """The kept values and the table; None for masks that do not repeat."""
    patterns = table(mask)
    return None if patterns is None else mask.kept * itemsize + patterns.nbytes


def encode(values: FloatArray, mask: Mask) -> Packed:
    """The kept values, and a pattern for each residue."""
    patterns = table(mask)
    if patterns is None:
        raise UsageError(f"format periodic holds {HOLDS}; this is no such mask")
    return Packed("periodic", values.shape, {"values": values[mask.support], "patterns": patterns})


def table(mask: Mask) -> NDArray[np.uint8] | None:
    """The pattern of each residue, if the mask is of a periodic family and is what it claims."""
    if mask.family not in ("one-pattern", "periodic"):
        return None
    kernels = mask.support.reshape(kernel_grid(mask.support.shape))
    filters, channels, _ = kernels.shape
    residues = np.arange(min(mask.params.get("period", 1), filters + channels - 1))
    first_filter = np.minimum(residues, filters - 1)
    patterns = kernels[first_filter, residues - first_filter]
    return patterns.view(np.uint8) if np.array_equal(spread(patterns, filters, channels), kernels) else None


def spread(patterns: BoolArray, filters: int, channels: int) -> BoolArray:
    """The pattern of every kernel, (filters, channels, taps)."""
    period = len(patterns)
    rows = patterns[(np.arange(min(period, filters))[:, None] + np.arange(channels)) % period]
    kernels: BoolArray = rows[np.arange(filters) % period]
    return kernels


def support(packed: Packed) -> BoolArray:
    """The pattern of each kernel's residue."""
    filters, channels, _ = kernel_grid(packed.shape)
    return spread(packed.arrays["patterns"].view(np.bool_), filters, channels).reshape(packed.shape)


def decode(packed: Packed) -> FloatArray:
    """The values at the taps of each kernel's residue."""
    return scatter(packed, support(packed))


def validate(packed: Packed) -> None:
    """A pattern for each residue that occurs."""
    check_shape(packed.shape)
    filters, channels, taps = kernel_grid(packed.shape)
    check_arrays(packed, {"patterns": (["uint8"], (None, taps))})
    patterns = packed.arrays["patterns"]
    check_patterns(patterns)
    expect(len(patterns) < filters + channels, f"array patterns has {len(patterns)} rows; (filter + channel) takes {filters + channels - 1} values")
    check_kept(packed, places(patterns, filters, channels))


def places(patterns: NDArray[np.uint8], filters: int, channels: int) -> int:
    """How many taps ``spread`` sets, without the memory it takes."""
    period = len(patterns)
    taps = patterns.sum(axis=1, dtype=np.int64)
    before = np.concatenate([[0], np.cumsum(np.concatenate([taps, taps]))])
    start = np.arange(period)
    of_filter = channels // period * taps.sum() + before[start + channels % period] - before[start]
    return int(of_filter @ (filters // period + (start < filters % period)))
