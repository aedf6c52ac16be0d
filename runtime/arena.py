"""Where the buffers of a program lie in its arena: by liveness, and over an operand that nobody reads any more."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from rsk_deploy.runtime.layout import ALIGNED, rounded
from rsk_deploy.runtime.records import Buffer, Step, View

OVERWRITES = {"unary": (0,), "binary": (0, 1), "scale": (0,), "conv": (1,)}
"""The operands of which a step reads an element only just before it writes that element of its output."""


def place(steps: Sequence[Step]) -> int:
    """Give every arena buffer its start. Gives the floats in all."""
    outlive_loops(steps)
    for number, step in enumerate(steps):
        if (operand := overwritten(step, number)) is not None:
            root = operand.buffer.root
            step.output.buffer.over, root.dies = root, step.output.buffer.dies
    buffers = {id(view.buffer): view.buffer for step in steps for view in (*step.inputs, step.output) if view is not None and view.buffer.space == "arena"}
    total = 0
    for layout, group in groupby(sorted((buffer for buffer in buffers.values() if buffer.over is None), key=layout_of), layout_of):
        total = placed(group, layout[-1] if layout else ALIGNED, total)
    for buffer in buffers.values():
        buffer.start = buffer.root.start
    return total


def outlive_loops(steps: Sequence[Step]) -> None:
    """Let what a loop and others touch, or what is more than a turn sees of it, live as long as the loop."""
    first = 0
    for _, run in groupby(steps, lambda step: step.loop):
        loop = list(run)
        last = first + len(loop) - 1
        for view in (view for step in loop for view in (*step.inputs, step.output) if view is not None and step.turns > 1):
            buffer = view.buffer
            if view.advance or buffer.born < first or buffer.dies > last:
                buffer.born, buffer.dies = min(buffer.born, first), max(buffer.dies, last)
        first = last + 1


def layout_of(buffer: Buffer) -> tuple[int, ...]:
    """What is zero around its elements."""
    return buffer.layout


def overwritten(step: Step, number: int) -> View | None:
    """The operand that the step's output can lie over: as large, alike in its elements, read here for the last time, and as nothing else."""
    out = step.output
    if out.buffer.space != "arena" or out.buffer.born != number:
        return None
    for position in OVERWRITES.get(step.op, ()):
        view = step.inputs[position]
        alone = view is not None and sum(other is not None and other.buffer.root is view.buffer.root for other in step.inputs) == 1
        if alone and view is not None and view.buffer.dies == number and congruent(view, out):
            return view
    return None


def congruent(a: View, b: View) -> bool:
    """Whether elements of the same index would lie at the same place if the buffers did."""
    same_buffer = (a.buffer.space, a.buffer.layout, a.buffer.floats) == (b.buffer.space, b.buffer.layout, b.buffer.floats)
    return same_buffer and (a.offset, a.shape, a.strides, a.advance) == (b.offset, b.shape, b.strides, b.advance)


def placed(buffers: Iterable[Buffer], step: int, base: int) -> int:
    """Place buffers of one layout from ``base`` on, at multiples of ``step``, the largest first; gives the end.

    Buffers that live at once do not overlap. Where others did lie, what is zero around the elements still is.
    """
    done: list[Buffer] = []
    for buffer in sorted(buffers, key=lambda buffer: (-buffer.floats, buffer.born)):
        buffer.start = base
        for other in sorted((other for other in done if other.born <= buffer.dies and buffer.born <= other.dies), key=lambda other: other.start):
            if buffer.start + buffer.floats <= other.start:
                break
            buffer.start = max(buffer.start, base + rounded(other.start + other.floats - base, step))
        done.append(buffer)
    return rounded(max((buffer.start + buffer.floats for buffer in done), default=base))
