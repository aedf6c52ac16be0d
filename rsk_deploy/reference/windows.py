"""What slides over the spatial axes: convolution, its transpose, pooling. One kernel position (tap) at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsk_deploy.ir import AveragePool, Conv, ConvTranspose, Dense, MaxPool, Packed, Pool
from rsk_deploy.registry import format_named

Array = NDArray[Any]
Tap = tuple[int, ...]


def weight_of(weight: Dense | Packed, dtype: np.dtype[Any]) -> Array:
    """Decode a weight."""
    values = weight.values if isinstance(weight, Dense) else format_named(weight.format).decode(weight)
    return values.astype(dtype, copy=False)


def per_channel(vector: Array, x: Array, dtype: np.dtype[Any]) -> Array:
    """Shape a vector over the channels so that it broadcasts against ``x``."""
    return vector.astype(dtype, copy=False).reshape(-1, *[1] * (x.ndim - 2))


def padded(x: Array, pads: Sequence[int], fill: float) -> Array:
    """Write the spatial pads out."""
    rank = x.ndim - 2
    return np.pad(x, [(0, 0), (0, 0), *((pads[axis], pads[axis + rank]) for axis in range(rank))], constant_values=fill)


def seen_by_taps(x: Array, layer: Conv[Any] | Pool, kernel: Sequence[int], size: Sequence[int]) -> Iterator[tuple[Tap, Array]]:
    """Give for each tap the element of the padded ``x`` that it meets at each of the ``size`` window positions."""
    for tap in np.ndindex(*kernel):
        starts = [offset * dilation for offset, dilation in zip(tap, layer.dilation, strict=True)]
        steps = zip(starts, size, layer.stride, strict=True)
        yield tap, x[:, :, *(slice(start, start + (count - 1) * stride + 1, stride) for start, count, stride in steps)]


def grouped(x: Array, groups: int) -> Array:
    """Reshape ``(batch, channels, *space)`` to ``(batch, groups, channels / groups, positions)``."""
    return x.reshape(x.shape[0], groups, x.shape[1] // groups, -1)


def taps_first(weight: Array) -> Array:
    """Move the kernel axes in front: ``weight[tap]`` is then one matrix over the channels."""
    return np.moveaxis(weight, (0, 1), (-2, -1))


def conv(layer: Conv[Any], dtype: np.dtype[Any], x: Array) -> Array:
    """Sum ``weight · x`` over the taps."""
    batch, filters, *size = layer.shape(x.shape)
    weight = taps_first(weight_of(layer.weight, dtype))
    kernel = weight.shape[:-2]
    weight = weight.reshape(*kernel, layer.groups, filters // layer.groups, -1)
    y = np.zeros((batch, layer.groups, filters // layer.groups, int(np.prod(size))), dtype)
    for tap, seen in seen_by_taps(padded(x, layer.pads, 0.0), layer, kernel, size):
        y += weight[tap] @ grouped(seen, layer.groups)
    return with_bias(layer, dtype, y.reshape(batch, filters, *size))


def conv_transpose(layer: ConvTranspose[Any], dtype: np.dtype[Any], x: Array) -> Array:
    """Add ``weight · x`` of every input element to the outputs under its window, then crop the pads off."""
    batch, channels, *size = x.shape
    rank = len(size)
    weight = taps_first(weight_of(layer.weight, dtype))
    kernel = weight.shape[:-2]
    weight = weight.reshape(*kernel, layer.groups, channels // layer.groups, -1).swapaxes(-1, -2)
    full = [out + layer.pads[axis] + layer.pads[axis + rank] for axis, out in enumerate(layer.shape(x.shape)[2:])]
    y = np.zeros((batch, layer.filters, *full), dtype)
    for tap in np.ndindex(*kernel):
        starts = [offset * dilation for offset, dilation in zip(tap, layer.dilation, strict=True)]
        steps = zip(starts, size, layer.stride, strict=True)
        window = (slice(None), slice(None), *(slice(start, start + (count - 1) * stride + 1, stride) for start, count, stride in steps))
        y[window] += (weight[tap] @ grouped(x, layer.groups)).reshape(batch, layer.filters, *size)
    return with_bias(layer, dtype, y[:, :, *(slice(layer.pads[axis], full[axis] - layer.pads[axis + rank]) for axis in range(rank))])


def with_bias(layer: Conv[Any] | ConvTranspose[Any], dtype: np.dtype[Any], y: Array) -> Array:
    """Add the bias, if there is one."""
    return y if layer.bias is None else y + per_channel(layer.bias, y, dtype)


def overhanging(x: Array, layer: Pool, size: Sequence[int], fill: float) -> Array:
    """Extend ``x`` at its end by what the last windows hang over it in ceil mode."""
    spans = zip(size, layer.stride, layer.dilation, layer.kernel, strict=True)
    needed = [(count - 1) * stride + dilation * (kernel - 1) + 1 for count, stride, dilation, kernel in spans]
    return padded(x, [0] * len(size) + [max(0, need - dim) for need, dim in zip(needed, x.shape[2:], strict=True)], fill)


def max_pool(layer: MaxPool, dtype: np.dtype[Any], x: Array) -> Array:
    """Take the largest element under each window."""
    size = layer.shape(x.shape)[2:]
    wide = overhanging(padded(x, layer.pads, -np.inf), layer, size, -np.inf)
    y = np.full((*x.shape[:2], *size), -np.inf, dtype)
    for _, seen in seen_by_taps(wide, layer, layer.kernel, size):
        y = np.maximum(y, seen)
    return y


def average_pool(layer: AveragePool, dtype: np.dtype[Any], x: Array) -> Array:
    """Divide the sum under each window by the number of elements counted; a window that covers only pads gives 0."""
    size = layer.shape(x.shape)[2:]
    ones = np.ones((1, 1, *x.shape[2:]), dtype)
    counted = overhanging(padded(ones, layer.pads, float(layer.count_pads)), layer, size, 0.0)
    wide = overhanging(padded(x, layer.pads, 0.0), layer, size, 0.0)
    total = sum(seen for _, seen in seen_by_taps(wide, layer, layer.kernel, size))
    count = sum(seen for _, seen in seen_by_taps(counted, layer, layer.kernel, size))
    return np.asarray(total / np.maximum(count, 1))
