"""Buffers share memory only when nobody can notice."""

from itertools import combinations

import numpy as np
import pytest
from networks import packed
from runtime_cases import inputs_of, sized_conv
from test_convert_onnx_layers import floats

from rsk_deploy import reference
from rsk_deploy.ir import ACTIVATIONS, Activation, Affine, Binary, Graph, Input, Softmax
from rsk_deploy.runtime import _native
from rsk_deploy.runtime.plan import planned
from rsk_deploy.runtime.session import Session

NETWORKS = ["resnet18", "densenet", "googlenet", "unet-transposed", "norms"]


def program_of(graph, batch=2):
    return planned(graph, batch, _native.kernels())


def arena_buffers(program):
    views = [view for step in program.steps for view in (*step.inputs, step.output) if view is not None]
    return list({id(view.buffer): view.buffer for view in views if view.buffer.space == "arena"}.values())


@pytest.mark.parametrize("name", NETWORKS)
def test_buffers_that_live_at_once_do_not_overlap(name):
    program = program_of(packed(name))
    buffers = arena_buffers(program)
    assert all(0 <= buffer.start <= program.arena_floats - buffer.floats for buffer in buffers)
    for a, b in combinations(buffers, 2):
        together = a.born <= b.dies and b.born <= a.dies
        apart = a.start + a.floats <= b.start or b.start + b.floats <= a.start
        assert apart or not together or a.root is b.root


@pytest.mark.parametrize("name", NETWORKS)
def test_what_one_run_leaves_behind_does_not_reach_the_next(name):
    graph = packed(name)
    x, huge = inputs_of(graph, 2), {entry.name: np.full(entry.at(2), np.nan, np.float32) for entry in graph.inputs}
    with Session(graph, threads=1) as fresh, Session(graph, threads=1) as used:
        used.run(huge)
        wanted, found = fresh.run(x), used.run(x)
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


def test_a_chain_of_layers_takes_the_room_of_two_values():
    layers = [sized_conv(f"c{index}", f"v{index}", f"v{index + 1}", 8, 8, 3, index) for index in range(8)]
    program = program_of(Graph((Input("v0", (1, 8, 20, 20)),), ("v8",), tuple(layers)))
    values = sorted(buffer.floats for buffer in arena_buffers(program))
    assert program.arena_floats <= 1.1 * sum(values[-2:])


def test_what_nobody_reads_again_is_overwritten_in_place():
    layers = (
        sized_conv("one", "x", "a", 4, 4, 3, 1),
        sized_conv("two", "x", "b", 4, 4, 3, 2),
        Binary(name="add", inputs=("a", "b"), outputs=("c",), kind="add"),
        sized_conv("three", "c", "d", 4, 4, 3, 3),
        Activation(name="act", inputs=("d",), outputs=("e",), kind="tanh"),
        Activation(name="again", inputs=("e",), outputs=("f",), kind="exp"),
        Softmax(name="soft", inputs=("f",), outputs=("y",), axis=1),
    )
    program = program_of(Graph((Input("x", (1, 4, 20, 20)),), ("y",), layers))
    of = {step.layers: step.output.buffer for step in program.steps}
    assert of["two", "add"].over is of["one",]
    assert of["again",].over is of["act",]


def test_an_input_that_a_convolution_slides_over_is_not_overwritten():
    layers = (
        sized_conv("one", "x", "a", 4, 4, 3, 1),
        sized_conv("two", "a", "b", 4, 4, 3, 2),
        Binary(name="add", inputs=("a", "b"), outputs=("c",), kind="add"),
        sized_conv("three", "c", "y", 4, 4, 3, 3),
    )
    same = (layers[0], sized_conv("two", "a", "b", 4, 4, 3, 2), Binary(name="add", inputs=("b", "a"), outputs=("c",), kind="add"), layers[3])
    for chain in (layers, same):
        program = program_of(Graph((Input("x", (1, 4, 20, 20)),), ("y",), chain))
        assert all(step.output.buffer.over is None for step in program.steps)


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_a_batch_norm_that_could_not_be_folded_ends_with_its_activation(kind):
    x = np.abs(floats(2, 5, 6, 7)) + np.float32(0.1)
    layers = (
        Affine(name="norm", inputs=("x",), outputs=("a",), scale=np.abs(floats(5)), shift=np.abs(floats(5))),
        Activation(name="act", inputs=("a",), outputs=("y",), kind=kind, alpha=0.3, beta=0.7),
    )
    graph = Graph((Input("x", x.shape),), ("y",), layers)
    with Session(graph, threads=1) as session:
        np.testing.assert_allclose(session(x), reference.run(graph, {"x": x})["y"], rtol=3e-6, atol=3e-6)
        assert [step.layers for step in session.profile(x)] == [("norm", "act")]
