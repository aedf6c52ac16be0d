"""The kept values alone: the mask is regenerated from the shift register's parameters, which are the format's."""

from __future__ import annotations

import numpy as np

from rsk_deploy.errors import CorruptFileError, UsageError
from rsk_deploy.formats.stored import check_arrays, check_kept, check_shape, kernel_grid, scatter
from rsk_deploy.ir import BoolArray, Declared, FloatArray, Mask, Packed
from rsk_deploy.ir.layers import expect
from rsk_deploy.registry import regenerate

HOLDS = "a mask that a recorded shift register draws"


def nbytes(mask: Mask, itemsize: int) -> int | None:
    """The kept values; None for masks of other families."""
    return mask.kept * itemsize if mask.family == "lfsr" else None


def encode(values: FloatArray, mask: Mask) -> Packed:
    """The kept values, and the register that draws their places."""
    packed = Packed("lfsr", values.shape, {"values": values[mask.support]}, mask.params)
    if mask.family != "lfsr" or not np.array_equal(support(packed), mask.support):
        raise UsageError(f"format lfsr holds {HOLDS}; this is no such mask")
    return packed


def draw(packed: Packed) -> Mask:
    """The mask, drawn again."""
    return regenerate(Declared("lfsr", packed.params), packed.shape)


def support(packed: Packed) -> BoolArray:
    """The places drawn."""
    return draw(packed).support


def decode(packed: Packed) -> FloatArray:
    """The values at the places drawn."""
    return scatter(packed, support(packed))


def validate(packed: Packed) -> None:
    """A register that draws a mask of this shape, described in full, and a value for each place."""
    check_shape(packed.shape)
    check_arrays(packed, {}, params=packed.params)
    stored, (filters, channels, _) = packed.arrays["values"].size, kernel_grid(packed.shape)
    counts = {"kept": stored, "taps_per_kernel": stored / (filters * channels)}
    expect(any(packed.params.get(name) == count for name, count in counts.items()), f"format lfsr stores {stored} values, not as {dict(packed.params)} says")
    try:
        mask = draw(packed)
    except UsageError as error:
        raise CorruptFileError(f"format lfsr: {error}") from error
    expect(mask.params == packed.params, f"the register is {dict(packed.params)}; in full it is {dict(mask.params)}")
    check_kept(packed, mask.kept)
