"""How much of the batch the steps take at a time: all of it, or some images turn by turn; and whether these lie side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from rsk_deploy.ir import Shape
from rsk_deploy.runtime.fuse import Unit
from rsk_deploy.runtime.records import View


@dataclass(frozen=True, eq=False)
class Segment:
    """Consecutive units that all run for some images before they run for the next ones, ``turns`` times. ``number`` tells neighbours apart.

    ``wide``: element by element the images lie side by side. To a convolution they are one image with rows that are as many times as long,
    whose taps lie as many times as far apart.
    """

    images: int
    turns: int = 1
    wide: bool = False
    number: int = 0


Key: TypeAlias = tuple[str, Segment]


@dataclass(frozen=True, eq=False)
class Places:
    """Where values live: in the one segment that knows them, as large as its turns need, or else whole."""

    shapes: Mapping[str, Shape]
    whole: Segment
    home: Mapping[str, Segment]

    def shape(self, name: str, segment: Segment) -> Shape:
        """What a turn sees of a value."""
        return (segment.images, *self.shapes[name][1:]) if segment.turns > 1 else self.shapes[name]

    def key(self, name: str, segment: Segment) -> Key:
        """Whose layout the segment meets: that of the value's home, or that of its own copy, side by side."""
        return name, segment if segment.wide else self.home[name]


def places(shapes: Mapping[str, Shape], outputs: Sequence[str], units: Sequence[Unit], segments: Sequence[Segment], whole: Segment) -> Places:
    """The homes of all values, where every unit has its segment."""
    met: dict[str, set[Segment]] = {name: set() for name in shapes}
    made = {unit.output for unit in units}
    for unit, segment in zip(units, segments, strict=True):
        for name in values_of(unit):
            met[name].add(segment)
    home = {name: next(iter(known)) if len(known) == 1 and name in made and name not in outputs else whole for name, known in met.items()}
    return Places(shapes, whole, home)


def values_of(unit: Unit) -> list[str]:
    """What a unit reads and writes."""
    read = [*unit.layer.inputs] if unit.residual is None else [*unit.layer.inputs, unit.residual]
    return [*read, unit.output]


def portion(view: View, segment: Segment) -> View:
    """What a turn sees of a whole value."""
    if segment.turns == 1:
        return view
    advance = segment.images * view.strides[0]
    return replace(view, shape=(segment.images, *view.shape[1:]), after=view.after - (segment.turns - 1) * advance, advance=advance)
