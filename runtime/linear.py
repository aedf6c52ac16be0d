"""Linear layers, and convolutions that are linear layers, as native steps: bound by the stream of their weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from rsk_deploy.ir import ACTIVATIONS, Conv, Linear, Packed
from rsk_deploy.runtime.build import Builder
from rsk_deploy.runtime.fuse import Unit
from rsk_deploy.runtime.layout import permuted
from rsk_deploy.runtime.records import Step, View
from rsk_deploy.runtime.weights import compressed, decoded, support

SPARSE_PAYS = 0.4
"""Below this share of nonzeros a gather of 8 bytes a weight beats a stream of 4."""


def lower_linear(builder: Builder, unit: Unit, layer: Linear[Packed]) -> None:
    """Multiply the last axis by the matrix."""
    emit_linear(builder, unit, layer, builder.views[layer.inputs[0]], builder.output(unit.output))


def emit_linear(builder: Builder, unit: Unit, layer: Linear[Packed] | Conv[Packed], x: View, out: View) -> None:
    """The product, with its bias and activation, as a stream of all weights or of the nonzeros."""
    matrix = decoded(layer.weight).reshape(layer.weight.shape[0], -1)
    share = np.count_nonzero(matrix) / matrix.size
    blobs: tuple[Any, ...] = (None, None, matrix.astype(np.float32, copy=False).reshape(-1), layer.bias)
    reason = f"streams every weight: {share:.0%} are nonzero"
    if share < SPARSE_PAYS:
        sparse = compressed(layer.weight, support(layer.weight))
        blobs = (sparse.start, sparse.columns, sparse.values, layer.bias)
        reason = f"streams the nonzeros and their columns: {share:.0%} are nonzero"
    last = unit.activation
    kind = 0 if last is None else list(ACTIVATIONS).index(last.kind)
    floats = () if last is None else (last.alpha, last.beta)
    builder.emit(Step("linear", (x,), out, unit.names, kind=kind, floats=floats, blobs=blobs, reason=reason))


def is_linear(unit: Unit, x: tuple[int, ...]) -> bool:
    """Whether a convolution sees one element of each channel."""
    layer = unit.layer
    return (
        isinstance(layer, Conv)
        and unit.residual is None
        and layer.groups == 1
        and all(dim == 1 for dim in (*x[2:], *layer.weight.shape[2:]))
        and not any(layer.pads)
    )


def lower_as_linear(builder: Builder, unit: Unit, layer: Conv[Packed]) -> None:
    """The convolution as a product: (batch, channels) by the matrix."""
    x, out = builder.views[layer.inputs[0]], builder.output(unit.output)
    emit_linear(builder, unit, layer, flat(x), flat(out))


def flat(view: View) -> View:
    """The view without its axes of space, which have one element."""
    return permuted(view, (0, 1))
