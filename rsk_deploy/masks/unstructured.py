"""Any support: each weight is kept or not on its own. Explains every weight, a dense one as well."""

from __future__ import annotations

from typing import Any

import numpy as np

from rsk_deploy.ir import BoolArray, FloatArray, Mask, Shape
from rsk_deploy.masks.checks import fraction
from rsk_deploy.masks.draw import WORDS, Draw
from rsk_deploy.masks.kernels import grid


def detect(values: FloatArray, nonzero: BoolArray) -> Mask:
    """The nonzeros, whatever they are."""
    kept = int(np.count_nonzero(nonzero))
    evidence = "no weight is 0" if kept == nonzero.size else f"{kept} of {nonzero.size} weights are nonzero"
    return Mask("unstructured", nonzero, {}, evidence)


def generate(shape: Shape, *, density: Any = 0.1, seed: Any = 0) -> Mask:
    """Each weight is kept with probability ``density``, independently."""
    grid(shape)
    below = int(fraction("density", density) * 2**64)
    support = np.ones(int(np.prod(shape)), bool)
    if below < 2**64:
        draw = Draw(seed)
        for start in range(0, support.size, WORDS):
            part = support[start : start + WORDS]
            part[:] = draw.words(part.size) < np.uint64(below)
    return Mask("unstructured", support.reshape(shape), {}, f"{np.count_nonzero(support)} of {support.size} weights are kept")


def describe(mask: Mask) -> str:
    """``dense``, or ``10.0 % of the weights``."""
    return "dense" if mask.kept == mask.support.size else f"{100 * mask.kept / mask.support.size:.1f} % of the weights"
