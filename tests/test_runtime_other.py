"""What is no convolution computes what the reference does, at every size."""

import numpy as np
import pytest
from test_convert_onnx_layers import dense, floats, pool, single

from rsk_deploy import reference
from rsk_deploy.ir import Activation, AveragePool, Graph, Input, Linear, MaxPool
from rsk_deploy.runtime.session import Session


def through(*layers):
    """Layers one after the other."""
    names = ["x", *(f"value{number}" for number in range(1, len(layers))), "y"]
    return [kind(name=f"layer{number}", inputs=(names[number],), outputs=(names[number + 1],), **fields) for number, (kind, fields) in enumerate(layers)]


@pytest.mark.parametrize("kind", [MaxPool, AveragePool])
@pytest.mark.parametrize(("kernel", "pads"), [((2, 2), (0, 0, 0, 0)), ((3, 3), (1, 1, 1, 1)), ((3, 2), (2, 0, 1, 1)), ((1, 3), (0, 2, 0, 2))])
def test_pools_of_every_width_are_those_of_the_reference(kind, kernel, pads):
    for width in range(2, 75):
        fields = pool(kind, kernel, (2, 2), pads)[1]
        graph = single(kind, fields, (3, 5, width))
        x = floats(2, 3, 5, width)
        x[0, 0, 2, width // 2] = np.nan
        with Session(graph, threads=1) as session:
            np.testing.assert_allclose(session(x), reference.run(graph, {"x": x})["y"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", [MaxPool, AveragePool])
def test_a_pool_of_single_elements_takes_no_step(kind):
    last = Linear, {"weight": dense(4, 6), "bias": None}
    fields = pool(kind, (1, 1), (1, 1), (0, 0, 0, 0))[1]
    x = floats(1, 2, 3, 6)
    for layers in ([(kind, fields), last], [(kind, fields)], [last, (kind, fields)]):
        graph = Graph((Input("x", x.shape),), ("y",), tuple(through(*layers)))
        with Session(graph, threads=1) as session:
            assert "pool" not in [step.operation for step in session.profile(x)]
            np.testing.assert_allclose(session(x), reference.run(graph, {"x": x})["y"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("outputs", "inputs"), [(1027, 4101), *((outputs, inputs) for outputs in (1, 3, 6) for inputs in range(1, 140, 3))])
def test_a_dense_linear_layer_has_the_same_bits_on_any_number_of_threads(outputs, inputs):
    weight = dense(outputs, inputs)
    layers = through((Linear, {"weight": weight, "bias": floats(outputs)}), (Activation, {"kind": "relu"}))
    x = floats(1, inputs)
    graph = Graph((Input("x", x.shape),), ("y",), tuple(layers))
    with Session(graph, threads=1) as one, Session(graph, threads=3) as three:
        y = one(x)
        np.testing.assert_array_equal(y, three(x))
    bound = np.abs(weight.arrays["values"].reshape(outputs, inputs)) @ np.abs(x[0]) + 4
    assert (np.abs(y[0] - reference.run(graph, {"x": x})["y"][0]) <= 4 * 2.0**-23 * bound).all()
