"""Resize: nearest and linear."""

from __future__ import annotations

import numpy as np

from rsk_deploy.ir import Resize
from rsk_deploy.readers.onnx.build import Node, NotModelled

COORDINATES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")


def resize(node: Node) -> None:
    """Nearest and linear over the spatial axes; cubic, antialiased, cropped or of other axes stay opaque."""
    mode, coordinates = node.attribute("mode", "nearest"), node.attribute("coordinate_transformation_mode", "half_pixel")
    odd = node.attribute("antialias", 0) or node.attribute("exclude_outside", 0) or node.attribute("keep_aspect_ratio_policy", "stretch") != "stretch"
    if mode not in ("nearest", "linear") or coordinates not in COORDINATES or odd:
        raise NotModelled
    emit(node, mode, node.known(2), coordinates, node.attribute("nearest_mode", "round_prefer_floor"))


def emit(node: Node, mode: str, scales: np.ndarray[tuple[int, ...], np.dtype[np.float32]] | None, coordinates: str, rounding: str) -> None:
    """Append the layer; without scales they are the sizes' ratios, in float32 as runtimes have them."""
    rank = len(node.shape())
    axes = np.arange(rank) if "axes" not in node.attributes else np.asarray(node.attributes["axes"]) % rank
    spatial = range(2, rank)
    before, after = node.sizes(spatial), node.output.shape[2:]
    if rank < 3 or node.shape()[:2] != node.output.shape[:2] or any(size is None for size in after):
        raise NotModelled
    ratios = np.ones(rank, np.float32)
    if scales is not None and scales.size:
        ratios[axes] = scales.reshape(-1)
    else:
        ratios[2:] = np.array(after, np.float32) / np.array(before, np.float32)
    node.emit(
        Resize,
        node.read(),
        sizes=tuple(size for size in after if size is not None),
        scales=tuple(float(ratio) for ratio in ratios[2:]),
        mode=mode,
        coordinates=coordinates.replace("_", "-"),
        rounding=rounding.replace("_", "-") if mode == "nearest" else "round-prefer-floor",
    )
