"""Convolutions and matrices as calls of the runtime: the geometry of the panel, the weight, the work space."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsk_deploy.converters.c.assembly import POSITIONS, STRIP, Code
from rsk_deploy.converters.c.call import Call, Scope, WorkSpace, function
from rsk_deploy.converters.c.eight import bias as eight_bias
from rsk_deploy.converters.c.eight import requant, rounded
from rsk_deploy.converters.c.targets import Target
from rsk_deploy.converters.c.units import Unit
from rsk_deploy.converters.c.weights import Decoder, encoded, reencoded
from rsk_deploy.errors import UnsupportedError
from rsk_deploy.ir import Conv, ConvTranspose, Linear, Packed
from rsk_deploy.registry import format_named

LANES = 8
"""The most floats in a vector of any target: sums are rounded up to whole vectors, and inputs read accordingly."""
DIRECT = (2, 4)
"""Taps of a pattern, as many in every kernel, from which sums come straight."""
QUARTET = 4
"""Values that such a sum takes at once."""
NEAR, FAR = 96, 511
"""Cells, for each position of a target's strips, of a panel that all filters read from the nearest cache, or that its memory has room for; or from the next
cache, at places of 16 bits."""
WORTH = 0.05
"""The share of the positions that is worth such a panel: it takes 24 % off ResNet18's layers of 4 x 4, where 0.2 are saved, and adds 6 % at 32 x 32, 0.03."""
PACKING = 0.5
"""What packing a cell costs, in multiplications of four neighbouring positions."""
FINISHING = 3
"""What moving four sums to the output costs, in the same."""
SHARED = 4
"""Filters that are summed at once where they share their taps."""


@dataclass(frozen=True)
class Geometry:
    """A convolution over two axes (one axis is one row), stride 1 where ``spread`` is not."""

    image: tuple[int, int]
    out: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    pads: tuple[int, int]
    spread: tuple[int, int]
    positions: int
    columnwise: bool = False
    """Whether each column of the kernel is a phase of its own, whose rows are those of the output."""

    @property
    def strip(self) -> int:
        """Output rows of a strip: about ``positions`` positions, the strips nearly equal."""
        height, width = self.out
        rows = max(1, min(height, -(-self.positions // width)))
        return -(-height // -(-height // rows))

    @property
    def summed(self) -> int:
        """Positions of a strip in the panel, those that hang over the rows' ends included."""
        return (self.strip - 1) * self.pitch + self.out[1]

    def reach(self, axis: int) -> int:
        """From the first tap to the last."""
        return (self.kernel[axis] - 1) * self.dilation[axis]

    def phases(self, axis: int) -> int:
        """How many of the stride's phases a tap reads."""
        return self.kernel[1] if axis and self.columnwise else min(self.stride[axis], self.reach(axis) + 1)

    @property
    def rows(self) -> int:
        """Rows of a phase that a strip reads."""
        return self.strip + self.reach(0) // self.stride[0]

    @property
    def pitch(self) -> int:
        """From a row of the panel to the next. The pads of neighbouring rows are zeros and overlap."""
        if self.columnwise:
            return self.out[1]
        full = self.out[1] + self.reach(1) // self.stride[1]
        if self.stride[1] > 1 or self.spread[1] > 1:
            return full
        return full - max(min(self.pads[1], full - self.pads[1] - self.image[1]), 0)

    @property
    def plane(self) -> int:
        """Floats of one channel."""
        return self.phases(0) * self.phases(1) * self.rows * self.pitch

    def places(self) -> list[int]:
        """Of each tap in the panel of a channel."""
        result = []
        for tap in np.ndindex(*self.kernel):
            (phase_y, row), (phase_x, column) = (divmod(tap[axis] * self.dilation[axis], self.stride[axis])[::-1] for axis in (0, 1))
            if self.columnwise:
                phase_x, column = tap[1], 0
            result.append(((phase_y * self.phases(1) + phase_x) * self.rows + row) * self.pitch + column)
        return result

    def fields(self, batch: int) -> dict[str, int]:
        """The fields of ``struct rsk_panel``."""
        return {
            "batch": batch,
            **axes("{}", self.image, ("height", "width")),
            **axes("out_{}", self.out, ("height", "width")),
            **axes("pad_{}", self.pads),
            **axes("stride_{}", self.stride),
            **axes("spread_{}", self.spread),
            **axes("phases_{}", (self.phases(0), self.phases(1))),
            "shift": self.dilation[1] if self.columnwise else 1,
            **{name: getattr(self, name) for name in ("strip", "rows", "pitch", "plane")},
        }


def pair(values: tuple[int, ...], fill: int) -> tuple[int, int]:
    """Two axes from one or two."""
    return (fill, values[0]) if len(values) == 1 else (values[0], values[1])


def activation(unit: Unit) -> dict[str, Any]:
    """The fields of ``struct rsk_activation``."""
    return function(unit.activation) if unit.activation else {}


def conv(scope: Scope, unit: Unit, layer: Conv[Packed]) -> Call:
    """A convolution over one or two axes."""
    check_axes(layer)
    kernel, image, out = pair(layer.weight.shape[2:], 1), pair(scope.ins[0][2:], 1), pair(scope.out[2:], 1)
    stride, dilation, pads = pair(layer.stride, 1), pair(layer.dilation, 1), pair(layer.pads[: len(layer.pads) // 2], 0)
    geometry = Geometry(image, out, kernel, stride, dilation, pads, (1, 1), scope.target.positions)
    return _convolution(scope, unit, layer.weight, layer.groups, geometry)


def conv_transpose(scope: Scope, unit: Unit, layer: ConvTranspose[Packed]) -> Call:
    """A convolution of the spread input with the flipped kernel."""
    check_axes(layer)
    weight = transposed(layer)
    kernel, image, out, dilation = pair(weight.shape[2:], 1), pair(scope.ins[0][2:], 1), pair(scope.out[2:], 1), pair(layer.dilation, 1)
    begin = pair(layer.pads[: len(layer.pads) // 2], 0)
    pads = (dilation[0] * (kernel[0] - 1) - begin[0], dilation[1] * (kernel[1] - 1) - begin[1])
    geometry = Geometry(image, out, kernel, (1, 1), dilation, pads, pair(layer.stride, 1), scope.target.positions)
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
    geometry = arranged(geometry, weight, scope.target)
    channels, positions = weight.shape[1], geometry.summed
    scope.places.see(channels * geometry.plane)
    stored, filters = rounded(weight) if scope.scales else (weight, None)
    decoder, fields = encoded(stored, groups, scope.data, scope.name, geometry.places(), scope.places.wide)
    work = WorkSpace()
    work.add("panel", (2 if scope.scales else 4) * (channels * geometry.plane + LANES + max(geometry.pads[1], 0)))
    work.add("sums", 4 * (1 if scope.scales else SHARED) * -(-positions // LANES) * LANES)
    direct = decoder.taps in DIRECT and channels * decoder.taps % QUARTET == 0
    summed = f"rsk_sum_kernels_{decoder.taps}" if direct and not scope.scales and not fields["halves"] else None
    if summed:
        fields["decode"] = 0
    _decoding(work, decoder, scope, halves=fields["halves"], listed=summed is None)
    layout = {"weight": fields, "sum": summed or 0, "panel": geometry.fields(scope.out[0])}
    name = _structure(scope, unit, "conv", layout, work, filters)
    kernel = "conv_s8" if scope.scales else "conv"
    # a residual is read at the place that is written, but a float output is four times as large as 8-bit ones
    over = (1,) if unit.residual and (scope.scales is None or scope.scales.out is not None) else ()
    text = f"rsk_{kernel}({name}, $i0, {'$i1' if unit.residual else 0}, $out, $work);"
    headers = (kernel, decoder.header, *(["kernels"] if summed else []))
    singles = weight.shape[0] % (SHARED * groups * decoder.parts) > 0
    needs = needed(HALVES=fields["halves"], SINGLES=singles and not summed, STRAIGHT=summed)
    return Call(headers, text, work.size, over, weight.arrays["values"].size * outputs, prod(weight.shape) * outputs, needs)


def arranged(geometry: Geometry, weight: Packed, target: Target) -> Geometry:
    """Columnwise where the positions that it saves outweigh the cells that it adds to the panel."""
    if geometry.spread[1] > 1:
        return geometry
    other = replace(geometry, columnwise=True)
    vectors, fewer = (-(-each.summed // 4) for each in (geometry, other))
    saved = (vectors - fewer) * weight.arrays["values"].size + FINISHING * fewer * weight.shape[0] * (geometry.pitch > other.pitch)
    cells, more = weight.shape[1] * other.plane, weight.shape[1] * (other.plane - geometry.plane)
    room = FAR if target.memory is None and vectors - fewer > WORTH * vectors else NEAR
    return other if cells <= room * geometry.positions and saved > PACKING * more else geometry


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


def _decoding(work: WorkSpace, decoder: Decoder, scope: Scope, *, halves: bool, shared: int = SHARED, listed: bool = True) -> None:
    """Room for the values of filters that are stored in half precision, the list, and the decoder's table."""
    work.add("room", 4 * shared * decoder.longest if halves else 0)
    work.add("list", scope.places.nbytes * (decoder.longest + decoder.overhang) if listed else 0)
    work.add("table", 4 * decoder.table_words + scope.places.nbytes * decoder.table_places)


def _bias(scope: Scope, unit: Unit) -> Any:
    bias = unit.layer.bias if isinstance(unit.layer, Conv | ConvTranspose | Linear) else None
    return 0 if bias is None else scope.data.array(f"{scope.name}_bias", bias.astype(np.float32))


def axes(form: str, values: tuple[int, int], names: tuple[str, str] = ("y", "x")) -> dict[str, int]:
    """A field for each of two axes."""
    return {form.format(name): value for name, value in zip(names, values, strict=True)}
