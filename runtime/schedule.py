"""Which units run image by image, which with all images at once, and which with images side by side: by a model of cost.

Image by image the values stay in the second-level cache from one layer to the next, and the weights are read once an image. With all images at
once the weights are read once, and the values come from memory. Side by side, small maps fill the lanes and no load crosses a line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TypeAlias

from rsk_deploy.ir import (
    LRN,
    Activation,
    Affine,
    AveragePool,
    Binary,
    Concat,
    Conv,
    ConvTranspose,
    GroupNorm,
    MaxPool,
    PRelu,
    Reduce,
    Shape,
)
from rsk_deploy.runtime.choose import ways
from rsk_deploy.runtime.convolutions import near, widened, work_of
from rsk_deploy.runtime.fuse import Unit
from rsk_deploy.runtime.linear import is_linear
from rsk_deploy.runtime.segments import Segment, values_of
from rsk_deploy.runtime.weights import support

Scheduler: TypeAlias = Callable[[Sequence[Unit], Mapping[str, Shape], Sequence[str], Sequence[str], bool], tuple[Segment, list[Segment]]]

IMAGE_WISE = (Activation, Affine, AveragePool, Concat, Conv, ConvTranspose, GroupNorm, LRN, MaxPool, PRelu, Binary, Reduce)
"""Layers that compute each image from itself alone, if their first axis is the batch."""

SIDE_BY_SIDE = 16
"""Images: a vector's worth."""

FLOATS_OF_LINE = 16
NEARBY_LINE = 2.0
"""Vector operations for a line of values from the second-level cache."""


@dataclass(frozen=True)
class Distance:
    """What a line costs more where a step's values take more than ``near`` bytes: up to ``most`` vector operations, from ``far`` bytes on."""

    near: float
    far: float
    most: float

    def cost(self, size: float) -> float:
        """Of one line, where all take ``size`` bytes."""
        return self.most * min(1.0, max(0.0, (size - self.near) / (self.far - self.near)))


IN_PLANES, IN_ROWS = Distance(0.5e6, 4e6, 45.0), Distance(6e6, 22e6, 60.0)
"""In planes, and side by side, whose long rows are foreseen better. Zen 5, 16 images, what a layer takes more than its best, in µs an image:
64 channels at 32² 45 and 14, 128 at 16² 28 and 0, 256 at 8² 0 and 0, 64 at 56² (side by side) 200, 128 at 28² 45; ``near`` with 3 and 5."""

ASTRIDE = 1.3
"""What a convolution takes where images lie side by side in such numbers that nearly every load crosses two lines."""

TURNED = 60.0
"""Vector operations for a line of values that are put side by side."""


@dataclass(frozen=True)
class Way:
    """How a unit runs, and what tells a segment of such units from others."""

    images: int
    wide: bool


def common_batch(shapes: Mapping[str, Shape], inputs: Sequence[str]) -> int:
    """The first axis of all inputs; 1 if they differ."""
    sizes = {shapes[name][0] if shapes[name] else 1 for name in inputs}
    return sizes.pop() if len(sizes) == 1 else 1


def image_wise(unit: Unit, shapes: Mapping[str, Shape], batch: int) -> bool:
    """Whether the unit may run for some images, then for others."""
    layer = unit.layer
    if not isinstance(layer, IMAGE_WISE) or (isinstance(layer, Concat) and layer.axis != 1) or (isinstance(layer, Reduce) and 0 in layer.axes):
        return False
    met = [shapes[name] for name in values_of(unit)]
    if isinstance(layer, Binary) and len({len(shape) for shape in met}) > 1:  # the first axis of the shorter one is none of images
        return False
    return all(len(shape) >= 2 and shape[0] == batch for shape in met) and not is_linear(unit, met[0])


def may_be_wide(unit: Unit, shapes: Mapping[str, Shape], images: int) -> bool:
    """Whether the unit can run with its images side by side, and has planes to put there. Windows that are pooled need whole vectors of images."""
    x = shapes[unit.layer.inputs[0]]
    pooled = isinstance(unit.layer, AveragePool | MaxPool) and images % SIDE_BY_SIDE != 0
    return images > 1 and not pooled and not isinstance(unit.layer, ConvTranspose) and len(x) in (3, 4) and prod(x[2:]) > 1


def scheduled(units: Sequence[Unit], shapes: Mapping[str, Shape], inputs: Sequence[str], kernels: Sequence[str], exact: bool) -> tuple[Segment, list[Segment]]:
    """The segment of all images, and each unit's: the cheapest sequence of ways, where changing the way costs what is turned."""
    batch = common_batch(shapes, inputs)
    whole = Segment(batch)
    if batch == 1:
        return whole, [whole] * len(units)
    everything = Way(batch, wide=False)
    best: dict[Way, tuple[float, list[Way]]] = {everything: (0.0, [])}
    at_hand = near(units)
    for unit in units:
        turning = TURNED / FLOATS_OF_LINE * sum(prod(shapes[name]) for name in set(values_of(unit)[:-1]))
        step: dict[Way, tuple[float, list[Way]]] = {}
        for way, own in costs_of(unit, shapes, batch, kernels, exact, at_hand).items():
            turned = {before: total + (turning if way != before and (way.wide or before.wide) else 0.0) for before, (total, _) in best.items()}
            before = min(turned, key=lambda other: (turned[other], other != way))
            step[way] = turned[before] + own, [*best[before][1], way]
        best = step
    return whole, grouped(min(best.values(), key=lambda found: found[0])[1], whole)


def grouped(chosen: Sequence[Way], whole: Segment) -> list[Segment]:
    """One segment for neighbours that run alike; all that run whole share one."""
    segments: list[Segment] = []
    for number, way in enumerate(chosen):
        if way == Way(whole.images, wide=False):
            segments.append(whole)
        elif number and way == chosen[number - 1]:
            segments.append(segments[-1])
        else:
            segments.append(Segment(way.images, whole.images // way.images, way.wide, number + 1))
    return segments


def ways_to_run(unit: Unit, shapes: Mapping[str, Shape], batch: int, turns_of: Sequence[int]) -> list[Way]:
    """All images at once, and, if the unit permits, some at a time or side by side."""
    found = [Way(batch, wide=False)]
    if image_wise(unit, shapes, batch):
        found += [Way(images, wide=False) for images in turns_of if images < batch]
        found += [Way(images, wide=True) for images in turns_of if may_be_wide(unit, shapes, images)]
    return found


def costs_of(unit: Unit, shapes: Mapping[str, Shape], batch: int, kernels: Sequence[str], exact: bool, at_hand: bool) -> dict[Way, float]:
    """The ways that a unit can run, and what they cost for the whole batch; ``at_hand``: with weights from a cache."""
    found = ways_to_run(unit, shapes, batch, (1, SIDE_BY_SIDE if batch % SIDE_BY_SIDE == 0 else batch))
    if len(found) == 1:
        return dict.fromkeys(found, 0.0)
    layer, met = unit.layer, [shapes[name] for name in values_of(unit)]
    work = work_of(layer, support(layer.weight), met[0], met[-1]) if isinstance(layer, Conv) else None
    costs = {}
    for way in found:
        floats = sum(map(prod, met)) * way.images // batch
        total = floats / FLOATS_OF_LINE * (NEARBY_LINE + (IN_ROWS if way.wide else IN_PLANES).cost(4 * floats))
        if work is not None:
            part = replace(work, batch=way.images, near=at_hand)
            total += ways(widened(part) if way.wide else part, kernels, exact)[0][0] * (ASTRIDE if way.wide and way.images % 4 else 1.0)
        costs[way] = total * (batch // way.images)
    return costs
