"""What packing did to each weight, and what it saved: for people as a table, for machines as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import prod
from operator import itemgetter

import numpy as np

from rsk_deploy.ir import Choice, Graph, Json, Packed, Shape, Weighted

HEAD = ("layer", "op", "shape", "nonzeros", "density", "mask", "format", "bytes", "of dense")
DISPENSABLE = ("op", "nonzeros", "of dense", "shape")
NUMBERS = {"nonzeros", "density", "bytes", "of dense"}
UNKNOWN = Choice(mask="", description="", evidence="", sizes={}, reason="")
"""For a weight that was packed without saying why."""


@dataclass(frozen=True)
class Row:
    """How one weight is stored, and why. ``sizes`` are the bytes of every encoding that can hold it, the smallest first."""

    layer: str
    op: str
    shape: Shape
    nonzeros: int
    density: float
    mask: str
    description: str
    evidence: str
    format: str
    nbytes: int
    dense_nbytes: int
    sizes: dict[str, int]
    reason: str


@dataclass(frozen=True)
class Report:
    """How the weights of a network are stored, a row for each in order."""

    rows: tuple[Row, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all weights as stored."""
        return sum(row.nbytes for row in self.rows)

    @property
    def dense_nbytes(self) -> int:
        """Bytes of all weights as dense float32."""
        return sum(row.dense_nbytes for row in self.rows)

    def as_json(self) -> Json:
        """The rows and the totals as lists and dicts."""
        rows = [asdict(row) | {"shape": list(row.shape)} for row in self.rows]
        totals = {"nonzeros": sum(row.nonzeros for row in self.rows), "weights": sum(prod(row.shape) for row in self.rows)}
        return {"rows": rows, "totals": totals | {"nbytes": self.nbytes, "dense_nbytes": self.dense_nbytes}}

    def text(self, *, verbose: bool = False, width: int | None = None) -> str:
        """An aligned table with a line for each weight and one for all; ``verbose`` adds the evidence and the reason under each.

        Where it is wider than ``width``, columns that follow from others are left out.
        """
        nonzeros, weights = sum(row.nonzeros for row in self.rows), sum(prod(row.shape) for row in self.rows)
        total = ("total", "", "", f"{nonzeros:,}", percent(nonzeros, weights), "", "", f"{self.nbytes:,}", percent(self.nbytes, self.dense_nbytes))
        table = fitted([HEAD, *map(cells, self.rows), total], width)
        if verbose:
            notes = ["", *("".join(f"\n    {note}" for note in (row.evidence, row.reason) if note) for row in self.rows), ""]
            table = [line + note for line, note in zip(table, notes, strict=True)]
        return "\n".join(table)

    def __str__(self) -> str:
        return self.text()


def report(graph: Graph[Packed]) -> Report:
    """What packing did to each weight of the network."""
    return Report(tuple(map(row, graph.weighted())))


def row(layer: Weighted[Packed]) -> Row:
    """What packing did to one weight."""
    weight, choice = layer.weight, layer.weight.choice or UNKNOWN
    size, nonzeros = prod(weight.shape), int(np.count_nonzero(weight.arrays["values"]))
    return Row(
        layer=layer.name,
        op=type(layer).__name__,
        shape=weight.shape,
        nonzeros=nonzeros,
        density=nonzeros / size,
        mask=choice.mask,
        description=choice.description,
        evidence=choice.evidence,
        format=weight.format,
        nbytes=weight.nbytes,
        dense_nbytes=size * np.dtype(np.float32).itemsize,
        sizes=dict(sorted(choice.sizes.items(), key=itemgetter(1))),
        reason=choice.reason,
    )


def cells(row: Row) -> tuple[str, ...]:
    """One line of the table."""
    shape = "x".join(map(str, row.shape))
    density, share = percent(row.nonzeros, prod(row.shape)), percent(row.nbytes, row.dense_nbytes)
    return row.layer, row.op, shape, f"{row.nonzeros:,}", density, row.description, row.format, f"{row.nbytes:,}", share


def percent(part: int, whole: int) -> str:
    """``part`` of ``whole``, to a tenth of a per cent."""
    return f"{100 * part / max(whole, 1):.1f} %"


def fitted(lines: Sequence[Sequence[str]], width: int | None) -> list[str]:
    """The aligned lines, without the columns of DISPENSABLE that have to go to fit ``width``."""
    for count in range(len(DISPENSABLE) + 1):
        kept = [index for index, name in enumerate(HEAD) if name not in DISPENSABLE[:count]]
        table = aligned([[line[index] for index in kept] for line in lines])
        if width is None or max(map(len, table)) <= width:
            break
    return table


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """The lines (the first names the columns) with every column at one width: numbers to the right, words to the left."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    formats = [f"{{:{'>' if name in NUMBERS else '<'}{width}}}" for name, width in zip(lines[0], widths, strict=True)]
    return ["  ".join(formats).format(*line).rstrip() for line in lines]
