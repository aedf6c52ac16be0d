"""Where values live: planes with a zeroed halo for convolutions, slots of a concatenation, plain arrays for the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rsk_deploy.ir import Shape
from rsk_deploy.runtime.records import Buffer, View, dense_strides
from rsk_deploy.runtime.segments import Key

ALIGNED = 16
SLACK = 80
"""Floats behind every buffer that a tile may read: the last tile of a plane goes beyond it."""


def rounded(floats: int, multiple: int = ALIGNED) -> int:
    """The next multiple."""
    return -(-floats // multiple) * multiple


@dataclass
class Planes:
    """What the convolutions that touch a group of values need around each plane of theirs. ``width``: positions of a tile.

    ``columns``: zeros between rows; ``beyond``: floats read, but not heeded, before and behind the rows where there are none.
    ``images``: how many lie side by side.
    """

    planar: bool = False
    top: int = 0
    bottom: int = 0
    columns: int = 0
    beyond: int = 0
    width: int = 1
    images: int = 1

    def include(self, other: Planes) -> None:
        """Satisfy both."""
        self.planar |= other.planar
        for name in ("top", "bottom", "columns", "beyond", "width", "images"):
            setattr(self, name, max(getattr(self, name), getattr(other, name)))


class Groups:
    """Values whose planes must be laid out alike, as a union-find with their common needs."""

    def __init__(self) -> None:
        self.parents: dict[Key, Key] = {}
        self.needs: dict[Key, Planes] = {}

    def root(self, key: Key) -> Key:
        """The value that stands for the group."""
        while (parent := self.parents.setdefault(key, key)) is not key:
            key = parent
        self.needs.setdefault(key, Planes())
        return key

    def join(self, *keys: Key) -> None:
        """Make one group of all."""
        first = self.root(keys[0])
        for key in keys[1:]:
            other = self.root(key)
            if other is not first:
                self.needs[first].include(self.needs.pop(other))
                self.parents[other] = first

    def require(self, key: Key, needs: Planes) -> None:
        """Add to what the group of a value needs."""
        self.needs[self.root(key)].include(needs)

    def of(self, key: Key) -> Planes:
        """What the group of a value needs."""
        return self.needs[self.root(key)]


def plain(buffer: Buffer, shape: Shape) -> View:
    """A whole buffer as an array in C order."""
    return View(buffer, 0, shape, dense_strides(shape), 0, buffer.floats)


def plain_in_arena(shape: Shape) -> View:
    """A new array."""
    strides = dense_strides(shape)
    floats = strides[0] * shape[0] if shape else 1
    return plain(Buffer("arena", rounded(floats + SLACK)), shape)


def row_pitch(width: int, columns: int) -> int:
    """Floats from one row to the next, ``columns`` of zeros between them.

    Where tiles start with rows, all start alike in a cache line, and a kernel knows which of its loads cross one.
    """
    return rounded(width + columns) if columns and width % ALIGNED == 0 else width + columns


def planes_in_arena(shape: Shape, needs: Planes) -> View:
    """New planes: rows ``pitch`` apart, zeros around each plane; ``shape`` is (batch, channels, [[1,] height,] width).

    Images that lie side by side are one whose rows are as many times as long.
    """
    if needs.images > 1:
        view = planes_in_arena((1, *shape[1:-1], shape[-1] * needs.images), replace(needs, images=1))
        return replace(view, shape=shape, strides=(1, *view.strides[1:-1], needs.images))
    height, width = (1, *shape[2:])[-2:]
    pitch = row_pitch(width, needs.columns)
    beyond = needs.columns or needs.beyond
    front = rounded(needs.top * pitch) + needs.columns if needs.columns else rounded(needs.top * pitch + beyond)
    body = (height - 1) * pitch + width
    plane = rounded(max(front + body + (needs.bottom * pitch + beyond), rounded(body, needs.width)))
    images = shape[1] * plane
    floats = shape[0] * images + rounded(front + needs.bottom * pitch + beyond + pitch + SLACK)
    kept = (height, width, pitch, front, plane) if needs.top or needs.bottom or needs.columns else ()
    buffer = Buffer("arena", floats, planar=True, layout=kept)
    inner = (plane, pitch, 1)[5 - len(shape) :]
    return View(buffer, front, shape, (images, plane, *inner), front, floats - front)


def side_by_side(view: View) -> bool:
    """Whether images lie side by side, and the view can be one image of long rows."""
    return len(view.shape) in (3, 4) and view.strides[0] == 1 and view.strides[-1] == view.shape[0] > 1


def long_rows(view: View) -> View:
    """Images side by side as one image."""
    images, width = view.shape[0], view.shape[-1]
    return replace(view, shape=(1, *view.shape[1:-1], width * images), strides=(0, *view.strides[1:-1], 1))


def images_last(view: View) -> View:
    """Images side by side as one image with one axis of space more."""
    return replace(view, shape=(1, *view.shape[1:], view.shape[0]), strides=(0, *view.strides[1:], 1))


def channels(view: View, first: int, count: int) -> View:
    """Some channels of a view."""
    offset = view.offset + first * view.strides[1]
    moved = offset - view.offset
    return replace(view, offset=offset, shape=(view.shape[0], count, *view.shape[2:]), after=view.after - moved)


def reshaped(view: View, shape: Shape) -> View:
    """A contiguous view in another shape."""
    return replace(view, shape=shape, strides=dense_strides(shape))


def broadcast(view: View, shape: Shape) -> View:
    """The view repeated to a shape, as numpy does."""
    missing = len(shape) - len(view.shape)
    strides = [0] * missing + [0 if dim == 1 else stride for dim, stride in zip(view.shape, view.strides, strict=True)]
    return replace(view, shape=shape, strides=tuple(strides))


def permuted(view: View, order: Sequence[int]) -> View:
    """The view with its axes in another order."""
    return replace(view, shape=tuple(view.shape[axis] for axis in order), strides=tuple(view.strides[axis] for axis in order))


def sliced(view: View, axis: int, start: int, count: int, step: int) -> View:
    """Every ``step``-th element of an axis."""
    moved = start * view.strides[axis]
    shape, strides = list(view.shape), list(view.strides)
    shape[axis], strides[axis] = count, strides[axis] * step if count > 1 else 0
    return replace(view, offset=view.offset + moved, shape=tuple(shape), strides=tuple(strides), before=0, after=view.after - moved)


def lattice(view: View, starts: Sequence[int], steps: Sequence[int]) -> View:
    """Every ``step``-th element of the axes of space. Those in between belong to others: nothing around an element is part of the view."""
    for axis, (start, step) in enumerate(zip(starts, steps, strict=True), start=2):
        view = sliced(view, axis, start, len(range(start, view.shape[axis], step)), step)
    last = sum((dim - 1) * stride for dim, stride in zip(view.shape, view.strides, strict=True))
    strides = tuple(0 if dim == 1 else stride for dim, stride in zip(view.shape, view.strides, strict=True))  # 1 would say that a row lies in one piece
    return replace(view, strides=strides, before=0, after=last + 1)


def split_channels(view: View, groups: int) -> View:
    """(batch, channels, …) as (batch, groups, channels / groups, …)."""
    batch, count, *space = view.shape
    strides = (view.strides[0], view.strides[1] * (count // groups), *view.strides[1:])
    return replace(view, shape=(batch, groups, count // groups, *space), strides=strides)


def volume(view: View) -> View:
    """(batch, channels, space…) with three axes of space, the missing ones in front."""
    missing = 5 - len(view.shape)
    inner = view.strides[2] if len(view.shape) > 2 else 1
    shape = (*view.shape[:2], *[1] * missing, *view.shape[2:])
    row = inner * (view.shape[2] - 1) + 1 if len(view.shape) == 3 else inner
    return replace(view, shape=shape, strides=(*view.strides[:2], *[row] * missing, *view.strides[2:]))
