"""Linear layers, and convolutions that are linear layers: a stream of weights for few rows, a convolution over many."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from rsk_deploy.ir import ACTIVATIONS, Conv, Linear, Packed, Shape
from rsk_deploy.runtime.build import Builder
from rsk_deploy.runtime.choose import Plan
from rsk_deploy.runtime.cost import Work
from rsk_deploy.runtime.fuse import CONV_ACTIVATIONS, Unit
from rsk_deploy.runtime.layout import lattice, permuted
from rsk_deploy.runtime.records import Step, View
from rsk_deploy.runtime.weights import compressed, decoded, support

SPARSE_PAYS = 0.3
"""Below this share of nonzeros a gather beats a stream: 2.9·10⁹ products a second to 9.5 (Zen 5, weights from memory)."""

ROWS, SPARSE_ROWS = 4, 2
"""From so many rows on the kernels of convolutions are faster: each weight that they load multiplies a vector of rows (2048², Zen 5, in ms, as a
stream and so. Dense, 2, 4 and 8 rows: 0.7 and 0.9, 1.0 and 0.9, 1.5 and 0.9; 10 % nonzero: 0.5 and 0.2, 0.9 and 0.3, 1.8 and 0.3)."""

EXPANDING_PAYS = 0.1, 0.7
"""Shares of nonzeros between which a bitmask and packed weights beat a gather and a stream of all for one row (2048², Zen 5, weights from memory, in µs.
10 %: 156 and 153, 30 %: 361 and 177, 44 %: 375 and 234, 60 %: 405 and 324, 80 %: 407 and 438)."""

MOST_AXES = 5
"""Of a product that runs as a convolution."""


def stream(builder: Builder, unit: Unit, layer: Linear[Packed] | Conv[Packed], x: View, out: View) -> None:
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


def is_linear(unit: Unit, x: Shape) -> bool:
    """Whether the layer is a product with a matrix; a convolution that sees one element of each channel is."""
    layer = unit.layer
    return isinstance(layer, Linear) or (
        isinstance(layer, Conv)
        and unit.residual is None
        and layer.groups == 1
        and all(dim == 1 for dim in (*x[2:], *layer.weight.shape[2:]))
        and not any(layer.pads)
    )


def fits_convolution(unit: Unit, x: Shape) -> bool:
    """Whether a product can run as a convolution over its rows."""
    ends_alike = unit.activation is None or unit.activation.kind in CONV_ACTIVATIONS
    return ends_alike and len(x) <= MOST_AXES


def may_pay(rows: int, share: float) -> bool:
    """Whether a convolution with that share of nonzeros may beat a stream: it uses each weight several times, or keeps them packed until then."""
    if rows == 1:
        return EXPANDING_PAYS[0] <= share <= EXPANDING_PAYS[1]
    return rows >= (ROWS if share == 1 else SPARSE_ROWS)


def pays(work: Work, plan: Plan) -> bool:
    """Whether it is: for one row with a bitmask alone."""
    return work.positions > 1 or plan.kernel.endswith("/bitmask")


def flat(view: View) -> View:
    """The view without its axes of space, which have one element."""
    return permuted(view, (0, 1))


def across(view: View) -> View:
    """Rows (…, elements) as positions of channels: nothing around an element is part of the view."""
    *rows, elements = view.shape
    *steps, step = view.strides
    shape, strides = ((1, elements, *rows), (0, step, *steps)) if len(rows) == 1 else ((rows[0], elements, *rows[1:]), (steps[0], step, *steps[1:]))
    space = len(shape) - 2
    return lattice(replace(view, shape=shape, strides=strides), [0] * space, [1] * space)
