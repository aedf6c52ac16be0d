"""Layers that slide over the spatial axes, and resampling, as operations of ML programs.

Pads are written out, so that nothing rests on how a system counts in ceil mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import ceil, floor, isclose, prod
from typing import Any

import numpy as np

from rsk_deploy.converters.coreml_body import Array, Scope, Var
from rsk_deploy.converters.coreml_weights import write_weight
from rsk_deploy.errors import UnsupportedError
from rsk_deploy.ir import AveragePool, Conv, ConvTranspose, FloatArray, MaxPool, Packed, Pool, Resize, Weighted

MOST_TAPS = 128
"""Of a dilated pool: Core ML has none, and each tap becomes two operations."""


def interleaved(pads: Sequence[int]) -> list[int]:
    """Begin and end of one axis after the other."""
    rank = len(pads) // 2
    return [pad for axis in range(rank) for pad in (pads[axis], pads[axis + rank])]


def bias(scope: Scope, layer: Weighted[Packed]) -> Array | None:
    """The layer's bias, if it has one."""
    return None if layer.bias is None else scope.floats(layer.bias, "bias")


def conv(scope: Scope, layer: Conv[Packed]) -> None:
    """A convolution. One in groups, dilated, over one axis crashes Core ML: it is written over two."""
    strides, dilations, pads = layer.stride, layer.dilation, interleaved(layer.pads)
    parameters: dict[str, Any] = {"bias": bias(scope, layer), "groups": layer.groups, "pad_type": "custom"}
    if len(strides) > 1 or layer.groups == 1 or dilations == (1,):
        return scope.result("conv", x=scope.x, weight=write_weight(scope, layer), strides=strides, dilations=dilations, pad=pads, **parameters)
    parameters |= {"weight": write_weight(scope, layer, new_axis=2), "strides": (1, *strides), "dilations": (1, *dilations), "pad": [0, 0, *pads]}
    flat = scope.step("flat", "conv", x=scope.step("widened", "expand_dims", x=scope.x, axes=[2]), **parameters)
    return scope.result("squeeze", x=flat, axes=[2])


def conv_transpose(scope: Scope, layer: ConvTranspose[Packed]) -> None:
    """With uneven pads, processors other than the CPU compute something else: the whole is computed then, widened for output pads beyond it, and cut."""
    rank = len(layer.stride)
    begin, end = layer.pads[:rank], layer.pads[rank:]
    missing = [max(more - pad, 0) for pad, more in zip(end, layer.output_pads, strict=True)]
    even = begin == end and not any(layer.output_pads)
    window = {"strides": layer.stride, "dilations": layer.dilation, "groups": layer.groups, "pad_type": "custom"}
    window |= {"pad": interleaved(layer.pads if even else [0] * 2 * rank), "bias": None if any(missing) else bias(scope, layer)}
    steps: list[tuple[str, dict[str, Any]]] = [("conv_transpose", {"weight": write_weight(scope, layer), **window})]
    if any(missing):
        steps.append(("pad", _filled(scope, (*[0] * rank, *missing), 0)))
    if not even and any((*begin, *end)):
        steps.append(("slice_by_index", _cut(begin, [start + size for start, size in zip(begin, scope.y[2:], strict=True)], [1] * rank)))
    if any(missing) and layer.bias is not None:
        steps.append(("add", {"y": scope.per_channel(layer.bias, "bias")}))
    x = scope.x
    for op, parameters in steps[:-1]:
        x = scope.step(op, op, x=x, **parameters)
    op, parameters = steps[-1]
    scope.result(op, x=x, **parameters)


def _filled(scope: Scope, pads: Sequence[int], fill: float) -> dict[str, Any]:
    """How the spatial axes are padded."""
    return {"pad": [0, 0, 0, 0, *interleaved(pads)], "mode": "constant", "constant_val": scope.number(fill, "pad")}


def _cut(starts: Sequence[int], stops: Sequence[int], strides: Sequence[int]) -> dict[str, Any]:
    """What is taken of the spatial axes."""
    outer = [True, True, *[False] * len(starts)]
    return {"begin": [0, 0, *starts], "end": [0, 0, *stops], "stride": [1, 1, *strides], "begin_mask": outer, "end_mask": outer}


def end_pads(scope: Scope, layer: Pool) -> list[int]:
    """The pads with which windows that do not hang over give as many outputs as the layer has."""
    rank = len(layer.kernel)
    spans = [layer.dilation[axis] * (layer.kernel[axis] - 1) + 1 for axis in range(rank)]
    needed = [(scope.y[2 + axis] - 1) * layer.stride[axis] + spans[axis] - scope.shapes[0][2 + axis] - layer.pads[axis] for axis in range(rank)]
    return [max(need, pad) for need, pad in zip(needed, layer.pads[rank:], strict=True)]


def max_pool(scope: Scope, layer: MaxPool) -> None:
    """What is padded never wins."""
    pads = (*layer.pads[: len(layer.kernel)], *end_pads(scope, layer))
    if _dilated(layer):
        *first, last = _taps(scope, layer, pads, -np.inf)
        return scope.result("maximum", x=_folded(scope, "maximum", first), y=last)
    return scope.result("max_pool", x=scope.x, kernel_sizes=layer.kernel, strides=layer.stride, pad_type="custom", pad=interleaved(pads))


def average_pool(scope: Scope, layer: AveragePool) -> None:
    """The system's own, which errs where pads count: zeros are put around the value then, and means over windows that hang over are corrected."""
    pads = (*layer.pads[: len(layer.kernel)], *end_pads(scope, layer))
    counts = counted(layer, scope.shapes[0][2:], scope.y[2:])
    window: dict[str, Any] = {"kernel_sizes": layer.kernel, "strides": layer.stride, "pad_type": "custom"}
    if _dilated(layer):
        total = _folded(scope, "add", _taps(scope, layer, pads, 0))
        return scope.result("mul", x=total, y=scope.floats(1 / np.maximum(counts, 1)[None, None], "counts"))
    if not any(pads) or (not layer.count_pads and counts.all()):
        return scope.result("avg_pool", x=scope.x, pad=interleaved(pads), exclude_padding_from_average=any(pads), **window)
    wide = scope.step("padded", "pad", x=scope.x, **_filled(scope, pads, 0))
    window |= {"x": wide, "pad": [0] * len(pads), "exclude_padding_from_average": False}
    if (counts == prod(layer.kernel)).all():
        return scope.result("avg_pool", **window)
    return scope.result("mul", x=scope.step("mean", "avg_pool", **window), y=scope.floats(prod(layer.kernel) / np.maximum(counts, 1)[None, None], "counts"))


def counted(layer: AveragePool, size: Sequence[int], windows: Sequence[int]) -> FloatArray:
    """How many elements each window counts."""
    rank = len(layer.kernel)
    result = np.ones(windows)
    for axis in range(rank):
        low, high = (-layer.pads[axis], size[axis] + layer.pads[axis + rank]) if layer.count_pads else (0, size[axis])
        places = np.add.outer(np.arange(windows[axis]) * layer.stride[axis], np.arange(layer.kernel[axis]) * layer.dilation[axis]) - layer.pads[axis]
        along = ((places >= low) & (places < high)).sum(axis=1)
        result *= along.reshape(-1, *[1] * (rank - 1 - axis))
    return result


def _dilated(layer: Pool) -> bool:
    return any(step > 1 and size > 1 for step, size in zip(layer.dilation, layer.kernel, strict=True))


def _taps(scope: Scope, layer: Pool, pads: Sequence[int], fill: float) -> list[Var]:
    """What each tap of a dilated window sees."""
    taps = list(np.ndindex(*layer.kernel))
    if len(taps) > MOST_TAPS:
        raise UnsupportedError(f"Core ML has no dilated pooling; windows of at most {MOST_TAPS} taps are written tap by tap, not {layer.kernel}")
    wide = scope.step("padded", "pad", x=scope.x, **_filled(scope, pads, fill))
    seen = []
    for number, tap in enumerate(taps):
        starts = [offset * step for offset, step in zip(tap, layer.dilation, strict=True)]
        stops = [start + (count - 1) * stride + 1 for start, count, stride in zip(starts, scope.y[2:], layer.stride, strict=True)]
        seen.append(scope.step(f"tap{number}", "slice_by_index", x=wide, **_cut(starts, stops, layer.stride)))
    return seen


def _folded(scope: Scope, op: str, parts: Sequence[Var]) -> Var:
    """The sum or maximum of several values."""
    total = parts[0]
    for number, part in enumerate(parts[1:]):
        total = scope.step(f"{op}{number}", op, x=total, y=part)
    return total


def resize(scope: Scope, layer: Resize) -> None:
    """The system's own where it is known to mean the same; else one axis after the other, as gathers of neighbours."""
    size = scope.shapes[0][2:]
    positions = [_positions(layer, old, new, scale) for old, new, scale in zip(size, layer.sizes, layer.scales, strict=True)]
    if layer.mode == "nearest":
        return _nearest(
            scope, layer, [[min(max(_rounded(place, layer.rounding), 0), old - 1) for place in axis] for axis, old in zip(positions, size, strict=True)]
        )
    by_size = all(isclose(scale, new / old, rel_tol=1e-6) for old, new, scale in zip(size, layer.sizes, layer.scales, strict=True))
    if len(size) == 2 and by_size and (layer.coordinates != "pytorch-half-pixel" or min(layer.sizes) > 1):
        target = {"target_size_height": layer.sizes[0], "target_size_width": layer.sizes[1]}
        return scope.result("resize_bilinear", x=scope.x, sampling_mode=SAMPLING[layer.coordinates], **target)
    return _linear(scope, layer, positions, size)


SAMPLING = {"half-pixel": "UNALIGN_CORNERS", "pytorch-half-pixel": "UNALIGN_CORNERS", "align-corners": "STRICT_ALIGN_CORNERS", "asymmetric": "DEFAULT"}
"""What Core ML calls the ways to place the new elements between the old."""


def _positions(layer: Resize, old: int, new: int, scale: float) -> list[Fraction]:
    """Where each new element lies between the old; a scale that is new / old but for its rounding is that fraction."""
    ratio = Fraction(new, old) if isclose(scale, new / old, rel_tol=1e-6) else Fraction(scale)
    half = Fraction(1, 2)
    if layer.coordinates == "asymmetric":
        return [i / ratio for i in range(new)]
    if layer.coordinates == "align-corners":
        return [Fraction(i * (old - 1), max(new - 1, 1)) for i in range(new)]
    if layer.coordinates == "pytorch-half-pixel" and new == 1:
        return [Fraction(0)]
    return [(i + half) / ratio - half for i in range(new)]


def _rounded(place: Fraction, rounding: str) -> int:
    half = Fraction(1, 2)
    if rounding in ("floor", "round-prefer-ceil"):
        return floor(place if rounding == "floor" else place + half)
    return ceil(place if rounding == "ceil" else place - half)


def _nearest(scope: Scope, layer: Resize, places: Sequence[Sequence[int]]) -> None:
    factors = [new // old for new, old in zip(layer.sizes, scope.shapes[0][2:], strict=True)]
    repeats = all(factors) and all([i // factor for i in range(len(axis))] == list(axis) for factor, axis in zip(factors, places, strict=True))
    if repeats and len(places) == 2:
        height, width = (np.float32(factor) for factor in factors)
        return scope.result("upsample_nearest_neighbor", x=scope.x, scale_factor_height=height, scale_factor_width=width)
    x = scope.x
    for axis, indices in enumerate(places[:-1], start=2):
        x = scope.step(f"axis{axis}", "gather", x=x, indices=np.array(indices, np.int32), axis=axis)
    return scope.result("gather", x=x, indices=np.array(places[-1], np.int32), axis=len(places) + 1)


def _linear(scope: Scope, layer: Resize, positions: Sequence[Sequence[Fraction]], size: Sequence[int]) -> None:
    x = scope.x
    for axis, (places, old) in enumerate(zip(positions, size, strict=True), start=2):
        inside = [min(max(place, Fraction(0)), Fraction(old - 1)) for place in places]
        below = [floor(place) for place in inside]
        share = np.array([float(place - low) for place, low in zip(inside, below, strict=True)]).reshape(-1, *[1] * (len(size) + 1 - axis))
        low, high = (np.array(indices, np.int32) for indices in (below, [min(place + 1, old - 1) for place in below]))
        parts: list[Any] = []
        for what, indices, weight in (("low", low, 1 - share), ("high", high, share)):
            taken = scope.step(f"{what}{axis}", "gather", x=x, indices=indices, axis=axis)
            parts.append(scope.step(f"{what}{axis}_share", "mul", x=taken, y=scope.floats(weight, "shares")))
        if axis == len(size) + 1:
            return scope.result("add", x=parts[0], y=parts[1])
        x = scope.step(f"axis{axis}", "add", x=parts[0], y=parts[1])
    return None
