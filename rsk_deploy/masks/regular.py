"""Every kernel keeps the same number of taps, whichever they are: the pre-defined sparse kernels of pSConv."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsk_deploy.ir import BoolArray, FloatArray, Mask, Shape
from rsk_deploy.masks.checks import taps_kept
from rsk_deploy.masks.draw import Draw, coverage, regular_kernels
from rsk_deploy.masks.kernels import as_kernels, counted, distinct_patterns, grid, kernel_counts
from rsk_deploy.masks.tally import SLACK, corner


def detect(values: FloatArray, nonzero: BoolArray) -> Mask | None:
    """The number of taps that nearly all kernels keep, if none keeps more. Kernels with fewer are completed with their first free taps."""
    kernels = as_kernels(nonzero)
    if (counts := regular_counts(kernels)) is None:
        return None
    support, kept = kernels, int(counts.max())
    short = counts < kept
    if short.any():
        support = kernels.copy()
        support[short] |= first_free(~support[short], kept - counts[short])
    return Mask("regular", support.reshape(values.shape), {"taps_per_kernel": kept}, regular_evidence(counts, kernels.shape[2]))


def generate(shape: Shape, *, taps_per_kernel: Any = 4, seed: Any = 0) -> Mask:
    """Random kernels that keep ``taps_per_kernel`` taps each. Every filter keeps every tap in some channel, or as many as its channels allow."""
    outputs, inputs, taps = grid(shape)
    kept = taps_kept(taps_per_kernel, taps)
    kernels = regular_kernels(Draw(seed), outputs, inputs, taps, kept)
    return Mask("regular", kernels.reshape(shape), {"taps_per_kernel": kept}, f"every kernel keeps {kept} of {taps} taps; {coverage(kernels)}")


def describe(mask: Mask) -> str:
    """``4 of 9 per kernel, 126 patterns``."""
    patterns = distinct_patterns(mask.support)
    return f"{mask.params['taps_per_kernel']} of {grid(mask.support.shape)[2]} per kernel" + (f", {counted(patterns, 'pattern')}" if patterns else "")


def regular_counts(kernels: BoolArray) -> NDArray[np.unsignedinteger[Any]] | None:
    """Nonzeros of every kernel, if at least half of the kernels have any, nearly all of these the same number below all taps, and none more."""
    if kernels.shape[2] == 1 or not _nearly_equal(kernel_counts(corner(kernels)), SLACK // 4):
        return None
    counts = kernel_counts(kernels)
    regular = 0 < counts.max(initial=0) < kernels.shape[2] and 2 * np.count_nonzero(counts) >= counts.size and _nearly_equal(counts, SLACK)
    return counts if regular else None


def _nearly_equal(counts: NDArray[np.unsignedinteger[Any]], slack: int) -> bool:
    """Whether at most one kernel in ``slack`` of those that keep any tap is below the maximum."""
    live = int(np.count_nonzero(counts))
    short = live - int(np.count_nonzero(counts == counts.max(initial=0)))
    return short * slack <= live


def first_free(free: BoolArray, missing: NDArray[Any]) -> BoolArray:
    """The first ``missing`` free taps of each kernel (kernels along the leading axes)."""
    taken: BoolArray = free & (np.cumsum(free, axis=-1, dtype=np.min_scalar_type(free.shape[-1])) <= missing[..., None])
    return taken


def regular_evidence(counts: NDArray[np.unsignedinteger[Any]], taps: int) -> str:
    """How many kernels keep how many taps."""
    kept = int(counts.max())
    return f"{np.count_nonzero(counts == kept)} of {counted(counts.size, 'kernel')} keep {kept} of {taps} taps, none keeps more"
