"""What a way to run a convolution costs: a model, in vector operations at the peak."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import prod

from rsk_deploy.runtime.layout import row_pitch

LANES = 16


@dataclass(frozen=True)
class Figures:
    """What a kernel reaches. ``rates``: the share of the peak with tiles of 1 to 4 vectors; ``planes`` and ``panel``: what is left of it where the
    input's own planes are read (loads cross cache lines) or a panel (it has a copy of the input for each tap). ``stream``: what a nonzero costs once an
    inference because it comes from memory, in vector operations at the peak; ``wide``: the same with tiles of several vectors, if that
    is more; ``near``: what is left of it where a cache holds all of a network's. ``load``: what a
    block of generated code takes to load a vector of the input. ``turn``: what a filter costs however few its weights: once a tile (table: for each
    list of it; generated code: for each vector); ``visit``: what its lists cost together, once a tile. ``generated``: its code is made for the layer.
    ``masks``: what a tap meets of the neighbouring rows of planes it leaves out.
    """

    rates: tuple[float, float, float, float]
    stream: float
    wide: float | None = None
    planes: float = 1.0
    panel: float = 1.0
    load: float = 0.0
    turn: float = 0.0
    visit: float = 0.0
    near: float = 0.3
    generated: bool = False
    masks: bool = False


FIGURES = {
    "shared": Figures((1.0, 1.08, 1.07, 1.03), 0.2, planes=0.92, panel=0.95, turn=35.0, near=0.2),
    "table": Figures((0.64, 0.75, 0.82, 0.86), 0.12, wide=0.8, planes=0.75, turn=12.0, visit=40.0, near=0.0),
    "portable": Figures((0.12, 0.2, 0.28, 0.33), 1.5),
    "avx512/unrolled": Figures((1.12, 1.2, 1.1, 0.98), 2.0, panel=0.85, load=1.2, turn=3.0, near=0.65, generated=True, masks=True),
    "avx2/shared": Figures((0.97, 0.99, 0.98, 0.99), 0.1, planes=0.94),
    "avx2/unrolled": Figures((1.03, 1.03, 1.03, 1.03), 6.0, panel=0.9, load=1.0, near=0.6, generated=True),
    "avx2/table": Figures((0.74, 0.82, 0.88, 0.92), 0.15, planes=0.7, turn=20.0),
    "neon/shared": Figures((0.93, 0.93, 0.93, 0.93), 0.7),
    "neon/unrolled": Figures((1.03, 1.03, 1.03, 1.03), 2.5, load=0.95, generated=True),
    "neon/table": Figures((0.60, 0.68, 0.70, 0.70), 1.0, planes=0.9),
}
"""By name, or by family where instruction sets do not differ. Zen 5, of a peak of 125 GMAC/s (some processes have more), fitted to the ways to run single
layers (3×3 and 1×1, 16@32² to 512@4², 10 to 100 % nonzero: within 10 % of nearly all), what comes from memory to ResNet18; AVX2 against its own
peak; tables in the panel. NEON as ``benchmarks/mca.py`` estimates Neoverse V1; streams at 15 GB/s beside 2.6·10⁹ vector operations a second."""

FILLED = 0.9
"""Of the cost of zeros written out: where the model's error decides, the dense layer is the safe choice."""

LIST = 432
"""Rows of one vector in a list of the table kernel."""

FIRST_CACHE, SECOND_CACHE = 48 << 10, 3 << 18
"""Bytes; of the second level what a panel can have."""

FEW_TILES = 4
"""Fewer wait for generated code, from whichever cache it comes."""

PHASES_PAY = 4
"""A panel by phases has at least so many times fewer elements than one with a copy for each tap."""

PACK, PACK_FAR = 15.0, 30.0
"""Vector operations that packing one vector of the panel costs: where a tile of it fits into the second-level cache, and where not."""

BLOCK, REFETCHED = 26, 7.2
"""Filters that generated code computes together; what a line of the panel costs them in vector operations (512 channels at 4², 10 % nonzero, in µs
for 1, 3, 4 and 16 images: 163, 310, 400 and 1730)."""

EXPANDED, REACHED, BITMASK_BYTE = 4.0, 0.65, 0.22
"""Vector operations that the bitmask kernel takes for 16 weights, kept or not, for each position that they reach, and for a byte of them from memory."""

BITMASK_FILTERS, BITMASK_TURN, BITMASK_POSITIONS = 64, 6, 12
"""Filters that the bitmask kernel computes together; positions for which it expands weights once; with more of these it is no candidate."""

COPY, MOVE = 12.0, 25.0
"""Vector operations for a vector that is copied to planes or out of them, and that is moved from a tile to several rows."""

WINOGRAD_LAYERS = "3×3 layers of stride 1, with at least 16 input channels, 96 nonzeros in each filter and no pad above 1,"
WINOGRAD_CHANNELS, WINOGRAD_NONZEROS = 16, 96
"""The errors of the transform are those of the whole tile. Where a filter keeps few weights, its products may all be small by chance, and 32·2⁻²³ of
them too strict: the worst of 24 random layers with 40 nonzeros a filter 37, with 64 30, with 96 21, whether of 16 or of 160 channels."""

WINOGRAD_RATE, WINOGRAD_STREAM, WINOGRAD_NEAR, WINOGRAD_TILE = 0.95, 0.35, 0.2, 32.0
"""The share of the peak of Winograd's products; what a transformed weight costs in vector operations, what is left of that where a cache holds all of a
network's; what a channel or filter of a tile costs."""

WINOGRAD_TILES = 9
"""With fewer, the stream of transformed weights, four times as many, costs what the products save (512 channels at 4²: 1180 µs, direct 330)."""


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
    input lie one behind the other; those of a linear layer do not. ``images_last``: the last axis is that of images side by side. ``near``: a cache
    holds the weights of the whole network from one inference to the next. ``enters``, ``leaves``: its input or output is the caller's array, which
    has no room around its planes. ``fewest``: nonzeros of the filter that keeps the fewest, of those that keep any.
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
    near: bool = False
    enters: bool = False
    leaves: bool = False
    fewest: int = 0

    @property
    def positions(self) -> int:
        """Output elements of one filter."""
        return self.batch * prod(axis.out for axis in self.axes)

    @property
    def weights(self) -> int:
        """Weights that the layer would have without zeros."""
        return self.filters * self.channels // self.groups * prod(axis.kernel for axis in self.axes)


def figures_of(kernel: str) -> Figures:
    """The row of a kernel that sums every product."""
    return FIGURES.get(kernel) or FIGURES[kernel.split("/")[-1]]


def generates(kernel: str) -> bool:
    """Whether the kernel's code is made for the layer: taps are shifted out of aligned loads, and pages become executable."""
    return kernel in FIGURES and FIGURES[kernel].generated


def lanes(work: Work, width: int, halo: int | None) -> int:
    """Lanes that tiles of ``width`` positions compute: directly over rows with ``halo`` columns between them, or (None) packed."""
    high, wide = work.axes[1], work.axes[2]
    if halo is None:
        return -(-work.positions // width) * width
    if wide.out % width == 0:
        return work.positions
    pitch = row_pitch(wide.size, halo)
    return work.batch * -(-((high.out - 1) * pitch + wide.out) // width) * width


def masks_taps(work: Work, kernel: str) -> bool:
    """Whether the kernel can read planes without zeros between the rows: it leaves out what a tap meets of the neighbouring ones."""
    _, high, wide = work.axes
    simple = (wide.kernel, wide.begin, wide.end, wide.dilation) == (3, 1, 1, 1) and high.out > 1 and wide.size > 2
    return kernel in FIGURES and FIGURES[kernel].masks and simple and not work.images_last and slides_freely(work)


def by_columns(work: Work, kernel: str) -> bool:
    """Whether the panel has a copy of the input for each column of taps alone: generated code shifts the taps out of aligned loads."""
    return generates(kernel) and work.batch == 1 and not work.images_last and work.axes[1].kernel > 1 and slides_freely(work)


def phase_vectors(work: Work) -> float:
    """Vectors of a channel's panel by phases: the elements of each remainder by the strides side by side."""
    _, high, wide = work.axes
    rows = high.out + (high.kernel - 1) * high.dilation // high.stride
    return high.stride * wide.stride * rows * -(-(wide.out + (wide.kernel - 1) * wide.dilation // wide.stride) // LANES)


def by_phases(work: Work, vectors: int) -> bool:
    """Whether the panel is by phases (``suits_phases`` in native/ops/conv_geometry.cc): a convolution with a stride whose taps overlap much."""
    deep, high, wide = work.axes
    if not (deep.kernel == deep.size == deep.out == 1 and work.rows and wide.stride > 1) or work.images_last or wide.out % (vectors * LANES):
        return False
    return PHASES_PAY * phase_vectors(work) * LANES <= high.kernel * wide.kernel * high.out * wide.out


def packing(work: Work, kernel: str, vectors: int, lanes_run: int) -> float:
    """Vector operations that the panel costs: a copy of the input for every tap, or column of taps, or (by phases) of each element."""
    if by_phases(work, vectors):
        return PACK * work.batch * work.channels * phase_vectors(work)
    columns = by_columns(work, kernel)
    rows = work.channels * prod(axis.kernel for axis in work.axes) // (work.axes[1].kernel if columns else 1)
    together = lanes_run if columns else LANES * vectors
    return (PACK if 4 * together * rows <= SECOND_CACHE else PACK_FAR) * rows * lanes_run / LANES


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
    packed_for = packing(work, kernel, vectors, lanes_run) if packed else 0.0
    if family == "bitmask":
        return bitmask_cost(work, vectors, packed) + packed_for
    figures = figures_of(kernel)
    rate = figures.rates[vectors - 1]
    if not packed or by_columns(work, kernel) or by_phases(work, vectors):
        rate *= figures.planes
    elif work.rows:  # a linear layer's panel is small
        rate *= figures.panel
    few = figures.generated and lanes_run < FEW_TILES * LANES
    stream = figures.stream if figures.wide is None or vectors == 1 else figures.wide
    stream *= figures.near if work.near and not few else 1.0
    lists = -(-work.weights * vectors // (work.filters * LIST)) if family == "table" else 1
    tiles = lanes_run / LANES / (1 if figures.generated else vectors)
    products = nonzeros * (lanes_run / LANES - (shorts(work, vectors) if family == "table" and packed else 0)) / rate
    if figures.generated and packed and not by_columns(work, kernel) and not by_phases(work, vectors):
        products = max(products, refetching(work, lanes_run))
    loads = figures.load * min(nonzeros, -(-work.filters // BLOCK) * work.weights // work.filters) * lanes_run / LANES
    total = products + loads + nonzeros * stream + work.filters * tiles * (figures.turn * lists + figures.visit)
    return total + packed_for


def reached(axis: Window, tap: int) -> int:
    """Outputs along the axis for which the tap reads more than padding."""
    return sum(0 <= out * axis.stride + tap * axis.dilation - axis.begin < axis.size for out in range(axis.out))


def suits_bitmask(work: Work, kernel: str) -> bool:
    """Whether the bitmask kernel may pay: the portable one, which has no instruction that expands, is but its definition."""
    return kernel != "portable/bitmask" and work.positions <= BITMASK_POSITIONS


def bitmask_cost(work: Work, vectors: int, packed: bool) -> float:
    """Vector operations that the expansions and their products, or the stream of weights, take: whichever is slower."""
    passes = -(-work.positions // (LANES * vectors)) if packed else work.batch
    blocks = -(-work.filters // BITMASK_FILTERS)
    rows = min(work.channels, work.channels // work.groups * -(-BITMASK_FILTERS * work.groups // work.filters))  # channels that a block reads
    taps = [-(-work.batch * prod(each) // passes) for each in product(*([reached(axis, tap) for tap in range(axis.kernel)] for axis in work.axes))]
    each = sum(EXPANDED * -(-count // BITMASK_TURN) + REACHED * count for count in taps)
    size = 4 * work.nonzeros + blocks * rows * len(taps) * BITMASK_FILTERS / 8
    if size > blocks * len(taps) * SECOND_CACHE / 2:  # of a block and tap: the next turn finds it in no cache
        size *= -(-max(taps) // BITMASK_TURN)
    return passes * max(blocks * rows * BITMASK_FILTERS / LANES * each, BITMASK_BYTE * size * (0.5 if work.near else 1.0))


def copying(work: Work, vectors: int, packed: bool) -> float:
    """Vector operations that copies cost: of the caller's arrays into planes to read them directly, and out of those that whole tiles need; of packed
    tiles that are no piece of a row.
    """
    read = work.batch * work.channels * prod(axis.size for axis in work.axes) if work.enters and not packed else 0
    total = COPY * read / LANES
    if work.axes[2].out % (vectors * LANES) and (work.leaves or packed):
        total += (COPY if work.leaves else MOVE) * work.filters * work.positions / LANES
    return total


def suits_winograd(work: Work) -> bool:
    """Whether the layer is one that Winograd's transform computes, within its error."""
    deep, *plane = work.axes
    flat = work.whole and deep.kernel == deep.out == deep.size == 1 and work.groups == 1 and work.channels >= WINOGRAD_CHANNELS
    if work.fewest < WINOGRAD_NONZEROS:
        return False
    return flat and all(axis.kernel == 3 and axis.stride == axis.dilation == 1 and axis.begin <= 1 and axis.end <= 1 for axis in plane)


def winograd_tiles(work: Work) -> int:
    """Tiles of 4×4 outputs."""
    return work.batch * prod(-(-axis.out // 4) for axis in work.axes)


def winograd_cost(work: Work) -> float:
    """Vector operations that the products, the stream of their weights and the transforms take."""
    tiles = winograd_tiles(work)
    weights = 36 * work.channels * work.filters
    return weights * (tiles / LANES / WINOGRAD_RATE + WINOGRAD_STREAM * (WINOGRAD_NEAR if work.near else 1.0)) + WINOGRAD_TILE * tiles * (
        work.channels + work.filters
    )
