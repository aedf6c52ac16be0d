"""The structure that a weight must have to be computed by dense convolutions: classes of outputs and of input channels that decide the taps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rsk_deploy import masks
from rsk_deploy.errors import RskError
from rsk_deploy.ir import BoolArray, Conv, Dense, FloatArray, Mask, Shape
from rsk_deploy.masks.kernels import as_kernels
from rsk_deploy.masks.rectangles import Taps, covered
from rsk_deploy.masks.tally import SLACK, Tally, by_residues, corner
from rsk_deploy.registry import regenerate

MOST_CLASSES = 16
BY_KERNEL = ("lfsr", "two-four", "regular", "unstructured")
"""Mask families that tell nothing of classes: a weight of theirs can have some all the same, unless it is another structure with exceptions."""
MOST_EXCEPTIONS = 0.01
"""A weight with at most this share of its nonzeros outside a structure was meant to have it."""


@dataclass(frozen=True, eq=False)
class Blocks:
    """The class of every output and of every input channel, and the taps that each pair of classes keeps."""

    kernel: Shape
    outputs: NDArray[np.intp]
    inputs: NDArray[np.intp]
    table: dict[tuple[int, int], Taps]


def found(layer: Conv[Dense]) -> Blocks | str:
    """The structure of a convolution's weight, which holds without exception; or why there is none ("" where nothing suggests one)."""
    values = layer.weight.values
    if values.all() or np.prod(values.shape[2:]) == 1:
        return ""
    if layer.groups > 1:
        return "it is grouped already"
    known = explanations(layer.weight)
    named = [mask for mask in known if mask.family not in BY_KERNEL]
    return next(filter(None, map(of_mask, named)), None) or almost(values) or next(filter(None, map(of_mask, known)), "")


def explanations(weight: Dense) -> tuple[Mask, ...]:
    """The masks that cover the weight: the one it declares, if that does, and those it shows."""
    shown = masks.find(weight.values)
    try:
        declared = regenerate(weight.declared, weight.shape) if weight.declared else None
    except RskError:
        declared = None
    return (declared, *shown) if declared and not (weight.values != 0)[~declared.support].any() else shown


def of_mask(mask: Mask) -> Blocks | None:
    """Equal filters and equal input channels as classes, if there are few and every tap set is a few rectangles."""
    kernels, kernel = as_kernels(mask.support), mask.support.shape[2:]
    inputs = classes(kernels.swapaxes(0, 1))
    outputs = classes(kernels)
    if inputs is None or outputs is None or mask.support.all():
        return None
    if mask.family in BY_KERNEL and any(2 * (labels.max() + 1) > len(labels) for labels in (inputs, outputs)):
        return None  # few channels have few classes by chance
    firsts = [np.unique(labels, return_index=True)[1] for labels in (outputs, inputs)]
    table = {(a, b): tuple(np.flatnonzero(kernels[o, i]).tolist()) for a, o in enumerate(firsts[0]) for b, i in enumerate(firsts[1])}
    return Blocks(kernel, outputs, inputs, table) if all(covered(taps, kernel) is not None for taps in set(table.values())) else None


def classes(rows: BoolArray) -> NDArray[np.intp] | None:
    """A number for each row, equal where rows are equal, in the order in which they first occur; None above MOST_CLASSES."""
    packed = np.packbits(rows.reshape(len(rows), -1), axis=1)
    known: dict[bytes, int] = {}
    labels = [known.setdefault(row.tobytes(), len(known)) for row in packed]
    return np.array(labels, np.intp) if len(known) <= MOST_CLASSES else None


def almost(values: FloatArray) -> str:
    """Names the first nonzero outside the structure that nearly all of a weight has; "" where there is no such structure."""
    kernels = as_kernels(values != 0)
    total = np.count_nonzero(kernels)
    for period in range(1, MOST_CLASSES + 1):
        if min(kernels.shape[:2]) < 2 * period:
            break
        if not nearly(by_residues(corner(kernels), period), 2 * MOST_EXCEPTIONS):
            continue
        tally = by_residues(kernels, period)
        if count := nearly(tally, MOST_EXCEPTIONS):
            rows, columns = (np.arange(size) % period for size in kernels.shape[:2])
            outside = kernels & ~(2 * tally.nonzero > tally.live)[rows[:, None], columns]
            first = tuple(int(index) for index in np.unravel_index(outside.argmax(), values.shape))
            what = "the same taps in all kernels" if period == 1 else f"taps by output and input mod {period}"
            return f"it has {what} but for {count} of {total} nonzero weights, the first at {first}: {values[first]:.3g}"
    return ""


def nearly(tally: Tally, most: float) -> int:
    """How many nonzeros lie where most kernels of their group have none, if these are at most a share of ``most`` and the others leave few holes; else 0."""
    meant = 2 * tally.nonzero > tally.live
    total = int(tally.nonzero.sum(dtype=np.int64))
    outside = int(np.where(meant, 0, tally.nonzero).sum(dtype=np.int64))
    kept = int(np.where(meant, tally.live, 0).sum(dtype=np.int64))
    return outside if outside <= max(1, most * total) and (kept - total + outside) * SLACK <= kept and not meant.all() else 0
