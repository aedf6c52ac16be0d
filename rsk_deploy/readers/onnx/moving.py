"""Operations that move elements: shapes, slices, joins, pads, repeats."""

from __future__ import annotations

from typing import Any

import numpy as np

from rsk_deploy.errors import CorruptFileError
from rsk_deploy.ir import Activation, Concat, Gather, Layer, Pad, Reshape, Slice, Transpose
from rsk_deploy.readers.onnx.build import Node, NotModelled
from rsk_deploy.readers.onnx.values import Value


def target(value: Value) -> tuple[int, ...]:
    """What to reshape to: ``-1`` for the one dimension that follows the batch."""
    if value.shape.count(None) > 1:
        raise NotModelled
    return tuple(-1 if dim is None else dim for dim in value.shape)


def identity(node: Node) -> None:
    """Dropped, except where the network's output must keep its name."""
    if node.used(1):
        raise NotModelled  # the mask of a dropout
    if node.builder.exact and node.op == "Identity":
        return node.emit(Activation, node.read(), kind="identity")
    return node.same_as(node.read())


def reshape(node: Node) -> None:
    """Reshape, flatten, squeeze and unsqueeze: only the shapes matter."""
    node.emit(Reshape, node.read(), target=target(node.output))


def transpose(node: Node) -> None:
    """Permuted axes; reversed by default."""
    rank = len(node.shape())
    node.emit(Transpose, node.read(), perm=node.integers("perm", range(rank)[::-1]))


def depth_to_space(node: Node) -> None:
    """Channels to blocks of pixels."""
    channels, height, width = node.sizes((1, 2, 3))
    block = node.attribute("blocksize", 1)
    depth = channels // block**2
    columns_first = node.attribute("mode", "DCR") == "CRD"
    split = (depth, block, block) if columns_first else (block, block, depth)
    perm = (0, 1, 4, 2, 5, 3) if columns_first else (0, 3, 4, 1, 5, 2)
    apart = node.step("apart", Reshape, node.read(), target=(batch(node), *split, height, width))
    node.emit(Reshape, node.step("moved", Transpose, apart, perm=perm), target=target(node.output))


def space_to_depth(node: Node) -> None:
    """Blocks of pixels to channels."""
    channels, height, width = node.sizes((1, 2, 3))
    block = node.attribute("blocksize", 1)
    apart = node.step("apart", Reshape, node.read(), target=(batch(node), channels, height // block, block, width // block, block))
    node.emit(Reshape, node.step("moved", Transpose, apart, perm=(0, 3, 5, 1, 2, 4)), target=target(node.output))


def batch(node: Node) -> int:
    """The first dimension of the input, ``-1`` where it is open."""
    first = node.shape()[0]
    return -1 if first is None else first


def concat(node: Node) -> None:
    """Values joined along an axis."""
    inputs = [node.read(index) for index in range(len(node.proto.input))]
    if len(inputs) == 1:
        return node.same_as(inputs[0])
    return node.emit(Concat, *inputs, axis=node.attribute("axis", 0) % len(node.output.shapes[0]))


def split(node: Node) -> None:
    """A slice for each part."""
    axis = node.attribute("axis", 0) % len(node.shape())
    values = node.builder.trace.values
    start = 0
    node.sizes([axis])
    for index, name in enumerate(node.proto.output):
        if not name:
            raise CorruptFileError(f"{node.name}: a part of a split without a name")
        length = values[name].shape[axis]
        if length is None:
            raise NotModelled
        node.step(str(index), Slice, node.read(), output=name, axis=axis, start=start, stop=start + length)
        start += length


def slice_(node: Node) -> None:
    """A slice along each axis that is cut."""
    shape = node.shape()
    starts, ends = node.known(1, "starts"), node.known(2, "ends")
    if starts is None or ends is None:
        raise CorruptFileError(f"{node.name}: a slice without starts or ends")
    given, steps = node.known(3, "axes"), node.known(4)
    axes = np.arange(starts.size) if given is None else given.reshape(-1) % len(shape)
    bounds = zip(axes, starts.reshape(-1), ends.reshape(-1), np.ones(starts.size, np.int64) if steps is None else steps.reshape(-1), strict=True)
    cuts: list[tuple[int, range]] = []
    for axis, start, stop, step in bounds:
        each = [tuple(range(shape[axis])[slice(int(start), int(stop), int(step))] for shape in node.value(0).shapes)]
        whole = all(cut == range(shape[axis]) for cut, shape in zip(each[0], node.value(0).shapes, strict=True))
        if len(set(each[0])) > 1 and not whole:
            raise NotModelled
        if not whole:
            cuts.append((int(axis), each[0][0]))
    cut_axes(node, cuts)


def cut_axes(node: Node, cuts: list[tuple[int, range]]) -> None:
    """One layer for each axis that is cut."""
    value = node.read()
    if not cuts:
        return node.same_as(value)
    for number, (axis, kept) in enumerate(cuts):
        if not kept:
            raise CorruptFileError(f"{node.name}: slices nothing out of axis {axis} of {node.shape()}")
        name = "" if number < len(cuts) - 1 else node.proto.output[0]
        value = cut_axis(node, value, axis, kept, name)
    return None


def cut_axis(node: Node, value: str, axis: int, kept: range, output: str) -> str:
    """Append the layer for one axis; backwards by indices."""
    layer: type[Layer] = Slice if kept.step > 0 else Gather
    stop = kept[-1] + 1 if kept.step > 1 else kept.stop
    fields: dict[str, Any] = {"start": kept.start, "stop": stop, "step": kept.step} if kept.step > 0 else {"indices": np.array(kept, np.int64)}
    if output:
        node.emit(layer, value, axis=axis, **fields)
        return output
    return node.step(f"axis{axis}", layer, value, axis=axis, **fields)


def gather(node: Node) -> None:
    """Fixed indices: a slice that loses its axis for a single one."""
    indices = node.constant(1)
    axis = node.attribute("axis", 0) % len(node.shape())
    if indices is None:
        raise NotModelled
    (size,) = node.sizes([axis])
    if indices.size == 0 or int(indices.min()) < -size or int(indices.max()) >= size:
        raise CorruptFileError(f"{node.name}: gathers indices {indices.reshape(-1)[:5].tolist()} of an axis of {size}")
    indices = indices.astype(np.int64) % size
    if indices.ndim == 1:
        return node.emit(Gather, node.read(), axis=axis, indices=indices)
    if indices.ndim == 0:
        part = node.step("part", Slice, node.read(), axis=axis, start=int(indices), stop=int(indices) + 1)
    else:
        part = node.step("part", Gather, node.read(), axis=axis, indices=indices.reshape(-1))
    return node.emit(Reshape, part, target=target(node.output))


def pad(node: Node) -> None:
    """Pads; negative ones cut."""
    rank = len(node.shape())
    given, value, axes = node.known(1, "pads"), node.known(2, "value"), node.known(3)
    if given is None:
        raise CorruptFileError(f"{node.name}: pads nothing")
    where = np.arange(rank) if axes is None else axes.reshape(-1) % rank
    pads = np.zeros((2, rank), np.int64)
    pads[:, where] = given.reshape(2, -1)
    mode = node.attribute("mode", "constant")
    if mode not in ("constant", "reflect", "edge") or (mode != "constant" and (pads < 0).any()):
        raise NotModelled
    x = node.read()
    if (pads < 0).any():
        cuts = [(int(axis), -min(0, int(pads[0, axis])), min(0, int(pads[1, axis]))) for axis in np.flatnonzero((pads < 0).any(0))]
        for axis, begin, end in cuts:
            (size,) = node.sizes([axis])
            x = node.step(f"axis{axis}", Slice, x, axis=axis, start=begin, stop=size + end)
    fill = 0.0 if value is None or mode != "constant" else float(np.float32(value.reshape(()))) + 0.0  # our own files have -0.0
    node.emit(Pad, x, pads=tuple(int(amount) for amount in np.maximum(pads, 0).reshape(-1)), mode=mode, value=fill)


def expand(node: Node) -> None:
    """Repeat axes of length 1."""
    before, after = node.shape(), node.output.shape
    value = node.read()
    if node.value(0).shapes == node.output.shapes:
        return node.same_as(value)
    aligned = (1,) * (len(after) - len(before)) + before
    if len(aligned) > len(before):
        if before.count(None):
            raise NotModelled
        value = node.step("aligned", Reshape, value, target=tuple(dim or -1 for dim in aligned))
    return repeat(node, value, [(axis, new) for axis, (old, new) in enumerate(zip(aligned, after, strict=True)) if old != new], aligned)


def tile(node: Node) -> None:
    """Repeated axes."""
    repeats = node.known(1)
    if repeats is None:
        raise NotModelled
    before = node.shape()
    times = [int(count) for count in repeats.reshape(-1)]
    if all(count == 1 for count in times):
        return node.same_as(node.read())
    after = node.output.shape
    return repeat(node, node.read(), [(axis, after[axis]) for axis, count in enumerate(times) if count != 1], before)


def repeat(node: Node, value: str, axes: list[tuple[int, int | None]], shape: tuple[int | None, ...]) -> None:
    """Repeat whole axes up to new lengths, by indices."""
    if not axes:
        return node.same_as(value)
    for number, (axis, new) in enumerate(axes):
        old = shape[axis]
        if new is None or old is None or new < 1:
            raise NotModelled
        indices = np.arange(new, dtype=np.int64) % old
        if number == len(axes) - 1:
            return node.emit(Gather, value, axis=axis, indices=indices)
        value = node.step(f"axis{axis}", Gather, value, axis=axis, indices=indices)
    return None
