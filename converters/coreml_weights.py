"""Packed weights as Core ML stores them: the kept values and one bit a place, in the form of the target, and optionally rounded to int8 or to a palette.

``held_weight`` gives what is in the file, bit for bit: what a file with rounded weights is verified against.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsk_deploy.converters.coreml_body import Scope, Var
from rsk_deploy.errors import UnsupportedError
from rsk_deploy.ir import ConvTranspose, FloatArray, Packed, Weighted
from rsk_deploy.registry import format_named

Array = NDArray[Any]

BITS = 6
"""Of a place in the palette: 64 values of a layer."""
IN_FILE = 10
"""Elements from which coremltools puts an array in the file of weights; what is smaller it cannot always write as fewer bits than a byte."""
ROUNDS = 25
"""Of Lloyd's algorithm; it has settled to three digits by then."""


@dataclass(frozen=True)
class Coded:
    """Values by whole numbers: ``scale · codes``, a scale each filter, or ``palette[codes]``; ``values`` is what that gives."""

    codes: Array
    values: FloatArray
    scale: FloatArray | None = None
    palette: FloatArray | None = None

    @property
    def bits(self) -> int:
        """Of one code."""
        return 8 if self.palette is None else BITS


def dense(weight: Packed, dtype: np.dtype[Any]) -> FloatArray:
    """The weight's values in the type of the program, all zeros positive."""
    values = format_named(weight.format).decode(weight)
    with np.errstate(over="ignore"):
        rounded = values.astype(dtype)
    if np.isinf(rounded).any():
        raise UnsupportedError(f"the weight holds {values[np.isinf(rounded)][0]:.9g}, which does not fit {dtype.name} (largest 65504). Give --precision fp32")
    return np.asarray(rounded + dtype.type(0))


def int8(values: FloatArray, filters: int) -> Coded:
    """The nearest of 255 even steps, a scale each filter (along axis ``filters``)."""
    others = tuple(axis for axis in range(values.ndim) if axis != filters)
    largest = np.abs(values).max(axis=others, keepdims=True).astype(np.float32)
    scale = np.where(largest > 0, largest / 127, 1).astype(values.dtype)
    scale = np.where(scale > 0, scale, np.nextafter(values.dtype.type(0), values.dtype.type(1)))
    codes = np.clip(np.rint(values.astype(np.float32) / scale.astype(np.float32)), -127, 127).astype(np.int8)
    return Coded(codes, (codes.astype(np.float32) * scale.astype(np.float32)).astype(values.dtype), scale=scale)


def palettised(values: FloatArray, filters: int) -> Coded:
    """The nearest of 64 values, which Lloyd's algorithm places where the weights that are not 0 lie; 0 keeps its own place if there are zeros."""
    kept = np.sort(values[values != 0].astype(np.float64), axis=None)
    zeros = int(kept.size < values.size)
    wanted = 2**BITS - zeros
    centres = np.unique(kept[(np.arange(wanted) * 2 + 1) * kept.size // (2 * wanted)]) if kept.size else np.zeros(1)
    sums = np.concatenate([[0.0], np.cumsum(kept)])
    for _ in range(ROUNDS):
        bounds = np.searchsorted(kept, (centres[1:] + centres[:-1]) / 2)
        bounds = np.concatenate([[0], bounds, [kept.size]])
        counts = np.diff(bounds)
        centres = np.where(counts > 0, np.diff(sums[bounds]) / np.maximum(counts, 1), centres)
    palette = np.zeros(2**BITS, values.dtype)
    palette[zeros : zeros + centres.size] = centres
    places = np.searchsorted((centres[1:] + centres[:-1]) / 2, values.astype(np.float64)) + zeros
    codes = np.where(values == 0, 0, places).astype(np.uint8) if zeros else places.astype(np.uint8)
    return Coded(codes, palette[codes], palette=palette)


CODES: dict[str, Callable[[FloatArray, int], Coded]] = {"int8": int8, "palettised": palettised}
"""What ``--compress`` takes."""


def coded(layer: Weighted[Packed], dtype: np.dtype[Any], compress: str) -> Coded:
    """The layer's weight, rounded."""
    return CODES[compress](dense(layer.weight, dtype), 1 if isinstance(layer, ConvTranspose) else 0)


def held_weight(layer: Weighted[Packed], dtype: np.dtype[Any], compress: str | None) -> FloatArray:
    """The values that the weight has in the file."""
    return coded(layer, dtype, compress).values if compress else dense(layer.weight, dtype)


def _is_smaller_sparse(mask: Array, bits: int) -> bool:
    """Whether a bit for every place costs less than the zeros."""
    kept = np.count_nonzero(mask)
    return bool(kept >= IN_FILE and kept * bits + mask.size < mask.size * bits)


def write_weight(scope: Scope, layer: Weighted[Packed], new_axis: Sequence[int] | int = ()) -> Var | Array:
    """Append the weight in the smallest form that the target has, with a new axis of one if a place for one is given."""
    body = scope.body
    if not body.compress:
        return _plain(scope, np.expand_dims(dense(layer.weight, body.dtype), new_axis))
    weight = coded(layer, body.dtype, body.compress)
    codes, values = (np.expand_dims(each, new_axis) for each in (weight.codes, weight.values))
    return _coded(scope, replace(weight, codes=codes, values=values, scale=None if weight.scale is None else np.expand_dims(weight.scale, new_axis)))


def _plain(scope: Scope, values: FloatArray) -> Var | Array:
    mask = values != 0
    if not _is_smaller_sparse(mask, 8 * values.itemsize):
        return values
    if scope.body.target >= 18:
        return scope.step("weight", "constexpr_sparse_to_dense", nonzero_data=values[mask], mask=_bits(mask))
    bits, shape = np.packbits(mask, bitorder="little"), np.array(values.shape, np.uint32)
    return scope.step("weight", "constexpr_sparse_to_dense", nonzero_data=values[mask], mask=bits, shape=shape)


def _coded(scope: Scope, weight: Coded) -> Var | Array:
    if weight.codes.size < IN_FILE:
        return weight.values
    mask = weight.values != 0
    sparse = _is_smaller_sparse(mask, weight.bits)
    if weight.palette is None:
        if not sparse:
            return scope.step("weight", "constexpr_blockwise_shift_scale", data=weight.codes, scale=weight.scale)
        kept = scope.step("kept", "constexpr_sparse_blockwise_shift_scale", data_mask=_bits(mask), nonzero_data=weight.codes[mask], scale=weight.scale)
    else:
        indices, palette = _places(weight.codes), weight.palette.reshape(*[1] * mask.ndim, -1, 1)
        if not sparse:
            return scope.step("weight", "constexpr_lut_to_dense", indices=indices, lut=palette)
        kept = scope.step("kept", "constexpr_lut_to_sparse", indices_mask=_bits(mask), indices_nonzero_data=indices[mask], lut=palette)
    return scope.step("weight", "constexpr_sparse_to_dense", nonzero_data=kept[1], mask=kept[0])


def _bits(mask: Array) -> Array:
    from coremltools.converters.mil.mil import types

    return mask.astype(types.np_uint1_dtype)


def _places(codes: Array) -> Array:
    from coremltools.converters.mil.mil import types

    return codes.astype(types.np_uint6_dtype)
