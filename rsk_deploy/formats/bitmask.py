"""One bit a weight, whatever the mask: ``bits`` in row-major order, eight to a byte, the lowest bit first, zeros after the last."""

from __future__ import annotations

from math import prod

import numpy as np

from rsk_deploy.formats.stored import check_arrays, check_kept, check_shape, scatter
from rsk_deploy.ir import BoolArray, FloatArray, Mask, Packed
from rsk_deploy.ir.layers import expect

HOLDS = "any weight"


def nbytes(mask: Mask, itemsize: int) -> int:
    """The kept values and the bits."""
    return mask.kept * itemsize + -(-mask.support.size // 8)


def encode(values: FloatArray, mask: Mask) -> Packed:
    """The kept values, and where they were."""
    return Packed("bitmask", values.shape, {"values": values[mask.support], "bits": np.packbits(mask.support, bitorder="little")})


def support(packed: Packed) -> BoolArray:
    """The set bits."""
    return np.unpackbits(packed.arrays["bits"], count=prod(packed.shape), bitorder="little").view(np.bool_).reshape(packed.shape)


def decode(packed: Packed) -> FloatArray:
    """The values at the set bits."""
    return scatter(packed, support(packed))


def validate(packed: Packed) -> None:
    """A bit a weight, none after the last, and a value for each that is set."""
    check_shape(packed.shape)
    size = prod(packed.shape)
    check_arrays(packed, {"bits": (["uint8"], (-(-size // 8),))})
    bits = packed.arrays["bits"]
    expect(size % 8 == 0 or bits[-1] >> (size % 8) == 0, f"array bits: bits are set after the last of {size} weights (the last byte is {bits[-1]:#04x})")
    set_in_byte = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1, dtype=np.uint8)
    check_kept(packed, int(set_in_byte[bits].sum(dtype=np.int64)))
