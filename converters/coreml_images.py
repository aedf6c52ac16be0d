"""Images as inputs: how pixels become what the network reads, as the checkpoint's pre-processing says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsk_deploy.errors import UsageError
from rsk_deploy.ir import Input, Json

KNOWN = ("scale", "mean", "std", "order")
LAYOUTS = {1: {"": "G"}, 3: {"": "RGB", "rgb": "RGB", "bgr": "BGR"}}
"""What Core ML calls the order of the channels, by their number and by what the pre-processing says."""


@dataclass(frozen=True)
class Preprocessing:
    """``x = pixel · scale + shift``, a number each channel; pixels go from 0 to 255."""

    scale: Sequence[float]
    shift: Sequence[float]
    layout: str

    def constants(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Scale and shift, to broadcast against an image."""
        scale, shift = (np.array(each, np.float32).reshape(1, -1, 1, 1) for each in (self.scale, self.shift))
        return scale, shift


def pixels(x: NDArray[Any], said: Mapping[str, Any], layout: str) -> NDArray[np.float32]:
    """The pixels, whole or not, that become ``x``, channels in the file's order: the pre-processing the other way round, so that it proves what is written."""
    scale, mean, deviation = (np.reshape(said.get(key, default), (1, -1, 1, 1)) for key, default in (("scale", 1), ("mean", 0), ("std", 1)))
    picture = (x.astype(np.float64) * deviation + mean) / scale
    turned = x.shape[1] == 3 and (said.get("order") or "rgb") != layout
    return (picture[:, ::-1] if turned else picture).astype(np.float32)


def preprocessing(entry: Input, meta: Mapping[str, Json]) -> Preprocessing:
    """``(pixel · scale - mean) / std`` and the order of the channels, from the model's pre-processing; refused where an image cannot be the input."""
    where = f"input {entry.name}: --input-type image"
    if len(entry.shape) != 4 or entry.shape[0] != 1 or entry.shape[1] not in LAYOUTS:
        raise UsageError(f"{where} takes one image of 1 or 3 channels, (1, 1 or 3, height, width); the input has shape {entry.shape}")
    said = meta.get("preprocessing")
    if not isinstance(said, Mapping):
        example = 'preprocessing={"scale": 1 / 255, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "order": "rgb"}'
        raise UsageError(f"{where} needs to know how pixels become inputs, and the model does not say; save the checkpoint with {example}")
    if foreign := sorted(set(said) - set(KNOWN)):
        raise UsageError(f"{where}: the model's pre-processing has {foreign[0]!r}; an image input can have {', '.join(KNOWN)}. Use --input-type tensor")
    channels = int(entry.shape[1])
    layouts = LAYOUTS[channels]
    order = said.get("order", "")
    if not isinstance(order, str) or order not in layouts:
        raise UsageError(f"{where}: the pre-processing's order is {order!r}; for {channels} channels it is {' or '.join(filter(None, layouts)) or 'left out'}")
    factor = _numbers(where, "scale", said.get("scale", 1), channels)
    mean, deviation = _numbers(where, "mean", said.get("mean", 0), channels), _numbers(where, "std", said.get("std", 1), channels)
    if not (factor * deviation).all():
        raise UsageError(f"{where}: the pre-processing's scale {said.get('scale', 1)} and std {said.get('std', 1)} may not be 0")
    return Preprocessing((factor / deviation).tolist(), (-mean / deviation).tolist(), layouts[order])


def _numbers(where: str, what: str, value: Json, channels: int) -> NDArray[np.float64]:
    values = value if isinstance(value, list | tuple) else [value] * channels
    if len(values) != channels or not all(type(each) in (int, float) and abs(each) < 1e30 for each in values):
        raise UsageError(f"{where}: the pre-processing's {what} is {value!r}; it is a number, or one for each of {channels} channels")
    return np.array(values, np.float64)
