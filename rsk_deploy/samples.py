"""The user's own data, to verify with: ``--sample x.npy`` or ``x.npz``."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rsk_deploy.errors import CorruptFileError, UsageError, about
from rsk_deploy.ir import Graph, Input, Shape

LABELS = "labels"
Arrays: TypeAlias = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Sample:
    """Inputs by name, as many rows as the user gave, and the true class of each row where given."""

    inputs: Arrays
    labels: NDArray[Any] | None = None


def read_sample(path: Path, graph: Graph[Any]) -> Sample:
    """Read an array (.npy, for a network with one input) or arrays by input name and ``labels`` (.npz)."""
    with about(str(path)):
        arrays = _loaded(path, graph)
        labels = arrays.pop(LABELS, None)
        names = [entry.name for entry in graph.inputs]
        if len(names) == len(arrays) == 1:
            arrays = {names[0]: next(iter(arrays.values()))}
        if sorted(arrays) != sorted(names):
            raise UsageError(f"holds {sorted(arrays)}, the model's inputs are {sorted(names)}")
        inputs = {entry.name: _checked_input(entry, arrays[entry.name]) for entry in graph.inputs}
        rows = {entry.name: len(arrays[entry.name]) for entry in _cut(graph)}
        if len({rows[entry.name] / entry.at(1)[0] for entry in _cut(graph)}) > 1:
            raise UsageError(f"the arrays have different numbers of rows: {rows}")
        if labels is not None:
            _check_labels(labels, next(iter(rows.values()), 1), graph.shapes()[graph.outputs[0]])
        return Sample(inputs, labels)


def batches(inputs: Mapping[str, NDArray[Any]], graph: Graph[Any], size: int = 16) -> Iterator[Arrays]:
    """Cut rows into batches that the graph takes: of ``size`` where it is open, else of its fixed sizes (what does not fill the last is left out).

    In a graph with an open batch, an input of fixed size goes into every batch as it is.
    """
    steps = {entry.name: entry.at(size)[0] for entry in _cut(graph)}
    whole = [len(inputs[name]) / step for name, step in steps.items()]
    count = min((int(np.ceil(share) if graph.dynamic else share) for share in whole), default=1)
    if count == 0:
        raise UsageError(f"the sample has {[len(inputs[name]) for name in steps]} rows; the model takes batches of {list(steps.values())}")
    for index in range(count):
        yield {name: array[index * steps[name] : (index + 1) * steps[name]] if name in steps else array for name, array in inputs.items()}


def _cut(graph: Graph[Any]) -> list[Input]:
    """The inputs whose rows are spread over batches."""
    return [entry for entry in graph.inputs if entry.shape and (not graph.dynamic or isinstance(entry.shape[0], str))]


def _loaded(path: Path, graph: Graph[Any]) -> Arrays:
    try:
        loaded = np.load(path, allow_pickle=False)
        return dict(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else {graph.inputs[0].name: loaded}
    except FileNotFoundError:
        raise UsageError("no such file") from None
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise CorruptFileError(f"is no .npy or .npz file of plain arrays ({error})") from error


def _checked_input(entry: Input, array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype.kind not in "biuf":
        raise UsageError(f"{entry.name!r} holds {array.dtype}; inputs are real numbers")
    if array.shape[1:] != entry.shape[1:] or array.ndim != len(entry.shape) or array.size == 0:
        raise UsageError(f"input {entry.name!r} has shape {array.shape}; the model takes {('any', *entry.shape[1:])}")
    with np.errstate(over="ignore", invalid="ignore"):
        values = array.astype(entry.dtype)
    if len(wrong := np.argwhere(~(np.isfinite(array) & np.isfinite(values)))):
        raise UsageError(
            f"input {entry.name!r} holds {array[tuple(wrong[0])]} at {wrong[0].tolist()}; give finite {entry.dtype}, as the network will see them in use"
        )
    return values


def _check_labels(labels: NDArray[Any], rows: int, scores: Shape) -> None:
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise UsageError(f"{LABELS!r} holds {labels.dtype} of shape {labels.shape}; it is the number of the true class, one for each row")
    if len(labels) != rows:
        raise UsageError(f"the arrays have different numbers of rows: {rows}, and {len(labels)} labels")
    if len(scores) == 2 and (labels.min() < 0 or labels.max() >= scores[1]):
        raise UsageError(f"{LABELS!r} go from {labels.min()} to {labels.max()}; the network's classes are 0 to {scores[1] - 1}")
