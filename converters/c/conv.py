"""Convolutions and matrices as calls of the runtime: the weight, the work space."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsk_deploy.converters.c.assembly import POSITIONS, STRIP, Code
from rsk_deploy.converters.c.call import Call, Scope, WorkSpace, function
from rsk_deploy.converters.c.eight import bias as eight_bias
from rsk_deploy.converters.c.eight import requant, rounded
from rsk_deploy.converters.c.geometry import Geometry, pair
from rsk_deploy.converters.c.summing import LANES, arranged, positions, sums
from rsk_deploy.converters.c.units import Unit
from rsk_deploy.converters.c.weights import Decoder, encoded, in_blocks, reencoded, with_patterns
from rsk_deploy.errors import UnsupportedError
from rsk_deploy.ir import Conv, ConvTranspose, Linear, Packed
from rsk_deploy.registry import format_named


def activation(unit: Unit) -> dict[str, Any]:
    """The fields of ``struct rsk_activation``."""
    return function(unit.activation) if unit.activation else {}


def conv(scope: Scope, unit: Unit, layer: Conv[Packed]) -> Call:
    """A convolution over one or two axes."""
    check_axes(layer)
    kernel, image, out = pair(layer.weight.shape[2:], 1), pair(scope.ins[0][2:], 1), pair(scope.out[2:], 1)
    stride, dilation, pads = pair(layer.stride, 1), pair(layer.dilation, 1), pair(layer.pads[: len(layer.pads) // 2], 0)
    geometry = Geometry(image, out, kernel, stride, dilation, pads, (1, 1), positions(scope.target, out[1], eight=scope.scales is not None))
    return _convolution(scope, unit, layer.weight, layer.groups, geometry)


def conv_transpose(scope: Scope, unit: Unit, layer: ConvTranspose[Packed]) -> Call:
    """A convolution of the spread input with the flipped kernel."""
    check_axes(layer)
    weight = transposed(layer)
    kernel, image, out, dilation = pair(weight.shape[2:], 1), pair(scope.ins[0][2:], 1), pair(scope.out[2:], 1), pair(layer.dilation, 1)
    begin = pair(layer.pads[: len(layer.pads) // 2], 0)
    pads = (dilation[0] * (kernel[0] - 1) - begin[0], dilation[1] * (kernel[1] - 1) - begin[1])
    geometry = Geometry(image, out, kernel, (1, 1), dilation, pads, pair(layer.stride, 1), positions(scope.target, out[1], eight=scope.scales is not None))
    return _convolution(scope, unit, weight, layer.groups, geometry)


def check_axes(layer: Conv[Packed] | ConvTranspose[Packed]) -> None:
    """Refuse volumes."""
    if len(layer.weight.shape) > 4:
        raise UnsupportedError(f"{layer.name}: the C export has convolutions over 1 or 2 axes; this one has {len(layer.weight.shape) - 2}")


def transposed(layer: ConvTranspose[Packed]) -> Packed:
    """The weight (filters, channels / groups, *kernel) of the convolution that computes the same."""
    dense: NDArray[Any] = format_named(layer.weight.format).decode(layer.weight)
    channels, filters, *kernel = dense.shape
    grouped = dense.reshape(layer.groups, channels // layer.groups, filters, *kernel).swapaxes(1, 2)
    return reencoded(np.flip(grouped, tuple(range(3, 3 + len(kernel)))).reshape(layer.groups * filters, channels // layer.groups, *kernel), layer.weight)


def _convolution(scope: Scope, unit: Unit, weight: Packed, groups: int, geometry: Geometry) -> Call:
    outputs = prod(geometry.out) * scope.out[0]
    if scope.code and scope.code.pays(weight, groups, outputs, weight.shape[1] * geometry.plane):
        return _generated(scope, scope.code, unit, weight, geometry)
    eight = scope.scales is not None
    geometry = arranged(geometry, weight, scope.target, eight=eight)
    channels = weight.shape[1]
    scope.places.see(channels * geometry.plane)
    stored, filters = rounded(weight) if eight else (weight, None)
    stored = with_patterns(stored, scope.data.tables)
    loop = sums(stored, geometry, scope.target, eight=eight)
    if "block" in loop.fields:
        stored = in_blocks(stored, groups, loop.fields["block"])
    decoder, fields = encoded(stored, groups, scope.data, scope.name, geometry.places()[:: loop.run], scope.places.wide)
    decoder, fields["taps"] = replace(decoder, longest=decoder.longest // loop.run), fields["taps"] // loop.run
    if loop.straight:
        fields["decode"] = 0
    work = WorkSpace()
    work.add("panel", (2 if eight and not scope.target.neighbours else 4) * (channels * geometry.plane + LANES + max(geometry.pads[1], 0)))
    work.add("sums", 4 * loop.filters * -(-geometry.summed // LANES) * LANES)
    _decoding(work, decoder, scope, halves=fields["halves"], shared=loop.filters, listed=not loop.straight)
    name = _structure(scope, unit, "conv", {"weight": fields, **loop.fields, "panel": geometry.fields(scope.out[0])}, work, filters)
    kernel = "conv_s8" if eight else "conv"
    # a residual is read at the place that is written, but a float output is four times as large as 8-bit ones
    over = (1,) if unit.residual and (scope.scales is None or scope.scales.out is not None) else ()
    text = f"rsk_{kernel}({name}, $i0, {'$i1' if unit.residual else 0}, $out, $work);"
    headers = (kernel, decoder.header, *(["kernels"] if loop.straight and not eight else []))
    summed, singles = loop.fields.get("sum"), weight.shape[0] % (loop.filters * groups * decoder.parts) > 0
    needs = needed(HALVES=fields["halves"], SINGLES=singles and not summed, STRAIGHT=summed, NEIGHBOURS=eight and scope.target.neighbours)
    return Call(headers, text, work.size, over, weight.arrays["values"].size * outputs, prod(weight.shape) * outputs, needs)


def _generated(scope: Scope, code: Code, unit: Unit, weight: Packed, geometry: Geometry) -> Call:
    """A convolution by code of its own."""
    geometry = replace(geometry, positions=STRIP)
    filters, channels = weight.shape[:2]
    tiles = -(-geometry.summed // POSITIONS)
    offsets = [channel * geometry.plane + place for channel in range(channels) for place in geometry.places()]
    bias = unit.layer.bias.astype(np.float32) if isinstance(unit.layer, Conv | ConvTranspose) and unit.layer.bias is not None else None
    made = code.add(scope.name, weight, bias, offsets, tiles, scope.data)
    work = WorkSpace()
    work.add("panel", 4 * (channels * geometry.plane + POSITIONS + max(geometry.pads[1], 0)))
    for name in ("sums", "partial"):
        work.add(name, 4 * made.filters * tiles * POSITIONS)
    fields = {
        "conv": {
            "weight": {"filters": filters, "channels": channels},
            "panel": geometry.fields(scope.out[0]),
            "sums_at": work.pieces["sums"],
            "activation": activation(unit),
        },
        **{name: getattr(made, name) for name in ("blocks", "pieces", "count", "code_ahead", "values_ahead")},
        "partial_at": work.pieces["partial"],
    }
    text = f"rsk_conv_generated({scope.structure('rsk_generated', fields)}, $i0, {'$i1' if unit.residual else 0}, $out, $work);"
    outputs = prod(geometry.out) * scope.out[0]
    over = (1,) if unit.residual else ()
    return Call(("generated",), text, work.size, over, weight.arrays["values"].size * outputs, prod(weight.shape) * outputs)


def _structure(scope: Scope, unit: Unit, kind: str, fields: dict[str, Any], work: WorkSpace, filters: NDArray[np.float64] | None) -> str:
    """The address of the structure of a convolution or a matrix, with its bias, its work space and what ends it."""
    starts = {f"{name}_at": start for name, start in work.pieces.items() if name != "panel" and (filters is None or name != "room")}
    layer = unit.layer
    if filters is None or scope.scales is None or not isinstance(layer, Conv | ConvTranspose | Linear):
        return scope.structure(f"rsk_{kind}", {**fields, "bias": _bias(scope, unit), **starts, "activation": activation(unit)})
    bias = scope.data.array(f"{scope.name}_bias", eight_bias(layer, scope.scales.entry, filters))
    ending = requant(scope.data, scope.name, unit, scope.scales, filters, activation(unit))
    return scope.structure(f"rsk_{kind}_s8", {**fields, "bias": bias, **starts, "requant": ending})


def linear(scope: Scope, unit: Unit, layer: Linear[Packed]) -> Call:
    """A matrix over the last axis."""
    weight, rows = layer.weight, prod(scope.out[:-1])
    listed = weight.format != "dense"
    scope.places.see(weight.shape[1] if listed else 0)
    stored, filters = rounded(weight) if scope.scales else (weight, None)
    decoder, fields = encoded(stored, 1, scope.data, scope.name, [0] if listed else None, scope.places.wide)
    work = WorkSpace()
    _decoding(work, decoder, scope, halves=fields["halves"], shared=1, listed=listed)
    name = _structure(scope, unit, "linear", {"weight": fields, "rows": rows}, work, filters)
    kernel_name = "linear_s8" if scope.scales else "linear"
    macs = (rows * weight.arrays["values"].size, rows * prod(weight.shape))
    return Call((kernel_name, decoder.header), f"rsk_{kernel_name}({name}, $i0, $out, $work);", work.size, (), *macs, needed(HALVES=fields["halves"]))


def needed(**parts: Any) -> frozenset[str]:
    """The names of the parts that are true."""
    return frozenset(name for name, has in parts.items() if has)


def _decoding(work: WorkSpace, decoder: Decoder, scope: Scope, *, halves: bool, shared: int, listed: bool = True) -> None:
    """Room for the values of filters that are stored in half precision, the list, and the decoder's table."""
    work.add("room", 4 * shared * decoder.longest if halves else 0)
    work.add("list", scope.places.nbytes * (decoder.longest + max(decoder.overhang, 3 if scope.scales else 0)) if listed else 0)
    work.add("table", 4 * decoder.table_words + scope.places.nbytes * decoder.table_places)


def _bias(scope: Scope, unit: Unit) -> Any:
    bias = unit.layer.bias if isinstance(unit.layer, Conv | ConvTranspose | Linear) else None
    return 0 if bias is None else scope.data.array(f"{scope.name}_bias", bias.astype(np.float32))
