"""Every layer of the graph as standard ONNX: the checker passes it, and onnxruntime computes what the reference does."""

import numpy as np
import onnx
import pytest

from rsk_deploy import ir, reference
from rsk_deploy.converters import onnx as converter
from rsk_deploy.converters.onnx_layers import TABLE
from rsk_deploy.converters.onnx_opset import HIGHEST, LOWEST, USUAL
from rsk_deploy.errors import UnsupportedError, UsageError
from rsk_deploy.ir import (
    ACTIVATIONS,
    BINARIES,
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
    Gather,
    Graph,
    GroupNorm,
    Input,
    Layer,
    LayerNorm,
    Linear,
    MatMul,
    MaxPool,
    Packed,
    Pad,
    Pool,
    PRelu,
    Reduce,
    Reshape,
    Resize,
    Slice,
    Softmax,
    Transpose,
    Weighted,
)  # fmt: skip
from rsk_deploy.readers.onnx import read_packed

RNG = np.random.default_rng(3)
OPSETS = (LOWEST, USUAL, 18, 19, 20, 21, 22, HIGHEST)


def floats(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def dense(*shape):
    return Packed("dense", shape, {"values": floats(*shape).reshape(-1)})


def conv(filters, channels, *kernel, bias=True, **fields):
    rank = len(kernel)
    defaults = {"stride": (1,) * rank, "pads": (0,) * 2 * rank, "dilation": (1,) * rank}
    return Conv, {"weight": dense(filters, channels, *kernel), "bias": floats(filters) if bias else None, **defaults, **fields}


def transposed(channels, filters, *kernel, groups=1, **fields):
    rank = len(kernel)
    defaults = {"stride": (1,) * rank, "pads": (0,) * 2 * rank, "dilation": (1,) * rank, "output_pads": (0,) * rank, "groups": groups}
    return ConvTranspose, {"weight": dense(channels, filters, *kernel), "bias": floats(filters * groups), **defaults, **fields}


def pool(kind, kernel, stride, pads, **fields):
    return kind, {"kernel": kernel, "stride": stride, "pads": pads, "dilation": (1,) * len(kernel), **fields}


def resize(sizes, scales, mode, coordinates, **fields):
    return Resize, {"sizes": sizes, "scales": tuple(float(np.float32(scale)) for scale in scales), "mode": mode, "coordinates": coordinates, **fields}


IMAGE = (3, 7, 9)
CASES = {
    "conv": (IMAGE, *conv(4, 3, 3, 3)),
    "conv asymmetric": (IMAGE, *conv(4, 3, 3, 2, bias=False, stride=(2, 1), pads=(0, 1, 2, 0), dilation=(1, 2))),
    "conv depthwise": (IMAGE, *conv(6, 1, 3, 3, groups=3, pads=(1, 1, 1, 1))),
    "conv 1-d": ((4, 11), *conv(6, 2, 3, groups=2, pads=(2, 0))),
    "conv 3-d": ((2, 4, 5, 6), *conv(3, 2, 2, 2, 2)),
    "transposed conv": ((4, 5, 6), *transposed(4, 3, 3, 3, stride=(2, 2), pads=(1, 1, 1, 1), output_pads=(1, 1))),
    "transposed conv grouped": ((4, 5, 6), *transposed(4, 3, 2, 3, groups=2, stride=(2, 3), pads=(0, 1, 1, 0), dilation=(2, 1))),
    "transposed conv 1-d": ((4, 5), *transposed(4, 3, 3, stride=(2,))),
    "linear": ((6,), Linear, {"weight": dense(5, 6), "bias": floats(5)}),
    "linear without bias": ((6,), Linear, {"weight": dense(5, 6)}),
    "linear on sequences": ((4, 6), Linear, {"weight": dense(5, 6), "bias": floats(5)}),
    "linear on maps without bias": ((2, 4, 6), Linear, {"weight": dense(5, 6)}),
    "affine": (IMAGE, Affine, {"scale": floats(3), "shift": floats(3)}),
    "affine on vectors": ((6,), Affine, {"scale": floats(6), "shift": floats(6)}),
    "layer norm": ((4, 6), LayerNorm, {"scale": floats(6), "shift": floats(6), "epsilon": 2**-10}),
    "layer norm over two axes": (IMAGE, LayerNorm, {"scale": floats(7, 9), "shift": floats(7, 9), "epsilon": 2**-17}),
    "group norm": ((6, 5, 5), GroupNorm, {"groups": 3, "scale": floats(6), "shift": floats(6), "epsilon": 2**-10}),
    "group norm of one": ((6, 5, 5), GroupNorm, {"groups": 1, "scale": floats(6), "shift": floats(6), "epsilon": 2**-10}),
    "instance norm": ((6, 5, 5), GroupNorm, {"groups": 6, "scale": floats(6), "shift": floats(6), "epsilon": 2**-10}),
    "group norm on vectors": ((6,), GroupNorm, {"groups": 2, "scale": floats(6), "shift": floats(6), "epsilon": 2**-10}),
    "lrn": ((6, 5, 5), LRN, {"size": 5, "alpha": 2**-6, "beta": 0.75, "bias": 2.0}),
    "max pool": (IMAGE, *pool(MaxPool, (3, 3), (2, 2), (1, 1, 1, 1))),
    "max pool dilated": (IMAGE, *pool(MaxPool, (2, 2), (1, 1), (0, 1, 1, 0), dilation=(2, 3))),
    "max pool ceil": (IMAGE, *pool(MaxPool, (2, 3), (2, 2), (0, 1, 1, 1), ceil_mode=True)),
    "max pool ceil, no window past the end": ((3, 6, 6), *pool(MaxPool, (1, 1), (3, 4), (0, 0, 0, 0), ceil_mode=True)),
    "max pool ceil, no window in the pad": ((3, 5, 5), *pool(MaxPool, (2, 2), (3, 3), (1, 1, 1, 1), ceil_mode=True)),
    "average pool": (IMAGE, *pool(AveragePool, (3, 3), (2, 2), (1, 1, 1, 1))),
    "average pool counting pads": (IMAGE, *pool(AveragePool, (3, 3), (2, 2), (1, 0, 1, 2), count_pads=True)),
    "average pool ceil": (IMAGE, *pool(AveragePool, (2, 2), (2, 2), (0, 0, 0, 0), ceil_mode=True)),
    "average pool ceil counting pads": ((3, 6, 6), *pool(AveragePool, (3, 3), (2, 2), (1, 1, 1, 1), ceil_mode=True, count_pads=True)),
    "average pool ceil counting pads, no window in the pad": ((3, 7, 8), *pool(AveragePool, (3, 3), (3, 3), (1, 1, 1, 1), ceil_mode=True, count_pads=True)),
    "average pool ceil, no window in the pad": ((3, 5, 5), *pool(AveragePool, (2, 2), (3, 3), (1, 1, 1, 1), ceil_mode=True, count_pads=True)),
    "average pool 1-d": ((3, 9), *pool(AveragePool, (3,), (2,), (1, 1))),
    "average pool 3-d": ((3, 4, 5, 6), *pool(AveragePool, (2, 2, 2), (2, 2, 2), (0, 0, 1, 0, 1, 1))),
    "average pool dilated": ((3, 9, 9), *pool(AveragePool, (2, 3), (1, 2), (1, 0, 1, 0), dilation=(2, 2))),
    "prelu": (IMAGE, PRelu, {"slope": floats(3)}),
    "prelu of one slope": (IMAGE, PRelu, {"slope": floats(1)}),
    "prelu on vectors": ((6,), PRelu, {"slope": floats(6)}),
    "softmax": (IMAGE, Softmax, {"axis": 1}),
    "log softmax": (IMAGE, Softmax, {"axis": 3, "log": True}),
    "slice": (IMAGE, Slice, {"axis": 2, "start": 1, "stop": 6, "step": 2}),
    "gather": (IMAGE, Gather, {"axis": 3, "indices": np.array([8, 0, 0, 3], np.int64)}),
    "pad": (IMAGE, Pad, {"pads": (0, 1, 0, 2, 0, 0, 3, 1), "value": -1.5}),
    "pad reflect": (IMAGE, Pad, {"pads": (0, 0, 2, 2, 0, 0, 3, 1), "mode": "reflect"}),
    "pad edge": (IMAGE, Pad, {"pads": (0, 0, 2, 2, 0, 0, 3, 1), "mode": "edge"}),
    "reshape": (IMAGE, Reshape, {"target": (-1, 9, 21)}),
    "reshape that moves the batch": (IMAGE, Reshape, {"target": (3, -1)}),
    "transpose": (IMAGE, Transpose, {"perm": (0, 2, 3, 1)}),
    "transpose of the batch": (IMAGE, Transpose, {"perm": (1, 0, 2, 3)}),
    "resize nearest": (IMAGE, *resize((14, 18), (2.0, 2.0), "nearest", "asymmetric", rounding="floor")),
    "resize nearest by odd sizes": (IMAGE, *resize((11, 4), (11 / 7, 4 / 9), "nearest", "half-pixel", rounding="round-prefer-ceil")),
    "resize nearest ceil": (IMAGE, *resize((11, 4), (11 / 7, 4 / 9), "nearest", "asymmetric", rounding="ceil")),
    "resize linear": (IMAGE, *resize((14, 18), (2.0, 2.0), "linear", "half-pixel")),
    "resize linear by odd sizes": (IMAGE, *resize((10, 5), (10 / 7, 5 / 9), "linear", "pytorch-half-pixel")),
    "resize linear to one": (IMAGE, *resize((1, 1), (1 / 7, 1 / 9), "linear", "pytorch-half-pixel")),
    "resize linear aligned": (IMAGE, *resize((13, 20), (13 / 7, 20 / 9), "linear", "align-corners")),
    "resize linear by scales": (IMAGE, *resize((11, 15), (1.7, 1.7), "linear", "half-pixel")),
    "resize linear 1-d": ((3, 7), *resize((12,), (12 / 7,), "linear", "half-pixel")),
    "resize linear 3-d": ((2, 3, 4, 5), *resize((6, 8, 10), (2.0, 2.0, 2.0), "linear", "half-pixel")),
    "global max": (IMAGE, Reduce, {"kind": "max", "axes": (2, 3)}),
    "global mean": (IMAGE, Reduce, {"kind": "mean", "axes": (2, 3)}),
    **{f"reduce {kind}": (IMAGE, Reduce, {"kind": kind, "axes": (3,), "keep_axes": keep}) for kind in REDUCTIONS for keep in (kind == "sum",)},
    **{
        f"activation {kind}": (IMAGE, Activation, {"kind": kind, **dict.fromkeys(parameters, 0.25)})
        for kind, parameters in ACTIVATIONS.items()
        if kind != "clip"
    },
    "clip": (IMAGE, Activation, {"kind": "clip", "alpha": -0.25, "beta": 0.625}),
    "selu": (IMAGE, Activation, {"kind": "selu", "alpha": 1.75, "beta": 1.125}),
    "clip below": (IMAGE, Activation, {"kind": "clip", "alpha": -0.5, "beta": float("inf")}),
    "clip above": (IMAGE, Activation, {"kind": "clip", "alpha": float("-inf"), "beta": 0.25}),
}
PAIRS = {
    **{f"binary {kind}": (IMAGE, (3, 1, 9), Binary, {"kind": kind}) for kind in BINARIES},
    "matmul": ((4, 6), (6, 5), MatMul, {}),
    "concat": ((2, 5, 5), (3, 5, 5), Concat, {"axis": 1}),
    "concat of the batch": ((2, 5, 5), (2, 5, 5), Concat, {"axis": 0}),
}
NEEDS = {"average pool dilated": 19} | {case: 22 for case in CASES if "no window" in case}
POSITIVE = {"activation log", "activation sqrt", "binary pow"}


def single(kind, fields, *shapes):
    """A network of one layer with an open batch."""
    names = ("x", "z")[: len(shapes)]
    layer = kind(name="layer", inputs=names, outputs=("y",), **fields)
    return Graph[Packed](tuple(Input(name, ("batch", *shape)) for name, shape in zip(names, shapes, strict=True)), ("y",), (layer,))


def test_every_layer_class_is_written():
    classes = {value for value in vars(ir).values() if isinstance(value, type) and issubclass(value, Layer)}
    assert TABLE.keys() == classes - {Layer, Pool, Weighted}


def test_a_constant_is_written_in_its_own_type(tmp_path):
    layers = (
        Constant(name="constant", inputs=(), outputs=("one",), values=np.ones((1, 3, 1, 1), np.float32)),
        Binary(name="add", inputs=("x", "one"), outputs=("y",), kind="add"),
        Constant(name="labels", inputs=(), outputs=("z",), values=np.arange(3, dtype=np.int64)),
    )
    graph = Graph[Packed]((Input("x", ("batch", *IMAGE)),), ("y", "z"), layers)
    checked(graph, tmp_path / "net.onnx")
    assert_same(tmp_path / "net.onnx", graph, 2)


def test_a_resize_that_onnx_does_not_have_is_refused(tmp_path):
    graph = single(*resize((14, 18), (2.5, 2.25), "linear", "half-pixel"), IMAGE)
    with pytest.raises(UnsupportedError, match=r"layer: ONNX has no resize of \(7, 9\) to \(14, 18\) with scales \(2.5, 2.25\); scales of size"):
        converter.write(graph, tmp_path / "net.onnx")


def checked(graph, path, **options):
    converter.write(graph, path, **options)
    onnx.checker.check_model(str(path), full_check=True)
    return onnx.load(path)


def sample(graph, batch, positive=False):
    rng = np.random.default_rng(batch)
    return {entry.name: (np.abs(x) + 0.1 if positive else x) for entry in graph.inputs for x in [rng.standard_normal(entry.at(batch)).astype(np.float32)]}


def assert_same(path, graph, batch, positive=False):
    inputs = sample(graph, batch, positive)
    actual, expected = converter.runner(path)(inputs), reference.run(graph, inputs)
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("opset", [None, *OPSETS])
@pytest.mark.parametrize("case", [*CASES, *PAIRS])
def test_onnxruntime_computes_the_layer_at_batch_1_and_5(case, opset, tmp_path):
    *shapes, kind, fields = (CASES | PAIRS)[case]
    graph = single(kind, fields, *shapes)
    if opset is not None and opset < (least := NEEDS.get(case, LOWEST)):
        with pytest.raises(UsageError, match=rf"opset {opset} cannot hold layer \({kind.__name__}\); {least} to {HIGHEST} can"):
            converter.write(graph, tmp_path / "net.onnx", opset=opset)
        return
    checked(graph, tmp_path / "net.onnx", opset=opset)
    for batch in (1, 5):
        assert_same(tmp_path / "net.onnx", graph, batch, positive=case in POSITIVE)


@pytest.mark.parametrize("case", [case for case in (*CASES, *PAIRS) if case not in ("clip below", "clip above")])  # read as maximum and minimum
def test_the_layer_reads_back_as_it_was(case, tmp_path):
    *shapes, kind, fields = (CASES | PAIRS)[case]
    graph = single(kind, fields, *shapes)
    converter.write(graph, tmp_path / "net.onnx")
    assert read_packed(tmp_path / "net.onnx") == graph


READERS = {
    "max pool": pool(MaxPool, (3, 3), (2, 2), (0, 0, 0, 0)),
    "max pool with pads": pool(MaxPool, (3, 3), (2, 2), (1, 1, 1, 1), ceil_mode=True),
    "average pool": pool(AveragePool, (3, 3), (2, 2), (0, 0, 0, 0)),
    "average pool with pads": pool(AveragePool, (3, 3), (2, 2), (1, 1, 1, 1)),
    "average pool counting pads": pool(AveragePool, (3, 3), (2, 2), (1, 1, 1, 1), count_pads=True),
    "conv": conv(4, 3, 3, 3),
    "transposed conv": transposed(3, 4, 3, 3),
}


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("pads", [(0, 0, 1, 1, 0, 0, 1, 1), (0, 0, 4, 0, 0, 0, 3, 5)])
@pytest.mark.parametrize("reader", READERS)
def test_padded_zeros_are_elements_to_what_reads_them(reader, pads, opset, tmp_path):
    """Also through layers that onnxruntime removes; it would hand the pads on to the reader, where they are none."""
    kind, fields = READERS[reader]
    layers = (
        Pad(name="pad", inputs=("x",), outputs=("p",), pads=pads),
        Activation(name="same", inputs=("p",), outputs=("s",), kind="identity"),
        kind(name="reader", inputs=("s",), outputs=("y",), **fields),
    )
    graph = Graph[Packed]((Input("x", ("batch", *IMAGE)),), ("y",), layers)
    checked(graph, tmp_path / "net.onnx", opset=opset)
    negative = {"x": -sample(graph, 2, positive=True)["x"]}
    expected = reference.run(graph, negative)["y"]
    np.testing.assert_allclose(converter.runner(tmp_path / "net.onnx")(negative)["y"], expected, rtol=2e-5, atol=2e-5)
    assert read_packed(tmp_path / "net.onnx") == graph
