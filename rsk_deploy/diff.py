"""What changed between two packed networks: layers, structure, masks and values."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from rsk_deploy.ir import Graph, Layer, Packed, Weighted
from rsk_deploy.ir.weights import same
from rsk_deploy.registry import format_named


@dataclass(frozen=True)
class Difference:
    """One thing that is not the same: ``("conv1", "12 of 36864 weights moved …")``; an empty ``layer`` is the network itself."""

    layer: str
    what: str


def diff(a: Graph[Packed], b: Graph[Packed]) -> tuple[Difference, ...]:
    """Every difference, in the order of ``a``'s layers; empty when the two compute the same in the same way."""
    found = [Difference("", f"{name}: {getattr(a, name)} → {getattr(b, name)}") for name in ("inputs", "outputs") if getattr(a, name) != getattr(b, name)]
    ours, theirs = ({layer.name: layer for layer in graph.layers} for graph in (a, b))
    for name, layer in ours.items():
        if name not in theirs:
            found.append(Difference(name, f"{type(layer).__name__} is only in the first"))
        else:
            found += [Difference(name, text) for text in _layers(layer, theirs[name])]
    return (*found, *(Difference(name, f"{type(layer).__name__} is only in the second") for name, layer in theirs.items() if name not in ours))


def _layers(a: Layer, b: Layer) -> list[str]:
    if type(a) is not type(b):
        return [f"{type(a).__name__} → {type(b).__name__}"]
    texts = []
    for field in fields(a):
        old, new = getattr(a, field.name), getattr(b, field.name)
        if field.name == "weight" and isinstance(a, Weighted):
            texts += _weights(old, new)
        elif not same(old, new):
            texts.append(f"{field.name}: {_short(old)} → {_short(new)}")
    return texts


def _weights(a: Packed, b: Packed) -> list[str]:
    if a.shape != b.shape:
        return [f"weight: shape {a.shape} → {b.shape}"]
    texts = [f"weight: stored as {a.format} → {b.format}"] if a.format != b.format else []
    stored = [weight.arrays["values"].dtype for weight in (a, b)]
    texts += [f"weight: stored in {stored[0]} → {stored[1]}"] if stored[0] != stored[1] else []
    old, new = (format_named(weight.format).decode(weight) for weight in (a, b))
    if moved := np.count_nonzero((old != 0) != (new != 0)):
        texts.append(f"weight: {moved} of {old.size} places became zero or nonzero")
    if changed := np.count_nonzero(old != new):
        texts.append(f"weight: {changed} of {old.size} values differ, by {np.abs(old - new).max():.3g} at most")
    return texts


def _short(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)} {value.ravel()[:3]}…"
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "…"
