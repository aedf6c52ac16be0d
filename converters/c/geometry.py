"""Where a convolution finds its input: the panel, its phases, the strips of output rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Geometry:
    """A convolution over two axes (one axis is one row), stride 1 where ``spread`` is not."""

    image: tuple[int, int]
    out: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    pads: tuple[int, int]
    spread: tuple[int, int]
    positions: int
    columnwise: bool = False
    """Whether each column of the kernel is a phase of its own, whose rows are those of the output."""

    @property
    def strip(self) -> int:
        """Output rows of a strip: about ``positions`` positions, the strips nearly equal."""
        height, width = self.out
        rows = max(1, min(height, -(-self.positions // width)))
        return -(-height // -(-height // rows))

    @property
    def summed(self) -> int:
        """Positions of a strip in the panel, those that hang over the rows' ends included."""
        return (self.strip - 1) * self.pitch + self.out[1]

    def reach(self, axis: int) -> int:
        """From the first tap to the last."""
        return (self.kernel[axis] - 1) * self.dilation[axis]

    def phases(self, axis: int) -> int:
        """How many of the stride's phases a tap reads."""
        return self.kernel[1] if axis and self.columnwise else min(self.stride[axis], self.reach(axis) + 1)

    @property
    def rows(self) -> int:
        """Rows of a phase that a strip reads."""
        return self.strip + self.reach(0) // self.stride[0]

    @property
    def pitch(self) -> int:
        """From a row of the panel to the next. The pads of neighbouring rows are zeros and overlap."""
        if self.columnwise:
            return self.out[1]
        full = self.out[1] + self.reach(1) // self.stride[1]
        if self.stride[1] > 1 or self.spread[1] > 1:
            return full
        return full - max(min(self.pads[1], full - self.pads[1] - self.image[1]), 0)

    @property
    def plane(self) -> int:
        """Floats of one channel."""
        return self.phases(0) * self.phases(1) * self.rows * self.pitch

    def places(self) -> list[int]:
        """Of each tap in the panel of a channel."""
        result = []
        for tap in np.ndindex(*self.kernel):
            (phase_y, row), (phase_x, column) = (divmod(tap[axis] * self.dilation[axis], self.stride[axis])[::-1] for axis in (0, 1))
            if self.columnwise:
                phase_x, column = tap[1], 0
            result.append(((phase_y * self.phases(1) + phase_x) * self.rows + row) * self.pitch + column)
        return result

    def fields(self, batch: int) -> dict[str, int]:
        """The fields of ``struct rsk_panel``."""
        return {
            "batch": batch,
            **axes("{}", self.image, ("height", "width")),
            **axes("out_{}", self.out, ("height", "width")),
            **axes("pad_{}", self.pads),
            **axes("stride_{}", self.stride),
            **axes("spread_{}", self.spread),
            **axes("phases_{}", (self.phases(0), self.phases(1))),
            "shift": self.dilation[1] if self.columnwise else 1,
            **{name: getattr(self, name) for name in ("strip", "rows", "pitch", "plane")},
        }


def pair(values: tuple[int, ...], fill: int) -> tuple[int, int]:
    """Two axes from one or two."""
    return (fill, values[0]) if len(values) == 1 else (values[0], values[1])


def axes(form: str, values: tuple[int, int], names: tuple[str, str] = ("y", "x")) -> dict[str, int]:
    """A field for each of two axes."""
    return {form.format(name): value for name, value in zip(names, values, strict=True)}
