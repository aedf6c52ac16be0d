"""From what people have (a module, a checkpoint, an ONNX file) to a folded Graph[Dense] and a way to run the original."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, cast

from rsk_deploy.errors import CorruptFileError, UsageError
from rsk_deploy.fold import fold
from rsk_deploy.ir import Dense, Graph, Json
from rsk_deploy.ir.graph import with_options
from rsk_deploy.registry import READERS, Runner


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How to read a model. What a self-describing checkpoint or an ONNX file says itself need not be given.

    ``input_shape`` is one shape, or one per input by name. ``rsk_mode`` says what becomes of a random sparse kernel
    (``mean``, ``topk``, ``sample``).
    """

    input_shape: tuple[int, ...] | Mapping[str, tuple[int, ...]] | None = None
    dynamic_batch: bool = False
    arch: str | None = None
    arch_args: Mapping[str, Json] = field(default_factory=dict)
    allow_pickle: bool = False
    rsk_mode: str = "mean"
    rsk_seed: int = 1

    def __post_init__(self) -> None:
        shapes = self.input_shape if isinstance(self.input_shape, Mapping) else {"input": self.input_shape or (1,)}
        for name, shape in shapes.items():
            if not isinstance(shape, Sequence) or not all(isinstance(dim, int) and dim >= 1 for dim in shape):
                raise UsageError(f"the shape of {name} is {shape!r}; it is a tuple of positive integers, or for several inputs one such tuple by name")


FLAGS = {"input_shape": "--input-shape", "dynamic_batch": "--dynamic batch", "arch": "--arch", "arch_args": "--arch-args", "rsk_mode": "--rsk"}


def refuse(options: ReadOptions, names: Sequence[str], reason: str) -> None:
    """Refuse options that were given and would not be heard."""
    for name in names:
        if getattr(options, name) != getattr(ReadOptions(), name):
            raise UsageError(f"{FLAGS[name]} changes nothing here: {reason}. Leave it out")


@dataclass(frozen=True)
class Source:
    """A model as it was read: the graph, the original to verify against, and the original before ``rsk_mode`` changed it.

    ``half``: the original itself computes in half precision.
    """

    graph: Graph[Dense]
    run: Runner
    before_rsk: Runner | None = None
    half: bool = False


class Reader(Protocol):
    """What a module in ``readers/`` offers."""

    def read(self, model: Any, options: ReadOptions) -> Source:
        """Read a file (a Path) or a model in memory, batch norms as they are. Nothing in the file is executed unless ``options.allow_pickle``."""


def read(model: Any, options: ReadOptions) -> Source:
    """Read a model from a path or from memory with the reader for it, and fold it."""
    if not isinstance(model, str | os.PathLike):
        suffix = ".pt"  # a torch module in memory
    else:
        model = Path(model)
        suffix = model.suffix.lower()
        if model.is_dir():
            raise UsageError(f"{model}: is a folder; give the file of a model")
        if suffix not in READERS:
            raise UsageError(f"{model}: no reader for {repr(suffix) if suffix else 'a file without a suffix'}; known are {', '.join(READERS)}")
        if not model.is_file():
            raise UsageError(f"{model}: {'is not a plain file' if model.exists() else 'no such file'}")
        if model.stat().st_size == 0:
            raise CorruptFileError(f"{model}: the file is empty")
    source = cast(Reader, importlib.import_module(READERS[suffix])).read(model, options)
    graph = fold(source.graph)
    if source.before_rsk:
        graph = replace(graph, meta=with_options(graph.meta, rsk=options.rsk_mode, rsk_seed=options.rsk_seed))
    return replace(source, graph=graph)
