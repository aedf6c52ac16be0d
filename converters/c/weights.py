"""A packed weight as the C kernels read it: its arrays, which decoder lists its places, and what that needs in memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import comb, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsk_deploy.converters.c.data import Data
from rsk_deploy.errors import UnsupportedError
from rsk_deploy.ir import Graph, Mask, Packed
from rsk_deploy.masks.kernels import pattern_table
from rsk_deploy.registry import format_named

MOST_TAPS = 256
"""Taps that a pattern may be over: a byte names one."""
MOST_PATTERNS = 256
"""Patterns that a byte names."""
COMMON = 2
"""Kernels for each pattern of a table of all, from which a weight uses that: the network holds it once."""
NIBBLES = 8 * 16
"""Words of the table that moves a shift register on."""


@dataclass(frozen=True)
class Decoder:
    """A decoder of the runtime: its header, the fields of ``struct rsk_weight`` that it reads, the lists it makes and their longest.

    Its table has words, then places; up to ``overhang`` places are written behind a list.
    """

    header: str
    fields: Mapping[str, Any]
    parts: int
    longest: int
    table_words: int = 0
    table_places: int = 0
    overhang: int = 0


@dataclass(frozen=True, eq=False)
class Source:
    """A weight to be written: where its arrays go, and how they are called."""

    weight: Packed
    groups: int
    data: Data
    name: str
    support: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "support", format_named(self.weight.format).support(self.weight).reshape(*self.grid))

    @property
    def grid(self) -> tuple[int, int, int]:
        """Filters, channels, taps."""
        shape = self.weight.shape
        return shape[0], shape[1], prod(shape[2:])

    @property
    def longest(self) -> int:
        """The most values that a filter keeps."""
        return int(self.support.reshape(self.grid[0], -1).sum(axis=1).max())

    def array(self, what: str, values: NDArray[Any]) -> str:
        """Write an array of this weight."""
        return self.data.array(f"{self.name}_{what}", values)

    def patterns(self, patterns: NDArray[Any]) -> tuple[str, int]:
        """The table of ``rsk_pattern.h``: how many taps each pattern has, and which; and the most that one has."""
        most = max(int(patterns.astype(bool).sum(axis=1).max()), 1)
        if patterns.shape[1] > MOST_TAPS:
            raise UnsupportedError(
                f"{self.name}: the C kernels take at most {MOST_TAPS} taps in a pattern, this weight has {patterns.shape[1]}; try --weights bitmask"
            )
        rows = [[len(taps), *taps, *[0] * (most - len(taps))] for taps in (np.flatnonzero(row).tolist() for row in patterns)]
        return self.array("patterns", np.array(rows, np.uint8)), most


def dense(source: Source) -> Decoder:
    """One list for all."""
    _, channels, taps = source.grid
    return Decoder("dense", {"decode": "rsk_dense"}, 1, channels * taps)


def csr(source: Source) -> Decoder:
    """A column each."""
    arrays = source.weight.arrays
    fields = {"decode": "rsk_csr", "index": source.array("columns", arrays["columns"]), "patterns": source.array("rows", arrays["rows"])}
    return Decoder("csr", {**fields, "params": f"{{{arrays['columns'].itemsize}}}"}, source.grid[0] // source.groups, source.longest)


def bitmask(source: Source) -> Decoder:
    """A bit each."""
    return Decoder(
        "bitmask",
        {"decode": "rsk_bitmask", "index": source.array("bits", np.append(source.weight.arrays["bits"], np.zeros(2, np.uint8)))},
        source.grid[0] // source.groups,
        source.longest,
    )


def pattern(source: Source) -> Decoder:
    """An id for each kernel, or for each block of filters in it. A block that straddles groups is written out."""
    ids = source.weight.arrays["ids"]
    filters = source.grid[0] // source.groups
    if filters % (source.grid[0] // len(ids)):
        ids = np.repeat(ids, source.grid[0] // len(ids), axis=0)
    share = source.grid[0] // len(ids)
    table = source.weight.arrays["patterns"]
    patterns, most = source.patterns(table)
    count, mixed = len(table), int((table.astype(bool).sum(axis=1) != most).any())
    fields = {"decode": "rsk_pattern", "prepare": "rsk_pattern_places", "index": source.array("ids", ids), "patterns": patterns, "count": count}
    return Decoder("pattern", {**fields, "params": f"{{{most}, {ids.itemsize}, {share}, {mixed}}}"}, filters // share, source.longest, 0, count * most, most)


def periodic(source: Source) -> Decoder:
    """Nothing but the patterns of one period. One pattern for all, dense included, is a period of 1."""
    table = source.weight.arrays["patterns"]
    filters, channels, _ = source.grid
    patterns, most = source.patterns(table)
    kept = table.sum(axis=1)[(np.arange(len(table))[:, None] + np.arange(channels)) % len(table)].sum(axis=1)
    before = source.data.integers(f"{source.name}_before", [0, *np.cumsum(kept).tolist()])
    fields: dict[str, Any] = {
        "decode": "rsk_periodic",
        "prepare": "rsk_pattern_places",
        "index": before,
        "patterns": patterns,
        "count": len(table),
        "params": f"{{{most}}}",
    }
    return Decoder("periodic", fields, min(len(table), filters // source.groups), source.longest, 0, len(table) * most, most)


def lfsr(source: Source) -> Decoder:
    """A seed: the C code runs the register."""
    params = source.weight.params
    filters, _, taps = source.grid
    fields: dict[str, Any]
    register = f"{params['width']}, {params['polynomial'] ^ 1 << params['width']:#x}, {params['seed']:#x}"
    if params["scheme"] == "position":
        fields = {"decode": "rsk_lfsr_position", "prepare": "rsk_lfsr_position_prepare", "params": f"{{{params['kept']}, {register}}}"}
        return Decoder("lfsr", fields, filters // source.groups, source.longest, NIBBLES + source.support.size // 32 + 2)
    most = params["taps_per_kernel"]
    patterns, most = source.patterns(pattern_table(taps, most))
    fields = {"decode": "rsk_lfsr_pattern", "prepare": "rsk_lfsr_pattern_prepare", "patterns": patterns, "count": comb(taps, most)}
    return Decoder("lfsr", {**fields, "params": f"{{{most}, {register}}}"}, filters // source.groups, source.longest, NIBBLES, comb(taps, most) * most, most)


DECODERS: Mapping[str, Callable[[Source], Decoder]] = {
    "dense": dense, "csr": csr, "bitmask": bitmask, "pattern": pattern, "periodic": periodic, "lfsr": lfsr,
}  # fmt: skip
"""A writer for every encoding of the registry."""


def encoded(weight: Packed, groups: int, data: Data, name: str, places: Sequence[int] | None, wide: bool) -> tuple[Decoder, dict[str, Any]]:
    """The decoder, and the fields of ``struct rsk_weight``. ``places`` are the taps' in the panel; too large ones are cut, since a wide program follows."""
    source = Source(weight, groups, data, name)
    decoder = DECODERS[weight.format](source)
    filters, channels, taps = source.grid
    values = weight.arrays["values"]
    fields = {
        **decoder.fields,
        "values": source.array("values", values),
        "halves": int(values.dtype == np.float16),
        "places": 0 if places is None else data.array(f"{name}_places", np.array(places, np.uint32).astype(np.uint32 if wide else np.uint16), "rsk_place"),
        "filters": filters,
        "channels": channels,
        "taps": taps,
        "groups": groups,
        "parts": decoder.parts,
    }
    return decoder, fields


def common_tables(graph: Graph[Packed]) -> frozenset[tuple[int, int]]:
    """Taps of a kernel and taps that it keeps, where a table of all such patterns is small for one of the weights: all use it."""
    found = set()
    for layer in graph.weighted():
        weight, kernel = layer.weight, prod(layer.weight.shape[2:])
        if weight.format in ("bitmask", "pattern") and 1 < kernel <= MOST_TAPS:
            counts = format_named(weight.format).support(weight).reshape(-1, kernel).sum(axis=1)
            most = int(counts.max())
            if counts.min() == most and COMMON * comb(kernel, most) <= min(counts.size, COMMON * MOST_PATTERNS):
                found.add((kernel, most))
    return frozenset(found)


def with_patterns(weight: Packed, tables: Collection[tuple[int, int]]) -> Packed:
    """Patterns instead of a bit mask where they take about as much: they decode in a quarter of the time, and their table is smaller here than in a file."""
    kernel = prod(weight.shape[2:])
    found = weight if weight.format == "pattern" else as_patterns(weight)
    if found is None:
        return weight
    ids, patterns = found.arrays["ids"], found.arrays["patterns"]
    counts = patterns.astype(bool).sum(axis=1)
    most = int(counts.max())
    if counts.min() == most and (kernel, most) in tables:
        return replace(found, arrays={**found.arrays, **numbered(ids, patterns, pattern_table(kernel, most))})
    nbytes = ids.nbytes + len(patterns) * (most + 1)
    return found if found is weight or nbytes <= weight.arrays["bits"].nbytes + weight.arrays["values"].nbytes // 32 else weight


def taps_of_kernels(weight: Packed) -> int:
    """How many taps every kernel keeps, where each has a byte that names its pattern; or 0."""
    if weight.format != "pattern":
        return 0
    ids, counts = weight.arrays["ids"], weight.arrays["patterns"].astype(bool).sum(axis=1)
    return int(counts.max()) if len(ids) == weight.shape[0] and ids.itemsize == 1 and counts.min() == counts.max() else 0


def in_blocks(weight: Packed, groups: int, block: int) -> Packed:
    """The kernels, which all keep as many taps, in another order: in each group those of the first ``block`` channels of all filters, then of the next."""
    ids, values = weight.arrays["ids"], weight.arrays["values"]
    numbers = np.arange(ids.size).reshape(groups, -1, ids.shape[1])
    order = np.concatenate([group[:, first : first + block].ravel() for group in numbers for first in range(0, ids.shape[1], block)])
    ordered = {"ids": ids.ravel()[order].reshape(ids.shape), "values": values.reshape(ids.size, -1)[order].ravel()}
    return replace(weight, arrays={**weight.arrays, **ordered})


def as_patterns(weight: Packed) -> Packed | None:
    """A bit mask as patterns, if it has few enough."""
    if weight.format != "bitmask" or not 1 < prod(weight.shape[2:]) <= MOST_TAPS:
        return None
    support = format_named("bitmask").support(weight)
    dense = np.zeros(weight.shape, weight.arrays["values"].dtype)
    dense[support] = weight.arrays["values"]
    mask = Mask("unstructured", support)
    return None if format_named("pattern").nbytes(mask, 1) is None else format_named("pattern").encode(dense, mask)


def numbered(ids: NDArray[Any], patterns: NDArray[np.uint8], table: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    """The same patterns by their numbers in a table that other weights share."""
    number = {row.tobytes(): index for index, row in enumerate(table)}
    return {"patterns": table.view(np.uint8), "ids": np.array([number[row.tobytes()] for row in patterns], np.uint8)[ids]}


def reencoded(values: NDArray[Any], like: Packed) -> Packed:
    """Other values (a transposed weight) in the smallest encoding that needs no mask family."""
    stored = values.astype(like.arrays["values"].dtype)
    mask = Mask("unstructured", values != 0)
    sizes = {name: format_named(name).nbytes(mask, stored.itemsize) for name in ("dense", "pattern", "bitmask", "csr")}
    best = min((size, name) for name, size in sizes.items() if size is not None)[1]
    return format_named(best).encode(stored, mask)
