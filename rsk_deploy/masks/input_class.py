"""The class of an input channel (its number mod ``classes``) decides the taps of all its kernels, which form a rectangle.

Stock runtimes execute such masks as one dense convolution for each class, on its share of the input (``rsk_deploy.rewrite``).
"""

from __future__ import annotations

from typing import Any

from rsk_deploy.ir import BoolArray, FloatArray, Mask, Shape
from rsk_deploy.masks import lowerable
from rsk_deploy.masks.kernels import each_keeps


def detect(values: FloatArray, nonzero: BoolArray) -> Mask | None:
    """The fewest classes of input channels that explain the weight, if the taps of each are a rectangle."""
    mask = lowerable.found(nonzero, lambda mixing: mixing == 1)
    return mask and _of_inputs(mask)


def generate(shape: Shape, *, classes: Any = 4, taps_per_kernel: Any = 4, seed: Any = 0) -> Mask:
    """A rectangle of ``taps_per_kernel`` taps for each class of input channels, so that every tap is kept in some class."""
    return _of_inputs(lowerable.generate(shape, classes=classes, mixing=1, taps_per_kernel=taps_per_kernel, seed=seed))


def describe(mask: Mask) -> str:
    """``rectangles by 4 classes of inputs, 4 of 9 per kernel``."""
    return f"rectangles by {mask.params['classes']} classes of inputs, {each_keeps(mask)}"


def _of_inputs(mask: Mask) -> Mask:
    return Mask("input-class", mask.support, {"classes": mask.params["classes"]}, mask.evidence)
