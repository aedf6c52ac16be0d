"""Which kernel runs a convolution, over which tiles, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from rsk_deploy.errors import UsageError
from rsk_deploy.runtime.cost import (
    FILLED,
    LANES,
    WINOGRAD_LAYERS,
    WINOGRAD_TILES,
    Work,
    copying,
    cost,
    generates,
    lanes,
    masks_taps,
    slides_freely,
    suits_bitmask,
    suits_winograd,
    winograd_cost,
    winograd_tiles,
)

FEW = 4
"""Fewer filters with one list of taps than this are no group."""


@dataclass(frozen=True)
class Plan:
    """The choice: ``packed`` copies the input to a panel first, ``filled`` writes the zeros out; a tile is ``vectors`` of 16 positions."""

    kernel: str
    filled: bool
    packed: bool
    vectors: int
    exact: bool
    reason: str

    @property
    def winograd(self) -> bool:
        """Whether whole planes are transformed."""
        return self.kernel.endswith("/winograd")


def candidates(kernels: Sequence[str], family: str | None, isa: str | None, why_no_code: str = "") -> list[str]:
    """The kernels that the user and the system allow, best first. Behind a forced Winograd stand the others, for the layers that it cannot do."""
    if family == "unrolled" and why_no_code:
        raise UsageError(f"RSK_FORCE_KERNEL=unrolled asks for generated code, and {why_no_code}")
    kernels = without_code(kernels) if why_no_code else kernels
    families = {name.split("/")[-1] for name in kernels}
    isas = {name.split("/")[0] for name in kernels}
    if family is not None and family not in families:
        raise UsageError(f"RSK_FORCE_KERNEL={family}: this machine has the kernel families {', '.join(sorted(families))}")
    if isa is not None and isa not in isas:
        raise UsageError(f"RSK_FORCE_ISA={isa}: this machine has {', '.join(sorted(isas))}")
    allowed = [name for name in kernels if isa in (None, name.split("/")[0])]
    chosen = [name for name in allowed if family in (None, name.split("/")[-1])]
    if not chosen:
        raise UsageError(f"RSK_FORCE_KERNEL={family} and RSK_FORCE_ISA={isa}: there is no such kernel; this machine has {', '.join(kernels)}")
    rest = [name for name in allowed if family == "winograd" and name not in chosen]
    return chosen + rest if rest else sorted(chosen, key=lambda name: name.endswith("/winograd"))


def without_code(kernels: Sequence[str]) -> list[str]:
    """Those that run where no page may become executable."""
    return [name for name in kernels if not generates(name)]


def choose(work: Work, kernels: Sequence[str], exact: bool) -> Plan:
    """The cheapest way to run the layer."""
    return ways(work, kernels, exact)[0][1]


def ways(work: Work, kernels: Sequence[str], exact: bool) -> Sequence[tuple[float, Plan]]:
    """Every way to run the layer with the kernels of the best instruction set, and its cost, the cheapest first.

    If Winograd comes first, that alone where it can.
    """
    return known_ways(work, tuple(kernels), exact)


@lru_cache(maxsize=1024)
def known_ways(work: Work, kernels: tuple[str, ...], exact: bool) -> Sequence[tuple[float, Plan]]:
    """The same: networks repeat layers, and their schedules ask again."""
    best = kernels[0].split("/")[0]
    transforming = [name for name in kernels if name == f"{best}/winograd" and suits_winograd(work)]
    if transforming and transforming[0] == kernels[0]:
        return [(0.0, winograd_plan(work, transforming[0], exact))]
    others = [name for name in kernels if name.startswith(best) and not name.endswith("/winograd")]
    forced = kernels[0] == f"{best}/winograd"
    found = direct_ways(work, others, exact and not forced)
    if transforming and winograd_tiles(work) >= WINOGRAD_TILES:
        total = winograd_cost(work) * (FILLED if work.nonzeros < work.weights else 1.0)
        found.append((total, winograd_plan(work, transforming[0], exact)))
    if not found:
        return [(0.0, Plan(kernels[0], filled=False, packed=True, vectors=1, exact=exact, reason="forced"))]
    if forced:
        found = [(cost, replace(plan, reason=f"Winograd takes {WINOGRAD_LAYERS} alone; {plan.reason}")) for cost, plan in found]
    return sorted(found, key=lambda way: way[0])


def winograd_plan(work: Work, kernel: str, exact: bool) -> Plan:
    """Winograd's transform."""
    filled = "" if work.nonzeros == work.weights else ", zeros written out: Winograd is cheaper here"
    reason = f"{work.nonzeros / work.weights:.0%} of the weights{filled}; tiles of 4×4 outputs, 36 products for 144"
    return Plan(kernel, filled=True, packed=True, vectors=1, exact=exact, reason=reason)


def direct_ways(work: Work, kernels: Sequence[str], exact: bool) -> list[tuple[float, Plan]]:
    """The ways to sum every product, and their costs."""
    halo = max(work.axes[2].begin, work.axes[2].end)
    density = work.nonzeros / work.weights
    found: list[tuple[float, Plan]] = []
    for kernel in kernels:
        family = kernel.split("/")[-1]
        for filled in (False, True):
            nonzeros = work.weights if filled else work.nonzeros
            grouped = filled or work.filters >= FEW * work.lists or work.lists == 1
            if family == "bitmask" and not suits_bitmask(work, kernel):
                continue
            if (filled and (family != "shared" or density == 1)) or (family == "shared" and not grouped):
                continue
            for vectors in range(1, min(4, -(-work.positions // LANES)) + 1):
                for packed in (True, False) if slides_freely(work) else (True,):
                    if work.images_last and not packed and work.axes[2].out % (vectors * LANES):
                        continue
                    width = LANES if packed and family == "table" else vectors * LANES  # its last tile is as wide as it must be
                    run = lanes(work, width, None if packed else 0 if masks_taps(work, kernel) else halo)
                    total = cost(work, kernel, nonzeros, vectors, run, packed) * (FILLED if filled else 1.0) + copying(work, vectors, packed)
                    found.append((total, Plan(kernel, filled, packed, vectors, exact, told(work, density, kernel, filled, packed, vectors, run))))
    return found


def told(work: Work, density: float, kernel: str, filled: bool, packed: bool, vectors: int, run: int) -> str:
    """The reason, for people."""
    weights = f"{density:.0%} of the weights" + (", zeros written out: dense is cheaper here" if filled else "")
    lists = f", {work.lists} list{'s' * (work.lists > 1)} of taps for {work.filters} filter{'s' * (work.filters > 1)}"
    how = "the input packed to a panel" if packed else "the input's own planes"
    if kernel.endswith("/bitmask"):
        positions = "is 1 position" if work.positions == 1 else f"are {work.positions} positions"
        return f"{weights}{lists}; {how}, 16 filters in the lanes, for there {positions}"
    return f"{weights}{lists}; {how}, tiles of {vectors * LANES} positions, {work.positions / run:.0%} of the lanes used"
