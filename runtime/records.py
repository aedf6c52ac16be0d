"""The plan buffer, byte for byte as ``native/plan.h`` reads it: header, tensors, steps, ports, blob."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_RANK = 8
ALIGNMENT = 64
MAGIC = b"RSKPLAN2"
SPACES = ("arena", "input", "output", "constant")
OPS = ("conv", "linear", "pool", "unary", "binary", "scale", "reduce", "softmax", "norm", "lrn", "matmul", "copy", "take", "blend")

HEADER = np.dtype(
    [
        ("magic", "S8"), ("bytes", "<u8"), ("tensors", "<u4"), ("steps", "<u4"), ("inputs", "<u4"), ("outputs", "<u4"),
        ("arena_floats", "<u8"), ("constant_floats", "<u8"), ("blob_at", "<u8"),
    ]
)  # fmt: skip
TENSOR = np.dtype(
    [
        ("space", "<u4"), ("index", "<u4"), ("rank", "<u4"), ("unused", "<u4"), ("offset", "<i8"), ("before", "<i8"), ("after", "<i8"),
        ("advance", "<i8"), ("dims", "<i8", MAX_RANK), ("strides", "<i8", MAX_RANK),
    ]
)  # fmt: skip
STEP = np.dtype(
    [
        ("op", "<u4"), ("kind", "<u4"), ("inputs", "<i4", 4), ("output", "<i4"), ("activation", "<u4"), ("floats", "<f4", 4), ("kernel", "S24"),
        ("loop", "<u4"), ("turns", "<u4"), ("ints", "<i8", 16), ("blobs", "<u8", (5, 2)),
    ]
)  # fmt: skip


@dataclass(eq=False)
class Buffer:
    """Floats of one space. In the arena it lives from the first step that writes it to the last that reads it.

    Arena buffers of one ``layout`` may take each other's place: what is zero around the elements of one is zero in all.
    ``planar`` ones hold planes that a convolution can slide over. One that lies ``over`` another takes its place when that dies.
    """

    space: str
    floats: int
    index: int = 0
    planar: bool = False
    layout: tuple[int, ...] = ()
    start: int = 0
    born: int = -1
    dies: int = -1
    over: Buffer | None = None

    @property
    def root(self) -> Buffer:
        """The buffer that it lies over, if over one."""
        return self if self.over is None else self.over.root


@dataclass(frozen=True, eq=False)
class View:
    """Strided elements of a buffer. A step may read (or in its output overwrite with zeros) [offset - before, offset + after).

    In a step of several turns the view moves on by ``advance`` each turn.
    """

    buffer: Buffer
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    before: int
    after: int
    advance: int = 0

    @property
    def contiguous(self) -> bool:
        """Whether the elements lie one behind the other."""
        return all(dim == 1 or stride == wanted for dim, stride, wanted in zip(self.shape, self.strides, dense_strides(self.shape), strict=True))


@dataclass(frozen=True, eq=False)
class Step:
    """One native step, and what people want to know of it.

    Consecutive steps of one ``loop`` run ``turns`` times: all of them for the first images, then all of them for the next.
    """

    op: str
    inputs: tuple[View | None, ...]
    output: View
    layers: tuple[str, ...]
    kind: int = 0
    activation: int = 0
    floats: tuple[float, ...] = ()
    kernel: str = ""
    ints: tuple[int, ...] = ()
    blobs: tuple[NDArray[Any] | None, ...] = ()
    loop: int = 0
    turns: int = 1
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Program:
    """Everything that a plan buffer says."""

    steps: Sequence[Step]
    inputs: Sequence[int]
    outputs: Sequence[int]
    constants: NDArray[np.float32]
    arena_floats: int


def dense_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides, in elements, of an array in C order."""
    strides = [1]
    for dim in reversed(shape[1:]):
        strides.append(strides[-1] * dim)
    return tuple(reversed(strides)) if shape else ()


@dataclass
class _Blob:
    """Arrays one behind the other, each aligned."""

    size: int = 0
    parts: list[tuple[int, NDArray[Any]]] = field(default_factory=list)

    def add(self, array: NDArray[Any] | None) -> tuple[int, int]:
        if array is None or array.size == 0:
            return 0, 0
        at, self.size = self.size, -(-(self.size + array.nbytes) // ALIGNMENT) * ALIGNMENT
        self.parts.append((at, np.ascontiguousarray(array)))
        return at, array.nbytes


def padded(values: Sequence[Any], length: int) -> list[Any]:
    """``values`` and zeros."""
    return [*values, *[0] * (length - len(values))]


def tensor_record(view: View) -> tuple[Any, ...]:
    """One row of TENSOR."""
    buffer = view.buffer
    rank = len(view.shape)
    return (
        SPACES.index(buffer.space), buffer.index, rank, 0, buffer.start + view.offset, view.before, view.after, view.advance,
        padded(view.shape, MAX_RANK), padded(view.strides, MAX_RANK),
    )  # fmt: skip


def step_record(step: Step, numbers: Mapping[int, int], blob: _Blob) -> tuple[Any, ...]:
    """One row of STEP; ``numbers`` gives a view's row of TENSOR."""
    inputs = [-1 if view is None else numbers[id(view)] for view in step.inputs]
    return (
        OPS.index(step.op), step.kind, [*inputs, *[-1] * (4 - len(inputs))], numbers[id(step.output)], step.activation, padded(step.floats, 4),
        step.kernel.encode(), step.loop, step.turns, padded(step.ints, 16), [blob.add(array) for array in (*step.blobs, *[None] * (5 - len(step.blobs)))],
    )  # fmt: skip


def encode(program: Program) -> NDArray[np.uint8]:
    """The plan buffer, aligned to 64 bytes."""
    views = {id(view): view for step in program.steps for view in (*step.inputs, step.output) if view is not None}
    numbers = {key: number for number, key in enumerate(views)}
    blob = _Blob()
    blob.add(program.constants)
    tensors = np.array([tensor_record(view) for view in views.values()], TENSOR)
    steps = np.array([step_record(step, numbers, blob) for step in program.steps], STEP)
    ports = np.array([*program.inputs, *program.outputs], "<u8")
    records = HEADER.itemsize + tensors.nbytes + steps.nbytes + ports.nbytes
    blob_at = -(-records // ALIGNMENT) * ALIGNMENT
    total = blob_at + blob.size
    header = np.array(
        [(MAGIC, total, len(tensors), len(steps), len(program.inputs), len(program.outputs), program.arena_floats, program.constants.size, blob_at)], HEADER
    )
    whole = aligned(total)
    at = 0
    for array in (header, tensors, steps, ports):
        whole[at : at + array.nbytes] = array.view(np.uint8).reshape(-1)
        at += array.nbytes
    for at, array in blob.parts:
        whole[blob_at + at : blob_at + at + array.nbytes] = array.reshape(-1).view(np.uint8)
    return whole


def aligned(size: int) -> NDArray[np.uint8]:
    """Zeroed bytes that begin at a multiple of 64."""
    room = np.zeros(size + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    return room[start : start + size]
