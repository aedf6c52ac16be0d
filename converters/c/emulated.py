"""The slow twin of the 8-bit kernels: what the integers of an exported network mean, in numpy. Exact where layers are integer ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from rsk_deploy.converters.c.conv import transposed
from rsk_deploy.converters.c.eight import LARGEST, Eight, bias, bounds, chosen, fixed_point, rounded, takes_eight
from rsk_deploy.converters.c.units import Unit, units
from rsk_deploy.ir import Constant, Conv, ConvTranspose, Dense, FloatArray, Graph, Linear, MaxPool, Packed, Reshape
from rsk_deploy.reference.operations import ACTIVATIONS, OPERATIONS
from rsk_deploy.registry import Runner, format_named

Array = NDArray[Any]
EXACT = np.dtype(np.float64)
"""Holds every sum of an integer layer exactly."""
MOST = np.iinfo(np.int32).max // 2


def runner(graph: Graph[Packed], scale: Mapping[str, float]) -> Runner:
    """The network in 8 bits as a function."""
    return lambda inputs: Emulation(graph, scale).run(inputs)


class Emulation:
    """One run: values by name, integers where the network holds them."""

    def __init__(self, graph: Graph[Packed], scale: Mapping[str, float]) -> None:
        self.graph, self.units = graph, units(graph, graph.shapes())
        self.roots: dict[str, str] = {}
        for unit in self.units:
            if isinstance(unit.layer, Reshape):
                self.roots[unit.output] = self.root(unit.layer.inputs[0])
        self.eight: Eight = chosen(self.units, self.roots, graph.outputs, scale)
        self.known: dict[str, Array] = {}

    def root(self, name: str) -> str:
        """The value that this one is under another shape."""
        return self.roots.get(name, name)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, FloatArray]:
        """Give the outputs."""
        self.known = {entry.name: np.asarray(inputs[entry.name], EXACT) for entry in self.graph.inputs}
        for unit in self.units:
            layer = unit.layer
            if takes_eight(unit):
                self.known[unit.output] = self._integers(unit)
            elif isinstance(layer, Reshape | MaxPool) and self.root(unit.inputs[0]) in self.eight.held:
                self.known[unit.output] = OPERATIONS[type(layer)](layer, EXACT, self.known[unit.inputs[0]])
            elif isinstance(layer, Constant):
                self.known[unit.output] = layer.values.astype(EXACT)
            else:
                value = OPERATIONS[type(layer)](layer, EXACT, *(self._floats(name) for name in layer.inputs))
                self.known[unit.output] = self._ended(unit, value)
        return {name: self._floats(name) for name in self.graph.outputs}

    def _ended(self, unit: Unit, value: Array) -> Array:
        """Add the residual and apply the activation, in floats."""
        if unit.residual:
            value = value + self._floats(unit.residual)
        return value if unit.activation is None else ACTIVATIONS[unit.activation.kind](value, unit.activation.alpha, unit.activation.beta)

    def _scale(self, name: str) -> float:
        return self.eight.scale[self.root(name)]

    def _floats(self, name: str) -> Array:
        value = self.known[name]
        step = np.float32(self._scale(name) if self.root(name) in self.eight.held else 1)
        return np.multiply(value, step)

    def _steps(self, name: str) -> Array:
        """The value as integers: halves go away from zero, NaN is the largest."""
        if self.root(name) in self.eight.held:
            return self.known[name]
        steps = np.maximum(np.fmin(self.known[name].astype(np.float32) * np.float32(1 / self._scale(name)), LARGEST), -LARGEST)
        whole: Array = np.trunc(steps + np.copysign(np.float32(0.5), steps)).astype(EXACT)
        return whole

    def _integers(self, unit: Unit) -> Array:
        layer = cast("Conv[Packed] | ConvTranspose[Packed] | Linear[Packed]", unit.layer)  # takes_eight lets no other in
        entry = self._scale(unit.inputs[0])
        plain, filters = weights(layer)
        added = bias(layer, entry, filters)
        sums = OPERATIONS[type(plain)](replace(plain, bias=added.astype(EXACT)), EXACT, self._steps(unit.inputs[0]))
        shape = (-1,) if isinstance(layer, Linear) else (-1, *(1,) * (sums.ndim - 2))
        if unit.output not in self.eight.held:
            value = sums * (entry * filters).reshape(shape)
            return self._ended(replace(unit, residual=None), value + (self._steps(unit.residual) * self._scale(unit.residual) if unit.residual else 0))
        out = self._scale(unit.output)
        result = scaled(sums, *(words.reshape(shape) for words in fixed_point(entry * filters / out)))
        if unit.residual:
            result = result + scaled(self._steps(unit.residual), *fixed_point(np.array([self._scale(unit.residual) / out])))
        return np.clip(result, *bounds(unit, out)).astype(EXACT)


def scaled(values: Array, multipliers: Array, shifts: Array) -> Array:
    """As the kernels do it: a product of 64 bits, rounded, shifted, no more than half of what 32 bits hold."""
    shift = shifts.astype(np.int64)
    whole: Array = np.clip((values.astype(np.int64) * multipliers.astype(np.int64) + (np.int64(1) << (shift - 1))) >> shift, -MOST, MOST)
    return whole


def weights(layer: Conv[Packed] | ConvTranspose[Packed] | Linear[Packed]) -> tuple[Conv[Dense] | ConvTranspose[Dense] | Linear[Dense], Array]:
    """The layer with its weight as integers, and the scale of each filter. A transposed convolution has them by output too."""
    packed, filters = rounded(transposed(layer) if isinstance(layer, ConvTranspose) else layer.weight)
    values = np.zeros(packed.shape, np.float64)
    values[format_named(packed.format).support(packed)] = packed.arrays["values"]
    if isinstance(layer, ConvTranspose):
        count, channels, *kernel = values.shape
        grouped = np.flip(values, tuple(range(2, values.ndim))).reshape(layer.groups, count // layer.groups, channels, *kernel).swapaxes(1, 2)
        values = grouped.reshape(layer.groups * channels, count // layer.groups, *kernel)
    dense: Any = Dense(values)  # another kind of weight makes it another kind of layer
    plain: Any = replace(layer, weight=dense)
    return plain, filters
