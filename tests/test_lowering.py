"""Lowering structured masks to dense convolutions: exact on any layer, and told when it is not done."""

from itertools import combinations
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsk_deploy import masks, reference, rewrite
from rsk_deploy.errors import UsageError
from rsk_deploy.ir import Activation, Conv, Dense, Graph, Input, Opaque, Slice
from rsk_deploy.masks.periodic import published_taps
from rsk_deploy.masks.rectangles import covered, rectangles
from rsk_deploy.registry import mask_named
from rsk_deploy.rewrite.build import Arrange, built
from rsk_deploy.rewrite.terms import matchings

MASKS = {
    "cross": ("one-pattern", {"taps": "cross"}),
    "corners by (output + input) mod 4": ("periodic", {"taps": published_taps(4, 8)[:4]}),
    "published, period 8": ("periodic", {"taps": published_taps(4, 8)}),
    "published pairs, period 16": ("periodic", {"taps": published_taps(2, 16)}),
    "input-class": ("input-class", {}),
    "lowerable": ("lowerable", {}),
    "lowerable, 4 classes of outputs": ("lowerable", {"mixing": 4}),
    "lowerable, 1 tap": ("lowerable", {"taps_per_kernel": 1, "classes": 16, "mixing": 4}),
    "lowerable, 2 taps": ("lowerable", {"taps_per_kernel": 2, "classes": 8}),
    "lowerable, 3 taps": ("lowerable", {"taps_per_kernel": 3, "mixing": 1}),
    "lowerable, 6 taps": ("lowerable", {"taps_per_kernel": 6, "classes": 2, "mixing": 2}),
    "dilated rectangles": ("input-class", {"classes": 3}),
    "outer corners and centre": ("one-pattern", {"taps": [0, 2, 4, 6, 8]}),
    "random sets by (output + input) mod 4": ("periodic", {"period": 4, "taps_per_kernel": 4}),
}
SHAPE = (64, 48, 3, 3)


def support(mask, shape=SHAPE):
    family, params = MASKS[mask]
    return mask_named(family).generate(shape, **params).support


def conv(name, values, source, **window):
    rank = values.ndim - 2
    default = {"stride": (1,) * rank, "pads": (values.shape[2] // 2,) * 2 * rank, "dilation": (1,) * rank}
    return Conv(name=name, inputs=(source,), outputs=(f"{name}.y",), weight=Dense(values), bias=values.reshape(len(values), -1)[:, 0] + 1, **default | window)


def sandwich(kept, size=(9, 7), seed=0, exceptions=(), **window):
    """A masked convolution between two of 1x1, so that its channels can be put into another order."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.uniform(0.5, 1, shape).astype(np.float32)
    values = np.where(kept, draw(*kept.shape), np.float32(0))
    for place in exceptions:
        values[place] = 1
    ones = (1,) * (kept.ndim - 2)
    first, middle = conv("first", draw(kept.shape[1], 3, *ones), "x", pads=(0, 0) * len(ones)), conv("middle", values, "first.y", **window)
    last = conv("last", draw(5, kept.shape[0], *ones), "relu", pads=(0, 0) * len(ones))
    relu = Activation(name="relu", inputs=("middle.y",), outputs=("relu",), kind="relu")
    return Graph((Input("x", (1, 3, *size)),), ("last.y",), (first, middle, relu, last))


def difference(graph, lowered, seed=1):
    """Largest difference of the outputs, computed in float64, relative to the largest value."""
    rng = np.random.default_rng(seed)
    inputs = {entry.name: rng.standard_normal(entry.at(2)) for entry in graph.inputs}
    before, after = (reference.run(each, inputs, dtype=np.float64) for each in (graph, lowered))
    return max(np.abs(before[name] - after[name]).max() / np.abs(before[name]).max() for name in graph.outputs)


def parts(lowered):
    return [layer for layer in lowered.layers if isinstance(layer, Conv) and layer.name.startswith("middle")]


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(
    "window",
    [{}, {"stride": (2, 2)}, {"stride": (2, 1), "pads": (0, 2, 1, 0)}, {"pads": (0,) * 4}, {"dilation": (2, 2), "pads": (2, 2, 2, 2)}],
    ids=["plain", "strided", "lopsided", "unpadded", "dilated"],
)
def test_a_lowered_layer_computes_the_same(mask, window):
    graph = sandwich(support(mask), **window)
    lowered = rewrite.lower(graph, "onnxruntime", "always")
    assert lowered.log[-1].action == "lowered"
    assert len(parts(lowered)) > 1
    assert difference(graph, lowered) < 1e-14


@pytest.mark.parametrize("mask", MASKS)
def test_every_nonzero_weight_is_in_one_convolution_bit_for_bit(mask):
    graph = sandwich(support(mask))
    lowered = rewrite.lower(graph, "onnxruntime", "always")
    expected = np.sort(graph.layers[1].weight.values[support(mask)])
    found = np.sort(np.concatenate([part.weight.values.ravel() for part in parts(lowered)]))
    assert found.tobytes() == expected.tobytes()  # and none multiplies a zero


@pytest.mark.parametrize("arrange", Arrange)
@pytest.mark.parametrize("mask", ["lowerable", "lowerable, 4 classes of outputs", "published, period 8"])
def test_either_side_can_be_put_into_another_order(mask, arrange):
    graph = sandwich(support(mask))
    middle = graph.layers[1]
    found = rewrite.candidate(middle)
    layers = built(middle, (1, 48, 9, 7), found.blocks, found.terms, arrange, None)
    if layers is None:  # residues are 48 runs before channels are sorted
        order = np.argsort(found.blocks.inputs, kind="stable"), np.argsort(found.blocks.outputs, kind="stable")
        values = middle.weight.values[order[1]][:, order[0]]
        middle = conv("middle", values, "first.y")
        found = rewrite.candidate(middle)
        layers = built(middle, (1, 48, 9, 7), found.blocks, found.terms, arrange, None)
        graph = Graph(graph.inputs, graph.outputs, (graph.layers[0], middle, *graph.layers[2:]))
    assert difference(graph, Graph(graph.inputs, graph.outputs, (graph.layers[0], *layers, *graph.layers[2:]))) < 1e-14


@pytest.mark.parametrize(
    ("shape", "size"), [((32, 16, 5), (11,)), ((16, 24, 2, 3, 3), (4, 5, 6)), ((16, 16, 5, 5), (9, 9)), ((16, 16, 1, 7), (3, 12))], ids=str
)
@pytest.mark.parametrize("family", ["input-class", "lowerable"])
def test_kernels_of_any_rank_and_size(family, shape, size):
    mask = mask_named(family).generate(shape, classes=8, taps_per_kernel={5: 2, 18: 6, 25: 9, 7: 2}[prod(shape[2:])])
    graph = sandwich(mask.support, size)
    lowered = rewrite.lower(graph, "onnxruntime", "always")
    assert lowered.log[-1].action == "lowered"
    assert difference(graph, lowered) < 1e-14


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (2, 1)], ids=str)
@pytest.mark.parametrize("mask", ["lowerable, 1 tap", "lowerable, 2 taps", "cross"])
def test_taps_that_only_ever_meet_pads_are_left_out(mask, size):
    graph = sandwich(support(mask), size)
    lowered = rewrite.lower(graph, "onnxruntime", "always")
    assert difference(graph, lowered) < 1e-14


@settings(deadline=None, max_examples=40)
@given(
    classes=st.integers(2, 6),
    shares=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    kept=st.sampled_from([1, 2, 3, 4, 6]),
    seed=st.integers(0, 10**6),
)
def test_any_table_of_rectangles_is_lowered_exactly_or_not_at_all(classes, shares, kept, seed):
    rng = np.random.default_rng(seed)
    sets = [taps for taps in rectangles((3, 3)).values() if len(taps) == kept]
    table = np.zeros((classes, classes, 9), bool)
    for a, b in np.ndindex(classes, classes):
        table[a, b, list(sets[rng.integers(len(sets))])] = rng.random() < 0.9
    outputs, inputs = (rng.permutation(np.arange(share * classes * 2) % classes) for share in shares)
    graph = sandwich(table[outputs[:, None], inputs].reshape(len(outputs), len(inputs), 3, 3), seed=seed)
    assert difference(graph, rewrite.lower(graph, "onnxruntime", "always")) < 1e-13


def test_a_part_never_takes_the_name_of_another_layer():
    graph = sandwich(support("lowerable"))
    first, middle, relu, last = graph.layers
    namesake = conv("middle.part2", last.weight.values, "relu", pads=(0,) * 4)
    lowered = rewrite.lower(Graph(graph.inputs, ("middle.part2.y",), (first, middle, relu, namesake)), "onnxruntime", "always")
    assert lowered.log[0].detail == "one of its parts would be called 'middle.part2', as another layer or value is"


def test_lowering_again_changes_nothing():
    lowered = rewrite.lower(sandwich(support("lowerable")), "onnxruntime", "always")
    assert rewrite.lower(lowered, "onnxruntime", "always") is lowered


def test_none_leaves_the_network():
    graph = sandwich(support("lowerable"))
    assert rewrite.lower(graph, "onnxruntime", "none") is graph


@pytest.mark.parametrize("count", range(1, 10))
def test_rectangles_cover_a_tap_set_exactly_and_disjointly(count):
    for taps in combinations(range(9), count):
        found = covered(taps, (3, 3))
        if found is None:
            assert count in (4, 5, 6)
            continue
        places = [place for rectangle in found for place in rectangle.taps((3, 3))]
        assert sorted(places) == list(taps)


def test_the_cross_is_two_rectangles_and_the_outer_corners_one():
    assert len(covered((1, 3, 4, 5, 7), (3, 3))) == 2
    (corners,) = covered((0, 2, 6, 8), (3, 3))
    assert str(corners) == "2x2 dilated 2x2"


def test_a_regular_relation_splits_into_perfect_matchings():
    relation = np.array([[1, 1, 0, 0], [0, 1, 1, 0], [1, 0, 0, 1], [0, 0, 1, 1]], bool)
    found = matchings(relation)
    assert len(found) == 2
    assert all(sorted(partner) == [0, 1, 2, 3] for partner in found)
    assert sorted((row, column) for partner in found for row, column in enumerate(partner)) == [tuple(pair) for pair in np.argwhere(relation)]


REFUSED = [
    (
        sandwich(support("lowerable"), exceptions=[(7, 5, 0, 0)]),
        "it has taps by output and input mod 4 but for 1 of 12289 nonzero weights, the first at (7, 5, 0, 0): 1",
    ),
    (
        sandwich(support("cross"), exceptions=[(3, 2, 0, 0), (9, 9, 2, 2)]),
        "it has the same taps in all kernels but for 2 of 15362 nonzero weights, the first at (3, 2, 0, 0): 1",
    ),
    (sandwich(support("lowerable, 4 classes of outputs", (60, 46, 3, 3))), "its 4 classes do not divide the 46 input channels"),
]


@pytest.mark.parametrize(("graph", "why"), REFUSED, ids=["exception", "exceptions", "indivisible"])
@pytest.mark.parametrize("how", ["auto", "always"])
def test_what_stops_a_structured_layer_is_told(graph, why, how):
    lowered = rewrite.lower(graph, "onnxruntime", how)
    (entry,) = lowered.log
    assert (entry.layer, entry.action) == ("middle", "not lowered")
    assert entry.detail.startswith(why)
    assert lowered.layers == graph.layers


def test_a_random_mask_needs_no_word():
    graph = sandwich(mask_named("regular").generate(SHAPE).support)
    assert rewrite.lower(graph, "onnxruntime", "always") is graph


def test_auto_leaves_what_would_take_longer_and_says_so():
    lowered = rewrite.lower(sandwich(support("published, period 8", (64, 64, 3, 3)), (32, 32)), "onnxruntime")
    assert lowered.log[0].detail.startswith("the sum of 5 convolutions is estimated to take 1.")


def test_classes_of_unequal_sizes_are_no_obstacle_where_outputs_agree():
    graph = sandwich(support("input-class", (30, 46, 3, 3)))
    lowered = rewrite.lower(graph, "onnxruntime", "always")
    assert lowered.log[-1].detail.startswith("4 x 2x2:")
    assert difference(graph, lowered) < 1e-14


@pytest.mark.parametrize(("target", "lowered"), [("onnx", True), ("onnxruntime", True), ("openvino", True), ("ncnn", False), ("session", False), ("c", False)])
def test_the_costs_of_the_runtime_decide(target, lowered):
    """Winograd's convolution is the faster one on large maps of few channels, and kernels for nonzeros need no lowering."""
    graph = sandwich(support("lowerable", (64, 64, 3, 3)), (56, 56))
    assert (rewrite.lower(graph, target).log[0].action == "lowered") is lowered


def test_an_order_that_is_held_leaves_block_splits_or_the_layer():
    """The network's own input and output keep their order: sixteen residues are too many runs, sorted blocks are not."""
    kept = support("input-class", (64, 64, 3, 3))
    stuck = Graph((Input("x", (1, 64, 8, 8)),), ("alone.y",), (conv("alone", np.where(kept, np.float32(1), 0), "x"),))
    lowered = rewrite.lower(stuck, "onnxruntime", "always")
    assert lowered.log[0].detail == "its classes of channels are too many separate runs: the network's input x keeps its order"
    blocks = kept[:, np.argsort(np.arange(64) % 4, kind="stable")]
    free = Graph((Input("x", (1, 64, 8, 8)),), ("alone.y",), (conv("alone", np.where(blocks, np.float32(1), 0), "x"),))
    lowered = rewrite.lower(free, "onnxruntime", "always")
    assert sum(isinstance(layer, Slice) for layer in lowered.layers) == 4
    assert difference(free, lowered) < 1e-14


def test_an_opaque_node_holds_the_order_of_its_channels():
    graph = sandwich(support("lowerable", (64, 64, 3, 3)))
    first, middle, relu, last = graph.layers
    opaque = Opaque(
        name="mystery",
        inputs=("first.y",),
        outputs=("mystery.y",),
        op="Mystery",
        node=b"",
        domain="",
        opset=17,
        output_shapes=((1, 64, 9, 7),),
        output_dtypes=("float32",),
    )
    middle = conv("middle", middle.weight.values, "mystery.y")
    lowered = rewrite.lower(Graph(graph.inputs, graph.outputs, (first, opaque, middle, relu, last)), "onnxruntime", "always")
    assert lowered.log[0].detail == "its classes of channels are too many separate runs: nothing is known of the order of mystery.y"
    branch = conv("side", np.ones((4, 64, 1, 1), np.float32), "mystery.y", pads=(0,) * 4)
    both = Graph(graph.inputs, ("last.y", "side.y"), (first, opaque, graph.layers[1], relu, last, branch))
    assert "mystery (Mystery) depends on the order of its channels" in rewrite.lower(both, "onnxruntime", "always").log[0].detail


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda graph: rewrite.lower(graph, "rsk"), "unknown runtime to lower for 'rsk'; known are onnx, onnxruntime, openvino, ncnn, coreml, litert, c"),
        (lambda graph: rewrite.lower(graph, "ncnn", "maybe"), "unknown way to lower 'maybe'; known are auto, none, always"),
        (lambda graph: rewrite.lower_for(graph, "onnx", "alway"), "unknown way to lower 'alway'; known are auto, none, always, onnx, onnxruntime, openvino"),
    ],
)
def test_unknown_words_are_refused_with_the_known_ones(call, message):
    with pytest.raises(UsageError) as error:
        call(sandwich(support("cross")))
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("target", ["onnx", "onnxruntime", "openvino", "ncnn"])
def test_advice_ranks_what_can_be_lowered_first(target):
    advice = masks.advise(target, 5 / 9, channels=256, size=14)
    assert [entry.family for entry in advice[:2]] == ["input-class", "lowerable"]
    assert advice[0].faster > 1.3
    assert all(advice[0].faster > entry.faster for entry in advice[2:])
    assert {entry.faster for entry in advice if entry.family in ("regular", "lfsr", "unstructured")} == {1.0}
    assert "becomes ordinary convolutions" in advice[0].why
    assert f"{target} executes it as dense" in advice[-1].why


def test_advice_for_our_own_kernels_counts_nonzeros():
    advice = masks.advise("session", 5 / 9)
    assert advice[0].family == "periodic"
    assert min(entry.faster for entry in advice) > 1.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tensorrt", 0.5), "unknown runtime to choose a mask for 'tensorrt'; known are onnx, onnxruntime"),
        (("ncnn", 1.5), "sparsity is 1.5; a number from 0 to 1 is needed"),
        (("ncnn", 0.99), "a sparsity of 0.99 keeps 0 of 9 taps; between 0.06 and 0.94 a pre-defined mask keeps 1 to 8"),
    ],
)
def test_advice_refuses_what_it_cannot_judge(arguments, message):
    with pytest.raises(UsageError) as error:
        masks.advise(*arguments)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("family", "params", "message"),
    [
        ("lowerable", {"classes": 17}, "classes is 17; a whole number from 2 to 16 is needed"),
        ("lowerable", {"classes": 4, "mixing": 3}, "mixing is 3 and does not divide the 4 classes; 1, 2, 4 do"),
        ("lowerable", {"taps_per_kernel": 5}, "no rectangle of a 3x3 kernel has 5 taps; 1, 2, 3, 4, 6, 9 have one"),
        ("input-class", {"taps_per_kernel": 2}, "4 rectangles of 2 taps do not cover the 9 taps of the kernel; use more classes, or more taps per kernel"),
    ],
)
def test_masks_that_cannot_be_are_refused(family, params, message):
    with pytest.raises(UsageError) as error:
        mask_named(family).generate(SHAPE, **params)
    assert str(error.value) == message


@pytest.mark.parametrize(("kept", "classes"), [(1, 9), (1, 16), (2, 5), (3, 3), (4, 3), (4, 4), (6, 2)])
@pytest.mark.parametrize("seed", range(4))
def test_every_filter_keeps_every_tap_in_some_class(kept, classes, seed):
    for mixing in (1, classes):
        mask = mask_named("lowerable").generate((32, 32, 3, 3), taps_per_kernel=kept, classes=classes, mixing=mixing, seed=seed)
        assert mask.support.any(axis=1).all()
        assert (mask.support.sum((2, 3)) == kept).all()


def test_the_seed_chooses_the_rectangles():
    drawn = {mask_named("lowerable").generate((32, 32, 3, 3), seed=seed).support.tobytes() for seed in range(10)}
    assert len(drawn) > 4
