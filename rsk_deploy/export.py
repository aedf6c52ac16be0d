"""From a model to a verified file: read, pack, write under a temporary name, run, compare, rename."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from rsk_deploy import reference
from rsk_deploy.errors import UsageError, about
from rsk_deploy.files import atomic
from rsk_deploy.ir import FloatArray, Graph, Packed
from rsk_deploy.ir.weights import EMPTY
from rsk_deploy.pack import pack
from rsk_deploy.readers import ReadOptions, Source, read
from rsk_deploy.registry import CONVERTERS, converter_named, known
from rsk_deploy.samples import Sample, read_sample
from rsk_deploy.verify import Tolerance, Verification, Written, verify_file


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """A written file. ``dense_nbytes`` is what it would take with every weight stored dense in fp32; ``verification`` is None when it was not asked for."""

    path: Path
    format: str
    nbytes: int
    dense_nbytes: int
    seconds: float
    verification: Verification | None


def export(
    model: Any,
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    weights: str | Mapping[str, str] = "auto",
    half: bool = False,
    verify: bool = True,
    tolerance: Tolerance | None = None,
    sample: Sample | str | os.PathLike[str] | None = None,
    force: bool = False,
    options: Mapping[str, Any] | None = None,
    **read_options: Any,
) -> ExportResult:
    """Export a model, a path to one, or a graph to ``path`` (its suffix is the format unless given), verified.

    ``read_options`` are those of ``rsk.read``; ``options`` are the target's own (``{"opset": 17}``). A file that already
    exists is kept until the new one is verified, and replaced only with ``force``.
    """
    source = _graph_source(model) if isinstance(model, Graph) else read(model, ReadOptions(**read_options))
    packed = model if isinstance(model, Graph) and is_packed(model) else pack(source.graph, weights, half=half)
    path = Path(path)
    name = known(CONVERTERS, format or path.suffix.lstrip("."), "export format")
    if sample is not None and not isinstance(sample, Sample):
        sample = read_sample(Path(sample), packed)
    return write(packed, path, name, source=source if verify else None, tolerance=tolerance, sample=sample, force=force, options=options or {})


def _graph_source(graph: Graph[Any]) -> Source:
    """A graph in memory is its own original, executed by the reference."""

    def run(inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, FloatArray]:
        with about("a graph in memory is verified against the reference; export from the model it was read from, or with verify=False"):
            return reference.run(graph, inputs)

    return Source(graph, run)


def is_packed(graph: Graph[Any]) -> bool:
    """Whether the weights are stored sparsely already (a graph without weights needs no packing)."""
    return all(isinstance(layer.weight, Packed) for layer in graph.weighted())


def write(
    graph: Graph[Packed],
    path: Path,
    format: str,
    *,
    source: Source | None,
    tolerance: Tolerance | None = None,
    sample: Sample | None = None,
    force: bool = False,
    options: Mapping[str, Any] = EMPTY,
) -> ExportResult:
    """Write one file; with ``source``, only if it computes the same. Nothing is left under ``path`` otherwise."""
    converter = converter_named(format)
    if foreign := sorted(set(options) - converter.OPTIONS):
        raise UsageError(f"--format {format} has no option {foreign[0]!r}; it has {', '.join(sorted(converter.OPTIONS)) or 'none'}")
    start = time.perf_counter()
    verification = None
    with atomic(path, force) as temporary, about(str(path)):
        converter.write(graph, temporary, **options)
        if source:
            verification = verify_file(Written(temporary, converter, graph), source, tolerance=tolerance, sample=sample)
    nbytes = path.stat().st_size
    saved = sum(4 * prod(layer.weight.shape) - layer.weight.nbytes for layer in graph.weighted())
    return ExportResult(path=path, format=format, nbytes=nbytes, dense_nbytes=nbytes + saved, seconds=time.perf_counter() - start, verification=verification)
