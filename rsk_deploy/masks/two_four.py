"""Regular kernels of which at most 2 in every 4 consecutive input channels keep the same tap: what 2:4 sparse hardware takes.

Four kernels of y taps fit into 2 · taps places, so such masks exist up to half of the taps per kernel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsk_deploy.errors import UsageError
from rsk_deploy.ir import BoolArray, FloatArray, Mask, Shape
from rsk_deploy.masks.checks import taps_kept
from rsk_deploy.masks.draw import Draw, coverage, deal
from rsk_deploy.masks.kernels import as_kernels, grid, kernel_counts
from rsk_deploy.masks.regular import first_free, regular_counts, regular_evidence
from rsk_deploy.masks.tally import corner


def detect(values: FloatArray, nonzero: BoolArray) -> Mask | None:
    """A regular mask that is 2:4-legal. Kernels with fewer taps are completed with the first that stay legal."""
    kernels = as_kernels(nonzero)
    if kernels.shape[1] < 4 or kernels.shape[2] == 1 or not _legal(corner(kernels)) or (counts := regular_counts(kernels)) is None or not _legal(kernels):
        return None
    support, kept = kernels, int(counts.max())
    if (counts < kept).any():
        support = kernels.copy()
        if not _complete(support, kept - counts):
            return None
    evidence = f"{regular_evidence(counts, kernels.shape[2])}, and no tap is kept by 3 of 4 consecutive input channels"
    return Mask("two-four", support.reshape(values.shape), {"taps_per_kernel": kept}, evidence)


def generate(shape: Shape, *, taps_per_kernel: Any = 4, seed: Any = 0) -> Mask:
    """Random regular 2:4-legal kernels. Every filter keeps every tap in some channel, or as many as its channels allow.

    The taps of every filter and group of four channels are dealt like two shuffled packs of cards: 4 · y ≤ 2 · taps, so no
    tap is dealt three times. Groups that are needed for the coverage go on dealing from the filter's first pack.
    """
    outputs, inputs, taps = grid(shape)
    kept = taps_kept(taps_per_kernel, taps)
    if 2 * kept > taps:
        raise UsageError(
            f"no kernels with {kept} of {taps} taps are 2:4-legal: 4 kernels need {4 * kept} places and have 2 × {taps}. Keep at most {taps // 2}."
        )
    groups, draw = -(-inputs // 4), Draw(seed)
    kernels = np.zeros((outputs, groups * 4, taps), bool)
    packs, seats = draw.orders(outputs, groups, taps), draw.orders(outputs, groups, 4)
    dealing = min(groups, -(-taps // (4 * kept)))
    packs[:, :dealing] = packs[:, :1]
    if inputs % 4:
        seats[:, -1] = np.arange(4)
    hands = deal(groups * 4, taps, kept).reshape(groups, 4, kept)
    rows = np.arange(outputs)[:, None]
    for group in range(groups):
        for hand in range(4):
            channel = 4 * group + seats[:, group, hand]
            kernels[rows, channel[:, None], packs[:, group, hands[group, hand]]] = True
    kernels = kernels[:, :inputs]
    return Mask("two-four", kernels.reshape(shape), {"taps_per_kernel": kept}, f"every kernel keeps {kept} of {taps} taps, 2:4-legal; {coverage(kernels)}")


def describe(mask: Mask) -> str:
    """``4 of 9 per kernel, 2:4-legal along the input channels``."""
    return f"{mask.params['taps_per_kernel']} of {grid(mask.support.shape)[2]} per kernel, 2:4-legal along the input channels"


def _uses(kernels: BoolArray) -> NDArray[np.uint8]:
    """How many of each four consecutive input channels keep a tap, as (outputs, groups, taps)."""
    uses = kernels[:, 0::4].astype(np.uint8)
    for lane in (kernels[:, 1::4], kernels[:, 2::4], kernels[:, 3::4]):
        uses[:, : lane.shape[1]] += lane
    return uses


def _legal(kernels: BoolArray) -> bool:
    return bool((_uses(kernels) <= 2).all())


def _complete(support: BoolArray, missing: NDArray[Any]) -> bool:
    """Give each kernel its missing taps, first those that its group does not use; whether there was room for all. Changes ``support``."""
    uses = _uses(support)
    for lane in range(4):
        kernels, wanted = support[:, lane::4], missing[:, lane::4]
        group = uses[:, : kernels.shape[1]]
        for used in (0, 1):
            added = first_free(~kernels & (group == used), wanted)
            kernels |= added
            group += added
            wanted = wanted - kernel_counts(added)
        if wanted.any():
            return False
    return True
