"""Which kernel runs a convolution, over which tiles, and why: a model of cost in vector operations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from rsk_deploy.errors import UsageError

LANES = 16
RATES = {
    "shared": (0.80, 0.92, 0.93, 0.87),
    "unrolled": (0.76, 0.81, 0.77, 0.81),
    "table": (0.27, 0.32, 0.34, 0.34),
    "portable": (0.12, 0.2, 0.28, 0.33),
}
"""The share of the peak that each family reaches with tiles of 1 to 4 vectors (Zen 5, 64 channels at 32²; ``benchmarks/native``)."""

STREAM = {"shared": 2.7, "unrolled": 11.0, "table": 1.5, "portable": 1.5}
"""What a nonzero costs once an inference because it comes from memory, in vector operations at the peak; code and weights for unrolled."""

NEAR = 0.3
"""What is left of that where the layer's weights stay in the second-level cache."""

CACHE = 1 << 20
BYTES = {"shared": 4, "unrolled": 11, "table": 6, "portable": 8}
FEW = 4
"""Fewer filters with one list of taps than this are no group."""

PACK_VECTOR, PACK_ROW = 1.5, 40.0
"""Vector operations that packing one vector, and one row, of the panel costs."""


@dataclass(frozen=True)
class Window:
    """A convolution's axis: how many taps, and how they move over what."""

    kernel: int
    stride: int
    begin: int
    end: int
    dilation: int
    size: int
    out: int


@dataclass(frozen=True)
class Work:
    """What a convolution has to do. ``lists``: how many different lists of taps its filters have. Axes are depth, height, width."""

    batch: int
    channels: int
    filters: int
    groups: int
    nonzeros: int
    lists: int
    axes: tuple[Window, Window, Window]

    @property
    def positions(self) -> int:
        """Output elements of one filter."""
        return self.batch * prod(axis.out for axis in self.axes)

    @property
    def weights(self) -> int:
        """Weights that the layer would have without zeros."""
        return self.filters * self.channels // self.groups * prod(axis.kernel for axis in self.axes)


@dataclass(frozen=True)
class Plan:
    """The choice: ``packed`` copies the input to a panel first, ``filled`` writes the zeros out; a tile is ``vectors`` of 16 positions."""

    kernel: str
    filled: bool
    packed: bool
    vectors: int
    exact: bool
    reason: str


def candidates(kernels: Sequence[str], family: str | None, isa: str | None, generate_code: bool = True) -> list[str]:
    """The kernels that the user allows, best first."""
    kernels = [name for name in kernels if generate_code or not name.endswith("/unrolled")]
    families = {name.split("/")[-1] for name in kernels}
    isas = {name.split("/")[0] for name in kernels}
    if family is not None and family not in families:
        raise UsageError(f"RSK_FORCE_KERNEL={family}: this machine has the kernel families {', '.join(sorted(families))}")
    if isa is not None and isa not in isas:
        raise UsageError(f"RSK_FORCE_ISA={isa}: this machine has {', '.join(sorted(isas))}")
    chosen = [name for name in kernels if family in (None, name.split("/")[-1]) and isa in (None, name.split("/")[0])]
    if not chosen:
        raise UsageError(f"RSK_FORCE_KERNEL={family} and RSK_FORCE_ISA={isa}: there is no such kernel; this machine has {', '.join(kernels)}")
    return chosen


def lanes(work: Work, width: int, halo: int | None) -> int:
    """Lanes that tiles of ``width`` positions compute: directly over rows with ``halo`` columns between them, or (None) packed."""
    high, wide = work.axes[1], work.axes[2]
    if halo is None:
        return -(-work.positions // width) * width
    if wide.out % width == 0:
        return work.positions
    return work.batch * -(-((high.out - 1) * (wide.size + halo) + wide.out) // width) * width


def packing(work: Work) -> float:
    """Vector operations that the panel costs."""
    deep, high, wide = work.axes
    slide, mid = (deep, high) if deep.out > 1 or deep.kernel > 1 else (high, deep)
    rows = slide.out * min(slide.stride, slide.kernel) + (slide.kernel - 1) * slide.dilation // slide.stride
    copies = work.batch * work.channels * mid.kernel * wide.kernel * rows * mid.out
    return copies * (PACK_ROW + PACK_VECTOR * wide.out / LANES)


def slides_freely(work: Work) -> bool:
    """Whether the input's own planes can be read: every tap is then one offset."""
    deep, high, wide = work.axes
    return deep.kernel == deep.size == deep.out == high.stride == wide.stride == 1 and all(axis.out <= axis.size for axis in (high, wide))


def cost(family: str, nonzeros: int, density: float, vectors: int, lanes_run: int) -> float:
    """Vector operations at the peak that one inference takes, its stream of weights included."""
    rate = RATES[family][vectors - 1]
    if family == "unrolled":
        rate /= 1 + max(0.0, 0.2 - density) * 5  # few filters of a block share a load of the input
    stream = STREAM[family] * (NEAR if nonzeros * BYTES[family] < CACHE else 1.0)
    return nonzeros * (lanes_run / LANES / rate + stream)


def choose(work: Work, kernels: Sequence[str], exact: bool) -> Plan:
    """The cheapest way to run the layer, with the kernels of the best instruction set alone."""
    halo = max(work.axes[2].begin, work.axes[2].end)
    best = kernels[0].split("/")[0]
    density = work.nonzeros / work.weights
    ways: list[tuple[float, Plan]] = []
    for kernel in kernels:
        isa, family = kernel.split("/")[0], kernel.split("/")[-1]
        if isa != best:
            continue
        for filled in (False, True):
            nonzeros = work.weights if filled else work.nonzeros
            grouped = filled or work.filters >= FEW * work.lists or work.lists == 1
            if (filled and (family != "shared" or density == 1)) or (family == "shared" and not grouped):
                continue
            for vectors in range(1, 5):
                for packed in (True, False) if slides_freely(work) else (True,):
                    run = lanes(work, vectors * LANES, None if packed else halo)
                    total = cost(family, nonzeros, density, vectors, run) + (packing(work) if packed else 0)
                    ways.append((total, Plan(kernel, filled, packed, vectors, exact, told(work, density, filled, packed, vectors, run))))
    return min(ways, key=lambda way: way[0])[1] if ways else Plan(kernels[0], filled=False, packed=True, vectors=1, exact=exact, reason="forced")


def told(work: Work, density: float, filled: bool, packed: bool, vectors: int, run: int) -> str:
    """The reason, for people."""
    weights = f"{density:.0%} of the weights" + (", zeros written out: dense is cheaper here" if filled else "")
    lists = f", {work.lists} lists of taps for {work.filters} filters"
    how = "the input packed to a panel" if packed else "the input's own planes"
    return f"{weights}{lists}; {how}, tiles of {vectors * LANES} positions, {work.positions / run:.0%} of the lanes used"
