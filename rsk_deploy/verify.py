"""Run a written file as its users would and compare it with the original model. What does not agree is not handed out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from rsk_deploy import reference, store
from rsk_deploy.comparing import Comparison, compare, compared, first_bad_layer, seeded_inputs
from rsk_deploy.errors import RskError, UsageError, VerificationError
from rsk_deploy.ir import FloatArray, Graph, Opaque, Packed, Weighted
from rsk_deploy.ir.weights import same
from rsk_deploy.readers import Source
from rsk_deploy.registry import Converter, Footprint, Runner, format_named
from rsk_deploy.runtime.session import Session
from rsk_deploy.samples import Sample, batches

SEEDS = 3
"""Random batches to compare on: of 1, 2 and 3 rows where the batch is open."""


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """Largest difference allowed per output: ``atol + rtol · max|original|``. The scale decides: an output may be small throughout.

    ``rtol`` None is what the numbers' precision allows: 1e-4, or 1e-2 where they have fewer bits than float32.
    """

    atol: float = 1e-7
    rtol: float | None = None


SINGLE, HALF = 1e-4, 1e-2
"""``rtol`` for float32, and for numbers of 11 bits: weights rounded on purpose, a file or an original that computes in half precision."""

SINGLE_BITS = 24
ROUNDINGS = 4
"""Of one layer: its inputs, other constants than weights, the result, and one in between. At most 1.6 were found in the networks of the zoo."""

ROUNDING = 1e-6
"""Relative differences below this are what adding in another order gives."""

RUNTIME = "rsk-deploy's runtime"
OPENED = (".rsk", ".onnx")
"""Files that our own runtime opens, and that are therefore run in it too."""


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What a file computes against the original model, on ``batches`` batches of random inputs and of the sample.

    ``drift`` compares with what was changed on purpose: the mean of an RSK network with ``--rsk topk`` or ``sample``, the model
    itself where it was rounded to fewer bits, on the sample where there is one; ``drift_from`` says which. ``not_finite`` is the share of the original's
    output values that are NaN or infinite, and so prove little; ``accuracy`` is the file's and ``original_accuracy`` that
    model's, on the sample's labels. ``runtime`` is the comparison in our own runtime; where that cannot run the file, it is
    None and ``not_in_runtime`` says why; both are empty for files that it does not open. ``elsewhere``, of ``batches_elsewhere`` batches, and
    ``not_elsewhere`` are the same on the ``machine`` that the file is for, where that is not this one.
    """

    runner: str
    batches: int
    comparison: Comparison
    not_finite: float
    drift: Comparison | None = None
    drift_from: str = ""
    accuracy: float | None = None
    original_accuracy: float | None = None
    runtime: Comparison | None = None
    not_in_runtime: str = ""
    machine: str = ""
    elsewhere: Comparison | None = None
    batches_elsewhere: int = 0
    not_elsewhere: str = ""


@dataclass(frozen=True)
class Written:
    """A file to verify: where it lies, who runs it, the graph that it was written from, and how it computes."""

    path: Path
    converter: Converter
    graph: Graph[Packed]
    footprint: Footprint = field(default_factory=Footprint)


@dataclass(frozen=True)
class _Way:
    """Who runs the file, and the file as a function that gives its outputs and the inner values asked for."""

    name: str
    runner: Callable[[Path, Iterable[str]], Runner]


@dataclass(frozen=True)
class _Trial:
    """What a file must compute from ``feeds``: what ``what`` does within ``tolerance``, and nearly what the graph does if its weights are ``rounded``."""

    file: Written
    feeds: Sequence[Mapping[str, np.ndarray[Any, Any]]]
    what: str
    expected: dict[str, FloatArray]
    rounded: dict[str, FloatArray] | None
    atol: float
    rtol: float

    def of(self, way: _Way, actual: dict[str, FloatArray]) -> Comparison:
        """The comparison of what was computed; raises VerificationError where it is something else."""
        comparison = self._agreeing(way, actual, self.expected, self.atol, self.rtol, self.what)
        if self.rounded is not None:
            self._agreeing(way, actual, self.rounded, Tolerance.atol, SINGLE, "the graph with rounded weights")
        return comparison

    def _agreeing(self, way: _Way, actual: dict[str, FloatArray], expected: dict[str, FloatArray], atol: float, rtol: float, what: str) -> Comparison:
        comparison = compare(lambda _: actual, lambda _: expected, {}, atol=atol, rtol=rtol)
        if not comparison.passed:
            allowed = f"Allowed is {atol:g} + {rtol:g} × the largest value of the output (--atol, --rtol)."
            if self.file.footprint.bits < SINGLE_BITS and "precision" in self.file.converter.OPTIONS:
                allowed += " The file computes with numbers of 11 bits; --precision fp32 may agree where this network magnifies their rounding."
            rounding = all(output.max_rel < ROUNDING for output in comparison.outputs)
            why = "The difference is of the size of rounding errors: a tolerance this small cannot be met." if rounding else _blame(self.file, way, rtol)
            raise VerificationError(f"the file computes something else than {what} in {way.name}.\n{comparison}\n{allowed}\n{why}")
        return comparison


def verify_file(file: Written, source: Source, *, tolerance: Tolerance | None = None, sample: Sample | None = None) -> Verification:
    """Compare the file with the original model on seeded inputs and on the sample; raise VerificationError where they differ."""
    graph, way, machine = file.graph, _way(file), file.footprint.elsewhere
    users = list(batches(sample.inputs, graph)) if sample else []
    feeds = [*(seeded_inputs(graph, batch=seed + 1, seed=seed) for seed in range(SEEDS)), *users]
    actual, expected = _computed(way.runner(file.path, ()), feeds, graph), _computed(source.run, feeds, graph)
    trial = _trial(file, source, feeds, expected, tolerance or Tolerance())
    comparison = trial.of(way, actual)
    _check_layers(file, way, tolerance or Tolerance())
    runtime, elsewhere = _in_runtime(trial), _elsewhere(trial)
    rows = sum(len(next(iter(feed.values()))) for feed in users)
    drift_from = "the mean" if source.before_rsk else "the model" if file.footprint.meaning else ""
    original = _computed(source.before_rsk, feeds, graph) if source.before_rsk else expected
    return Verification(
        runner=way.name,
        batches=len(feeds),
        comparison=comparison,
        not_finite=float(np.mean(np.concatenate([~np.isfinite(values).ravel() for values in expected.values()]))),
        drift=compare(lambda _: _last(actual, rows), lambda _: _last(original, rows), {}) if drift_from else None,
        drift_from=drift_from,
        accuracy=_accuracy(actual, sample, rows),
        original_accuracy=_accuracy(original, sample, rows),
        runtime=None if isinstance(runtime, str) else runtime,
        not_in_runtime=runtime if isinstance(runtime, str) else "",
        machine=machine.name if machine else "",
        elsewhere=None if isinstance(elsewhere, str) else elsewhere,
        batches_elsewhere=min(machine.batches, len(feeds)) if machine and isinstance(elsewhere, Comparison) else 0,
        not_elsewhere=elsewhere if isinstance(elsewhere, str) else "",
    )


def _way(file: Written) -> _Way:
    """Who runs the file: the target's machine where this one cannot."""
    machine = file.footprint.elsewhere
    if machine is None or not machine.alone:
        return _Way(file.converter.RUNNER, file.converter.runner)
    return _Way(f"{file.converter.RUNNER} on {machine.name}", lambda path, _: machine.runner(path))


def _trial(file: Written, source: Source, feeds: Sequence[Mapping[str, np.ndarray[Any, Any]]], expected: dict[str, FloatArray], tolerance: Tolerance) -> _Trial:
    graph, bits, meaning = file.graph, file.footprint.bits, file.footprint.meaning
    rounded = any(layer.weight.arrays["values"].dtype == np.float16 for layer in graph.weighted())
    alone = rounded and bits == SINGLE_BITS and meaning is None and not _opaque(graph)
    usual = HALF if rounded or source.half or bits < SINGLE_BITS else SINGLE
    return _Trial(
        file,
        feeds,
        what="the network as it was rounded" if meaning else "the model",
        expected=_computed(meaning, feeds, graph) if meaning else expected,
        rounded=_computed(lambda feed: reference.run(graph, feed), feeds, graph) if alone else None,
        atol=tolerance.atol,
        rtol=usual if tolerance.rtol is None else tolerance.rtol,
    )


def _check_layers(file: Written, way: _Way, tolerance: Tolerance) -> None:
    """Hold each layer to the reference on what the file itself computed before it.

    So the roundings of few bits do not add up, and a wrong layer cannot hide among them: the bound is that of one layer.
    """
    if file.footprint.held is None:
        return
    inputs = seeded_inputs(file.graph)
    known = {**inputs, **way.runner(file.path, [name for layer in file.graph.layers for name in layer.outputs])(inputs)}
    explained = max(ROUNDINGS * 0.5**file.footprint.bits, SINGLE)
    rtol = max(explained, tolerance.rtol or 0)
    for layer in file.footprint.held.layers:
        (name,) = layer.outputs
        expected = reference.execute(layer, *(known[value] for value in layer.inputs))
        found = compared(name, known.setdefault(name, expected), expected, tolerance.atol, rtol)
        if not found.ok:
            raise VerificationError(
                f"{layer.name} computes something else in {way.name} than the reference does from the same values: they differ by {found.max_abs:.2e},"
                f" {found.max_rel:.1e} of the largest. Rounding to {file.footprint.bits} bits explains {explained:.1e} of it; a larger --rtol allows more."
            )


def _in_runtime(trial: _Trial) -> Comparison | str:
    """The comparison in our own runtime, or why it cannot run the file; nothing of a file that it does not open. The file must read back as it was."""
    file = trial.file
    if file.path.suffix.lower() not in OPENED:
        return ""
    try:
        read = store.load(file.path)
        if other := _other_weight(file.graph, read):
            raise VerificationError(f"{other} has another weight or bias in the file than in the network that was written. Please report this.")
        actual = _computed(_in_session(read), trial.feeds, file.graph)
    except VerificationError:
        raise
    except RskError as error:
        return str(error)
    return trial.of(_Way(RUNTIME, _session), actual)


def _elsewhere(trial: _Trial) -> Comparison | str:
    """The comparison on the machine that the file is for, or why it cannot be run as there; nothing where that is no other."""
    machine = trial.file.footprint.elsewhere
    if machine is None or machine.alone:
        return ""
    feeds = trial.feeds[: machine.batches]
    try:
        actual = _computed(machine.runner(trial.file.path), feeds, trial.file.graph)
    except UsageError as error:
        return str(error)
    expected = {name: values[: len(values) * len(feeds) // len(trial.feeds)] for name, values in trial.expected.items()}
    return replace(trial, expected=expected, rounded=None).of(_Way(machine.name, lambda path, _: machine.runner(path)), actual)


def _other_weight(written: Graph[Packed], read: Graph[Packed]) -> str | None:
    """The first layer whose numbers are not the same: one weight in millions may change no output by more than rounding does."""
    found = {layer.name: layer for layer in read.weighted()}
    for layer in written.weighted():
        other = found.get(layer.name)
        if other is None or not same(layer.bias, other.bias) or not (layer.weight == other.weight or same(_decoded(layer), _decoded(other))):
            return layer.name
    return None


def _decoded(layer: Weighted[Packed]) -> FloatArray:
    return format_named(layer.weight.format).decode(layer.weight)


def _session(path: Path, values: Iterable[str] = ()) -> Runner:
    """The file as a function, run by our own runtime on one thread."""
    return _in_session(store.load(path), values)


def _in_session(graph: Graph[Packed], values: Iterable[str] = ()) -> Runner:
    session = Session(replace(graph, outputs=tuple(dict.fromkeys((*graph.outputs, *values)))), threads=1)
    return lambda inputs: session.run({name: np.ascontiguousarray(x) for name, x in inputs.items()})


def _opaque(graph: Graph[Packed]) -> Opaque | None:
    return next((layer for layer in graph.layers if isinstance(layer, Opaque)), None)


def _computed(run: Runner, feeds: Sequence[Mapping[str, np.ndarray[Any, Any]]], graph: Graph[Packed]) -> dict[str, FloatArray]:
    """The outputs for all batches, one after the other."""
    results = [run(feed) for feed in feeds]
    return {name: np.concatenate([np.atleast_1d(result[name]) for result in results]) for name in graph.outputs}


def _last(outputs: dict[str, FloatArray], rows: int) -> dict[str, FloatArray]:
    """The last rows, the sample's; all without one."""
    return {name: values[-rows:] for name, values in outputs.items()}


def _accuracy(outputs: dict[str, FloatArray], sample: Sample | None, rows: int) -> float | None:
    """Share of the last ``rows``, the sample's, whose largest class score is at the label; None without labels or class scores."""
    scores = next(iter(outputs.values()))
    if sample is None or sample.labels is None or scores.ndim != 2:
        return None
    return float(np.mean(scores[-rows:].argmax(axis=1) == sample.labels[:rows]))


def _blame(file: Written, way: _Way, rtol: float) -> str:
    """A sentence about the first layer whose value in the file differs from the reference."""
    graph = file.graph
    if opaque := _opaque(graph):
        return f"The first wrong layer cannot be searched: the reference does not execute {opaque.op} ({opaque.name})."
    if file.footprint.meaning:
        return "The first wrong layer cannot be searched: the network was rounded on purpose."
    inputs = seeded_inputs(graph, batch=1)
    names = [name for layer in graph.layers for name in layer.outputs]
    try:
        found, outputs = way.runner(file.path, names)(inputs), way.runner(file.path, ())(inputs)
    except RskError as error:
        return f"The first wrong layer cannot be searched: {error}"
    if layer := first_bad_layer(graph, reference.run(graph, inputs, names), found, rtol=max(rtol, SINGLE)):
        return f"The first layer that differs is {layer}."
    if not compare(lambda _: outputs, lambda _: {name: found[name] for name in outputs}, {}).passed:
        return f"Every layer is right when {way.name} executes them one by one: its graph optimisation changes the result. Please report this."
    return "Every layer of the file computes what the graph says: the model was read or folded wrongly. Please report this."
