"""Which mask to choose before training, given the runtime that will execute the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rsk_deploy.errors import UsageError
from rsk_deploy.ir import Conv, Dense, FloatArray, Graph, Input, Json, Mask
from rsk_deploy.masks.checks import fraction, whole
from rsk_deploy.registry import MASKS, known, mask_named
from rsk_deploy.rewrite import lower
from rsk_deploy.rewrite.costs import TARGETS

CLASSES = {1: 16, 2: 8, 3: 4, 4: 4, 6: 2}
"""Classes for rectangles of so many taps of a 3x3 kernel: enough to cover it, and such as divide most networks' channels."""
SHARED = {"one-pattern", "periodic", "input-class", "lowerable", "per-input", "block-shared"}
"""Masks of which our own kernels keep many outputs' taps together."""
SHARED_RATE, SINGLE_RATE = 0.95, 0.75
"""The share of the dense rate at which our own kernels multiply nonzeros of those masks, and of others."""


@dataclass(frozen=True)
class Advice:
    """A mask family and its parameters (``PSConv2d(support=family, **params)``), the share of weights kept, and how much faster than dense."""

    family: str
    params: Mapping[str, Json]
    density: float
    faster: float
    why: str


def advise(target: str, sparsity: float, *, channels: int = 128, size: int = 28) -> tuple[Advice, ...]:
    """Mask families for 3x3 convolutions with about that share of zeros, the one estimated fastest in the runtime ``target`` first.

    The estimate is that of one layer with so many channels in and out, on a map of ``size`` x ``size``.
    """
    costs = TARGETS[known(dict.fromkeys(TARGETS, ""), target, "runtime to choose a mask for")]
    kept = round(9 * (1 - fraction("sparsity", sparsity)))
    if not 1 <= kept <= 8:
        raise UsageError(f"a sparsity of {sparsity:g} keeps {kept} of 9 taps; between 0.06 and 0.94 a pre-defined mask keeps 1 to 8")
    shape = (whole("channels", channels, 16, 4096), channels, 3, 3)
    whole("size", size, 1, 1024)
    found = []
    for family, params in candidates(kept).items():
        mask = mask_named(family).generate(shape, **params)
        faster, why = own_estimate(mask) if costs.nonzeros else stock_estimate(mask, size, target)
        found.append(Advice(family, params, mask.kept / mask.support.size, faster, why))
    order = list(MASKS)
    return tuple(sorted(found, key=lambda advice: (-round(advice.faster, 1), order.index(advice.family))))


def candidates(kept: int) -> dict[str, dict[str, Json]]:
    """The parameters of each family for kernels that keep so many of 9 taps; families that have no such mask are left out."""
    each = {"taps_per_kernel": kept}
    found: dict[str, dict[str, Json]] = dict.fromkeys(("periodic", "per-input", "block-shared", "regular", "lfsr"), each)
    found["unstructured"] = {"density": kept / 9}
    if kept in CLASSES:
        found |= {family: {**each, "classes": CLASSES[kept]} for family in ("input-class", "lowerable")}
    if kept == 5:
        found["one-pattern"] = {"taps": [1, 3, 4, 5, 7]}
    if kept <= 4:
        found["two-four"] = each
    return found


def stock_estimate(mask: Mask, size: int, target: str) -> tuple[float, str]:
    """How much faster a runtime without sparse kernels is, and why."""
    channels = len(mask.support)
    ends = np.ones((channels, channels, 1, 1), np.float32)
    layers = (plain("first", "image", ends), plain("conv", "first", mask.support.astype(np.float32)), plain("last", "conv", ends))
    graph = Graph[Dense]((Input("image", (1, channels, size, size)),), ("last",), layers)
    lowered = lower(graph, target)
    costs, shapes = TARGETS[target], lowered.shapes()
    inner = [layer for layer in lowered.layers if layer.name not in ("first", "last")]
    faster = costs.of([layers[1]], shapes) / costs.of(inner, shapes)
    entry = next((entry for entry in lowered.log if entry.layer == "conv"), None)
    if entry and entry.action == "lowered":
        return faster, f"it becomes ordinary convolutions: {entry.detail}"
    return 1.0, f"{target} executes it as dense: the file is smaller, the network not faster" + (f" ({entry.detail})" if entry else "")


def plain(name: str, source: str, weight: FloatArray) -> Conv[Dense]:
    """A convolution that keeps the size of its map."""
    pads = (weight.shape[2] // 2,) * 4
    return Conv(name=name, inputs=(source,), outputs=(name,), weight=Dense(weight), stride=(1, 1), pads=pads, dilation=(1, 1))


def own_estimate(mask: Mask) -> tuple[float, str]:
    """How much faster our own kernels are, and why."""
    shared = mask.family in SHARED
    faster = (SHARED_RATE if shared else SINGLE_RATE) * mask.support.size / mask.kept
    return faster, "its nonzeros alone are executed" + (", with taps that many outputs share" if shared else "")
