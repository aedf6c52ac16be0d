"""The class of an output and the class of an input channel (their numbers mod ``classes``) decide a kernel's taps, which form a rectangle.

Stock runtimes execute such masks as a few ordinary convolutions with fewer multiplications (``rsk_deploy.rewrite``).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from rsk_deploy.errors import UsageError
from rsk_deploy.ir import BoolArray, FloatArray, Mask, Shape
from rsk_deploy.masks.checks import taps_kept, whole
from rsk_deploy.masks.draw import Draw
from rsk_deploy.masks.kernels import as_kernels, each_keeps, grid
from rsk_deploy.masks.rectangles import rectangles
from rsk_deploy.masks.tally import by_residues, explained

CLASSES = range(2, 17)
TRIES = 16
"""Orders in which rectangles are tried, to find one that needs few of them."""


def detect(values: FloatArray, nonzero: BoolArray) -> Mask | None:
    """The fewest classes that explain the weight, if the taps of each pair of classes are a rectangle and outputs differ."""
    return found(nonzero, lambda mixing: mixing > 1)


def found(nonzero: BoolArray, wanted: Callable[[int], bool]) -> Mask | None:
    """The mask of the fewest classes that explain a weight, if its classes of outputs are as ``wanted``."""
    kernels = as_kernels(nonzero)
    known = set(rectangles(nonzero.shape[2:]).values())
    for classes in CLASSES if kernels.shape[2] > 1 and known else ():
        if min(kernels.shape[:2]) < 2 * classes:
            break
        if tally := explained(kernels, partial(by_residues, classes=classes)):
            table = tally.union
            sets = {tuple(np.flatnonzero(places).tolist()) for places in table.reshape(classes * classes, -1)}
            one_pattern = (table == table[0, 0]).all()
            return None if one_pattern or not sets <= known or not wanted(mixing_of(table)) else _mask(nonzero.shape, table, tally.evidence)
    return None


def generate(shape: Shape, *, classes: Any = 4, mixing: Any = 2, taps_per_kernel: Any = 4, seed: Any = 0) -> Mask:
    """Rectangles of ``taps_per_kernel`` taps, one for each class of input channels, so that every tap is kept in some class.

    ``mixing`` divides ``classes``: so many neighbouring classes of outputs, in equal shares, take the rectangles of so many
    neighbouring classes of inputs, each in another turn. 1 is a pattern by input channel, ``classes`` one by (output + input) mod classes.
    """
    classes = whole("classes", classes, CLASSES[0], CLASSES[-1])
    mixing = whole("mixing", mixing, 1, classes)
    if classes % mixing:
        raise UsageError(
            f"mixing is {mixing} and does not divide the {classes} classes; {', '.join(str(m) for m in range(1, classes + 1) if classes % m == 0)} do"
        )
    sets = drawn(shape, classes, taps_kept(taps_per_kernel, grid(shape)[2]), seed)
    outputs, inputs = np.arange(classes)[:, None] * mixing // classes, np.arange(classes)
    return _mask(shape, sets[inputs // mixing * mixing + (inputs + outputs) % mixing])


def drawn(shape: Shape, classes: int, kept: int, seed: Any) -> BoolArray:
    """A rectangle of ``kept`` taps for each class (classes, taps): as few different ones as cover the kernel, dilated ones only where others cannot."""
    _, inputs, taps = grid(shape)
    kernel = tuple(shape[2:])
    fitting = [(rectangle, np.isin(np.arange(taps), places)) for rectangle, places in rectangles(kernel).items() if len(places) == kept]
    if not fitting:
        allowed = sorted({len(places) for places in rectangles(kernel).values()})
        raise UsageError(f"no rectangle of a {'x'.join(map(str, kernel))} kernel has {kept} taps; {', '.join(map(str, allowed))} have one")
    draw, present = Draw(seed), min(classes, inputs)
    tight = [places for rectangle, places in fitting if set(rectangle.step) == {1}]
    for pool in (np.stack(tight or [places for _, places in fitting]), np.stack([places for _, places in fitting])):
        tries = [_covering(pool[order], classes, present) for order in draw.orders(TRIES, len(pool))]
        chosen = max(tries, key=lambda sets: (np.count_nonzero(sets[:present].any(axis=0)), -len(np.unique(sets, axis=0))))
        if chosen[:present].any(axis=0).all():
            return chosen
    if present == classes:
        raise UsageError(f"{classes} rectangles of {kept} taps do not cover the {taps} taps of the kernel; use more classes, or more taps per kernel")
    return chosen


def _covering(candidates: BoolArray, classes: int, present: int) -> BoolArray:
    """Rectangles that each add the most taps not covered yet, in the order given; from where none does, the same again."""
    chosen: list[BoolArray] = []
    seen = np.zeros(candidates.shape[1], bool)
    for _ in range(present):
        gains = np.count_nonzero(candidates & ~seen, axis=1)
        if not gains.any():
            break
        chosen.append(candidates[gains.argmax()])
        seen |= chosen[-1]
    return np.stack(chosen)[np.arange(classes) % len(chosen)]


def describe(mask: Mask) -> str:
    """``rectangles by 2 classes of outputs and 4 of inputs, 4 of 9 per kernel``."""
    return f"rectangles by {mask.params['mixing']} classes of outputs and {mask.params['classes']} of inputs, {each_keeps(mask)}"


def spread(table: BoolArray, shape: Shape) -> BoolArray:
    """The support of a weight whose classes have these taps."""
    outputs, inputs, _ = grid(shape)
    support: BoolArray = table[np.arange(outputs)[:, None] % len(table), np.arange(inputs) % table.shape[1]].reshape(shape)
    return support


def mixing_of(table: BoolArray) -> int:
    """How many classes of outputs differ."""
    return len(np.unique(table.reshape(len(table), -1), axis=0))


def _mask(shape: Shape, table: BoolArray, notes: str = "") -> Mask:
    """The mask of a table of tap sets (outputs, inputs, taps), by the fewest classes that tell them apart."""
    most = len(table)
    classes = next(n for n in range(1, most + 1) if most % n == 0 and (table == table[np.arange(most)[:, None] % n, np.arange(most) % n]).all())
    params = {"classes": classes, "mixing": mixing_of(table)}
    return Mask("lowerable", spread(table, shape), params, f"kernels share their taps by {params['mixing']} classes of outputs and {classes} of inputs{notes}")
