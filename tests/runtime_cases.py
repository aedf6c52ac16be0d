"""What the tests of the runtime share."""

from dataclasses import replace

import numpy as np

import rsk_deploy as rsk
from rsk_deploy import reference
from rsk_deploy.ir import Conv, Graph, Input, Packed
from rsk_deploy.registry import format_named
from rsk_deploy.runtime.session import Session

EPSILON = 2.0**-23


def inputs_of(graph, batch, seed=0, positive=False):
    rng = np.random.default_rng(seed)
    arrays = {entry.name: rng.standard_normal(entry.at(batch)).astype(np.float32) for entry in graph.inputs}
    return {name: np.abs(x) + np.float32(0.1) for name, x in arrays.items()} if positive else arrays


def sized_conv(name, x, y, filters, channels, size, seed, **fields):
    rng = np.random.default_rng(seed)
    weight = (rng.standard_normal((filters, channels, size, size)) / channels / size).astype(np.float32)
    weight[rng.random(weight.shape) < 0.5] = 0
    packed = format_named("bitmask").encode(weight, rsk.ir.Mask("unstructured", weight != 0))
    defaults = {"stride": (1, 1), "pads": (size // 2,) * 4, "dilation": (1, 1), "bias": rng.standard_normal(filters).astype(np.float32)}
    return Conv(name=name, inputs=(x,), outputs=(y,), weight=packed, **(defaults | fields))


def magnitude(layer, x):
    """Σ |w · x| of a weighted layer."""
    weight = np.abs(format_named(layer.weight.format).decode(layer.weight))
    bias = None if layer.bias is None else np.abs(layer.bias)
    absolute = replace(layer, weight=Packed("dense", weight.shape, {"values": weight.reshape(-1)}), bias=bias)
    graph = Graph((Input("x", x.shape),), ("y",), (replace(absolute, inputs=("x",), outputs=("y",)),))
    return reference.run(graph, {"x": np.abs(x)})["y"]


def check_layer(layer, x):
    """One weighted layer, against the error that float32 sums may have."""
    graph = Graph((Input("x", x.shape),), ("y",), (layer,))
    with Session(graph, threads=1) as session:
        y = session(x)
    wanted = reference.run(graph, {"x": x})["y"]
    assert y.shape == wanted.shape
    assert (np.abs(y - wanted) <= 4 * EPSILON * magnitude(layer, x)).all()
