"""Every value, zeros included: nothing to decode. The choice for a weight with few zeros."""

from __future__ import annotations

from math import prod

import numpy as np

from rsk_deploy.formats.stored import check_arrays, check_kept, check_shape
from rsk_deploy.ir import BoolArray, FloatArray, Mask, Packed

HOLDS = "any weight"


def nbytes(mask: Mask, itemsize: int) -> int:
    """The values alone."""
    return mask.support.size * itemsize


def encode(values: FloatArray, mask: Mask) -> Packed:
    """A view of ``values`` where they are 0 outside the mask."""
    kept = np.where(mask.support, values, values.dtype.type(0)) if values[~mask.support].any() else values
    return Packed("dense", values.shape, {"values": kept.reshape(-1)})


def support(packed: Packed) -> BoolArray:
    """Everywhere."""
    return np.ones(packed.shape, np.bool_)


def decode(packed: Packed) -> FloatArray:
    """A view of the stored values if they are float32."""
    return packed.arrays["values"].reshape(packed.shape).astype(np.float32, copy=False)


def validate(packed: Packed) -> None:
    """As many values as the shape has places."""
    check_shape(packed.shape)
    check_arrays(packed, {})
    check_kept(packed, prod(packed.shape))
