"""A transposed convolution as ordinary ones: its outputs of one remainder by the stride are a convolution of the input.

Along an axis, output o of a kernel with taps k sums w[k] · x[i] over o = i·stride - begin + k·dilation. For o = first + q·stride
the taps that divide, the largest first, meet inputs that begin at some q + low and lie dilation / gcd(stride, dilation) apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import gcd

from rsk_deploy.ir import ConvTranspose, Packed, Shape
from rsk_deploy.runtime.cost import Window

ABSENT = Window(1, 1, 0, 0, 1, 1, 1)
"""An axis of space that there is not."""


@dataclass(frozen=True)
class Phase:
    """Outputs ``first``, ``first + stride``, … of an axis: the window that computes them, and its taps (none: they see no input)."""

    first: int
    stride: int
    taps: tuple[int, ...]
    window: Window


def phases(layer: ConvTranspose[Packed], x: Shape, out: Shape) -> list[tuple[Phase, ...]]:
    """Every combination of the axes' phases."""
    kernel = layer.weight.shape[2:]
    fields = zip(kernel, layer.stride, layer.pads[: len(kernel)], layer.dilation, x[2:], out[2:], strict=True)
    return list(product(*(axis_phases(*row) for row in fields)))


def axis_phases(kernel: int, stride: int, begin: int, dilation: int, size: int, out: int) -> list[Phase]:
    """The phases of one axis. A tap that meets no element of the input at any output is none of its phase's taps."""
    found = []
    for first in range(min(stride, out)):
        count = len(range(first, out, stride))
        starts = {tap: (first + begin - tap * dilation) // stride for tap in reversed(range(kernel)) if (first + begin - tap * dilation) % stride == 0}
        taps = {tap: start for tap, start in starts.items() if -count < start < size}
        low, high = (min(taps.values()), max(taps.values())) if taps else (0, 0)
        window = Window(max(1, len(taps)), 1, -low, max(0, high + count - size), dilation // gcd(stride, dilation), size, count)
        found.append(Phase(first, stride, tuple(taps), window))
    return found
