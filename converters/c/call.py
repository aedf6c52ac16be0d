"""One call of the runtime, as lowering a layer gives it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rsk_deploy.converters.c.assembly import Code
from rsk_deploy.converters.c.data import Data, floating, kind_name
from rsk_deploy.converters.c.eight import Scales
from rsk_deploy.converters.c.targets import Target
from rsk_deploy.ir import Activation, Shape

OPTIONAL = ("HALVES", "SINGLES", "STRAIGHT", "NEIGHBOURS")
"""Parts of the runtime that are no code where nothing needs them, see ``rsk_weight.h``."""


@dataclass(frozen=True)
class Call:
    """``text`` is C with ``$i0``, ``$i1`` … for what is read, ``$out`` and ``$work``, a work space of ``work`` floats.

    The output may lie on the inputs numbered in ``over``. ``macs`` counts multiplications with kept weights, ``dense_macs`` with all.
    ``needs`` are those of the runtime's OPTIONAL parts that it runs.
    """

    headers: tuple[str, ...]
    text: str
    work: int = 0
    over: tuple[int, ...] = ()
    macs: int = 0
    dense_macs: int = 0
    needs: frozenset[str] = frozenset()


@dataclass
class Places:
    """How places in a panel are stored: in 16 bits unless one needs more. ``largest`` is the largest seen."""

    wide: bool = False
    largest: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of a place."""
        return 4 if self.wide else 2

    def see(self, place: int) -> None:
        """Note a place that will be listed."""
        self.largest = max(self.largest, place)


@dataclass(frozen=True)
class Scope:
    """What lowering one unit needs to know. With ``scales`` it computes with integers of 8 bits, with ``code`` by code of its own where that pays."""

    name: str
    data: Data
    target: Target
    places: Places
    ins: tuple[Shape, ...]
    out: Shape
    scales: Scales | None = None
    code: Code | None = None

    def structure(self, kind: str, fields: dict[str, Any]) -> str:
        """The address of a constant structure of this unit."""
        return self.data.structure(kind, self.name, fields)

    def integers(self, what: str, values: Any) -> str:
        """The name of a constant array of sizes, steps or indices."""
        return self.data.integers(f"{self.name}_{what}", values)


@dataclass
class WorkSpace:
    """Pieces of the work space, one after the other, in floats."""

    size: int = 0
    pieces: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, nbytes: int) -> None:
        """Reserve a piece; ``pieces[name]`` is where it begins."""
        self.pieces[name] = self.size
        self.size += -(-nbytes // 4)


def literal(value: float) -> str:
    """A number of a layer as a float."""
    return floating(float(np.float32(value)))


def function(layer: Activation) -> dict[str, Any]:
    """The fields of ``struct rsk_activation``."""
    numbers = {name: literal(value) for name, value in (("alpha", layer.alpha), ("beta", layer.beta)) if value}
    return {"kind": kind_name(layer.kind), **numbers}
