"""Integers of 8 bits: which values can be held in them, at what scale, and weights rounded to them filter by filter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import frexp, isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsk_deploy import reference
from rsk_deploy.converters.c.data import Data, floating
from rsk_deploy.converters.c.units import Unit
from rsk_deploy.errors import UsageError
from rsk_deploy.ir import Conv, ConvTranspose, Graph, Linear, MaxPool, Packed
from rsk_deploy.registry import format_named

LARGEST = 127
RESIDUAL_SHIFT = 38
"""The largest of a residual: the kernels take its 8 bits for the upper ones of 32."""
ROWS = 256
"""Rows of the sample that ranges are taken from."""
BOUNDED = ("identity", "relu", "clip")
"""Activations that are bounds of an integer."""


@dataclass(frozen=True)
class Scales:
    """Of one unit: what one step of its input, of its residual and of its output stands for; a float output has none."""

    entry: float
    residual: float | None
    out: float | None


@dataclass(frozen=True)
class Eight:
    """The values held in 8 bits, and what one step of any value stands for where it is."""

    held: frozenset[str]
    scale: Mapping[str, float]


def calibrated(graph: Graph[Packed], sample: Mapping[str, NDArray[Any]] | None) -> dict[str, float]:
    """The scale of every value: its largest magnitude on the sample is 127 steps."""
    if sample is None:
        raise UsageError("--dtype int8 needs --sample x.npy: inputs like those that the network will see, to take the ranges of its values from")
    names = [entry.name for entry in graph.inputs] + [name for layer in graph.layers for name in layer.outputs]
    size = graph.inputs[0].at(1)[0]
    count = min(len(next(iter(sample.values()))), ROWS) // size
    if count == 0:
        raise UsageError(f"the sample has fewer rows than the {size} of one batch; --dtype int8 takes the ranges of values from it")
    largest = dict.fromkeys(names, 0.0)
    for index in range(count):
        feed = {name: rows[index * size : (index + 1) * size] for name, rows in sample.items()}
        for name, values in reference.run(graph, feed, names, dtype=np.float32).items():
            largest[name] = max(float(np.abs(values).max()), largest[name])
            if not isfinite(largest[name]):
                raise UsageError(f"the value {name} is infinite or NaN on the sample, which has no range of 8 bits. Use --dtype fp32, or another --sample")
    return {name: (most or 1.0) / LARGEST for name, most in largest.items()}


def takes_eight(unit: Unit) -> bool:
    """Whether the unit computes with integers."""
    return isinstance(unit.layer, Conv | ConvTranspose | Linear) and (unit.activation is None or unit.activation.kind in BOUNDED)


def chosen(units: Sequence[Unit], roots: Mapping[str, str], outputs: Sequence[str], scale: Mapping[str, float]) -> Eight:
    """The values that are computed and only read by integer kernels."""
    held = {unit.output for unit in units if takes_eight(unit) or isinstance(unit.layer, MaxPool)} - {roots.get(name, name) for name in outputs}
    before: set[str] = set()
    while held != before:
        before = set(held)
        for unit in units:
            whole = takes_eight(unit) or unit.output in held
            if isinstance(unit.layer, MaxPool) and roots.get(unit.inputs[0], unit.inputs[0]) not in held:
                held.discard(unit.output)
            if not whole and unit.output not in roots:
                held -= {roots.get(name, name) for name in unit.inputs}
    steps = dict(scale)
    for unit in units:
        if isinstance(unit.layer, MaxPool):
            steps[unit.output] = steps[roots.get(unit.inputs[0], unit.inputs[0])]
    return Eight(frozenset(held), steps)


def rounded(weight: Packed) -> tuple[Packed, NDArray[np.float64]]:
    """The weight with 8-bit values, and the scale of each filter."""
    support = format_named(weight.format).support(weight)
    values = weight.arrays["values"].astype(np.float64)
    filters = np.repeat(np.arange(len(support)), support.reshape(len(support), -1).sum(axis=1))
    largest = np.zeros(len(support))
    np.maximum.at(largest, filters, np.abs(values))
    scales: NDArray[np.float64] = np.where(largest > 0, largest, 1.0) / LARGEST
    return replace(weight, arrays={**weight.arrays, "values": np.rint(values / scales[filters]).astype(np.int8)}), scales


def fixed_point(factors: NDArray[np.float64]) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Multipliers of 31 bits and shifts: ``x · multiplier / 2^shift``."""
    pairs = [frexp(factor) for factor in factors.tolist()]
    words = [(round(mantissa * 2**30), 30 - exponent) for mantissa, exponent in pairs]
    if any(shift < 1 for _, shift in words):
        raise UsageError("a layer multiplies its input by more than 2^29; 8-bit integers cannot follow. Use --dtype fp32")
    kept = [(word, shift) if shift <= 62 else (0, 62) for word, shift in words]
    return np.array([word for word, _ in kept], np.int32), np.array([shift for _, shift in kept], np.uint8)


def requant(data: Data, name: str, unit: Unit, scales: Scales, filters: NDArray[np.float64], activation: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of ``struct rsk_requant``."""
    sums = scales.entry * filters
    if scales.out is None:
        fields: dict[str, Any] = {"scales": data.array(f"{name}_scales", sums.astype(np.float32)), "activation": activation}
        return fields | ({"residual_scale": floating(float(np.float32(scales.residual)))} if scales.residual else {})
    multipliers, shifts = fixed_point(sums / scales.out)
    low, high = bounds(unit, scales.out)
    fields = {"multipliers": data.array(f"{name}_multipliers", multipliers), "shifts": data.array(f"{name}_shifts", shifts), "low": low, "high": high}
    if scales.residual:
        (multiplier,), (shift,) = fixed_point(np.array([scales.residual / scales.out]))
        seen = shift <= RESIDUAL_SHIFT  # with more, of no 8 bits anything is left
        fields |= {"residual_multiplier": int(multiplier) if seen else 0, "residual_shift": int(shift) if seen else RESIDUAL_SHIFT}
    return fields


def bounds(unit: Unit, scale: float) -> tuple[int, int]:
    """Between which integers the output lies."""
    layer = unit.activation
    low, high = (-LARGEST, LARGEST)
    if layer is not None and layer.kind == "relu":
        low = 0
    elif layer is not None and layer.kind == "clip":
        low, high = (int(np.clip(np.rint(bound / scale), -LARGEST, LARGEST)) for bound in (layer.alpha, layer.beta))
    return low, high


def bias(layer: Conv[Packed] | ConvTranspose[Packed] | Linear[Packed], entry: float, filters: NDArray[np.float64]) -> NDArray[np.int32]:
    """In steps of the sums."""
    values = np.zeros(len(filters)) if layer.bias is None else layer.bias.astype(np.float64) / (entry * filters)
    return np.clip(np.rint(values), -(2.0**30), 2.0**30).astype(np.int32)
