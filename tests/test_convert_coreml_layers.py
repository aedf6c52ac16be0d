"""Every layer of the graph as an ML program: coremltools loads the file, and the interpreter computes what the reference does."""

import numpy as np
import pytest
from test_convert_onnx_layers import CASES, IMAGE, PAIRS, POSITIVE, floats, pool, resize, sample, single, transposed

from rsk_deploy import ir, reference
from rsk_deploy.converters import coreml
from rsk_deploy.converters.coreml_layers import TABLE
from rsk_deploy.ir import LRN, Activation, AveragePool, Graph, Input, Layer, MaxPool, Opaque, Packed, Pad, Pool, PRelu, Weighted

MORE = {
    "transposed conv with output pads beyond its pads": ((4, 5, 6), *transposed(4, 3, 3, 3, stride=(2, 3), pads=(1, 1, 0, 1), output_pads=(1, 2))),
    "transposed conv without bias beyond its pads": ((4, 5), *transposed(4, 3, 3, stride=(2,), output_pads=(1,))),
    "average pool of pads alone": (IMAGE, *pool(AveragePool, (2, 2), (2, 2), (2, 0, 0, 0))),
    "max pool 3-d": ((3, 4, 5, 6), *pool(MaxPool, (2, 2, 2), (2, 2, 2), (0, 0, 1, 0, 1, 1), ceil_mode=True)),
    "max pool dilated, one tap": (IMAGE, *pool(MaxPool, (1, 1), (2, 2), (0, 0, 0, 0), dilation=(2, 2))),
    "pad edge of channels": (IMAGE, Pad, {"pads": (0, 1, 0, 2, 0, 0, 3, 1), "mode": "edge"}),
    "pad reflect 3-d": ((2, 3, 4, 5), Pad, {"pads": (0, 0, 1, 2, 1, 0, 0, 2, 0, 1), "mode": "reflect"}),
    "prelu of one slope on vectors": ((6,), PRelu, {"slope": floats(1)}),
    "lrn of an even size": ((6, 5, 5), LRN, {"size": 4, "alpha": 2**-6, "beta": 0.75, "bias": 2.0}),
    "lrn on vectors": ((6,), LRN, {"size": 3, "alpha": 2**-6, "beta": 0.75, "bias": 2.0}),
    "resize linear asymmetric": (IMAGE, *resize((14, 18), (2.0, 2.0), "linear", "asymmetric")),
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
