"""Everything that comes in kinds, as literal tables: one row a kind, best first. A row names a module, imported on first use.

Adding an encoding, a mask family, a reader or a converter is one new file and one row here; the tests are parametrised
from these tables.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias, cast

import numpy as np

from rsk_deploy.errors import UsageError
from rsk_deploy.ir import BoolArray, Declared, FloatArray, Graph, Mask, Packed, Shape

FORMATS = {
    "dense": "rsk_deploy.formats.dense",
    "periodic": "rsk_deploy.formats.periodic",
    "lfsr": "rsk_deploy.formats.lfsr",
    "pattern": "rsk_deploy.formats.pattern",
    "bitmask": "rsk_deploy.formats.bitmask",
    "csr": "rsk_deploy.formats.csr",
}
"""Encodings of one weight. On equal size the earlier row wins: it is the cheaper one to decode."""

MASKS = {
    "lfsr": "rsk_deploy.masks.lfsr",
    "one-pattern": "rsk_deploy.masks.one_pattern",
    "periodic": "rsk_deploy.masks.periodic",
    "input-class": "rsk_deploy.masks.input_class",
    "lowerable": "rsk_deploy.masks.lowerable",
    "per-input": "rsk_deploy.masks.per_input",
    "block-shared": "rsk_deploy.masks.block_shared",
    "two-four": "rsk_deploy.masks.two_four",
    "regular": "rsk_deploy.masks.regular",
    "unstructured": "rsk_deploy.masks.unstructured",
}
"""Families of masks, the most structured first: the first that explains a weight names it."""

CONVERTERS = {
    "onnx": "rsk_deploy.converters.onnx",
    "c": "rsk_deploy.converters.c",
    "rsk": "rsk_deploy.store",
    "coreml": "rsk_deploy.converters.coreml",
}
"""Targets of an export, by the name that ``--format`` takes. The suffix of the file is the same word, but for those in SUFFIXES."""

SUFFIXES = {"c": "csource", "coreml": "mlpackage"}
"""Suffixes of the formats that are folders; they are not called as their format."""

READERS = {
    ".onnx": "rsk_deploy.readers.onnx",
    ".pt": "rsk_deploy.readers.torch",
    ".pth": "rsk_deploy.readers.torch",
    ".pt2": "rsk_deploy.readers.torch",
    ".safetensors": "rsk_deploy.readers.torch",
    ".rsk": "rsk_deploy.readers.rsk",
}
"""Readers of trained models, by the file's suffix."""

Runner: TypeAlias = Callable[[Mapping[str, np.ndarray[Any, Any]]], dict[str, FloatArray]]
"""Input values by the graph's input names, to output values by the graph's output names."""


@dataclass(frozen=True)
class Elsewhere:
    """The machine that a file is for, by a ``name`` for people, where that is not simply this one.

    ``runner`` runs the file as that machine does; a UsageError says why that cannot be done here. ``batches``: how many it is worth to.
    ``alone``: this machine cannot run the file otherwise.
    """

    name: str
    runner: Callable[[Path], Runner]
    batches: int
    alone: bool = False


@dataclass(frozen=True)
class Footprint:
    """What a written file takes where it runs, and how it computes, where that is not simply the file's size and the network in float32.

    ``nbytes`` beside ``dense_nbytes`` of the same with dense weights; ``lines`` say more, for people, and ``figures`` the same
    for machines. ``bits``: of its numbers' precision. ``meaning``: what it must compute, where that is not the network's own by more than rounding.
    ``elsewhere``: who else runs it.
    ``held``: the network with its weights as the file rounds them, where each layer of the file can be run and held against it.
    """

    nbytes: int | None = None
    dense_nbytes: int | None = None
    lines: tuple[str, ...] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)
    bits: int = 24
    meaning: Runner | None = None
    elsewhere: Elsewhere | None = None
    held: Graph[Any] | None = None


class Format(Protocol):
    """What a module in ``formats/`` offers. Exact: ``decode(encode(values, mask)) == where(mask.support, values, 0)``.

    ``HOLDS`` says for messages which weights it can hold: ``at most 65536 distinct kernel patterns``.
    """

    HOLDS: str

    def nbytes(self, mask: Mask, itemsize: int) -> int | None:
        """Bytes of the arrays that ``encode`` would store, ``itemsize`` a value; None if this encoding cannot hold the mask."""

    def encode(self, values: FloatArray, mask: Mask) -> Packed:
        """Store ``values`` (float32 or float16) at the places of ``mask``. The arrays' bytes add up to ``nbytes``."""

    def support(self, packed: Packed) -> BoolArray:
        """Where the stored values are, in row-major order: ``dense[support] = values``."""

    def decode(self, packed: Packed) -> FloatArray:
        """The dense weight, in float32."""

    def validate(self, packed: Packed) -> None:
        """Raise CorruptFileError unless every array, index, count and parameter is consistent with ``packed.shape``.

        After this, ``decode`` cannot fail, read out of range, or take more memory than the dense weight needs.
        """


class MaskFamily(Protocol):
    """What a module in ``masks/`` offers: one family of structures that a mask can have."""

    def detect(self, values: FloatArray, nonzero: BoolArray) -> Mask | None:
        """The mask of this family that explains a bare weight, or None. Its support covers every nonzero; kept weights may be 0 by chance."""

    def generate(self, shape: Shape, **params: Any) -> Mask:
        """The mask that these parameters describe. Deterministic: same arguments, same bits, on every machine."""

    def describe(self, mask: Mask) -> str:
        """One short phrase for people: ``4 of 9 per kernel, 126 patterns``."""


class Converter(Protocol):
    """What a module in ``converters/`` (and ``store``) offers: one file format to write, and a way to run the file for verification."""

    OPTIONS: frozenset[str]
    RUNNER: str

    def write(self, graph: Graph[Packed], path: Path, **options: Any) -> Footprint | None:
        """Write the file (not atomically: the caller gives a temporary name). Same graph and options, same bytes.

        Gives what it takes where it runs, if that is not the file's size.
        """

    def runner(self, path: Path, values: Iterable[str] = ()) -> Runner:
        """The written file as a function, executed as its users would: the outputs by name, and the inner ``values`` asked for where they exist."""


def known(table: Mapping[str, str], name: str, what: str) -> str:
    """``name`` if the table has it; else a UsageError that lists the names and the nearest."""
    if name in table:
        return name
    near = difflib.get_close_matches(name.lower(), table, n=1)
    raise UsageError(f"unknown {what} {name!r}; known are {', '.join(table) or 'none'}" + (f". Did you mean {near[0]!r}?" if near else "."))


def check_arguments(what: str, function: Callable[..., Any], given: Collection[str], *, positional: int = 0, also: Sequence[str] = ()) -> None:
    """Refuse names of arguments that a function does not take, and the lack of one that it needs, with the nearest name.

    The first ``positional`` arguments are given otherwise; those in ``also`` are somebody else's.
    """
    parameters = list(inspect.signature(function).parameters.values())[positional:]
    if any(entry.kind is entry.VAR_KEYWORD for entry in parameters):
        return
    named = [entry for entry in parameters if entry.kind in (entry.POSITIONAL_OR_KEYWORD, entry.KEYWORD_ONLY)]
    takes = [entry.name if entry.default is entry.empty or "<" in repr(entry.default) else f"{entry.name}={entry.default!r}" for entry in named]
    told = f"it takes {', '.join([*takes, *also]) or 'none'}"
    names = [*(entry.name for entry in named), *also]
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            raise UsageError(f"{what} takes no argument {name!r}; {told}" + (f". Did you mean {near[0]!r}?" if near else "."))
    if missing := [entry.name for entry in parameters if entry.default is entry.empty and entry.kind is not entry.VAR_POSITIONAL and entry.name not in given]:
        raise UsageError(f"{what} needs the argument {missing[0]!r}; {told}.")


def format_named(name: str) -> Format:
    """The encoding of that name."""
    return cast(Format, importlib.import_module(FORMATS[known(FORMATS, name, "weight format")]))


def mask_named(name: str) -> MaskFamily:
    """The mask family of that name."""
    return cast(MaskFamily, importlib.import_module(MASKS[known(MASKS, name, "mask family")]))


def converter_named(name: str) -> Converter:
    """The converter of that name."""
    return cast(Converter, importlib.import_module(CONVERTERS[known(CONVERTERS, name, "export format")]))


def regenerate(declared: Declared, shape: Shape) -> Mask:
    """The mask that a model says its weight was trained with."""
    generate = mask_named(declared.family).generate
    check_arguments(f"a mask of family {declared.family!r}", generate, declared.params, positional=1)
    return generate(shape, **declared.params)
