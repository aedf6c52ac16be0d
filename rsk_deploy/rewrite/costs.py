"""What layers cost in a runtime, as multiplications of a dense direct convolution that would take as long.

The figures are fits to measurements (``benchmarks/lowering.py``, one thread, fp32, batch 1); only ratios matter.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import numpy as np

from rsk_deploy.ir import Binary, Concat, Conv, Dense, Layer, Shape, Slice


@dataclass(frozen=True, kw_only=True)
class Costs:
    """A runtime. ``added`` and ``moved`` are for an element that an addition or a copy writes, ``loaded`` for a weight, ``node`` for a layer.

    Groups of fewer than ``group`` outputs take ``thin`` times as long. ``exchange`` is a factor on layers that put outputs into
    another order, rather than inputs. A runtime that has Winograd's convolution for dense 3x3 kernels with stride 1 takes ``winograd``
    of the time for their multiplications, and ``transformed`` for each of their weights. ``nonzeros``: zeros in weights cost nothing.
    """

    added: float = 18
    moved: float = 14
    loaded: float = 18
    node: float = 1e5
    group: int = 16
    thin: float = 4
    exchange: float = 1.1
    winograd: float = 1
    transformed: float = 0
    nonzeros: bool = False

    def of(self, layers: Iterable[Layer], shapes: dict[str, Shape]) -> float:
        """The cost of layers in a row, given the shapes of what they read."""
        shapes, total = dict(shapes), 0.0
        for layer in layers:
            (shapes[layer.outputs[0]],) = layer.shapes([shapes[name] for name in layer.inputs], 1)
            total += self.node + self.of_layer(layer, shapes[layer.outputs[0]])
        return total

    def of_layer(self, layer: Layer, shape: Shape) -> float:
        """The cost of one layer with an output of that shape, without that of a node."""
        if isinstance(layer, Conv):
            return self.of_conv(layer, shape)
        return prod(shape) * {Binary: self.added, Slice: self.moved, Concat: self.moved}.get(type(layer), 0.0)

    def of_conv(self, layer: Conv[Dense], shape: Shape) -> float:
        """The cost of a convolution: its multiplications, and its weights where there are many for few positions."""
        weights = int(np.count_nonzero(layer.weight.values)) if self.nonzeros else prod(layer.weight.shape)
        positions = prod(shape[2:])
        if self.winograd < 1 and layer.groups == 1 and layer.weight.shape[2:] == (3, 3) and {*layer.stride, *layer.dilation} == {1}:
            return weights * (positions * self.winograd + self.transformed)
        thin = layer.groups > 1 and layer.filters < self.group * layer.groups
        return weights * (positions * (self.thin if thin else 1) + self.loaded)


TARGETS = {
    "onnx": Costs(added=16.5, moved=16, loaded=15, exchange=1),
    "onnxruntime": Costs(),
    "openvino": Costs(added=15, moved=18, loaded=12, exchange=0.93),
    "ncnn": Costs(added=38, moved=38, loaded=40, winograd=0.54, transformed=85),
    "coreml": Costs(),
    "litert": Costs(),
    "c": Costs(nonzeros=True),
    "session": Costs(nonzeros=True),
}
"""Runtimes, by the name that a user gives; onnx is the mean of onnxruntime and OpenVINO, for a file that either may run.
Those of coreml and litert are not measured: they are taken to be like onnxruntime."""

DEFAULTS = {"onnx": "onnx", "coreml": "coreml", "c": "c", "rsk": "session"}
"""The runtime that a file of each format is for, unless another is named."""
