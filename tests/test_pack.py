"""Packing is exact, takes the smallest encoding, says why, and refuses what it cannot hold."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsk_deploy.errors import CorruptFileError, UsageError
from rsk_deploy.ir import Activation, Conv, ConvTranspose, Declared, Dense, Graph, Input, Linear, LogEntry, Packed, Reshape
from rsk_deploy.packing import pack, unpack
from rsk_deploy.registry import FORMATS, MASKS, format_named, mask_named, regenerate
from rsk_deploy.reporting import report

CROSS = np.array([0, 1, 0, 1, 1, 1, 0, 1, 0], bool).reshape(3, 3)
LFSR = Declared("lfsr", {"scheme": "pattern", "width": 8, "polynomial": 0x1A9, "seed": 7, "taps_per_kernel": 4})


def random_weight(shape, support=True, seed=0):
    values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return np.where(support, values, np.float32(0))


def regular_weight(filters, channels, kept, seed=0):
    ranks = np.random.default_rng(seed).random((filters, channels, 9)).argsort(-1).argsort(-1)
    return random_weight((filters, channels, 3, 3), (ranks < kept).reshape(filters, channels, 3, 3), seed)


def conv(weight, name="conv", declared=None, bias=None):
    weight = np.asarray(weight, np.float32)
    pads = (0,) * (2 * (weight.ndim - 2))
    ones = (1,) * (weight.ndim - 2)
    return Conv(name=name, inputs=("x",), outputs=("y",), weight=Dense(weight, declared), bias=bias, stride=ones, pads=pads, dilation=ones)


def graph_of(layer):
    if isinstance(layer, Linear):
        return Graph((Input("x", (1, layer.weight.shape[1])),), ("y",), (layer,))
    channels = layer.weight.shape[1] if isinstance(layer, Conv) else layer.weight.shape[0]
    return Graph((Input("x", ("batch", channels, *(16,) * (len(layer.weight.shape) - 2))),), ("y",), (layer,))


def packed_weight(weight, weights="auto", declared=None, **options):
    return pack(graph_of(conv(weight, declared=declared)), weights, **options).layers[0].weight


def network():
    """Every kind of weighted layer, and others between them."""
    step = {"stride": (1, 1), "dilation": (1, 1)}
    layers = (
        Conv(name="stem", inputs=("x",), outputs=("a",), weight=Dense(random_weight((8, 3, 3, 3))), bias=np.ones(8, np.float32), pads=(1, 1, 1, 1), **step),
        Activation(name="relu", inputs=("a",), outputs=("b",), kind="relu"),
        Conv(name="cross", inputs=("b",), outputs=("c",), weight=Dense(random_weight((8, 8, 3, 3), CROSS)), pads=(1, 1, 1, 1), **step),
        Conv(name="random", inputs=("c",), outputs=("d",), weight=Dense(regular_weight(8, 8, 2)), pads=(1, 1, 1, 1), **step),
        Conv(name="depthwise", inputs=("d",), outputs=("e",), weight=Dense(regular_weight(8, 1, 4)), pads=(1, 1, 1, 1), groups=8, **step),
        ConvTranspose(name="up", inputs=("e",), outputs=("f",), weight=Dense(random_weight((8, 4, 2, 2))), pads=(0, 0, 0, 0), output_pads=(0, 0), **step),
        Reshape(name="flat", inputs=("f",), outputs=("g",), target=(1, 4 * 81)),
        Linear(name="head", inputs=("g",), outputs=("h",), weight=Dense(random_weight((10, 324), np.random.default_rng(1).random((10, 324)) < 0.1))),
    )
    return Graph((Input("x", (1, 3, 8, 8)),), ("h",), layers, log=(LogEntry("stem", "batch norm", "bn folded"),), meta={"labels": ["a", "b"]})


def test_unpacking_gives_the_network_back_bit_for_bit():
    assert unpack(pack(network())) == network()


@pytest.mark.parametrize("format", [name for name in FORMATS if name not in ("periodic", "lfsr")])
def test_every_format_for_any_weight_can_be_asked_for(format):
    packed = pack(network(), {layer.name: format for layer in network().weighted()})
    assert {layer.weight.format for layer in packed.weighted()} == {format}
    assert unpack(packed) == network()


def test_one_format_for_all_is_for_the_weights_that_have_zeros():
    for dense, packed in zip(network().weighted(), pack(network(), "csr").weighted(), strict=True):
        assert packed.weight.format == ("dense" if dense.weight.values.all() else "csr")


@given(
    shape=st.sampled_from([(4, 3, 3, 3), (8, 8, 3, 3), (4, 4, 1, 1), (6, 1, 3, 3), (4, 3, 5), (3, 2, 2, 2, 2), (2, 3, 11, 11)]),
    density=st.sampled_from([0, 0.05, 0.5, 1]),
    seed=st.integers(0, 99),
    half=st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_any_weight_packs_exactly_into_the_smallest_of_the_sizes_it_reports(shape, density, seed, half):
    values = random_weight(shape, np.random.default_rng(seed).random(shape) < density, seed)
    packed = packed_weight(values, half=half)
    format_named(packed.format).validate(packed)
    assert np.array_equal(format_named(packed.format).decode(packed), values.astype(np.float16) if half else values)
    sizes = packed.choice.sizes
    assert packed.nbytes == sizes[packed.format] == min(sizes.values())
    assert list(sizes.values()) == sorted(sizes.values())
    assert {"dense", "csr", "bitmask"} <= sizes.keys()
    assert sizes["dense"] == values.size * (2 if half else 4)


@pytest.mark.parametrize(
    ("weight", "format", "family"),
    [
        (random_weight((16, 16, 3, 3)), "dense", "dense"),
        (random_weight((16, 16, 3, 3), CROSS), "periodic", "one-pattern"),
        (regular_weight(64, 64, 4), "bitmask", "regular"),
        (regular_weight(256, 256, 4), "pattern", "regular"),
        (random_weight((16, 16, 3, 3), np.random.default_rng(0).random((1, 16, 3, 3)) < 0.5), "pattern", "per-input"),
        (random_weight((64, 64, 3, 3), np.random.default_rng(0).random((64, 64, 3, 3)) < 0.01), "csr", "unstructured"),
        (np.zeros((16, 16, 3, 3)), "periodic", "one-pattern"),
    ],
    ids=["dense", "cross", "4 of 9, small", "4 of 9, large", "per input", "1 %", "zeros"],
)
def test_the_smallest_encoding_is_taken_and_explained(weight, format, family):
    packed = packed_weight(weight)
    assert packed.format == format
    assert packed.choice.reason.startswith(f"{format}, the smallest: {packed.nbytes:,} bytes")
    assert all(f"{name} {size:,}" in packed.choice.reason for name, size in packed.choice.sizes.items() if name != format)


@pytest.mark.parametrize("family", MASKS)
@pytest.mark.parametrize("format", ["auto", *FORMATS])
@pytest.mark.parametrize("told", [True, False], ids=["declared", "found"])
def test_weights_of_every_mask_family_pack_exactly_in_every_format_that_holds_them(family, format, told):
    mask = mask_named(family).generate((16, 16, 3, 3))
    weight = random_weight(mask.support.shape, mask.support)
    weight[tuple(np.argwhere(mask.support)[7])] = 0  # by chance
    declared = Declared(family, mask.params) if told else None
    try:
        graph = pack(graph_of(conv(weight, declared=declared)), format)
    except UsageError:
        assert {"lfsr": family != "lfsr" or not told, "periodic": family not in ("one-pattern", "periodic")}[format]
        return
    assert not graph.log
    packed = graph.layers[0].weight
    format_named(packed.format).validate(packed)
    assert format_named(packed.format).decode(packed).tobytes() == weight.tobytes()
    assert packed.nbytes == packed.choice.sizes[packed.format]


def test_on_equal_size_the_cheaper_encoding_is_taken():
    weight = np.ones((1, 1, 1, 1))  # dense: 4 bytes; every other has structure besides
    assert packed_weight(weight).format == "dense"
    packed = packed_weight(random_weight((1, 8, 1, 1), [[[[1]], [[0]]] * 4]))
    ties = [name for name, size in packed.choice.sizes.items() if size == packed.nbytes]
    assert packed.format == min(ties, key=list(FORMATS).index)


def test_a_declared_mask_is_used_and_regenerated_when_unpacked():
    mask = regenerate(LFSR, (8, 8, 3, 3))
    weight = random_weight((8, 8, 3, 3), mask.support)
    graph = graph_of(conv(weight, declared=LFSR))
    packed = pack(graph)
    assert packed.layers[0].weight.format == "lfsr"
    assert packed.layers[0].weight.choice.evidence.startswith(f"declared by the model, all {mask.kept} nonzero weights lie inside; ")
    assert unpack(packed) == graph
    assert pack(unpack(packed)) == packed


def test_a_kept_weight_that_is_zero_does_not_break_a_declared_mask():
    mask = regenerate(LFSR, (8, 8, 3, 3))
    weight = random_weight((8, 8, 3, 3), mask.support)
    weight[tuple(np.argwhere(mask.support)[3])] = 0
    assert packed_weight(weight, declared=LFSR).format == "lfsr"


def test_a_declared_mask_that_is_wider_than_the_weight_does_not_cost_bytes():
    weight = random_weight((16, 16, 3, 3), CROSS)
    packed = packed_weight(weight, declared=Declared("one-pattern", {"taps": list(range(9))}))
    assert packed.nbytes == packed_weight(weight).nbytes == 16 * 16 * 5 * 4 + 9


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        (LFSR, r"\d+ of 256 nonzero weights lie outside the declared lfsr mask; packed by what the weight shows"),
        (Declared("nonsense"), "the declared nonsense mask cannot be drawn .unknown mask family 'nonsense'"),
        (Declared("periodic", {"period": -3}), "the declared periodic mask cannot be drawn"),
        (Declared("periodic", {"foreign": 1}), "the declared periodic mask cannot be drawn"),
    ],
    ids=["another mask", "no family", "no period", "foreign parameter"],
)
def test_a_declared_mask_that_the_weight_contradicts_is_dropped_and_said(declared, said):
    weight = regular_weight(8, 8, 4, seed=5)
    packed = pack(graph_of(conv(weight, declared=declared)))
    (entry,) = packed.log
    assert (entry.layer, entry.action) == ("conv", "mask")
    assert re.match(said, entry.detail)
    assert packed.layers[0].weight == packed_weight(weight)


def test_a_format_is_asked_for_by_layer():
    packed = pack(network(), {"head": "bitmask", "cross": "csr"})
    formats = {layer.name: layer.weight.format for layer in packed.weighted()}
    assert formats["head"] == "bitmask"
    assert formats["cross"] == "csr"
    assert formats["stem"] == "dense"
    assert packed.layers[2].weight.choice.reason.startswith("csr, asked for: ")
    assert "periodic " in packed.layers[2].weight.choice.reason


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("patern", "unknown weight format 'patern'; known are auto, dense, .* Did you mean 'pattern'"),
        ({"cros": "csr"}, "unknown weighted layer 'cros'; known are stem, cross, .* Did you mean 'cross'"),
        ({"relu": "csr"}, "unknown weighted layer 'relu'"),
        ({"cross": "crs"}, "unknown weight format 'crs'"),
        (
            {"stem": "periodic"},
            "stem: the weight format periodic holds one tap set for all kernels, or one for each .* Try weights auto, which takes dense here",
        ),
        ("lfsr", "cross: the weight format lfsr holds a mask that a recorded .* draws; this weight's mask is one-pa"),
        (
            {"stem": "lfsr"},
            "stem: the weight format lfsr holds a mask that a recorded .* draws; this weight's mask is unstructured .dense",
        ),
    ],
)
def test_a_request_that_cannot_be_met_is_a_sentence(weights, message):
    with pytest.raises(UsageError, match=message):
        pack(network(), weights)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(value):
    weight = random_weight((4, 3, 3, 3))
    weight[1, 2, 0, 1] = weight[3, 2, 2, 2] = value
    with pytest.raises(CorruptFileError, match=rf"conv: 2 of 108 values of the weight are NaN or infinite, the first at \(1, 2, 0, 1\): {value}"):
        packed_weight(weight)
    bias = np.array([0, 0, value, 0], np.float32)
    with pytest.raises(CorruptFileError, match=rf"conv: 1 of 4 values of the bias are NaN or infinite, the first at \(2,\): {value}"):
        pack(graph_of(conv(random_weight((4, 3, 3, 3)), bias=bias)))


@pytest.mark.parametrize("format", ["auto", "dense", "csr"])
def test_negative_zeros_become_zeros(format):
    weight = random_weight((4, 3, 3, 3), CROSS)
    negative = np.where(weight == 0, np.float32(-0.0), weight)
    assert np.signbit(negative).sum() > np.signbit(weight).sum()
    assert packed_weight(negative, format) == packed_weight(weight, format)


def test_half_rounds_to_float16_and_says_how_far():
    weight = random_weight((8, 8, 3, 3))
    packed = pack(graph_of(conv(weight)), half=True)
    assert packed.layers[0].weight.arrays["values"].dtype == np.float16
    decoded = unpack(packed).layers[0].weight.values
    assert decoded.dtype == np.float32
    error = np.abs(decoded.astype(float) / weight - 1).max()
    (entry,) = packed.log
    assert (entry.layer, entry.action) == ("conv", "half")
    assert float(entry.detail.removeprefix("rounded to float16, relative error at most ")) == pytest.approx(error, rel=1e-2)


def test_half_says_what_is_too_small_for_it():
    weight = np.full((1, 1, 3, 3), 0.5, np.float32)
    weight[0, 0, 0] = [-1e-9, 1e-5, 0]
    packed = pack(graph_of(conv(weight)), half=True)
    assert packed.log[0].detail == "rounded to float16, relative error at most 0; 2 weights below 6.1e-05 keep fewer bits, 1 of them become 0"
    format_named(packed.layers[0].weight.format).validate(packed.layers[0].weight)


def test_half_refuses_what_is_too_large_for_it():
    weight = random_weight((2, 2, 3, 3))
    weight[1, 0, 0, 0] = -70000
    with pytest.raises(UsageError, match=r"conv: 1 of 36 weights do not fit float16, whose largest is 65504; the first is -70000. Pack without half"):
        packed_weight(weight, half=True)


def test_dense_weights_are_not_copied():
    graph = graph_of(conv(random_weight((8, 8, 3, 3))))
    packed = pack(graph)
    assert np.shares_memory(packed.layers[0].weight.arrays["values"], graph.layers[0].weight.values)
    assert np.shares_memory(unpack(packed).layers[0].weight.values, graph.layers[0].weight.values)


def test_the_report_adds_up():
    packed = pack(network())
    found = report(packed)
    assert [row.layer for row in found.rows] == ["stem", "cross", "random", "depthwise", "up", "head"]
    assert found.nbytes == sum(layer.weight.nbytes for layer in packed.weighted())
    assert found.dense_nbytes == sum(layer.weight.values.nbytes for layer in network().weighted())
    cross = found.rows[1]
    assert (cross.op, cross.shape, cross.nonzeros, cross.format, cross.nbytes, cross.dense_nbytes) == ("Conv", (8, 8, 3, 3), 320, "periodic", 1289, 2304)
    assert cross.density == pytest.approx(5 / 9)
    assert (cross.mask, cross.description) == ("one-pattern", packed.layers[2].weight.choice.description)
    assert cross.sizes == dict(packed.layers[2].weight.choice.sizes)


def test_the_report_is_an_aligned_table():
    lines = str(report(pack(network()))).splitlines()
    assert [line.split()[0] for line in lines] == ["layer", "stem", "cross", "random", "depthwise", "up", "head", "total"]
    assert lines[2].endswith("1,289    55.9 %")
    assert len({line.index(".") for line in [line[-7:] for line in lines[1:]]}) == 1
    verbose = report(pack(network())).text(verbose=True)
    assert "\n    periodic, the smallest: 1,289 bytes, 0.559 of dense; the others: " in verbose


def test_the_report_is_json():
    document = report(pack(network())).as_json()
    assert json.loads(json.dumps(document)) == document
    assert document["totals"]["nbytes"] == sum(row["nbytes"] for row in document["rows"])
    assert document["rows"][1]["shape"] == [8, 8, 3, 3]


def test_a_weight_without_a_recorded_choice_is_reported_too():
    layer = conv(random_weight((2, 2, 3, 3)))
    bare = Packed("dense", (2, 2, 3, 3), {"values": layer.weight.values.reshape(-1)})
    graph = Graph((Input("x", (1, 2, 8, 8)),), ("y",), (replace(layer, weight=bare),))
    assert report(graph).rows[0].mask == ""
    assert "dense" in str(report(graph))


def test_a_network_without_weights_packs_and_reports():
    graph = Graph((Input("x", (1, 3)),), ("y",), (Activation(name="relu", inputs=("x",), outputs=("y",), kind="relu"),))
    assert unpack(pack(graph)) == graph
    assert str(report(pack(graph))).splitlines()[-1].split() == ["total", "0", "0.0", "%", "0", "0.0", "%"]
