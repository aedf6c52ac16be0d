"""Normalisations."""

from __future__ import annotations

import numpy as np

from rsk_deploy.errors import CorruptFileError
from rsk_deploy.ir import LRN, Affine, FloatArray, GroupNorm, LayerNorm
from rsk_deploy.readers.onnx.build import Node, NotModelled, weight_values


def batch_norm(node: Node) -> None:
    """Scale and shift per channel, computed in float64."""
    if node.attribute("training_mode", 0) or node.used(1):
        raise NotModelled
    node.named_after(1)
    scale, shift, mean, variance = (node.floats(index).astype(np.float64) for index in range(1, 5))
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(variance + node.attribute("epsilon", 1e-5))
        offset = shift - mean * factor
    where = f"{node.name}: the scale and shift of batch norm"
    node.emit(Affine, node.read(), scale=weight_values(factor, where), shift=weight_values(offset, where))


def instance_norm(node: Node) -> None:
    """Group norm with a channel a group."""
    node.named_after(1)
    scale, shift = node.floats(1), node.floats(2)
    node.emit(GroupNorm, node.read(), groups=scale.size, scale=scale, shift=shift, epsilon=float(node.attribute("epsilon", 1e-5)))


def group_norm(node: Node) -> None:
    """Group norm; before opset 21 its scale and shift are per group."""
    node.named_after(1)
    groups, scale, shift = node.attribute("num_groups", 0), node.floats(1), node.floats(2)
    (channels,) = node.sizes([1])
    if groups < 1 or channels % groups:
        raise CorruptFileError(f"{node.name}: {channels} channels in {groups} groups")
    if node.opset < 21:
        scale, shift = np.repeat(scale, channels // groups), np.repeat(shift, channels // groups)
    node.emit(GroupNorm, node.read(), groups=groups, scale=scale, shift=shift, epsilon=float(node.attribute("epsilon", 1e-5)))


def layer_norm(node: Node) -> None:
    """Layer norm over the axes from ``axis`` on."""
    if node.used(1) or node.used(2):
        raise NotModelled
    node.named_after(1)
    rank = len(node.shape())
    axis = node.attribute("axis", -1) % rank
    sizes = node.sizes(range(axis, rank))
    scale = spread(node.floats(1), sizes)
    shift = spread(node.floats(2), sizes) if node.has(2) else np.zeros(sizes, np.float32)
    if axis == 0:
        raise NotModelled
    node.emit(LayerNorm, node.read(), scale=scale, shift=shift, epsilon=float(node.attribute("epsilon", 1e-5)))


def spread(values: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    """``values`` over ``shape``."""
    try:
        return np.broadcast_to(values, shape).copy()
    except ValueError:
        raise NotModelled from None


def lrn(node: Node) -> None:
    """Local response normalisation."""
    numbers = {name: float(node.attribute(name, default)) for name, default in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0))}
    node.emit(LRN, node.read(), size=node.attribute("size", 0), **numbers)
