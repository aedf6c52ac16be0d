"""What the tests of the runtime share."""

import numpy as np

import rsk_deploy as rsk
from rsk_deploy.ir import Conv
from rsk_deploy.registry import format_named


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
