"""Core ML packages as rsk-inspect shows them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from rsk_deploy import mlprogram
from rsk_deploy.cli.console import plain, say, size
from rsk_deploy.mlprogram import Feature, Summary


def show(path: Path, *, layers: bool, as_json: bool) -> None:
    """Print what the package holds."""
    found = mlprogram.summary(path)
    say(json.dumps({"kind": "Core ML package", **dataclasses.asdict(found)}, indent=1, default=str) if as_json else text(found, layers=layers))


def text(found: Summary, *, layers: bool) -> str:
    """The package for people; with ``layers`` every weight."""
    dense, stored = sum(weight.dense_nbytes for weight in found.weights), sum(weight.nbytes for weight in found.weights)
    ends = f"{', '.join(map(feature, found.inputs))} → {', '.join(map(feature, found.outputs))}"
    lines = [f"{found.path}: Core ML package (specification {found.specification}), {size(found.nbytes)}, {ends}", ""]
    lines += [f"  {kind} × {count}" for kind, count in found.operations.items()]
    lines += ["", f"  large constants × {len(found.weights)}: {size(stored)}, {stored / max(dense, 1):.3f} of dense in the same type ({size(dense)})"]
    if layers:
        lines += [f"  {weight.name:32} {'×'.join(map(str, weight.shape)):16} {size(weight.nbytes):>9}  {weight.form}" for weight in found.weights]
    lines += ["", *(f"  {key}: {value}" for key, value in found.about.items())]
    provenance = found.said.get("provenance")
    lines += [f"  {key}: {plain(value)}" for key, value in provenance.items() if value] if isinstance(provenance, dict) else ["  written by another tool"]
    return "\n".join(lines)


def feature(entry: Feature) -> str:
    """``image image (rgb) 32×32``."""
    return f"{entry.name} {entry.kind}" + (f" {'×'.join(map(str, entry.shape))}" if entry.shape else "")
