"""Whatever part of the batch the steps take at a time, and however its images lie, the answers are the same."""

import numpy as np
import pytest
from networks import packed
from random_networks import grown
from runtime_cases import inputs_of, sized_conv

from rsk_deploy import reference
from rsk_deploy.ir import Activation, Binary, Concat, Constant, Graph, Input, MaxPool, Reduce, Reshape, Softmax, Transpose
from rsk_deploy.runtime import _native
from rsk_deploy.runtime.plan import planned
from rsk_deploy.runtime.records import encode
from rsk_deploy.runtime.schedule import Way, common_batch, grouped, ways_to_run
from rsk_deploy.runtime.segments import Segment

KERNELS = _native.kernels()


def any_schedule(seed):
    """A scheduler that picks a way for every unit at random, the same as before more often than not."""

    def scheduled(units, shapes, inputs, _kernels, _exact):
        rng, batch = np.random.default_rng(seed), common_batch(shapes, inputs)
        divisors, chosen = [n for n in range(1, batch + 1) if batch % n == 0], []
        for unit in units:
            ways = ways_to_run(unit, shapes, batch, divisors)
            again = chosen and chosen[-1] in ways and rng.random() < 0.7
            chosen.append(chosen[-1] if again else ways[rng.integers(len(ways))])
        whole = Segment(batch)
        return whole, grouped(chosen, whole)

    return scheduled


def run(program, graph, x, threads=1):
    """The outputs of the second run, in memory that one on NaN has left behind."""
    engine = _native.Engine(encode(program), threads)
    outputs = [np.empty(size, np.float32) for size in program.outputs]
    for arrays in ([np.full_like(x[entry.name], np.nan) for entry in graph.inputs], [x[entry.name] for entry in graph.inputs]):
        engine.run(arrays, outputs, timed=False)
    return outputs


def check(graph, batch, seed, kernels=KERNELS):
    program = planned(graph, batch, kernels, schedule=any_schedule(seed))
    x = inputs_of(graph, batch)
    found = run(program, graph, x)
    for array, (name, wanted) in zip(found, reference.run(graph, x).items(), strict=True):
        np.testing.assert_allclose(array, wanted.reshape(-1), rtol=0, atol=1e-5 * max(1.0, np.abs(wanted).max()), err_msg=name)
    return program, found


@pytest.mark.parametrize("seed", [*range(40), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(40, 400))])
def test_any_schedule_of_a_random_network_computes_what_the_reference_does(seed):
    check(grown(seed), (2, 3, 4, 6, 8, 12, 16, 17)[seed % 8], seed)


@pytest.mark.parametrize("name", ["resnet18", "densenet", "googlenet", "unet-transposed", "norms", "odd-convs"])
@pytest.mark.parametrize("batch", [4, 16])
def test_any_schedule_of_a_network_computes_what_the_reference_does(name, batch):
    used = set()
    for seed in range(3):
        program, _ = check(packed(name), batch, seed)
        used |= {step.turns for step in program.steps}
    assert len(used) > 1


@pytest.mark.parametrize("seed", range(6))
def test_any_number_of_threads_gives_the_same_bits(seed):
    graph, batch = packed("resnet18"), (16, 6)[seed % 2]
    program, x = planned(graph, batch, KERNELS, schedule=any_schedule(seed)), inputs_of(graph, batch)
    one, three = (run(program, graph, x, threads) for threads in (1, 3))
    assert all(np.array_equal(a, b) for a, b in zip(one, three, strict=True))


def all_alike(images, wide):
    """A scheduler that runs every unit that permits it in one way."""

    def scheduled(units, shapes, inputs, _kernels, _exact):
        batch = common_batch(shapes, inputs)
        whole, way = Segment(batch), Way(images, wide)
        return whole, grouped([way if way in ways_to_run(unit, shapes, batch, [images]) else Way(batch, wide=False) for unit in units], whole)

    return scheduled


WINDOWS = {
    "stride 2": ((9, 8), {"stride": (2, 2)}),
    "stride 2 over rows": ((8, 7), {"stride": (2, 1)}),
    "stride 3 by 2, uneven pads": ((11, 10), {"stride": (3, 2), "pads": (0, 1, 2, 0)}),
    "stride 2, dilation 2": ((11, 11), {"stride": (2, 2), "dilation": (2, 2)}),
    "dilation 3": ((7, 9), {"dilation": (3, 2), "pads": (3, 2, 3, 2)}),
    "stride 3, windows in the pads alone": ((8, 8), {"stride": (3, 3), "pads": (1, 1, 3, 3)}),
    "no pads": ((6, 6), {"pads": (0, 0, 0, 0)}),
    "uneven pads": ((6, 5), {"pads": (2, 0, 0, 1)}),
}


@pytest.mark.parametrize("kernel", [name for name in KERNELS if not name.endswith("winograd")])
@pytest.mark.parametrize("window", WINDOWS)
def test_convolutions_of_images_side_by_side_are_right_on_every_kernel(kernel, window):
    size, fields = WINDOWS[window]
    layers = (
        sized_conv("one", "x", "a", 20, 7, 3, 1, **fields),
        sized_conv("two", "a", "b", 20, 20, 3, 2),
        Binary(name="add", inputs=("b", "a"), outputs=("c",), kind="add"),
        sized_conv("three", "c", "d", 6, 20, 1, 3, stride=(2, 2)),
        Activation(name="relu", inputs=("d",), outputs=("y",), kind="relu"),
    )
    graph = Graph((Input("x", ("batch", 7, *size)),), ("y",), layers)
    strided = max(fields.get("stride", (1, 1))) > 1
    for batch in (5, 16, 32):
        x = inputs_of(graph, batch)
        wanted = reference.run(graph, x)["y"]
        program = planned(graph, batch, [kernel], schedule=all_alike(batch, wide=True))
        np.testing.assert_allclose(run(program, graph, x)[0], wanted.reshape(-1), rtol=0, atol=1e-5 * np.abs(wanted).max())
        convs = [step for step in program.steps if step.op == "conv"]
        assert all(step.inputs[0].shape[0] == 1 for step in convs), "the batch is one image"
        assert not strided or (convs[0].inputs[0].shape[2:] == (*size, batch)), "the images are the last axis"


def test_a_strided_convolution_of_sixteen_images_side_by_side_copies_no_input():
    graph = Graph(
        (Input("x", ("batch", 64, 16, 16)),), ("y",), (sized_conv("one", "x", "a", 64, 64, 3, 1), sized_conv("two", "a", "y", 64, 64, 3, 2, stride=(2, 2)))
    )
    program = planned(graph, 16, KERNELS, schedule=all_alike(16, wide=True))
    [two] = [step for step in program.steps if step.layers == ("two",) and step.op == "conv"]
    assert "the input's own planes" in two.reason
    check(graph, 16, 0)


def test_values_that_only_a_turn_knows_take_the_room_of_a_turn():
    layers = tuple(sized_conv(f"c{index}", f"v{index}", f"v{index + 1}", 8, 8, 3, index) for index in range(4))
    graph = Graph((Input("v0", ("batch", 8, 20, 20)),), ("v4",), layers)
    one, all_at_once, by_turns = (
        planned(graph, batch, KERNELS, schedule=all_alike(images, wide=False)).arena_floats for batch, images in ((1, 1), (12, 12), (12, 1))
    )
    assert by_turns <= one + 1.3 * 12 * 8 * 20 * 20  # the last value is whole, in planes, and copied to the output
    assert all_at_once >= 10 * one - 12 * 8 * 20 * 20


def test_layers_that_mix_images_run_whole():
    shape = (4, 4, 4, 4)
    mixing = (
        Reduce(name="mean", inputs=("a",), outputs=("b",), kind="mean", axes=(0,), keep_axes=True),
        Transpose(name="turn", inputs=("a",), outputs=("b",), perm=(1, 0, 2, 3)),
        Softmax(name="soft", inputs=("a",), outputs=("b",), axis=0),
        Concat(name="join", inputs=("a", "a"), outputs=("b",), axis=0),
        Reshape(name="shape", inputs=("a",), outputs=("b",), target=shape),
    )
    for layer in mixing:
        graph = Graph((Input("x", shape),), ("y",), (sized_conv("one", "x", "a", 4, 4, 3, 1), layer, sized_conv("two", "b", "y", 4, 4, 3, 2)))
        program, _ = check(graph, 1, 0)
        program = planned(graph, 1, KERNELS, schedule=all_alike(1, wide=False))
        assert {step.turns for step in program.steps if layer.name in step.layers} <= {1}
        x = inputs_of(graph, 1)
        wanted = reference.run(graph, x)["y"]
        np.testing.assert_allclose(run(program, graph, x)[0], wanted.reshape(-1), rtol=0, atol=1e-5 * np.abs(wanted).max(), err_msg=layer.name)


@pytest.mark.parametrize("shape", [(4, 3, 3), (4, 1, 1), (4, 3)])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(("images", "wide"), [(1, False), (2, False), (2, True), (4, True)])
def test_a_broadcast_value_whose_first_axis_is_as_long_as_the_batch_has_no_images(shape, first, images, wide):
    constant = Constant(name="k", inputs=(), outputs=("k",), values=np.arange(np.prod(shape), dtype=np.float32).reshape(shape))
    layers = (
        constant,
        sized_conv("one", "x", "a", 4, 4, 3, 1),
        Binary(name="sub", inputs=("a", "k") if first else ("k", "a"), outputs=("b",), kind="sub"),
        sized_conv("two", "b", "y", 4, 4, 3, 2),
    )
    graph = Graph((Input("x", ("batch", 4, 4 if len(shape) == 2 else 3, 3)),), ("y",), layers)
    x = inputs_of(graph, 4)
    program, wanted = planned(graph, 4, KERNELS, schedule=all_alike(images, wide)), reference.run(graph, x)["y"]
    np.testing.assert_allclose(run(program, graph, x)[0], wanted.reshape(-1), rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_the_model_runs_large_maps_by_turns_and_small_ones_side_by_side():
    layers = (
        *(sized_conv(f"large{index}", "x" if index == 0 else f"a{index - 1}", f"a{index}", 64, 64 if index else 3, 3, index) for index in range(4)),
        MaxPool(name="pool", inputs=("a3",), outputs=("b0",), kernel=(4, 4), stride=(4, 4), pads=(0,) * 4, dilation=(1, 1)),
        *(sized_conv(f"small{index}", f"b{index}", f"b{index + 1}", 256, 256 if index else 64, 3, 9 + index) for index in range(4)),
    )
    graph = Graph((Input("x", ("batch", 3, 32, 32)),), ("b4",), layers)
    kernels = [name for name in KERNELS if not name.endswith("winograd")]
    of = {step.layers: step for step in planned(graph, 16, kernels).steps if step.op == "conv"}
    assert of["large2",].turns == 16
    assert (of["small2",].turns, of["small2",].inputs[0].shape[-1]) == (1, 8 * 16)
    assert all(step.turns == 1 for step in planned(graph, 1, kernels).steps)
