"""A network: layers in topological order, checked on construction. Knows no file format and no framework."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Generic

from rsk_deploy.errors import CorruptFileError, about
from rsk_deploy.ir.layers import Layer, Weighted, sized
from rsk_deploy.ir.weights import Comparable, Json, Shape, Weight

BATCH = "batch"


@dataclass(frozen=True)
class Input:
    """A network input. Only the first dimension can be left open, as ``"batch"``."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str = "float32"

    def at(self, batch: int) -> Shape:
        """The shape for one batch size (a fixed shape stays as it is)."""
        return tuple(batch if isinstance(dim, str) else dim for dim in self.shape)


@dataclass(frozen=True)
class LogEntry:
    """One thing that reading or folding did to one layer: ``("conv1", "batch norm", "bn1 scaled 64 filters")``."""

    layer: str
    action: str
    detail: str


@dataclass(frozen=True, eq=False)
class Graph(Comparable, Generic[Weight]):
    """A network whose weights are all Dense or all Packed.

    ``outputs`` name values; ``log`` says what was folded into which layer; ``meta`` is JSON that travels with the model
    (class labels, pre-processing, architecture). On construction: names are unique, every value is defined before it
    is used, and every layer accepts the shapes it is given.
    """

    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    layers: tuple[Layer, ...]
    log: tuple[LogEntry, ...] = ()
    meta: Mapping[str, Json] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for what, names in (("layer", [layer.name for layer in self.layers]), ("value", self._values())):
            if repeated := [name for name, count in Counter(names).items() if count > 1]:
                raise CorruptFileError(f"the {what} name {repeated[0]!r} is used more than once")
        for entry in self.inputs:
            if any(isinstance(dim, str) for dim in entry.shape[1:]) or any(isinstance(dim, str) and dim != BATCH for dim in entry.shape):
                raise CorruptFileError(f"input {entry.name!r} has shape {entry.shape}; only the first dimension may be open, as {BATCH!r}")
            with about(f"input {entry.name}"):
                sized(entry.at(1))
        shapes = self.shapes()
        if self.dynamic:
            self.shapes(batch=2)  # a layer with one batch size built in is refused here
        if missing := [name for name in self.outputs if name not in shapes]:
            raise CorruptFileError(f"output {missing[0]!r} is computed by no layer")

    def _values(self) -> list[str]:
        return [entry.name for entry in self.inputs] + [name for layer in self.layers for name in layer.outputs]

    @property
    def dynamic(self) -> bool:
        """Whether the batch size is left open."""
        return any(BATCH in entry.shape for entry in self.inputs)

    def shapes(self, batch: int = 1) -> dict[str, Shape]:
        """The shape of every value, for one batch size where it is left open."""
        shapes = {entry.name: entry.at(batch) for entry in self.inputs}
        for layer in self.layers:
            with about(layer.name):
                if missing := [name for name in layer.inputs if name not in shapes]:
                    raise CorruptFileError(f"reads {missing[0]!r}, which no earlier layer computes")
                shapes.update(zip(layer.outputs, layer.shapes([shapes[name] for name in layer.inputs], batch), strict=True))
        return shapes

    def weighted(self) -> Iterator[Weighted[Weight]]:
        """The layers that have a weight, in order."""
        return (layer for layer in self.layers if isinstance(layer, Weighted))

    def with_layers(self, layers: tuple[Layer, ...], *log: LogEntry) -> Graph[Weight]:
        """The same network with other layers, and what was done to get there."""
        return replace(self, layers=layers, log=self.log + log)


def with_options(meta: Mapping[str, Json], **options: Json) -> Mapping[str, Json]:
    """``meta`` that records options which shaped the network, under ``"options"``; defaults are not recorded."""
    return {**meta, "options": {**recorded(meta), **options}} if options else meta


def without_options(meta: Mapping[str, Json], *names: str) -> Mapping[str, Json]:
    """``meta`` without the record of options that no longer hold."""
    rest = {name: value for name, value in recorded(meta).items() if name not in names}
    others = {name: value for name, value in meta.items() if name != "options"}
    return {**others, "options": rest} if rest else others


def recorded(meta: Mapping[str, Json]) -> Mapping[str, Json]:
    """The options on record; a file may hold anything there."""
    options = meta.get("options")
    return options if isinstance(options, Mapping) else {}
