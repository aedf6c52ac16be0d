"""Random small networks: onnxruntime, with all its graph optimisations, computes what the reference does, whatever stands next to what."""

from math import prod

import numpy as np
import pytest

from rsk_deploy import reference
from rsk_deploy.converters import onnx as converter
from rsk_deploy.converters.onnx_opset import HIGHEST
from rsk_deploy.ir import (
    ACTIVATIONS,
    LRN,
    REDUCTIONS,
    Activation,
    Affine,
    AveragePool,
    Binary,
    Concat,
    Constant,
    Conv,
    ConvTranspose,
    Declared,
    Gather,
    Graph,
    GroupNorm,
    Input,
    LayerNorm,
    Linear,
    Mask,
    MatMul,
    MaxPool,
    Packed,
    Pad,
    PRelu,
    Reduce,
    Reshape,
    Resize,
    Slice,
    Softmax,
    Transpose,
)  # fmt: skip
from rsk_deploy.registry import FORMATS, format_named, regenerate

TAME = [kind for kind in ACTIVATIONS if kind not in ("exp", "log", "sqrt", "reciprocal")]
"""Activations that are finite and magnify no rounding errors, whatever comes before them."""


class Draw:
    """Draws the fields of layers that accept the value ``x`` of a given shape."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def of(self, choices):
        return choices[self.rng.integers(len(choices))]

    def ints(self, least, most):
        return tuple(int(each) for each in self.rng.integers(least, np.array(most) + 1))

    def floats(self, *shape):
        return self.rng.standard_normal(shape).astype(np.float32)

    def chance(self, share=0.5):
        return bool(self.rng.random() < share)

    def weight(self, *shape):
        """A sparse weight: one with structure in the encoding for it, another in any that holds it."""
        mask = Mask("unstructured", self.rng.random(shape) < self.of([0.3, 0.6, 1.0]))
        if shape[2:] == (3, 3) and self.chance():
            period = self.of([1, 2, 3])
            residues = np.add.outer(np.arange(shape[0]), np.arange(shape[1])) % period
            mask = Mask("periodic", (self.rng.random((period, 9)) < 0.5)[residues].reshape(shape), {"period": period})
        elif self.chance(0.3):
            mask = regenerate(Declared("lfsr", {"seed": 5, "scheme": "position", "density": 0.4}), shape)
        values = np.where(mask.support, self.floats(*shape), 0).astype(self.of([np.float32, np.float16])) + np.float16(0)
        holding = [encoding for encoding in FORMATS if format_named(encoding).nbytes(mask, values.itemsize) is not None]
        return format_named(mask.family if mask.family in holding else self.of(holding)).encode(values, mask)

    def window(self, size, kernel, pads):
        """Strides, dilations that fit, and pads of at most so many on each axis."""
        dilation = tuple(self.of([1, 1, 2]) if 2 * (taps - 1) < dim else 1 for taps, dim in zip(kernel, size, strict=True))
        return {"stride": self.ints(1, [3] * len(kernel)), "pads": self.ints(0, pads * 2), "dilation": dilation}

    def kernel(self, size):
        return self.ints(1, [min(dim, 3) for dim in size])


def channels(draw, shape):
    return {"scale": draw.floats(shape[1]), "shift": draw.floats(shape[1])}


def conv(draw, shape):
    kernel = (3, 3) if min(shape[2:]) >= 3 and len(shape) == 4 else draw.kernel(shape[2:])
    groups = draw.of([1, *divisors(shape[1])])
    filters = draw.of([16, 32]) if shape[1] == 16 else groups * draw.of([1, 2, 3])
    weight, bias = draw.weight(filters, shape[1] // groups, *kernel), draw.floats(filters) if draw.chance() else None
    return Conv, {"weight": weight, "bias": bias, "groups": groups, **draw.window(shape[2:], kernel, [4] * len(kernel))}


def conv_transpose(draw, shape):
    kernel = draw.kernel(shape[2:])
    fields = draw.window(shape[2:], kernel, [taps // 2 for taps in kernel])
    more = draw.ints(0, [step - 1 for step in fields["stride"]])
    return ConvTranspose, {"weight": draw.weight(shape[1], 2, *kernel), "bias": draw.floats(2), "output_pads": more, **fields}


def linear(draw, shape):
    return Linear, {"weight": draw.weight(4, shape[-1]), "bias": draw.floats(4) if draw.chance() else None}


def max_pool(draw, shape):
    kernel = draw.kernel(shape[2:])
    return MaxPool, {"kernel": kernel, "ceil_mode": draw.chance(0.3), **draw.window(shape[2:], kernel, [taps - 1 for taps in kernel])}


def average_pool(draw, shape):
    _, fields = max_pool(draw, shape)
    return AveragePool, {**fields, "count_pads": draw.chance()}


def pad(draw, shape):
    mode = draw.of(["constant", "constant", "reflect", "edge"])
    outer = 0 if mode == "reflect" else int(draw.chance(0.2))
    pads = draw.ints(0, [0, outer, *(min(dim - 1, 4) for dim in shape[2:])] * 2)
    return Pad, {"pads": pads, "mode": mode, "value": draw.of([0.0, 0.0, -1.5]) if mode == "constant" else 0.0}


def affine(draw, shape):
    return Affine, draw.of([channels(draw, shape), {"scale": np.ones(shape[1], np.float32), "shift": np.zeros(shape[1], np.float32)}])


def activation(draw, shape):
    kind = draw.of(TAME)
    return Activation, {"kind": kind, **dict(zip(ACTIVATIONS[kind], (0.25, 1.125), strict=False))}


def group_norm(draw, shape):
    return GroupNorm, {"groups": draw.of(divisors(shape[1])), "epsilon": 0.125, **channels(draw, shape)}


def layer_norm(draw, shape):
    over = shape[-draw.of(range(1, len(shape))) :]
    return LayerNorm, {"scale": draw.floats(*over), "shift": draw.floats(*over), "epsilon": 0.125}


def lrn(draw, shape):
    return (LRN, {"size": draw.of([1, 3, 5]), "alpha": 2**-10, "beta": 0.75, "bias": 1.0}) if len(shape) == 4 else affine(draw, shape)


def slice_(draw, shape):
    axis = draw.of(range(1, len(shape)))
    start = int(draw.rng.integers(0, shape[axis]))
    return Slice, {"axis": axis, "start": start, "stop": int(draw.rng.integers(start + 1, shape[axis] + 1)), "step": draw.of([1, 1, 2])}


def gather(draw, shape):
    axis = draw.of(range(1, len(shape)))
    return Gather, {"axis": axis, "indices": draw.rng.integers(0, shape[axis], draw.of([1, shape[axis], 4]))}


def divisors(number):
    return [each for each in range(1, number + 1) if number % each == 0]


def reshape(draw, shape):
    """The axes but the batch merged, then split twice, once or not at all."""
    inner = prod(shape[1:])
    factor = draw.of(divisors(inner))
    split = draw.of(divisors(inner // factor))
    return Reshape, {"target": (-1, *draw.of([(inner,), shape[1:], (factor, inner // factor), *[(factor, split, inner // factor // split)] * 2]))}


def transpose(draw, shape):
    return Transpose, {"perm": (0, *(1 + int(axis) for axis in draw.rng.permutation(len(shape) - 1)))}


def resize(draw, shape):
    scales = tuple(draw.of([1.0, 2.0, 3.0, 0.5]) if dim % 2 == 0 else draw.of([1.0, 2.0]) for dim in shape[2:])
    sizes = tuple(int(dim * scale) for dim, scale in zip(shape[2:], scales, strict=True))
    coordinates = draw.of(["half-pixel", "pytorch-half-pixel", "align-corners", "asymmetric"])
    mode = draw.of([{"mode": "linear"}, {"mode": "nearest", "rounding": draw.of(["floor", "ceil"])}])
    return Resize, {"sizes": sizes, "scales": scales, "coordinates": coordinates, **mode}


def reduce(draw, shape):
    axes = transpose(draw, shape)[1]["perm"][1:][: draw.of(range(1, len(shape)))]
    kind = draw.of([kind for kind in REDUCTIONS if kind != "prod"])
    return Reduce, {"kind": kind, "axes": tuple(sorted(axes)), "keep_axes": draw.chance() or len(shape) - len(axes) < 2}


WIDE = (2, 16, 6, 6)
"""As many channels as make onnxruntime lay values out in blocks of them."""

MAPS = (conv, conv, conv_transpose, max_pool, average_pool, pad, pad, resize, lrn)
"""Layers for values with spatial axes."""
ANY = (
    linear, affine, activation, activation, group_norm, layer_norm, slice_, gather, reshape, transpose, reduce,
    lambda draw, shape: (PRelu, {"slope": draw.floats(draw.of([1, shape[1]]))}),
    lambda draw, shape: (Softmax, {"axis": draw.of(range(1, len(shape))), "log": draw.chance()}),
)  # fmt: skip


def joined(draw, output, name, shape, values):
    """The layers that join a value with an earlier one of the same shape, with itself, or with a constant."""
    other = draw.of([each for each, known in values.items() if known == shape])
    fields = {"name": output, "outputs": (output,)}
    *outer, row, column = range(len(shape))
    kind = draw.of(["concat", "add", "sub", "mul", "max", "min", *["matmul"] * len(outer)])
    if kind == "concat":
        return [Concat(inputs=(name, other), axis=draw.of(range(1, len(shape))), **fields)]
    if kind == "matmul":
        turned = Transpose(name=f"{output}.turned", inputs=(other,), outputs=(f"{output}.turned",), perm=(*outer, column, row))
        return [turned, MatMul(inputs=(name, *turned.outputs), **fields)]
    if draw.chance():
        return [Binary(inputs=(name, other), kind=kind, **fields)]
    sizes = [1, *(draw.of([1, dim]) for dim in shape[1:])]
    values = draw.of([np.zeros(sizes, np.float32), np.ones(sizes, np.float32), draw.floats(*sizes), draw.floats(*sizes[2:]), np.array(-0.5, np.float32)])
    constant = Constant(name=f"{output}.constant", inputs=(), outputs=(f"{output}.constant",), values=values)
    return [constant, Binary(inputs=draw.of([(name, *constant.outputs), (*constant.outputs, name)]), kind=kind, **fields)]


def network(seed):
    """Three to six layers one after the other, some joined with what came before; the batch is open or 2."""
    draw = Draw(seed)
    shape = draw.of([(2, 4, 8, 8), (2, 6, 7, 9), WIDE, (2, 4, 12), (2, 2, 4, 5, 4)])
    entry = Input("x", (draw.of(["batch", "batch", 2]), *shape[1:]))
    values, layers, name = {"x": shape}, [], "x"
    wanted = draw.of([3, 4, 5, 6])
    while len(values) <= wanted:
        output, shape = f"v{len(values)}", values[name]
        if draw.chance(0.2):
            new = joined(draw, output, name, shape, values)
        else:
            kind, fields = draw.of(MAPS if len(shape) > 2 and draw.chance(0.6) else ANY)(draw, shape)
            new = [kind(name=output, inputs=(name,), outputs=(output,), **fields)]
        shape = Graph[Packed]((entry,), (), (*layers, *new)).shapes(2)[output]
        if prod(shape) <= 20000:
            layers += new
            values[output], name = shape, output
    others = [each for each in values if each not in ("x", name) and draw.chance(0.15)]
    return Graph[Packed]((entry,), (name, *others), tuple(layers))


@pytest.mark.parametrize("seed", range(300))
def test_onnxruntime_computes_what_a_random_network_means(seed, tmp_path):
    graph = network(seed)
    inputs = {entry.name: Draw(seed).floats(*entry.at(1 + seed % 3)) for entry in graph.inputs}
    converter.write(graph, tmp_path / "net.onnx", opset=HIGHEST if seed % 2 else None)
    actual, expected = converter.runner(tmp_path / "net.onnx")(inputs), reference.run(graph, inputs)
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=1e-4, atol=1e-4 * max(1, np.abs(value).max()))
