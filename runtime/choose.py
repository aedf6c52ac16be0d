"""Which kernel runs a convolution, over which tiles, and why: a model of cost in vector operations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from rsk_deploy.errors import UsageError
from rsk_deploy.runtime.layout import row_pitch

LANES = 16


@dataclass(frozen=True)
class Figures:
    """What a kernel reaches. ``rates``: the share of the peak with tiles of 1 to 4 vectors; ``planes`` and ``panel``: what is left of it where the
    input's own planes are read (loads cross cache lines) or a panel (it has a copy of the input for each tap). ``stream``: what a nonzero costs once an
    inference because it comes from memory, in vector operations at the peak; ``size``: its bytes, of weight, index and code; ``near``: what is left of
    that cost where all of a layer's fit into the second-level cache. ``turn``: what a filter costs however few its weights: once a tile (table: for
    each list of it; unrolled: for each vector); ``visit``: what its lists cost together, once a tile.
    """

    rates: tuple[float, float, float, float]
    stream: float
    size: int
    planes: float = 1.0
    panel: float = 1.0
    turn: float = 0.0
    visit: float = 0.0
    near: float = 0.3


FIGURES = {
    "shared": Figures((0.94, 0.85, 0.86, 0.80), 0.5, 4, planes=0.96, panel=0.89, turn=49.0, near=0.9),
    "unrolled": Figures((0.96, 0.94, 0.93, 0.85), 1.8, 11, planes=0.98, panel=0.80, turn=10.0, near=1.0),
    "table": Figures((0.63, 0.70, 0.70, 0.80), 0.02, 6, planes=0.66, panel=0.96, turn=16.0, visit=100.0, near=0.9),
    "portable": Figures((0.12, 0.2, 0.28, 0.33), 1.5, 8),
    "avx2/shared": Figures((0.92, 0.92, 0.92, 0.92), 1.4, 4, panel=0.9),
    "avx2/unrolled": Figures((0.80, 0.80, 0.80, 0.80), 11.0, 26, panel=0.9),
    "avx2/table": Figures((0.74, 0.82, 0.88, 0.92), 0.15, 6, planes=0.7, turn=20.0),
    "neon/shared": Figures((0.93, 0.93, 0.93, 0.93), 0.7, 4),
    "neon/unrolled": Figures((0.96, 0.96, 0.96, 0.96), 2.5, 14),
    "neon/table": Figures((0.60, 0.68, 0.70, 0.70), 1.0, 6, planes=0.9),
}
"""By family, and by name where an instruction set differs. Zen 5, fitted to the ways to run the layers of the benchmarks' networks: with these choices
ResNet18 and its half take as long as with measured ones, within 5 %; AVX2 against its own peak, at 32²; tables in the
panel. NEON as ``benchmarks/mca.py`` estimates Neoverse V1; streams at 15 GB/s beside 2.6·10⁹ vector operations a second."""

FILLED = 0.9
"""Of the cost of zeros written out: where the model's error decides, the dense layer is the safe choice."""

SCATTERED = 0.6
"""What is left of the rate where several lists each read some rows of a panel: no prefetcher foresees them."""

LIST = 432
"""Rows of one vector in a list of the table kernel."""

FIRST_CACHE, CACHE = 48 << 10, 1 << 20
FEW = 4
"""Fewer filters with one list of taps than this are no group."""

PACK, PACK_FAR = 18.0, 36.0
"""Vector operations that packing one vector of the panel costs: where a tile of it fits into the second-level cache, and where not."""

BLOCK, REFETCHED = 26, 7.2
"""Filters that generated code computes together; what a line of the panel costs them in vector operations (512 channels at 4², 10 % nonzero, in µs
for 1, 3, 4 and 16 images: 163, 310, 400 and 1730)."""

WINOGRAD_LAYERS = "3×3 layers of stride 1, with at least 16 input channels, 30 % nonzeros and no pad above 1,"
WINOGRAD_CHANNELS, WINOGRAD_DENSITY = 16, 0.3
"""With fewer nonzeros, the errors of the transform, which are those of the whole tile, exceed 32·2⁻²³ of the few products left."""

WINOGRAD_RATE, WINOGRAD_STREAM, WINOGRAD_TILE = 0.95, 0.35, 28.0
"""The share of the peak of Winograd's products; what a transformed weight, and a channel or filter of a tile, costs in vector operations. With more
zeros than training leaves ResNet18 takes no longer than without (``benchmarks/own_dense.py``), which decides between these and slower ones."""

WINOGRAD_TILES = 9
"""With fewer, the stream of transformed weights, four times as many, costs what the products save (512 channels at 4²: 1180 µs, direct 530)."""


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
    """What a convolution has to do. ``lists``: how many different lists of taps its filters have. Axes are depth, height, width.

    ``whole``: its outputs lie one behind the other; those of a transposed convolution's phase do not. ``rows``: positions of a row of the
    input lie one behind the other; those of a linear layer do not. ``images_last``: the last axis is that of images side by side.
    """

    batch: int
    channels: int
    filters: int
    groups: int
    nonzeros: int
    lists: int
    axes: tuple[Window, Window, Window]
    whole: bool = True
    rows: bool = True
    images_last: bool = False

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

    @property
    def winograd(self) -> bool:
        """Whether whole planes are transformed."""
        return self.kernel.endswith("/winograd")


def candidates(kernels: Sequence[str], family: str | None, isa: str | None, generate_code: bool = True) -> list[str]:
    """The kernels that the user allows, best first. Behind a forced Winograd stand the others, for the layers that it cannot do."""
    kernels = [name for name in kernels if generate_code or not name.endswith("/unrolled")]
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


def lanes(work: Work, width: int, halo: int | None) -> int:
    """Lanes that tiles of ``width`` positions compute: directly over rows with ``halo`` columns between them, or (None) packed."""
    high, wide = work.axes[1], work.axes[2]
    if halo is None:
        return -(-work.positions // width) * width
    if wide.out % width == 0:
        return work.positions
    pitch = row_pitch(wide.size, halo)
    return work.batch * -(-((high.out - 1) * pitch + wide.out) // width) * width


def by_columns(work: Work, kernel: str) -> bool:
    """Whether the panel has a copy of the input for each column of taps alone: generated code shifts the taps out of aligned loads."""
    return kernel.endswith("/unrolled") and work.batch == 1 and not work.images_last and work.axes[1].kernel > 1 and slides_freely(work)


def packing(work: Work, kernel: str, vectors: int, lanes_run: int) -> float:
    """Vector operations that the panel costs: a copy of the input for every tap, or column of taps."""
    rows = work.channels * prod(axis.kernel for axis in work.axes) // (work.axes[1].kernel if by_columns(work, kernel) else 1)
    return (PACK if 4 * LANES * vectors * rows <= CACHE else PACK_FAR) * rows * lanes_run / LANES


def shorts(work: Work, vectors: int) -> float:
    """The share of the taps that read but padding in the last vector of the only tile: the table kernel leaves it out."""
    deep, high, wide = work.axes
    first = (vectors - 1) * LANES
    if not first < work.positions <= vectors * LANES or work.batch > 1 or deep.kernel > 1 or deep.out > 1:
        return 0.0
    row, column = divmod(first, wide.out)
    last = row == high.out - 1
    rows = sum(row * high.stride + tap * high.dilation - high.begin < high.size for tap in range(high.kernel))
    columns = sum(not last or column * wide.stride + tap * wide.dilation - wide.begin < wide.size for tap in range(wide.kernel))
    return 1 - rows * columns / (high.kernel * wide.kernel)


def refetching(work: Work, lanes_run: int) -> float:
    """The least that generated code takes where a tile of the panel leaves the first-level cache: every block of filters reads it again."""
    rows = work.channels // work.groups * prod(axis.kernel for axis in work.axes)
    return (REFETCHED if 4 * LANES * rows >= 2 * FIRST_CACHE else 0.0) * -(-work.filters // BLOCK) * rows * lanes_run / LANES


def slides_freely(work: Work) -> bool:
    """Whether the input's own planes can be read: every tap is then one offset."""
    deep, high, wide = work.axes
    if work.images_last:
        return True
    return work.rows and deep.kernel == deep.size == deep.out == high.stride == wide.stride == 1 and all(axis.out <= axis.size for axis in (high, wide))


def cost(work: Work, kernel: str, nonzeros: int, vectors: int, lanes_run: int, packed: bool) -> float:
    """Vector operations at the peak that one inference takes, its stream of weights included."""
    family = kernel.split("/")[-1]
    figures = FIGURES.get(kernel, FIGURES[family])
    rate = figures.rates[vectors - 1]
    if not packed or by_columns(work, kernel):
        rate *= figures.planes
    elif work.rows:  # a linear layer's panel is small
        rate *= figures.panel
    if family == "unrolled":
        rate /= 1 + max(0.0, 0.3 - nonzeros / work.weights) * 1.8  # few filters of a block share a load of the input
    if family == "shared" and packed and nonzeros < work.weights and work.lists > 1:
        rate *= SCATTERED
    stream = figures.stream * (figures.near if nonzeros * figures.size < CACHE else 1.0)
    lists = -(-work.weights * vectors // (work.filters * LIST)) if family == "table" else 1
    tiles = lanes_run / LANES / (1 if family == "unrolled" else vectors)
    products = nonzeros * (lanes_run / LANES - (shorts(work, vectors) if family == "table" and packed else 0)) / rate
    if family == "unrolled" and packed and not by_columns(work, kernel):
        products = max(products, refetching(work, lanes_run))
    total = products + nonzeros * stream + work.filters * tiles * (figures.turn * lists + figures.visit)
    return total + (packing(work, kernel, vectors, lanes_run) if packed else 0)


def suits_winograd(work: Work) -> bool:
    """Whether the layer is one that Winograd's transform computes, within its error."""
    deep, *plane = work.axes
    flat = work.whole and deep.kernel == deep.out == deep.size == 1 and work.groups == 1 and work.channels >= WINOGRAD_CHANNELS
    if work.nonzeros < WINOGRAD_DENSITY * work.weights:
        return False
    return flat and all(axis.kernel == 3 and axis.stride == axis.dilation == 1 and axis.begin <= 1 and axis.end <= 1 for axis in plane)


def winograd_tiles(work: Work) -> int:
    """Tiles of 4×4 outputs."""
    return work.batch * prod(-(-axis.out // 4) for axis in work.axes)


def winograd_cost(work: Work) -> float:
    """Vector operations that the products, the stream of their weights and the transforms take."""
    tiles = winograd_tiles(work)
    weights = 36 * work.channels * work.filters
    return weights * (tiles / LANES / WINOGRAD_RATE + WINOGRAD_STREAM) + WINOGRAD_TILE * tiles * (work.channels + work.filters)


def choose(work: Work, kernels: Sequence[str], exact: bool) -> Plan:
    """The cheapest way to run the layer."""
    return ways(work, kernels, exact)[0][1]


def ways(work: Work, kernels: Sequence[str], exact: bool) -> list[tuple[float, Plan]]:
    """Every way to run the layer with the kernels of the best instruction set, and its cost, the cheapest first.

    If Winograd comes first, that alone where it can.
    """
    best = kernels[0].split("/")[0]
    transforming = [name for name in kernels if name == f"{best}/winograd" and suits_winograd(work)]
    if transforming[:1] == kernels[:1]:
        return [(0.0, winograd_plan(work, transforming[0], exact))]
    others = [name for name in kernels if name.startswith(best) and not name.endswith("/winograd")]
    forced = kernels[0] == f"{best}/winograd"
    found = direct_ways(work, others, exact and not forced)
    if transforming and winograd_tiles(work) >= WINOGRAD_TILES:
        found.append((winograd_cost(work), winograd_plan(work, transforming[0], exact)))
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
            if (filled and (family != "shared" or density == 1)) or (family == "shared" and not grouped):
                continue
            for vectors in range(1, min(4, -(-work.positions // LANES)) + 1):
                for packed in (True, False) if slides_freely(work) else (True,):
                    if work.images_last and not packed and work.axes[2].out % (vectors * LANES):
                        continue
                    width = LANES if packed and family == "table" else vectors * LANES  # its last tile is as wide as it must be
                    run = lanes(work, width, None if packed else halo)
                    total = cost(work, kernel, nonzeros, vectors, run, packed) * (FILLED if filled else 1.0)
                    found.append((total, Plan(kernel, filled, packed, vectors, exact, told(work, density, filled, packed, vectors, run))))
    return found


def told(work: Work, density: float, filled: bool, packed: bool, vectors: int, run: int) -> str:
    """The reason, for people."""
    weights = f"{density:.0%} of the weights" + (", zeros written out: dense is cheaper here" if filled else "")
    lists = f", {work.lists} lists of taps for {work.filters} filters"
    how = "the input packed to a panel" if packed else "the input's own planes"
    return f"{weights}{lists}; {how}, tiles of {vectors * LANES} positions, {work.positions / run:.0%} of the lanes used"
