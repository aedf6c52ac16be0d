"""Run a written file as its users would and compare it with the original model. What does not agree is not handed out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rsk_deploy import reference
from rsk_deploy.compare import Comparison, compare, first_bad_layer, seeded_inputs
from rsk_deploy.errors import RskError, VerificationError
from rsk_deploy.ir import FloatArray, Graph, Opaque, Packed
from rsk_deploy.readers import Source
from rsk_deploy.registry import Converter, Runner
from rsk_deploy.samples import Sample, batches

SEEDS = 3
"""Random batches to compare on: of 1, 2 and 3 rows where the batch is open."""


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """Largest difference allowed per output: ``atol + rtol · max|original|``. The scale decides: an output may be small throughout."""

    atol: float = 1e-7
    rtol: float = 1e-4


HALF = Tolerance(rtol=1e-2)
"""For numbers of 11 bits: weights rounded on purpose, or an original that computes in half precision."""

ROUNDING = 1e-6
"""Relative differences below this are what adding in another order gives."""


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What a file computes against the original model, on ``batches`` batches of random inputs and of the sample.

    ``drift`` compares with the model before ``--rsk topk`` or ``sample`` changed it; ``not_finite`` is the share of the
    original's output values that are NaN or infinite, and so prove little; ``accuracy`` is the file's and
    ``original_accuracy`` that model's, on the sample's labels.
    """

    runner: str
    batches: int
    comparison: Comparison
    not_finite: float
    drift: Comparison | None = None
    accuracy: float | None = None
    original_accuracy: float | None = None


@dataclass(frozen=True)
class Written:
    """A file to verify: where it lies, who runs it, and the graph that it was written from."""

    path: Path
    converter: Converter
    graph: Graph[Packed]


def verify_file(file: Written, source: Source, *, tolerance: Tolerance | None = None, sample: Sample | None = None) -> Verification:
    """Compare the file with the original model on seeded inputs and on the sample; raise VerificationError where they differ."""
    graph, runner = file.graph, file.converter.RUNNER
    users = list(batches(sample.inputs, graph)) if sample else []
    feeds = [*(seeded_inputs(graph, batch=seed + 1, seed=seed) for seed in range(SEEDS)), *users]
    actual, expected = _computed(file.converter.runner(file.path), feeds, graph), _computed(source.run, feeds, graph)
    rounded = any(layer.weight.arrays["values"].dtype == np.float16 for layer in graph.weighted())
    comparison = _agreeing(file, actual, expected, tolerance or (HALF if rounded or source.half else Tolerance()), "the model")
    if rounded and not _opaque(graph):
        exact = _computed(lambda feed: reference.run(graph, feed), feeds, graph)
        _agreeing(file, actual, exact, Tolerance(), "the graph with rounded weights")
    rows = sum(len(next(iter(feed.values()))) for feed in users)
    original = _computed(source.before_rsk, feeds, graph) if source.before_rsk else expected
    return Verification(
        runner=runner,
        batches=len(feeds),
        comparison=comparison,
        not_finite=float(np.mean(np.concatenate([~np.isfinite(values).ravel() for values in expected.values()]))),
        drift=compare(lambda _: actual, lambda _: original, {}) if source.before_rsk else None,
        accuracy=_accuracy(actual, sample, rows),
        original_accuracy=_accuracy(original, sample, rows),
    )


def _agreeing(file: Written, actual: dict[str, FloatArray], expected: dict[str, FloatArray], tolerance: Tolerance, what: str) -> Comparison:
    comparison = compare(lambda _: actual, lambda _: expected, {}, atol=tolerance.atol, rtol=tolerance.rtol)
    if not comparison.passed:
        allowed = f"Allowed is {tolerance.atol:g} + {tolerance.rtol:g} × the largest value of the output (--atol, --rtol)."
        rounding = all(output.max_rel < ROUNDING for output in comparison.outputs)
        why = "The difference is of the size of rounding errors: a tolerance this small cannot be met." if rounding else _blame(file)
        raise VerificationError(f"the file computes something else than {what} in {file.converter.RUNNER}.\n{comparison}\n{allowed}\n{why}")
    return comparison


def _opaque(graph: Graph[Packed]) -> Opaque | None:
    return next((layer for layer in graph.layers if isinstance(layer, Opaque)), None)


def _computed(run: Runner, feeds: Sequence[Mapping[str, np.ndarray[Any, Any]]], graph: Graph[Packed]) -> dict[str, FloatArray]:
    """The outputs for all batches, one after the other."""
    results = [run(feed) for feed in feeds]
    return {name: np.concatenate([np.atleast_1d(result[name]) for result in results]) for name in graph.outputs}


def _accuracy(outputs: dict[str, FloatArray], sample: Sample | None, rows: int) -> float | None:
    """Share of the last ``rows``, the sample's, whose largest class score is at the label; None without labels or class scores."""
    scores = next(iter(outputs.values()))
    if sample is None or sample.labels is None or scores.ndim != 2:
        return None
    return float(np.mean(scores[-rows:].argmax(axis=1) == sample.labels[:rows]))


def _blame(file: Written) -> str:
    """A sentence about the first layer whose value in the file differs from the reference."""
    graph, runner = file.graph, file.converter.RUNNER
    if opaque := _opaque(graph):
        return f"The first wrong layer cannot be searched: the reference does not execute {opaque.op} ({opaque.name})."
    inputs = seeded_inputs(graph, batch=1)
    names = [name for layer in graph.layers for name in layer.outputs]
    try:
        found, outputs = file.converter.runner(file.path, names)(inputs), file.converter.runner(file.path)(inputs)
    except RskError as error:
        return f"The first wrong layer cannot be searched: {error}"
    if layer := first_bad_layer(graph, reference.run(graph, inputs, names), found):
        return f"The first layer that differs is {layer}."
    if not compare(lambda _: outputs, lambda _: {name: found[name] for name in outputs}, {}).passed:
        return f"Every layer is right when {runner} executes them one by one: its graph optimisation changes the result. Please report this."
    return "Every layer of the file computes what the graph says: the model was read or folded wrongly. Please report this."
