"""From a model to a verified file: read, pack, write under a temporary name, run, compare, rename."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import signature
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from rsk_deploy import reference
from rsk_deploy.errors import UsageError, about
from rsk_deploy.files import settle, size_of, staged
from rsk_deploy.ir import Dense, FloatArray, Graph, Packed
from rsk_deploy.ir.weights import EMPTY
from rsk_deploy.packing import pack
from rsk_deploy.readers import ReadOptions, Source, read
from rsk_deploy.registry import CONVERTERS, SUFFIXES, Footprint, check_arguments, converter_named, known
from rsk_deploy.rewrite import lower_for, record_of
from rsk_deploy.samples import Sample, read_sample
from rsk_deploy.verify import Tolerance, Verification, Written, verify_file


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """A written file, or folder. ``dense_nbytes`` is what its weights and biases alone take dense in fp32 before lowering, or what the target says.

    ``verification`` is None when it was not asked for.
    """

    path: Path
    format: str
    nbytes: int
    dense_nbytes: int
    seconds: float
    verification: Verification | None
    footprint: Footprint = field(default_factory=Footprint)


def export(
    model: Any,
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    weights: str | Mapping[str, str] = "auto",
    half: bool = False,
    lower: str = "auto",
    verify: bool = True,
    tolerance: Tolerance | None = None,
    sample: Sample | str | os.PathLike[str] | None = None,
    force: bool = False,
    options: Mapping[str, Any] | None = None,
    **read_options: Any,
) -> ExportResult:
    """Export a model, a path to one, or a graph to ``path`` (its suffix is the format unless given), verified.

    ``lower`` (auto, none, always, or a runtime) asks for structured convolutions as sums of dense ones, see ``rsk_deploy.rewrite``. A graph
    that is packed already stays as it is: ``weights``, ``half`` and ``lower`` are for others. ``read_options`` are those of ``rsk.read``;
    ``options`` are the target's own (``{"opset": 17}``). A file that already exists is kept until the new one is verified, and replaced only
    with ``force``.
    """
    path = Path(path)
    name = _format_of(path, format)
    _check_options(name, read_options)
    if tolerance is not None and not isinstance(tolerance, Tolerance):
        raise UsageError(f"tolerance is {tolerance!r}; give a rsk_deploy.verify.Tolerance(atol=…, rtol=…)")
    if isinstance(model, Graph):
        _refuse_what_is_settled(model, {**read_options, "weights": weights != "auto", "half": half, "lower": lower != "auto"})
    source = _graph_source(model) if isinstance(model, Graph) else read(model, ReadOptions(**read_options))
    packed = model if isinstance(model, Graph) and is_packed(model) else planned(source.graph, [name], weights, half=half, lower=lower)[name]
    if sample is not None and not isinstance(sample, Sample):
        sample = read_sample(Path(sample), packed)
    proof = source if verify else None
    with written(packed, path, name, source=proof, tolerance=tolerance, sample=sample, force=force, options=options or {}) as result:
        return result


def _format_of(path: Path, format: str | None) -> str:
    """The format that is asked for, or that the suffix says."""
    suffix = path.suffix.lstrip(".")
    if not suffix and format is None:
        raise UsageError(f"{path}: has no suffix that says its format; give format= one of {', '.join(CONVERTERS)}")
    named = next((name for name, other in SUFFIXES.items() if other == suffix), suffix)
    return known(CONVERTERS, format or named, "export format")


def _check_options(format: str, given: Mapping[str, Any]) -> None:
    """Refuse options that are none of reading; those of the format have their own place."""
    if own := sorted(set(given) & converter_named(format).OPTIONS):
        raise UsageError(f"{own[0]!r} is an option of format {format}: give it as options={{{own[0]!r}: {given[own[0]]!r}}}")
    check_arguments("rsk_deploy.export", ReadOptions, given, also=[*signature(export).parameters][2:-1])


def _refuse_what_is_settled(graph: Graph[Any], given: Mapping[str, Any]) -> None:
    """Refuse what a graph does not hear: how a model is read, and how weights are stored that are packed."""
    asked = [name for name, value in given.items() if value is not None and value is not False]
    unheard = [name for name in asked if name not in ("weights", "half", "lower") or is_packed(graph)]
    if unheard:
        raise UsageError(f"{unheard[0]!r} changes nothing here: the graph has been {'packed' if is_packed(graph) else 'read'}. Leave it out")


def planned(
    graph: Graph[Dense], formats: Sequence[str], weights: str | Mapping[str, str] = "auto", *, half: bool = False, lower: str = "auto"
) -> dict[str, Graph[Packed]]:
    """The network as a file of each format holds it: lowered where that is asked or pays, and packed.

    Weights asked for in an encoding keep their zeros: they are lowered only where that is asked too.
    """
    how = "none" if lower == "auto" and weights != "auto" else lower
    lowered = {name: lower_for(graph, name, how) for name in formats}
    packed = {id(result): pack(result, weights, half=half) for result in {id(result): result for result in lowered.values()}.values()}
    return {name: packed[id(result)] for name, result in lowered.items()}


def _graph_source(graph: Graph[Any]) -> Source:
    """A graph in memory is its own original, executed by the reference."""

    def run(inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, FloatArray]:
        with about("a graph in memory is verified against the reference; export from the model it was read from, or with verify=False"):
            return reference.run(graph, inputs)

    return Source(graph, run)


def is_packed(graph: Graph[Any]) -> bool:
    """Whether the weights are stored sparsely already (a graph without weights needs no packing)."""
    return all(isinstance(layer.weight, Packed) for layer in graph.weighted())


@contextmanager
def written(
    graph: Graph[Packed],
    path: Path,
    format: str,
    *,
    source: Source | None,
    tolerance: Tolerance | None = None,
    sample: Sample | None = None,
    force: bool = False,
    dry_run: bool = False,
    options: Mapping[str, Any] = EMPTY,
) -> Iterator[ExportResult]:
    """One whole file, with ``source`` only if it computes the same: it takes its place when the block ends without an exception.

    A ``dry_run`` does the same up to there, where it throws the file away.
    """
    converter = converter_named(format)
    if foreign := sorted(set(options) - converter.OPTIONS):
        raise UsageError(f"--format {format} has no option {foreign[0]!r}; it has {', '.join(sorted(converter.OPTIONS)) or 'none'}")
    own = dict(options)
    if sample is not None and "sample" in converter.OPTIONS:
        own["sample"] = sample.inputs
    start = time.perf_counter()
    verification = None
    with staged(path, force, folder=format in SUFFIXES, dry_run=dry_run) as temporary:
        with about(str(path)):
            footprint = converter.write(graph, temporary, **own) or Footprint()
            if source:
                verification = verify_file(Written(temporary, converter, graph, footprint), source, tolerance=tolerance, sample=sample)
        settle(temporary, path, force)
        yield ExportResult(
            path=path,
            format=format,
            nbytes=footprint.nbytes or size_of(temporary),
            dense_nbytes=footprint.dense_nbytes or dense_nbytes(graph),
            seconds=time.perf_counter() - start,
            verification=verification,
            footprint=footprint,
        )


def dense_nbytes(graph: Graph[Packed]) -> int:
    """What its weights and biases would take dense in fp32, before lowering."""
    lowered = record_of(graph.meta)
    fewer = 4 * (lowered.dense_weights - lowered.weights) if lowered else 0
    return fewer + sum(4 * prod(layer.weight.shape) + (0 if layer.bias is None else layer.bias.nbytes) for layer in graph.weighted())
