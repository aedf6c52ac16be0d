"""Where a file comes from: what made it, from which weights. No clock, no user, no path: same model, same words."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from functools import cache

import numpy as np

from rsk_deploy.ir import Graph, Json, Packed
from rsk_deploy.ir.graph import recorded
from rsk_deploy.registry import format_named


@cache
def tool_version() -> str:
    """The installed version of rsk-deploy, or ``unknown`` when it runs without being installed."""
    from importlib.metadata import PackageNotFoundError, version  # 10 ms, which only writing a file needs

    try:
        return version("rsk-deploy")
    except PackageNotFoundError:
        return "unknown"


def weights_sha256(graph: Graph[Packed]) -> str:
    """SHA-256 over every weighted layer in order: shape and float32 bytes (little-endian) of the decoded weight, then of the bias if there is one.

    It does not depend on the encodings, and so compares files of any format that hold the same numbers.
    """
    digest = hashlib.sha256()
    for layer in graph.weighted():
        for array in (format_named(layer.weight.format).decode(layer.weight), layer.bias):
            if array is not None:
                digest.update(f"{array.shape}".encode())
                digest.update(np.ascontiguousarray(array, "<f4").data)
    return digest.hexdigest()


def provenance(graph: Graph[Packed], **options: Json) -> dict[str, Json]:
    """Where the content comes from: the tool's version, the options that shape it, the weights' SHA-256, and counts of masks, encodings and folds.

    ``options`` are the writer's own; those of reading and packing are on record in the graph.
    """
    choices = [layer.weight.choice for layer in graph.weighted()]
    return {
        "tool": "rsk-deploy",
        "tool_version": tool_version(),
        "options": dict(sorted({**recorded(graph.meta), **options}.items())),
        "weights_sha256": weights_sha256(graph),
        "masks": tally(choice.mask for choice in choices if choice is not None),
        "formats": tally(layer.weight.format for layer in graph.weighted()),
        "log": tally(entry.action for entry in graph.log),
    }


def tally(names: Iterable[str]) -> dict[str, int]:
    """How often each name occurs, in alphabetical order."""
    return dict(sorted(Counter(names).items()))
