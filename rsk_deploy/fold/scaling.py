"""Scale and shift of one axis, as batch norm or as arithmetic with a constant, into the weights before or after it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import numpy as np

from rsk_deploy.fold.draft import Draft
from rsk_deploy.fold.weights import channel_axis, rounded, scaled, shift_sums, with_bias
from rsk_deploy.ir import Affine, Binary, Constant, Conv, Dense, FloatArray, Layer, Linear, Reshape, Transpose, Weighted


@dataclass(frozen=True)
class Scaling:
    """``layer`` computes ``value = source · scale + shift`` along ``axis``; one number for all where ``axis`` is None. In float64."""

    layer: Layer
    source: str
    axis: int | None
    scale: FloatArray
    shift: FloatArray

    @property
    def value(self) -> str:
        """What the layer computes."""
        return self.layer.outputs[0]

    @property
    def action(self) -> str:
        """What the log calls it."""
        return "batch norm" if isinstance(self.layer, Affine) else "constant"

    def over(self, length: int) -> tuple[FloatArray, FloatArray]:
        """Scale and shift of each of ``length`` elements: a number for all, or each number for its run of neighbours."""
        return np.repeat(self.scale, length // self.scale.size), np.repeat(self.shift, length // self.shift.size)


def scaling_of(draft: Draft, layer: Layer) -> Scaling | None:
    """See a layer as a scaling, if it is one."""
    if isinstance(layer, Affine):
        return Scaling(layer, layer.inputs[0], 1, layer.scale.astype(np.float64), layer.shift.astype(np.float64))
    if isinstance(layer, Binary):
        for source, other in (layer.inputs, layer.inputs[::-1]):
            constant = draft.producer(other)
            if isinstance(constant, Constant) and constant.values.dtype.kind == "f":
                return _by_constant(draft, layer, source, constant)
    return None


def _by_constant(draft: Draft, layer: Binary, source: str, constant: Constant) -> Scaling | None:
    shape = draft.shape(source)
    aligned = (1,) * (len(shape) - constant.values.ndim) + constant.values.shape
    long = [axis for axis, dim in enumerate(aligned) if dim > 1]
    if len(aligned) != len(shape) or len(long) > 1 or any(axis == 0 or aligned[axis] != shape[axis] for axis in long):
        return None
    c = constant.values.astype(np.float64).reshape(-1)
    one, zero = np.ones_like(c), np.zeros_like(c)
    kinds = {"add": (one, c), "mul": (c, zero), "sub": (one, -c), "div": (1 / c, zero)}
    if layer.inputs[0] != source:
        kinds |= {"sub": (-one, c), "div": (zero * np.nan, zero)}
    scale, shift = kinds.get(layer.kind, (zero * np.nan, zero))
    return Scaling(layer, source, long[0] if long else None, scale, shift) if np.isfinite([scale, shift]).all() else None


def into_producer(draft: Draft, layer: Layer) -> bool:
    """Fold a scaling into the weights that compute its source, also through transpositions; they then compute its value."""
    scaling = scaling_of(draft, layer)
    if scaling is None:
        return False
    source, axis = scaling.source, scaling.axis
    producer, path = draft.producer(source), list[Layer]()
    while isinstance(producer, Transpose) and draft.only_reader(source):
        path.insert(0, producer)
        source, axis = producer.inputs[0], None if axis is None else producer.perm[axis]
        producer = draft.producer(source)
    if not isinstance(producer, Weighted) or not draft.only_reader(source) or axis not in (None, channel_axis(producer, draft.shape(source))):
        return False
    scale, shift = scaling.over(producer.filters)
    bias = shift if producer.bias is None else producer.bias * scale + shift
    draft.remove(layer)
    _chained(draft, [with_bias(scaled(producer, scale), bias), *path], producer.inputs[0], scaling.value)
    draft.note(producer.name, scaling.action, f"{layer.name} scaled {producer.filters} filters")
    return True


def into_consumer(draft: Draft, layer: Layer) -> bool:
    """Fold a scaling into the weights that read its value, also through a flattening, where that is exact."""
    scaling = scaling_of(draft, layer)
    if scaling is None:
        return False
    axis, reader, path = scaling.axis, draft.only_reader(scaling.value), list[Layer]()
    if isinstance(reader, Reshape) and axis in (None, 1) and _flattens(draft, reader):
        path = [reader]
        reader = draft.only_reader(reader.outputs[0])
    if not isinstance(reader, Weighted) or not _meets_every_tap(reader, scaling):
        return False
    shape = draft.shape(reader.inputs[0])
    if axis not in (None, channel_axis(reader, shape)):
        return False
    scale, shift = scaling.over(shape[channel_axis(reader, shape)])
    bias = reader.bias
    if shift.any():
        bias = shift_sums(reader, shift) + (0.0 if bias is None else bias)
    draft.remove(layer)
    _chained(draft, [*path, with_bias(scaled(reader, scale, of_inputs=True), bias)], scaling.source, reader.outputs[0])
    draft.note(reader.name, scaling.action, f"{layer.name} scaled {scale.size} inputs")
    return True


def merged(draft: Draft, layer: Layer) -> bool:
    """Make one batch norm of two scalings in a row, or of arithmetic with a constant per channel."""
    scaling = scaling_of(draft, layer)
    if scaling is None:
        return False
    source, scale, shift = scaling.source, scaling.scale, scaling.shift
    producer = draft.producer(source)
    before = scaling_of(draft, producer) if producer and draft.only_reader(source) else None
    if before and {before.axis, scaling.axis} in ({1}, {1, None}):
        source, scale, shift = before.source, before.scale * scale, before.shift * scale + shift
        draft.remove(before.layer)
        draft.note(layer.name, before.action, f"{before.layer.name} merged into it")
    elif isinstance(layer, Affine) or scaling.axis != 1:
        return False
    scale, shift = rounded(scale, layer.name), rounded(shift, layer.name)
    draft.put(Affine(name=layer.name, inputs=(source,), outputs=layer.outputs, origin=layer.origin, scale=scale, shift=shift))
    return True


def _flattens(draft: Draft, layer: Reshape) -> bool:
    """Say whether a reshape keeps axis 0 and joins the others."""
    before, after = draft.shape(layer.inputs[0]), draft.shape(layer.outputs[0])
    return len(after) == 2 and after == (before[0], prod(before[1:]))


def _meets_every_tap(reader: Weighted[Dense], scaling: Scaling) -> bool:
    """Say whether every weight meets the shift at every position: none does in a transposed convolution or where pads are."""
    return not scaling.shift.any() or isinstance(reader, Linear) or (isinstance(reader, Conv) and not any(reader.pads))


def _chained(draft: Draft, layers: list[Layer], source: str, value: str) -> None:
    """Put layers in a row from ``source`` to ``value``. The values between mean something new, so they get new names."""
    for layer in layers:
        result = value if layer is layers[-1] else f"{value}/{layer.name}"
        draft.put(replace(layer, inputs=(source,), outputs=(result,)))
        source = result
