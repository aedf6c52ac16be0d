"""Transpositions of more than five axes, between reshapes, are written with fewer; others are refused."""

import numpy as np
import pytest
from test_convert_coreml_spec import assert_core_ml_can_run, read_back, spec
from test_verify import source

from rsk_deploy.comparing import seeded_inputs
from rsk_deploy.converters import coreml
from rsk_deploy.converters.coreml_axes import MOST_AXES, together, with_fewer_axes
from rsk_deploy.errors import UnsupportedError
from rsk_deploy.ir import Activation, Graph, Input, Packed, Reshape, Transpose
from rsk_deploy.verify import Written, verify_file


def moved(shape, apart, perm, target, *more, outputs=("y",)):
    layers = (
        Reshape(name="apart", inputs=("x",), outputs=("a",), target=apart),
        Transpose(name="move", inputs=("a",), outputs=("b",), perm=perm),
        Reshape(name="join", inputs=("b",), outputs=("y",), target=target),
    )
    return Graph[Packed]((Input("x", shape),), outputs, (*layers, *more))


NETWORKS = {
    "pixel shuffle": moved((1, 8, 3, 5), (1, 2, 2, 2, 3, 5), (0, 1, 4, 2, 5, 3), (1, 2, 6, 10)),
    "pixel shuffle of an open batch": moved(("batch", 8, 3, 5), (-1, 2, 2, 2, 3, 5), (0, 1, 4, 2, 5, 3), (-1, 2, 6, 10)),
    "pixel unshuffle": moved((2, 2, 6, 10), (2, 2, 3, 2, 5, 2), (0, 1, 3, 5, 2, 4), (2, 8, 3, 5)),
    "windows of an open batch": moved(("batch", 6, 6, 4), (-1, 2, 3, 2, 3, 4), (0, 1, 3, 2, 4, 5), (-1, 9, 4)),
    "an open batch that moves": moved(("batch", 6, 4), (-1, 2, 3, 2, 2, 1), (1, 0, 2, 3, 5, 4), (-1, 2)),
    "seven axes": moved((1, 6, 4), (1, 2, 3, 1, 2, 2, 1), (6, 2, 1, 0, 4, 5, 3), (6, 4)),
    "nothing moves": moved((1, 8, 6), (1, 2, 2, 2, 2, 3), (0, 1, 2, 3, 4, 5), (8, 6)),
    "two, one after the other": moved(
        (1, 8, 6),
        (1, 2, 2, 2, 2, 3),
        (0, 2, 1, 3, 4, 5),
        (2, 2, 2, 1, 3, 2),
        Transpose(name="again", inputs=("y",), outputs=("c",), perm=(0, 4, 1, 2, 3, 5)),
        Reshape(name="end", inputs=("c",), outputs=("z",), target=(6, 8)),
        outputs=("z",),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_transposition_of_many_axes_is_written_and_proven(name, tmp_path):
    graph, path = NETWORKS[name], tmp_path / "net.mlpackage"
    assert all(len(shape) <= MOST_AXES for shape in with_fewer_axes(graph).shapes().values())
    verify_file(Written(path, coreml, graph, coreml.write(graph, path)), source(graph))
    assert_core_ml_can_run(read_back(path), spec(path).description)
    for batch in (1, 3) if graph.dynamic else (1,):
        inputs = seeded_inputs(graph, batch=batch)
        np.testing.assert_array_equal(coreml.runner(path)(inputs)[graph.outputs[0]], source(graph).run({"x": np.float16(inputs["x"])})[graph.outputs[0]])


@pytest.mark.parametrize("rank", [6, 7])
def test_axes_that_stay_together_are_one(rank):
    rng = np.random.default_rng(rank)
    for _ in range(50):
        shape, perm = tuple(rng.integers(1, 4, rank).tolist()), tuple(rng.permutation(rank).tolist())
        groups = together(perm, shape)
        x = np.arange(np.prod(shape))
        order = sorted(range(len(groups)), key=lambda index: perm.index(groups[index][0]))
        merged = x.reshape([int(np.prod([shape[axis] for axis in group])) for group in groups]).transpose(order)
        np.testing.assert_array_equal(merged.reshape(-1), x.reshape(shape).transpose(perm).reshape(-1))


@pytest.mark.parametrize(
    "graph",
    [
        moved((1, 8, 3, 5), (1, 2, 2, 2, 3, 5), (0, 1, 4, 2, 5, 3), (1, 2, 6, 10), outputs=("y", "b")),
        moved((1, 8, 3, 5), (1, 2, 2, 2, 3, 5), (0, 1, 4, 2, 5, 3), (1, 2, 6, 10), Activation(name="r", inputs=("a",), outputs=("z",), kind="relu")),
        moved((2, 8, 9, 5), (2, 2, 4, 3, 3, 5), (5, 4, 3, 2, 1, 0), (720,)),
    ],
)
def test_a_value_of_many_axes_that_is_read_otherwise_is_refused(graph, tmp_path):
    with pytest.raises(UnsupportedError, match=r"the value a has 6 axes, .*; Core ML has at most 5"):
        coreml.write(graph, tmp_path / "net.mlpackage")
