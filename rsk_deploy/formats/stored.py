"""What the encodings share: where kernels are in a weight, scattering the kept values, and the checks of a stored weight."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import prod
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from rsk_deploy.ir import BoolArray, FloatArray, Packed, Shape
from rsk_deploy.ir.layers import MAX_ELEMENTS, expect

Kind: TypeAlias = tuple[Collection[str], tuple[int | None, ...]]
"""The dtypes that an array may have, and its shape; None along an axis of any length."""


def kernel_grid(shape: Shape) -> tuple[int, int, int]:
    """The weight's shape as (filters, channels, taps): an entry of a matrix is a kernel of one tap."""
    return shape[0], (*shape, 1)[1], prod(shape[2:])


def scatter(packed: Packed, support: BoolArray) -> FloatArray:
    """The dense float32 weight with the stored values at the places of ``support``."""
    dense = np.zeros(prod(packed.shape), np.float32)
    dense[np.flatnonzero(support)] = packed.arrays["values"]  # numpy takes six times as long for a mask
    return dense.reshape(packed.shape)


def check_shape(shape: Shape) -> None:
    """Refuse a shape that no layer has."""
    expect(bool(shape) and all(type(dim) is int and dim >= 1 for dim in shape), f"weight shape {shape!r} is not one of positive integers")
    expect(prod(shape) <= MAX_ELEMENTS, f"weight shape {shape} has more than {MAX_ELEMENTS} elements")


def check_arrays(packed: Packed, structure: Mapping[str, Kind], params: Collection[str] = ()) -> None:
    """Refuse other arrays than ``values`` and ``structure``, other parameters than ``params``, and values that are no weights."""
    kinds = {"values": (("float32", "float16"), (None,)), **structure}
    missing, foreign = kinds.keys() - packed.arrays.keys(), packed.arrays.keys() - kinds.keys()
    expect(not missing and not foreign, f"format {packed.format} stores {', '.join(sorted(kinds))}; missing {sorted(missing)}, too many {sorted(foreign)}")
    expect(packed.params.keys() == set(params), f"format {packed.format} has the parameters {list(params)}; found {list(packed.params)}")
    for name, kind in kinds.items():
        check_kind(name, packed.arrays[name], kind)
    check_values(packed.arrays["values"])


def check_kind(name: str, array: NDArray[np.generic], kind: Kind) -> None:
    """Refuse an array of another dtype or shape."""
    dtypes, shape = kind
    fits = (
        array.dtype in map(np.dtype, dtypes) and len(shape) == array.ndim and all(want in (None, have) for want, have in zip(shape, array.shape, strict=True))
    )
    wanted = "×".join("any" if length is None else str(length) for length in shape)
    expect(fits, f"array {name} is {array.dtype} of shape {array.shape}, not {' or '.join(dtypes)} of {wanted}")


def check_values(values: FloatArray) -> None:
    """Refuse NaN, infinity and -0.0: a weight is finite, its zeros are +0.0, and so it has one encoding."""
    sign_alone = values.view(f"u{values.itemsize}") == 1 << (8 * values.itemsize - 1)
    for what, wrong in (("not finite", ~np.isfinite(values)), ("-0.0", sign_alone)):
        expect(not wrong.any(), f"array values: {np.count_nonzero(wrong)} of {values.size} are {what}, the first at {wrong.argmax() if wrong.size else 0}")


def check_kept(packed: Packed, kept: int) -> None:
    """Refuse another number of values than the structure has places for."""
    stored = packed.arrays["values"].size
    expect(stored == kept, f"format {packed.format} stores {stored} values for {kept} places")


def check_patterns(patterns: NDArray[np.uint8]) -> None:
    """Refuse a table of tap masks that is empty or has other bytes than 0 and 1."""
    expect(
        len(patterns) >= 1 and int(patterns.max()) <= 1,
        f"array patterns has {len(patterns)} rows, with bytes up to {patterns.max(initial=0)}; allowed are 0 and 1",
    )
