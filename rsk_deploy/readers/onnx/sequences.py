"""A part of a split into a sequence: where it starts and stops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rsk_deploy.errors import CorruptFileError, UnsupportedError
from rsk_deploy.readers.onnx.values import Value


def sequence_part(split: Any, inputs: Sequence[Value | None]) -> tuple[int, int, int, bool]:
    """Start, stop and axis of the part of a SplitToSequence that a SequenceAt takes, and whether it keeps the axis. ``inputs`` are both nodes'."""
    from onnx import helper

    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in split.attribute}
    x, lengths, position = inputs[0], inputs[1] if len(inputs) > 2 else None, inputs[-1]
    if x is None or position is None or position.constant is None or (lengths is not None and lengths.constant is None):
        raise UnsupportedError("takes a part of a sequence that depends on the input; such networks are not read")
    axis = attributes.get("axis", 0) % max(1, x.rank)
    size = x.shape[axis]
    if size is None:
        raise UnsupportedError("splits the batch into a sequence; such networks are not read")
    length = np.ones(1, np.int64) if lengths is None or lengths.constant is None else lengths.constant
    if length.size == 1:
        step = max(1, int(length.reshape(())))
        ends = [*range(step, size, step), size]
    else:
        ends = [int(end) for end in np.cumsum(length)]
    index = int(position.constant.reshape(()))
    if not -len(ends) <= index < len(ends) or ends[-1] != size:
        raise CorruptFileError(f"takes part {index} of {len(ends)} that end at {ends[-1]} of {size}")
    return [0, *ends][index % len(ends)], ends[index % len(ends)], axis, lengths is not None or bool(attributes.get("keepdims", 1))
