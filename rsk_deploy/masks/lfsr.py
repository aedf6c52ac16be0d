"""Supports that a linear feedback shift register generates, so that a seed stands for the whole index.

Two schemes, with the states of ``gf2.states``:

* ``pattern``: kernel k (outputs first, then inputs) keeps the pattern of rank ``state_k mod C`` among the ``C`` patterns of
  ``taps_per_kernel`` taps, in the order of ``kernels.pattern_table``.
* ``position``: the window is the whole weight of n places in C order. The register has just enough bits to count to n (8 at
  least); a state s ≤ n keeps place s − 1, and the first ``kept`` such states are taken. The states of one period are all
  different, so every number of places from 0 to n can be kept, exactly.
"""

from __future__ import annotations

from math import comb, prod
from typing import Any

import numpy as np

from rsk_deploy.errors import UsageError
from rsk_deploy.ir import BoolArray, FloatArray, Json, Mask, Shape
from rsk_deploy.masks.checks import fraction, taps_kept, whole
from rsk_deploy.masks.draw import coverage
from rsk_deploy.masks.gf2 import WIDTHS, check_register, state_chunks, states
from rsk_deploy.masks.kernels import grid, pattern_table


def detect(values: FloatArray, nonzero: BoolArray) -> Mask | None:
    """None: an LFSR mask is recognised by the parameters that the model declares, and ``generate`` rebuilds it from them."""
    return None


def generate(
    shape: Shape,
    *,
    scheme: Any = None,
    width: Any = None,
    polynomial: Any = None,
    seed: Any = 1,
    taps_per_kernel: Any = None,
    kept: Any = None,
    density: Any = None,
) -> Mask:
    """The support of a register: ``pattern`` takes ``taps_per_kernel`` (4), ``position`` takes ``kept`` or ``density`` (0.1). The mask's params are complete.

    Without a ``scheme`` it is the one that takes what is given.
    """
    if scheme is None:
        scheme = "pattern" if kept is None and density is None else "position"
    if scheme == "pattern" and kept is None and density is None:
        return _by_pattern(shape, check_register(WIDTHS[-1] if width is None else width, polynomial, seed), 4 if taps_per_kernel is None else taps_per_kernel)
    if scheme == "position" and taps_per_kernel is None and (kept is None or density is None):
        places = prod(grid(shape))
        if kept is None:
            kept = round(fraction("density", 0.1 if density is None else density) * places)
        return _by_position(shape, check_register(register_width(places) if width is None else width, polynomial, seed), whole("kept", kept, 0, places))
    raise UsageError("an LFSR mask is of scheme 'pattern' with taps_per_kernel, or of scheme 'position' with kept or density")


def describe(mask: Mask) -> str:
    """``LFSR of 32 bits, 4 of 9 per kernel``."""
    kept = mask.params.get("kept")
    what = f"{mask.params['taps_per_kernel']} of {grid(mask.support.shape)[2]} per kernel" if kept is None else f"{kept} of {mask.support.size} places"
    return f"LFSR of {mask.params['width']} bits, {what}"


def register_width(places: int) -> int:
    """The bits of the register that chooses from that many places."""
    return max(WIDTHS[0], places.bit_length())


def _by_pattern(shape: Shape, register: tuple[int, int, int], taps_per_kernel: Any) -> Mask:
    outputs, inputs, taps = grid(shape)
    kept = taps_kept(taps_per_kernel, taps)
    table = pattern_table(taps, kept)
    kernels = table[states(*register, outputs * inputs) % np.uint32(len(table))].reshape(outputs, inputs, taps)
    params = _params("pattern", register, taps_per_kernel=kept)
    evidence = f"the register draws each of {outputs * inputs} kernels from {comb(taps, kept)} patterns; {coverage(kernels)}"
    return Mask("lfsr", kernels.reshape(shape), params, evidence)


def _by_position(shape: Shape, register: tuple[int, int, int], kept: int) -> Mask:
    places = prod(shape)
    if register[0] != register_width(places):
        raise UsageError(f"the LFSR width is {register[0]}; a register that chooses from {places} places has {register_width(places)} bits")
    support, missing = np.zeros(places, bool), kept
    for chunk in state_chunks(*register):
        chosen = chunk[chunk <= places][:missing]
        support[chosen - 1] = True
        missing -= len(chosen)
        if not missing:
            break
    return Mask("lfsr", support.reshape(shape), _params("position", register, kept=kept), f"the register chooses {kept} of {places} places")


def _params(scheme: str, register: tuple[int, int, int], **count: int) -> dict[str, Json]:
    width, polynomial, seed = register
    return {"scheme": scheme, "width": width, "polynomial": polynomial, "seed": seed, **count}
