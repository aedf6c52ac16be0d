"""Lowering whole networks: channels in another order all through them, no gather, inputs and outputs as they were."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from c_targets import needs
from typer.testing import CliRunner

import rsk_deploy as rsk
from rsk_deploy import reference, rewrite
from rsk_deploy.cli import export as cli
from rsk_deploy.cli import inspect as inspector
from rsk_deploy.errors import UsageError
from rsk_deploy.exporting import planned
from rsk_deploy.ir import (
    Activation,
    Affine,
    AveragePool,
    Binary,
    Concat,
    Conv,
    ConvTranspose,
    Dense,
    Gather,
    Graph,
    GroupNorm,
    Input,
    Linear,
    MaxPool,
    Pad,
    PRelu,
    Reduce,
    Reshape,
    Resize,
    Slice,
    Transpose,
)
from rsk_deploy.nn import CoverageWarning, PSConv2d
from rsk_deploy.registry import SUFFIXES, converter_named, mask_named
from rsk_deploy.rewrite import record_of

MASKS = {4: ("lowerable", {"mixing": 4}), 8: ("lowerable", {"classes": 8, "taps_per_kernel": 2}), 3: ("input-class", {"classes": 3})}


class Net:
    """Builds a network layer by layer; every method gives the value it computes."""

    def __init__(self):
        self.rng, self.layers = np.random.default_rng(0), []

    def add(self, layer, /, *inputs, **fields):
        name = f"{layer.__name__.lower()}{len(self.layers)}"
        self.layers.append(layer(name=name, inputs=inputs, outputs=(f"{name}.y",), **fields))
        return f"{name}.y"

    def numbers(self, *shape):
        return self.rng.uniform(0.3, 1, shape).astype(np.float32)

    def conv(self, x, out, channels, kernel=1, *, stride=1, groups=1, kept=True):
        weight = np.where(kept, self.numbers(out, channels // groups, kernel, kernel), np.float32(0)) / np.float32(channels)
        window = {"stride": (stride,) * 2, "pads": (kernel // 2,) * 4, "dilation": (1, 1), "groups": groups}
        return self.add(Conv, x, weight=Dense(weight), bias=self.numbers(out), **window)

    def masked(self, x, out, channels, classes=4, **window):
        family, params = MASKS[classes]
        return self.conv(x, out, channels, 3, kept=mask_named(family).generate((out, channels, 3, 3), **params).support, **window)

    def relu(self, x):
        return self.add(Activation, x, kind="relu")

    def norm(self, x, channels):
        return self.add(Affine, x, scale=self.numbers(channels), shift=self.numbers(channels))

    def graph(self, *outputs, batch="batch"):
        return Graph((Input("x", (batch, 3, 8, 8)),), outputs, tuple(self.layers))


def residual(net):
    x = net.relu(net.conv("x", 32, 3))
    y = net.masked(net.relu(net.masked(x, 32, 32)), 32, 32)
    x = net.relu(net.add(Binary, y, x, kind="add"))
    y = net.masked(net.relu(net.norm(net.masked(x, 64, 32, stride=2), 64)), 64, 64)
    x = net.relu(net.add(Binary, net.conv(x, 64, 32, stride=2), y, kind="add"))
    return net.conv(net.add(Reduce, x, kind="mean", axes=(2, 3)), 10, 64)


def concatenated(net):
    first = net.conv("x", 16, 3)
    second = net.masked(net.relu(first), 32, 16)
    both = net.add(Concat, first, second, axis=1)
    third = net.masked(net.norm(both, 48), 16, 48)
    pooled = net.add(MaxPool, net.add(Concat, both, third, axis=1), kernel=(2, 2), stride=(2, 2), pads=(0,) * 4, dilation=(1, 1))
    part = net.add(Slice, pooled, axis=1, start=16, stop=48)
    return net.conv(net.masked(part, 16, 32), 5, 16)


def depthwise(net):
    x = net.masked(net.conv("x", 32, 3), 32, 32)
    x = net.conv(net.add(PRelu, x, slope=net.numbers(32)), 32, 32, 3, groups=32)
    gate = net.conv(net.relu(net.conv(net.add(Reduce, x, kind="mean", axes=(2, 3)), 8, 32)), 32, 8)
    x = net.add(Binary, x, net.add(Activation, gate, kind="sigmoid"), kind="mul")
    return net.conv(net.masked(x, 16, 32), 7, 16)


def flattened(net):
    x = net.masked(net.conv("x", 32, 3), 16, 32)
    x = net.add(AveragePool, net.relu(x), kernel=(2, 2), stride=(4, 4), pads=(0,) * 4, dilation=(1, 1))
    x = net.add(Reshape, x, target=(-1, 64))
    return net.add(Linear, x, weight=Dense(net.numbers(10, 64)), bias=net.numbers(10))


def scales(net):
    top = net.masked(net.conv("x", 16, 3), 16, 16)
    low = net.masked(net.add(MaxPool, top, kernel=(2, 2), stride=(2, 2), pads=(0,) * 4, dilation=(1, 1)), 32, 16)
    up = net.add(Resize, low, sizes=(8, 8), scales=(2.0, 2.0), mode="nearest")
    back = net.add(ConvTranspose, low, weight=Dense(net.numbers(32, 8, 2, 2)), stride=(2, 2), pads=(0,) * 4, dilation=(1, 1), output_pads=(0, 0))
    joined = net.add(Concat, up, top, net.masked(back, 8, 8), axis=1)
    return net.conv(net.masked(net.add(Pad, joined, pads=(0, 0, 1, 0, 0, 0, 0, 1)), 16, 56), 2, 16)


def tokens(net):
    x = net.masked(net.conv("x", 32, 3), 16, 32)
    x = net.add(Transpose, net.add(Reshape, x, target=(-1, 16, 64)), perm=(0, 2, 1))
    x = net.add(Linear, x, weight=Dense(net.numbers(6, 16)))
    return net.add(Reduce, x, kind="mean", axes=(1,), keep_axes=False)


def siblings(net):
    x = net.conv("x", 32, 3)
    return net.conv(net.add(Binary, net.masked(x, 32, 32), net.masked(net.relu(x), 32, 32), kind="add"), 3, 32)


def two_classes(net):
    x = net.conv("x", 48, 3)
    y = net.masked(net.relu(net.masked(x, 48, 48, 4)), 48, 48, 8)
    return net.conv(net.masked(net.add(Binary, x, y, kind="add"), 48, 48, 4), 3, 48)


TOPOLOGIES = {"residual": (residual, 4), "concatenated": (concatenated, 3), "depthwise": (depthwise, 2), "flattened": (flattened, 1), "scales": (scales, 4)}
TOPOLOGIES |= {"tokens": (tokens, 1), "siblings": (siblings, 2), "two classes": (two_classes, 3)}


def difference(graph, lowered):
    rng = np.random.default_rng(0)
    inputs = {entry.name: rng.standard_normal(entry.at(2)) for entry in graph.inputs}
    before, after = reference.run(graph, inputs), reference.run(lowered, inputs)
    return max(np.abs(before[name] - after[name]).max() / np.abs(before[name]).max() for name in graph.outputs)


def actions(graph):
    return [entry.action for entry in graph.log]


@pytest.fixture(params=TOPOLOGIES)
def network(request):
    build, count = TOPOLOGIES[request.param]
    net = Net()
    return net.graph(build(net)), count


def test_a_lowered_network_computes_the_same_without_a_gather(network):
    graph, count = network
    lowered = rewrite.lower(graph, "onnxruntime", "always")
    assert actions(lowered) == ["lowered"] * count
    assert not any(isinstance(layer, Gather) for layer in lowered.layers)
    assert (lowered.inputs, lowered.outputs) == (graph.inputs, graph.outputs)
    assert difference(graph, lowered) < 1e-13


def test_values_between_layers_are_whole_blocks(network):
    """A slice is of neighbouring channels, and there are no more of them than classes ask for."""
    lowered = rewrite.lower(network[0], "onnxruntime", "always")
    slices = [layer for layer in lowered.layers if isinstance(layer, Slice) and ".slice" in layer.name]
    assert all(layer.step == 1 for layer in slices)
    assert len(slices) <= 24 * network[1]


def test_stock_runtimes_and_our_session_execute_it(network, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    graph, _ = network
    lowered = rsk.pack(rewrite.lower(graph, "onnxruntime", "always"))
    path = rsk.export(lowered, tmp_path / "net.onnx").path
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    expected = reference.run(graph, {"x": x})[graph.outputs[0]]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    (found,) = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    own = rsk.Session(lowered, threads=1)(x)
    for values in (found, own):
        assert np.abs(values - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(("format", "options"), [("coreml", {"precision": "fp32"}), ("c", {})], ids=["coreml", "c"])
@pytest.mark.parametrize("name", ["residual", "concatenated", "depthwise", "scales"])
def test_core_ml_and_c_files_of_lowered_networks_compute_the_same(name, format, options, tmp_path):
    if format == "c":
        needs("gcc", packages="gcc")
    build, count = TOPOLOGIES[name]
    net = Net()
    graph = net.graph(build(net), batch=2)
    lowered = planned(graph, [format], lower="always")[format]
    assert actions(lowered).count("lowered") == count
    assert record_of(lowered.meta).multiplications < record_of(lowered.meta).dense_multiplications
    converter, path = converter_named(format), tmp_path / f"net.{SUFFIXES.get(format, format)}"
    converter.write(lowered, path, **options)
    x = {"x": np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)}
    expected, found = (run(x)[graph.outputs[0]] for run in (partial(reference.run, graph), converter.runner(path)))
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_an_inner_value_that_is_an_output_keeps_its_order():
    net = Net()
    inner = net.conv("x", 32, 3)
    masked = net.masked(inner, 32, 32)
    graph = net.graph(inner, net.conv(masked, 4, 32))
    lowered = rewrite.lower(graph, "onnxruntime", "always")
    assert lowered.log[0].detail == f"its classes of channels are too many separate runs: the network's output {inner} keeps its order"
    assert difference(graph, lowered) == 0


def test_a_norm_over_groups_holds_the_order():
    net = Net()
    x = net.add(GroupNorm, net.conv("x", 32, 3), groups=4, scale=net.numbers(32), shift=net.numbers(32), epsilon=1e-5)
    lowered = rewrite.lower(net.graph(net.conv(net.masked(x, 32, 32), 4, 32)), "onnxruntime", "always")
    assert "nothing is known of the order of groupnorm" in lowered.log[0].detail


def test_the_residual_is_the_first_term_of_the_sum():
    """Runtimes fuse an addition into the convolution before it; the one of the skip would be left alone."""
    net = Net()
    x = net.conv("x", 32, 3)
    added = net.add(Binary, net.masked(x, 32, 32), x, kind="add")
    lowered = rewrite.lower(net.graph(net.conv(added, 4, 32)), "onnxruntime", "always")
    sums = [layer for layer in lowered.layers if isinstance(layer, Binary)]
    assert len(sums) == 4
    assert x in sums[0].inputs
    assert sums[-1].outputs == (added,)


def big():
    """Large enough that lowering pays."""
    net = Net()
    x = net.relu(net.masked(net.relu(net.conv("x", 128, 3)), 128, 128))
    y = net.conv(x, 10, 128)
    return Graph((Input("x", (1, 3, 24, 24)),), (y,), tuple(net.layers))


def test_each_format_gets_what_its_runtime_is_fast_at():
    graph = big()
    plans = planned(graph, ["onnx", "rsk"])
    assert actions(plans["onnx"]) == ["lowered"]
    assert actions(plans["rsk"]) == []
    assert record_of(plans["onnx"].meta).layers == 1
    always = planned(graph, ["rsk"], lower="always")["rsk"]
    assert actions(always) == ["lowered"]
    assert record_of(always.meta).runtime == "session"
    assert record_of(planned(graph, ["onnx"], lower="openvino")["onnx"].meta).runtime == "openvino"


def test_weights_asked_for_in_an_encoding_are_not_lowered_unless_asked():
    graph = big()
    assert actions(planned(graph, ["onnx"], "periodic")["onnx"]) == []
    assert actions(planned(graph, ["onnx"], "dense", lower="always")["onnx"]) == ["lowered"]


def test_the_file_is_smaller_and_says_what_was_done(tmp_path):
    graph = big()
    result = rsk.export(graph, tmp_path / "net.onnx")
    assert result.nbytes < 0.55 * result.dense_nbytes
    assert result.verification.comparison.passed
    loaded = rsk.load(tmp_path / "net.onnx")
    assert actions(loaded) == ["lowered"]
    record = record_of(loaded.meta)
    assert record.multiplications / record.dense_multiplications == pytest.approx(4 / 9, abs=0.02)
    shown = CliRunner().invoke(inspector.main, [str(tmp_path / "net.onnx")]).output
    assert "4 x 2x2 in 4 groups: 84.93 M multiplications become 37.75 M" in shown
    assert "  lowered: 1 of 3 convolutions lowered for onnx: 85.89 M multiplications become 38.71 M, 0.45 of dense\n" in shown
    assert "options" not in shown


COUNTS = dict.fromkeys(["layers", "convolutions", "multiplications", "dense_multiplications", "weights", "dense_weights"], 3)


@pytest.mark.parametrize(
    "record",
    [5, {}, COUNTS, COUNTS | {"runtime": 3}, COUNTS | {"runtime": "x", "weights": "many"}, COUNTS | {"runtime": "x", "layers": True}],
    ids=str,
)
def test_a_record_that_a_hostile_file_makes_up_is_none(record):
    assert record_of({"options": {"lower": record}}) is None
    assert record_of({"options": {"lower": COUNTS | {"runtime": "x"}}}) is not None


def test_the_command_lowers_and_tells(tmp_path):
    graph = big()
    rsk.save(rsk.pack(graph), tmp_path / "net.rsk")
    run = CliRunner().invoke(cli.main, [str(tmp_path / "net.rsk"), "--format", "onnx", "-o", str(tmp_path)])
    assert run.exit_code == 0, run.output
    assert "onnx: 1 of 3 convolutions lowered for onnx: 85.89 M multiplications become 38.71 M, 0.45 of dense" in run.output
    both = [str(tmp_path / "net.rsk"), "--format", "rsk,onnx", "--dry-run", "--force"]
    run = CliRunner().invoke(cli.main, both)
    assert "  onnx: conv2: lowered: 4 x 2x2 in 4 groups: 84.93 M multiplications become 37.75 M\n" in run.output
    assert "rsk: 1 of 3" not in run.output
    assert list(json.loads(CliRunner().invoke(cli.main, [*both, "--json"]).output)["lowered"]) == ["onnx"]
    run = CliRunner().invoke(cli.main, [str(tmp_path / "net.rsk"), "--format", "onnx", "--lower", "none", "--dry-run", "--force"])
    assert "lowered" not in run.output
    run = CliRunner().invoke(cli.main, [str(tmp_path / "net.rsk"), "--format", "onnx", "--lower", "tensorrt", "--dry-run", "--force"])
    assert run.exit_code == UsageError.exit_code
    assert "unknown way to lower 'tensorrt'; known are auto, none, always, onnx, onnxruntime, openvino" in run.output


@pytest.mark.parametrize(
    ("family", "params"), [("lowerable", {}), ("lowerable", {"mixing": 4, "classes": 4}), ("input-class", {"taps_per_kernel": 6, "classes": 2})]
)
def test_layers_train_with_these_masks(family, params):
    torch.manual_seed(0)
    layer = PSConv2d(16, 32, 3, padding=1, support=family, **params)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    layer(torch.randn(2, 16, 5, 5)).square().mean().backward()
    optimizer.step()
    kept = layer.weight.detach().numpy() != 0
    assert np.array_equal(kept, layer.mask.numpy())
    assert kept.any(axis=1).all()


def test_a_stem_too_thin_for_its_rectangles_is_warned_of():
    with pytest.warns(CoverageWarning, match=r"the rectangles of a filter, one for each of 3 channels, reach [78] of the 9 positions of the window"):
        PSConv2d(3, 16, 3, support="lowerable")
