"""Scaling a weight along its filters or its input channels: in float64, rounded once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rsk_deploy.errors import CorruptFileError
from rsk_deploy.ir import ConvTranspose, Dense, FloatArray, Linear, Shape, Weighted


def channel_axis(layer: Weighted[Dense], shape: Shape) -> int:
    """Find the axis of a layer's input or output, of that shape, that its weight runs over."""
    return len(shape) - 1 if isinstance(layer, Linear) else 1


def rounded(values: FloatArray, name: str) -> FloatArray:
    """Round to float32, without -0.0."""
    result = values.astype(np.float32) + np.float32(0)
    if not np.isfinite(result).all():
        raise CorruptFileError(f"{name}: has weights or a batch norm whose product is not finite in float32; the largest is {np.abs(values).max():.3g}")
    return result


def scaled(layer: Weighted[Dense], factors: FloatArray, *, of_inputs: bool = False) -> Weighted[Dense]:
    """Multiply the weight by a factor per filter, or per input channel."""
    if (factors == 1).all():
        return layer
    return replace(layer, weight=replace(layer.weight, values=rounded(layer.weight.values * _over_weight(layer, factors, of_inputs=of_inputs), layer.name)))


def shift_sums(layer: Weighted[Dense], shift: FloatArray) -> FloatArray:
    """Compute what a convolution or a matrix makes of a constant per input channel."""
    return np.asarray((layer.weight.values * _over_weight(layer, shift, of_inputs=True)).reshape(layer.filters, -1).sum(1))


def with_bias(layer: Weighted[Dense], bias: FloatArray | None) -> Weighted[Dense]:
    """Give the layer this bias; none if it is 0 and there was none."""
    if bias is None or (layer.bias is None and not bias.any()):
        return layer
    return replace(layer, bias=rounded(bias, layer.name))


def _over_weight(layer: Weighted[Dense], vector: FloatArray, *, of_inputs: bool) -> FloatArray:
    """Shape a number per filter, or per input channel, so that it broadcasts over the weight.

    The first axis of a weight is its filters, or of a transposed convolution its channels; the second is the other
    side's share of one group.
    """
    (
        first,
        *_,
    ) = layer.weight.shape
    ones = (1,) * (len(layer.weight.shape) - 2)
    if of_inputs == isinstance(layer, ConvTranspose):
        return vector.reshape(first, 1, *ones)
    groups = getattr(layer, "groups", 1)
    return np.repeat(vector.reshape(groups, -1), first // groups, axis=0).reshape(first, -1, *ones)
