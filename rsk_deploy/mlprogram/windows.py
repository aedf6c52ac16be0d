"""Operations that slide over the spatial axes, and resampling, as ML programs define them."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsk_deploy.errors import CorruptFileError
from rsk_deploy.mlprogram.package import MOST_ELEMENTS

Array = NDArray[Any]


def sized(shape: Sequence[int]) -> tuple[int, ...]:
    """``shape``, if it has elements and a machine can hold them."""
    if min(shape, default=1) < 1 or prod(shape) > MOST_ELEMENTS:
        raise CorruptFileError(f"computes a value of shape {tuple(shape)}; at most {MOST_ELEMENTS} elements are")
    return tuple(shape)


def _pads(rank: int, pad_type: str, pad: Array | None) -> list[tuple[int, int]]:
    """Begin and end of each spatial axis."""
    if pad_type == "valid" or pad is None:
        return [(0, 0)] * rank
    if pad_type != "custom" or pad.size != 2 * rank or pad.min() < 0:
        raise CorruptFileError(f"pads {pad.tolist()} of type {pad_type} for {rank} spatial axes")
    return [(int(pad[2 * axis]), int(pad[2 * axis + 1])) for axis in range(rank)]


def padded(x: Array, pads: Sequence[tuple[int, int]], fill: float) -> Array:
    """The spatial pads written out."""
    sized([*x.shape[:2], *(size + begin + end for size, (begin, end) in zip(x.shape[2:], pads, strict=True))])
    return np.pad(x, [(0, 0), (0, 0), *pads], constant_values=fill)


def _vector(values: Array | None, rank: int) -> list[int]:
    """Strides or dilations: one each axis."""
    numbers = [1] * rank if values is None else [int(value) for value in values.reshape(-1)]
    if len(numbers) != rank or min(numbers) < 1:
        raise CorruptFileError(f"{numbers} for {rank} spatial axes")
    return numbers


def _windows(x: Array, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> Array:
    """``(batch, channels, *positions, *kernel)``: what each window position sees of the padded ``x``, without a copy."""
    if len(kernel) != x.ndim - 2 or min(kernel) < 1:
        raise CorruptFileError(f"a window {tuple(kernel)} over a value of shape {x.shape}")
    spans = [step * (size - 1) + 1 for step, size in zip(dilations, kernel, strict=True)]
    if any(span > size for span, size in zip(spans, x.shape[2:], strict=True)):
        raise CorruptFileError(f"a window of {spans} over a padded value of shape {x.shape}")
    seen = np.lib.stride_tricks.sliding_window_view(x, spans, axis=tuple(range(2, x.ndim)))
    return seen[:, :, *(slice(None, None, stride) for stride in strides), *(slice(None, None, step) for step in dilations)]


def conv(
    x: Array, weight: Array, bias: Array | None = None, strides: Array | None = None, pad_type: str = "valid", pad: Array | None = None,
    dilations: Array | None = None, groups: Array | None = None,
) -> Array:  # fmt: skip
    """A convolution: one matrix product a group, over all taps and channels at once."""
    rank, count = weight.ndim - 2, int(groups) if groups is not None else 1
    if rank < 1 or x.ndim != weight.ndim or count < 1 or weight.shape[0] % count or x.shape[1] != weight.shape[1] * count:
        raise CorruptFileError(f"a kernel of shape {weight.shape} in {count} groups over a value of shape {x.shape}")
    wide = padded(x, _pads(rank, pad_type, pad), 0)
    seen = _windows(wide, weight.shape[2:], _vector(strides, rank), _vector(dilations, rank))
    positions = seen.shape[2 : 2 + rank]
    sized((x.shape[0], x.shape[1], *seen.shape[2:]))
    columns = seen.reshape(x.shape[0], count, weight.shape[1], *seen.shape[2:])
    columns = np.moveaxis(columns, tuple(range(3, 3 + rank)), tuple(range(-rank, 0))).reshape(x.shape[0], count, -1, prod(positions))
    rows = weight.reshape(count, weight.shape[0] // count, -1)
    return _biased((rows @ columns).reshape(x.shape[0], weight.shape[0], *positions), bias)


def conv_transpose(
    x: Array, weight: Array, bias: Array | None = None, strides: Array | None = None, pad_type: str = "valid", pad: Array | None = None,
    dilations: Array | None = None, groups: Array | None = None,
) -> Array:  # fmt: skip
    """Each element adds its kernel to the outputs under it; pads are cropped off."""
    rank, count = weight.ndim - 2, int(groups) if groups is not None else 1
    if rank < 1 or x.ndim != weight.ndim or count < 1 or weight.shape[0] % count or x.shape[1] != weight.shape[0]:
        raise CorruptFileError(f"a kernel of shape {weight.shape} in {count} groups over a value of shape {x.shape}")
    steps, gaps, pads = _vector(strides, rank), _vector(dilations, rank), _pads(rank, pad_type, pad)
    kernel, size = weight.shape[2:], x.shape[2:]
    full = [(size[axis] - 1) * steps[axis] + gaps[axis] * (kernel[axis] - 1) + 1 for axis in range(rank)]
    filters = weight.shape[1] * count
    y = np.zeros(sized((x.shape[0], count, weight.shape[1], *full)), x.dtype)
    grouped = x.reshape(x.shape[0], count, -1, prod(size))
    rows = weight.reshape(count, weight.shape[0] // count, weight.shape[1], *kernel)
    for tap in np.ndindex(*kernel):
        under = tuple(slice(tap[axis] * gaps[axis], tap[axis] * gaps[axis] + (size[axis] - 1) * steps[axis] + 1, steps[axis]) for axis in range(rank))
        product = rows[:, :, :, *tap].swapaxes(1, 2) @ grouped
        y[:, :, :, *under] += product.reshape(x.shape[0], count, weight.shape[1], *size)
    cropped = y.reshape(x.shape[0], filters, *full)[:, :, *(slice(begin, length - end) for (begin, end), length in zip(pads, full, strict=True))]
    return _biased(cropped, bias)


def _biased(y: Array, bias: Array | None) -> Array:
    if bias is None:
        return y
    if bias.shape != (y.shape[1],):
        raise CorruptFileError(f"a bias of shape {bias.shape} for {y.shape[1]} channels")
    return y + bias.reshape(-1, *[1] * (y.ndim - 2))


def max_pool(
    x: Array, kernel_sizes: Array, strides: Array | None = None, pad_type: str = "valid", pad: Array | None = None, ceil_mode: Array | None = None
) -> Array:
    """The largest element under each window."""
    seen = _pooled(x, kernel_sizes, strides, pad_type, pad, ceil_mode, -np.inf)
    return np.asarray(seen.max(axis=tuple(range(x.ndim, seen.ndim))))


def avg_pool(
    x: Array, kernel_sizes: Array, strides: Array | None = None, pad_type: str = "valid", pad: Array | None = None, ceil_mode: Array | None = None,
    exclude_padding_from_average: Array | None = None,
) -> Array:  # fmt: skip
    """The mean under each window, with the pads or without."""
    seen = _pooled(x, kernel_sizes, strides, pad_type, pad, ceil_mode, 0)
    taps = tuple(range(x.ndim, seen.ndim))
    if exclude_padding_from_average is None or not exclude_padding_from_average:
        return np.asarray(seen.mean(axis=taps))
    counted = _pooled(np.ones((1, 1, *x.shape[2:]), x.dtype), kernel_sizes, strides, pad_type, pad, ceil_mode, 0)
    return np.asarray(seen.sum(axis=taps) / counted.sum(axis=taps))


def _pooled(x: Array, kernel_sizes: Array, strides: Array | None, pad_type: str, pad: Array | None, ceil_mode: Array | None, fill: float) -> Array:
    rank = x.ndim - 2
    if rank < 1 or kernel_sizes.size != rank or (ceil_mode is not None and ceil_mode):
        raise CorruptFileError(f"pools a value of shape {x.shape} with windows {kernel_sizes.tolist()}, or in ceil mode, which is not read")
    kernel = [int(size) for size in kernel_sizes]
    return _windows(padded(x, _pads(rank, pad_type, pad), fill), kernel, _vector(strides, rank), [1] * rank)


def upsample_nearest_neighbor(x: Array, scale_factor_height: Array, scale_factor_width: Array) -> Array:
    """Whole factors only."""
    factors = [float(scale_factor_height), float(scale_factor_width)]
    if x.ndim < 3 or any(factor < 1 or factor != int(factor) for factor in factors):
        raise CorruptFileError(f"repeats a value of shape {x.shape} by {factors}; whole factors are read")
    sized((*x.shape[:-2], *(int(size * factor) for size, factor in zip(x.shape[-2:], factors, strict=True))))
    return x.repeat(int(factors[0]), axis=-2).repeat(int(factors[1]), axis=-1)


def resize_bilinear(x: Array, target_size_height: Array, target_size_width: Array, sampling_mode: str = "DEFAULT") -> Array:
    """Linear in one axis after the other; the mode says where the new elements lie between the old."""
    for axis, target in ((-2, int(target_size_height)), (-1, int(target_size_width))):
        sized((*x.shape[:axis], target))
        places = _grid(sampling_mode, x.shape[axis], target)
        below = np.floor(places).astype(int)
        share = (places - below).astype(x.dtype).reshape(-1, *[1] * (-1 - axis))
        x = x.take(below, axis) * (1 - share) + x.take(np.minimum(below + 1, x.shape[axis] - 1), axis) * share
    return x


def _grid(mode: str, old: int, new: int) -> Array:
    places = np.arange(new, dtype=np.float64)
    if mode in ("STRICT_ALIGN_CORNERS", "DEFAULT"):
        spacing = (old - 1) / max(new - 1, 1) if mode == "STRICT_ALIGN_CORNERS" else old / new
        places = places * spacing
    elif mode == "UNALIGN_CORNERS":
        places = (places + 0.5) * old / new - 0.5
    else:
        raise CorruptFileError(f"resamples in the mode {mode!r}; STRICT_ALIGN_CORNERS, UNALIGN_CORNERS and DEFAULT are read")
    return np.clip(places, 0, old - 1)


WINDOWS = {function.__name__: function for function in (conv, conv_transpose, max_pool, avg_pool, upsample_nearest_neighbor, resize_bilinear)}
