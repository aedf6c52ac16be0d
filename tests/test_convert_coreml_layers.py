"""Every layer of the graph as an ML program: coremltools loads the file, and the interpreter computes what the reference does."""

import numpy as np
import pytest
from test_convert_onnx_layers import CASES, IMAGE, PAIRS, POSITIVE, conv, floats, pool, resize, sample, single, transposed

from rsk_deploy import ir, reference
from rsk_deploy.converters import coreml
from rsk_deploy.converters.coreml_layers import TABLE
from rsk_deploy.ir import LRN, Activation, AveragePool, Graph, Input, Layer, LayerNorm, MaxPool, Opaque, Packed, Pad, Pool, PRelu, Softmax, Weighted
from rsk_deploy.mlprogram import operations

MORE = {
    "transposed conv with output pads beyond its pads": ((4, 5, 6), *transposed(4, 3, 3, 3, stride=(2, 3), pads=(1, 1, 0, 1), output_pads=(1, 2))),
    "transposed conv of uneven pads": ((4, 5, 6), *transposed(4, 3, 3, 4, stride=(2, 3), pads=(1, 0, 0, 2), output_pads=(0, 1))),
    "transposed conv without bias beyond its pads": ((4, 5), *transposed(4, 3, 3, stride=(2,), output_pads=(1,))),
    "average pool of pads alone": (IMAGE, *pool(AveragePool, (2, 2), (2, 2), (2, 0, 0, 0))),
    "max pool 3-d": ((3, 4, 5, 6), *pool(MaxPool, (2, 2, 2), (2, 2, 2), (0, 0, 1, 0, 1, 1), ceil_mode=True)),
    "max pool dilated, of pads alone": ((3, 5, 1), *pool(MaxPool, (1, 2), (3, 2), (0, 1, 0, 1), dilation=(2, 2))),
    "max pool dilated, one tap": (IMAGE, *pool(MaxPool, (1, 1), (2, 2), (0, 0, 0, 0), dilation=(2, 2))),
    "pad edge of channels": (IMAGE, Pad, {"pads": (0, 1, 0, 2, 0, 0, 3, 1), "mode": "edge"}),
    "conv 1-d, dilated groups": ((4, 11), *conv(6, 2, 3, groups=2, pads=(2, 1), dilation=(2,), stride=(2,))),
    "layer norm of five axes": ((2, 3, 4, 5), LayerNorm, {"scale": floats(4, 5), "shift": floats(4, 5), "epsilon": 2**-10}),
    "pad edge by more than there is": ((2, 3), Pad, {"pads": (0, 0, 4, 0, 0, 1), "mode": "edge"}),
    "pad of nothing": ((), Pad, {"pads": (0, 0), "mode": "edge"}),
    "pad reflect 3-d": ((2, 3, 4, 5), Pad, {"pads": (0, 0, 1, 2, 1, 0, 0, 2, 0, 1), "mode": "reflect"}),
    "prelu of one slope on vectors": ((6,), PRelu, {"slope": floats(1)}),
    "prelu 1-d": ((6, 5), PRelu, {"slope": floats(6)}),
    "prelu 3-d": ((3, 2, 4, 5), PRelu, {"slope": floats(3)}),
    "prelu of one channel": ((1, 4, 5), PRelu, {"slope": floats(1)}),
    "lrn 1-d": ((6, 5), LRN, {"size": 3, "alpha": 2**-6, "beta": 0.75, "bias": 2.0}),
    "elu with the parameter of celu": (IMAGE, Activation, {"kind": "celu", "alpha": 1.0}),
    "lrn of an even size": ((6, 5, 5), LRN, {"size": 4, "alpha": 2**-6, "beta": 0.75, "bias": 2.0}),
    "lrn on vectors": ((6,), LRN, {"size": 3, "alpha": 2**-6, "beta": 0.75, "bias": 2.0}),
    "resize linear asymmetric": (IMAGE, *resize((14, 18), (2.0, 2.0), "linear", "asymmetric")),
    "resize nearest to the first": ((3, 6, 4), *resize((5, 4), (5 / 6, 1.0), "nearest", "asymmetric", rounding="floor")),
    "clip of nothing": (IMAGE, Activation, {"kind": "clip", "alpha": float("-inf"), "beta": 1e39}),
}
ALL = CASES | PAIRS | MORE


def case_network(case, batch="batch"):
    *shapes, kind, fields = ALL[case]
    graph = single(kind, fields, *shapes)
    return Graph[Packed](tuple(Input(entry.name, (batch, *entry.shape[1:])) for entry in graph.inputs), graph.outputs, graph.layers)


def assert_same(graph, path, batch, tolerance, positive):
    inputs = sample(graph, batch, positive)
    actual, expected = coreml.runner(path)(inputs), reference.run(graph, inputs)
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=tolerance, atol=tolerance * max(1, np.abs(value).max()))


def test_every_layer_but_opaque_is_written_and_tried():
    kinds = {kind for kind in vars(ir).values() if isinstance(kind, type) and issubclass(kind, Layer)} - {Layer, Weighted, Pool, Opaque}
    assert set(TABLE) == kinds
    assert {next(part for part in case if isinstance(part, type)) for case in ALL.values()} | {ir.Constant} == kinds


@pytest.mark.parametrize("target", coreml.TARGETS)
@pytest.mark.parametrize("case", ALL)
def test_the_interpreter_computes_the_layer_at_batch_1_and_5(case, target, tmp_path):
    graph = case_network(case)
    coreml.write(graph, tmp_path / "net.mlpackage", precision="fp32", target=target)
    for batch in (1, 5):
        assert_same(graph, tmp_path / "net.mlpackage", batch, 3e-6, case in POSITIVE)


@pytest.mark.parametrize("case", ALL)
def test_the_layer_in_fp16_is_as_near_as_fp16_is(case, tmp_path):
    graph = case_network(case, batch=2)
    coreml.write(graph, tmp_path / "net.mlpackage")
    assert_same(graph, tmp_path / "net.mlpackage", 2, 4e-3, case in POSITIVE)


@pytest.mark.parametrize("layer", [(Activation, {"kind": "softplus"}), (Activation, {"kind": "mish"}), (Softmax, {"axis": 1, "log": True})])
def test_no_exponential_overflows_in_fp16(layer, tmp_path, monkeypatch):
    """The Neural Engine's softplus is 0 above 10.4."""
    monkeypatch.setitem(operations.OPERATIONS, "softplus", lambda x: np.where(x > 10.4, 0, np.logaddexp(0, x)))
    monkeypatch.setitem(operations.OPERATIONS, "exp", lambda x: np.exp(x).astype(np.float16).astype(np.float32))
    graph = single(*layer, (64,))
    coreml.write(graph, tmp_path / "net.mlpackage")
    inputs = {"x": np.linspace(-6, 600, 64, dtype=np.float16).astype(np.float32)[None]}
    np.testing.assert_allclose(coreml.runner(tmp_path / "net.mlpackage")(inputs)["y"], reference.run(graph, inputs)["y"], rtol=2e-3, atol=2e-3)
