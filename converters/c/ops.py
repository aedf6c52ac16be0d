"""Every other operation as calls of the runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np

from rsk_deploy.converters.c import conv, geometry
from rsk_deploy.converters.c.call import Call, Scope, function, literal
from rsk_deploy.converters.c.units import Unit
from rsk_deploy.errors import UnsupportedError, UsageError
from rsk_deploy.ir import (
    LRN,
    Activation,
    Affine,
    AveragePool,
    Binary,
    Concat,
    Conv,
    ConvTranspose,
    Gather,
    GroupNorm,
    Layer,
    LayerNorm,
    Linear,
    MatMul,
    MaxPool,
    Pad,
    PRelu,
    Reduce,
    Resize,
    Shape,
    Slice,
    Softmax,
    Transpose,
)  # fmt: skip
from rsk_deploy.reference.resize import ROUNDINGS, coordinates

MAX_VALUE = 1 << 28
"""Elements of a value at most."""
IDLE = (1, 1, 1, 0, 0)
"""Kernel, stride, dilation and pads of an axis that a window does not move along."""
REDUCTIONS = {"mean": "SUM_OF", "sum": "SUM_OF", "max": "LARGEST", "min": "SMALLEST", "l2": "SQUARES", "prod": "PRODUCT"}


def steps(shape: Shape) -> list[int]:
    """Elements from one index of an axis to the next."""
    return [prod(shape[axis + 1 :]) for axis in range(len(shape))]


def merged(sizes: Sequence[int], *step_lists: Sequence[int]) -> tuple[list[int], list[list[int]]]:
    """The same walk over as few axes as can be: axes of one element go, neighbours that are one run become one."""
    kept = [axis for axis, size in enumerate(sizes) if size > 1] or [len(sizes) - 1] if sizes else []
    result: list[int] = []
    lists: list[list[int]] = [[] for _ in step_lists]
    for axis in kept:
        now = [s[axis] for s in step_lists]
        if result and all(found[-1] == step * sizes[axis] for found, step in zip(lists, now, strict=True)):
            result[-1] *= sizes[axis]
            for found, step in zip(lists, now, strict=True):
                found[-1] = step
        else:
            result.append(sizes[axis])
            for found, step in zip(lists, now, strict=True):
                found.append(step)
    return result or [1], [found or [1] for found in lists]


def move(scope: Scope, to: str, to_steps: Sequence[int], source: str, from_steps: Sequence[int], sizes: Sequence[int]) -> str:
    """A strided copy."""
    sizes, (to_steps, from_steps) = merged(sizes, to_steps, from_steps)
    arrays = [scope.integers(what, values) for what, values in (("to", to_steps), ("from", from_steps), ("sizes", sizes))]
    return f"rsk_move({to}, {arrays[0]}, {source}, {arrays[1]}, {arrays[2]}, {len(sizes)});"


def activation(scope: Scope, unit: Unit, layer: Activation) -> Call:
    """A function of each element."""
    name = scope.structure("rsk_activation", function(layer))
    return Call(("activation",), f"rsk_activate($out, $i0, {prod(scope.out)}, {name});", over=(0,))


def as_eight(size: int, scale: float) -> Call:
    """Floats to integers."""
    return Call(("eight",), f"rsk_quantise($out, $i0, {size}, {literal(1 / scale)});")


def as_float(size: int, scale: float) -> Call:
    """Integers to floats."""
    return Call(("eight",), f"rsk_dequantise($out, $i0, {size}, {literal(scale)});")


def channels(scope: Scope) -> tuple[int, int, int]:
    """Images, channels, and elements of a channel."""
    shape = scope.out
    return shape[0], shape[1] if len(shape) > 1 else 1, prod(shape[2:])


def affine(scope: Scope, unit: Unit, layer: Affine) -> Call:
    """A scale and a shift per channel."""
    images, count, size = channels(scope)
    return Call(
        ("norm",), f"rsk_affine($out, $i0, {images}, {count}, {size}, {vector(scope, 'scale', layer.scale)}, {vector(scope, 'shift', layer.shift)});", over=(0,)
    )


def vector(scope: Scope, what: str, values: Any) -> str:
    """The name of a constant array of floats."""
    return scope.data.array(f"{scope.name}_{what}", values.astype(np.float32))


def prelu(scope: Scope, unit: Unit, layer: PRelu) -> Call:
    """A slope for what is negative."""
    images, count, size = channels(scope)
    return Call(("norm",), f"rsk_prelu($out, $i0, {images}, {count}, {size}, {vector(scope, 'slope', layer.slope)}, {layer.slope.size});", over=(0,))


def layer_norm(scope: Scope, unit: Unit, layer: LayerNorm) -> Call:
    """Normalised rows."""
    size = layer.scale.size
    scale, shift = vector(scope, "scale", layer.scale), vector(scope, "shift", layer.shift)
    return Call(("norm",), f"rsk_layer_norm($out, $i0, {prod(scope.out) // size}, {size}, {scale}, {shift}, {literal(layer.epsilon)});", over=(0,))


def group_norm(scope: Scope, unit: Unit, layer: GroupNorm) -> Call:
    """Normalised groups of channels."""
    images, count, size = channels(scope)
    scale, shift = vector(scope, "scale", layer.scale), vector(scope, "shift", layer.shift)
    shape = f"{images}, {count}, {size}, {layer.groups}"
    return Call(("norm",), f"rsk_group_norm($out, $i0, {shape}, {scale}, {shift}, {literal(layer.epsilon)});", over=(0,))


def lrn(scope: Scope, unit: Unit, layer: LRN) -> Call:
    """The energy of neighbouring channels divided out."""
    images, count, size = channels(scope)
    numbers = {"factor": literal(layer.alpha / layer.size), "power": literal(layer.beta), "bias": literal(layer.bias)}
    below, above = (layer.size - 1) // 2, layer.size // 2
    name = scope.structure("rsk_lrn", {"images": images, "channels": count, "size": size, "below": below, "above": above, **numbers})
    return Call(("norm",), f"rsk_local_response({name}, $out, $i0);")


def softmax(scope: Scope, unit: Unit, layer: Softmax) -> Call:
    """Along one axis."""
    outer, size, inner = around(scope.out, layer.axis)
    return Call(("norm",), f"rsk_softmax($out, $i0, {outer}, {size}, {inner}, {int(layer.log)});", over=(0,))


def around(shape: Shape, axis: int) -> tuple[int, int, int]:
    """Elements before an axis, its size, elements behind it."""
    return prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :])


def pool(scope: Scope, unit: Unit, layer: MaxPool | AveragePool) -> Call:
    """The largest or the mean under a window over one or two axes."""
    rank = len(layer.kernel)
    axes = list(zip(scope.ins[0][2:], scope.out[2:], layer.kernel, layer.stride, layer.dilation, layer.pads[:rank], layer.pads[rank:], strict=True))
    while len(axes) > 2 and (idle := next((n for n, (a, b) in enumerate(pairwise(axes)) if a[2:] == b[2:] == IDLE), None)) is not None:
        axes[idle : idle + 2] = [(axes[idle][0] * axes[idle + 1][0], axes[idle][1] * axes[idle + 1][1], *IDLE)]
    if len(axes) > 2:
        raise UnsupportedError(f"{layer.name}: the C export has windows over 1 or 2 axes; this one has {len(axes)}")
    image, out, kernel, stride, dilation, begin, end = map(geometry.pair, map(tuple, zip(*axes, strict=True)), (1, 1, 1, 1, 1, 0, 0))
    counted = isinstance(layer, AveragePool) and layer.count_pads
    fields = {
        "planes": prod(scope.out[:2]),
        **geometry.axes("{}", image, ("height", "width")),
        **geometry.axes("out_{}", out, ("height", "width")),
        **geometry.axes("size_{}", kernel),
        **geometry.axes("stride_{}", stride),
        **geometry.axes("dilation_{}", dilation),
        **geometry.axes("pad_{}", begin),
        **geometry.axes("count_{}", (image[0] + end[0], image[1] + end[1]) if counted else (0, 0)),
    }
    if scope.scales:
        return Call(("pool_s8",), f"rsk_pool_s8({scope.structure('rsk_pool', fields)}, $i0, $out);")
    return Call(("pool",), f"rsk_pool({scope.structure('rsk_pool', fields)}, $i0, $out, {int(isinstance(layer, AveragePool))});")


def binary(scope: Scope, unit: Unit, layer: Binary) -> Call:
    """Two values, broadcast."""
    a_steps, b_steps = (broadcast_steps(shape, scope.out) for shape in scope.ins)
    sizes, (_, a_steps, b_steps) = merged(scope.out, steps(scope.out), a_steps, b_steps)
    arrays = [scope.integers(what, values) for what, values in (("a", a_steps), ("b", b_steps), ("sizes", sizes))]
    text = f"rsk_binary(RSK_{layer.kind.upper()}, $out, $i0, {arrays[0]}, $i1, {arrays[1]}, {arrays[2]}, {len(sizes)});"
    return Call(("binary",), text, over=tuple(index for index, shape in enumerate(scope.ins) if shape == scope.out))


def broadcast_steps(shape: Shape, out: Shape) -> list[int]:
    """Steps in a value of ``shape`` for a walk over ``out``."""
    own = [0] * (len(out) - len(shape)) + steps(shape)
    sizes = (1,) * (len(out) - len(shape)) + shape
    return [0 if size == 1 else step for size, step in zip(sizes, own, strict=True)]


def matmul(scope: Scope, unit: Unit, layer: MatMul) -> Call:
    """The product of two computed values."""
    (*_, m, k), (*_, _, n) = scope.ins
    batch = scope.out[:-2]
    a_steps, b_steps = ([step * size for step in broadcast_steps(shape[:-2], batch)] for shape, size in zip(scope.ins, (m * k, k * n), strict=True))
    arrays = {name: scope.integers(name, values or [0]) for name, values in (("sizes", batch), ("a_steps", a_steps), ("b_steps", b_steps))}
    macs = prod(scope.out) * k
    return Call(
        ("matmul",),
        f"rsk_matmul({scope.structure('rsk_matmul', {'m': m, 'k': k, 'n': n, 'rank': len(batch), **arrays})}, $out, $i0, $i1, 0);",
        0,
        (),
        macs,
        macs,
    )


def reduce(scope: Scope, unit: Unit, layer: Reduce) -> Call:
    """Over any axes."""
    shape = scope.ins[0]
    walk = steps(shape)
    sides = []
    for gone in (False, True):
        taken = [axis for axis in range(len(shape)) if (axis in layer.axes) is gone]
        sides.append(merged([shape[axis] for axis in taken], [walk[axis] for axis in taken]))
    (kept, (kept_steps,)), (gone_sizes, (gone_steps,)) = sides
    scale = 1 / prod(gone_sizes) if layer.kind == "mean" else 1.0
    arrays = scope.integers("steps", kept_steps + gone_steps), scope.integers("sizes", kept + gone_sizes)
    kind = f"RSK_{REDUCTIONS[layer.kind]}"
    return Call(("reduce",), f"rsk_reduce({kind}, $out, $i0, {arrays[0]}, {arrays[1]}, {len(kept)}, {len(gone_sizes)}, {literal(scale)});")


def concat(scope: Scope, unit: Unit, layer: Concat) -> Call:
    """A copy for each part."""
    lines, start, walk = [], 0, steps(scope.out)
    for index, shape in enumerate(scope.ins):
        lines.append(move(scope, f"$out + {start * walk[layer.axis]}", walk, f"$i{index}", steps(shape), shape))
        start += shape[layer.axis]
    return Call(("move",), "\n".join(lines))


def piece(scope: Scope, unit: Unit, layer: Slice) -> Call:
    """Every ``step``-th element of a part of one axis."""
    walk = steps(scope.ins[0])
    strided = [step * (layer.step if axis == layer.axis else 1) for axis, step in enumerate(walk)]
    return Call(("move",), move(scope, "$out", steps(scope.out), f"$i0 + {layer.start * walk[layer.axis]}", strided, scope.out))


def transpose(scope: Scope, unit: Unit, layer: Transpose) -> Call:
    """Axes in another order."""
    walk = steps(scope.ins[0])
    return Call(("move",), move(scope, "$out", steps(scope.out), "$i0", [walk[axis] for axis in layer.perm], scope.out))


def gather(scope: Scope, unit: Unit, layer: Gather) -> Call:
    """Elements of one axis by index."""
    return along_axes(scope, {layer.axis: Along(layer.indices.tolist())})


class Along:
    """What becomes of one axis: the old index of each new element, and how far it lies towards the next where it is interpolated."""

    def __init__(self, indices: Sequence[int], shares: Sequence[float] = ()) -> None:
        self.indices, self.shares = list(indices), list(shares)


def along_axes(scope: Scope, changes: Mapping[int, Along]) -> Call:
    """One axis after the other; what lies between goes to two places of the work space in turn."""
    shape = list(scope.ins[0])
    todo = [(axis, change) for axis, change in changes.items() if change.shares or change.indices != list(range(shape[axis]))]
    if not todo:
        return Call(("move",), move(scope, "$out", [1], "$i0", [1], [prod(shape)]))
    sizes, trace = [], list(shape)
    for axis, change in todo:
        trace[axis] = len(change.indices)
        sizes.append(prod(trace))
    room = max(sizes[:-1], default=0)
    lines, source = [], "$i0"
    for number, (axis, change) in enumerate(todo):
        to = "$out" if number == len(todo) - 1 else f"$work + {room * (number % 2)}"
        outer, size, inner = around(tuple(shape), axis)
        indices = scope.integers("indices", change.indices)
        if change.shares:
            shares = vector(scope, "shares", np.array(change.shares))
            lines.append(f"rsk_interpolate({to}, {source}, {outer}, {size}, {inner}, {indices}, {shares}, {len(change.indices)});")
        else:
            lines.append(f"rsk_take({to}, {source}, {outer}, {size}, {inner}, {indices}, {len(change.indices)});")
        shape[axis], source = len(change.indices), to
    return Call(("move",), "\n".join(lines), room * min(len(todo) - 1, 2))


def pad(scope: Scope, unit: Unit, layer: Pad) -> Call:
    """Around a copy; reflecting and repeating pads are copies by index."""
    shape = scope.ins[0]
    begin = layer.pads[: len(shape)]
    if layer.mode != "constant":
        modes = {"edge": "edge", "reflect": "reflect"}
        widths = zip(begin, layer.pads[len(shape) :], shape, strict=True)
        return along_axes(scope, {axis: Along(np.pad(np.arange(size), (b, e), mode=modes[layer.mode]).tolist()) for axis, (b, e, size) in enumerate(widths)})  # type: ignore[call-overload]  # numpy lists its modes one by one
    walk = steps(scope.out)
    inside = sum(b * step for b, step in zip(begin, walk, strict=True))
    fill = f"rsk_fill($out, {prod(scope.out)}, {literal(layer.value)});"
    return Call(("move",), fill + "\n" + move(scope, f"$out + {inside}", walk, "$i0", steps(shape), shape))


def resize(scope: Scope, unit: Unit, layer: Resize) -> Call:
    """One axis after the other, as the reference does it."""
    changes = {}
    for axis, (size, scale) in enumerate(zip(layer.sizes, layer.scales, strict=True), start=2):
        old = scope.ins[0][axis]
        positions = coordinates(layer.coordinates, old, size, scale)
        if layer.mode == "nearest":
            changes[axis] = Along([min(max(ROUNDINGS[layer.rounding](position), 0), old - 1) for position in positions])
            continue
        inside = [min(max(float(position), 0.0), float(old - 1)) for position in positions]
        below = [int(position) for position in inside]
        shares = [position - low for position, low in zip(inside, below, strict=True)]
        changes[axis] = Along(below, shares if any(shares) else ())
    return along_axes(scope, changes)


LOWERINGS: Mapping[type[Layer], Callable[..., Call]] = {
    Conv: conv.conv, ConvTranspose: conv.conv_transpose, Linear: conv.linear, Activation: activation, Affine: affine, PRelu: prelu, LayerNorm: layer_norm,
    GroupNorm: group_norm, LRN: lrn, Softmax: softmax, MaxPool: pool, AveragePool: pool, Binary: binary, MatMul: matmul, Reduce: reduce, Concat: concat,
    Slice: piece, Transpose: transpose, Gather: gather, Pad: pad, Resize: resize,
}  # fmt: skip
"""Every layer class that becomes a call. Reshape and Constant need none: they are names of what is there."""


def lower(scope: Scope, unit: Unit) -> Call:
    """The call of a unit, or a sentence about what the target does not have."""
    layer = unit.layer
    lowering = LOWERINGS.get(type(layer))
    if lowering is None:
        op = getattr(layer, "op", type(layer).__name__)
        place = f" (from {layer.origin})" if layer.origin else ""
        raise UnsupportedError(f"{layer.name}: the C export has no {op}{place}; only the ONNX export carries it")
    if max(map(prod, (*scope.ins, scope.out)), default=0) > MAX_VALUE:
        raise UsageError(f"{layer.name}: works on a value of more than {MAX_VALUE} elements; give a smaller --input-shape for the C export")
    return lowering(scope, unit, layer)
