"""Verification finds what is wrong, and counts what is right."""

from dataclasses import replace

import numpy as np
import pytest
from test_convert_onnx import small_net

import rsk_deploy as rsk
from rsk_deploy import mlprogram, reference, store, verify
from rsk_deploy.comparing import compare
from rsk_deploy.converters import coreml, coreml_windows
from rsk_deploy.converters import onnx as onnx_converter
from rsk_deploy.errors import RskError, VerificationError
from rsk_deploy.files import size_of
from rsk_deploy.ir import Activation, Dense, Graph, Input, Linear
from rsk_deploy.packing import pack
from rsk_deploy.readers import Source
from rsk_deploy.runtime.session import Session
from rsk_deploy.samples import Sample, read_sample
from rsk_deploy.verify import HALF, Tolerance, Written, verify_file

EYE = np.eye(4, dtype=np.float32)


def network(batch):
    """Class scores are the inputs."""
    return Graph((Input("x", (batch, 4)),), ("y",), (Linear(name="fc", inputs=("x",), outputs=("y",), weight=Dense(EYE)),))


def written(graph, tmp_path):
    store.write(pack(graph), tmp_path / "net.rsk")
    return Written(tmp_path / "net.rsk", store, pack(graph))


def source(graph):
    return Source(graph, lambda inputs: reference.run(graph, inputs))


@pytest.mark.parametrize("batch", ["batch", 1, 3, 4])
def test_accuracy_counts_the_rows_that_fill_whole_batches(tmp_path, batch):
    graph = network(batch)
    classes = np.array([0, 1, 2, 3, 3, 3, 0, 1, 2, 0])
    labels = np.where(np.arange(10) < 8, classes, 9)  # the last two are wrong
    result = verify_file(written(graph, tmp_path), source(graph), sample=Sample({"x": EYE[classes]}, labels))
    used = 10 if batch == "batch" else 10 - 10 % batch
    assert result.accuracy == pytest.approx(min(8, used) / used)


def test_a_difference_beyond_the_tolerance_is_refused_with_its_size(tmp_path):
    graph = network(1)
    wrong = Source(graph, lambda inputs: {"y": inputs["x"] + 1e-3})
    with pytest.raises(VerificationError, match=r"computes something else than the model in the numpy reference(.|\n)*1\.00e-03"):
        verify_file(written(graph, tmp_path), wrong)
    assert verify_file(written(graph, tmp_path), wrong, tolerance=Tolerance(atol=1e-2)).comparison.passed


def test_half_is_held_against_the_rounded_weights_too(tmp_path):
    graph = network(1)
    weight = EYE * np.float32(1.001)
    rounded = pack(Graph(graph.inputs, graph.outputs, (Linear(name="fc", inputs=("x",), outputs=("y",), weight=Dense(weight)),)), half=True)
    other = pack(graph, half=True)  # differs from the model by less than rounding may, and from the rounded weights by more than it may
    store.write(other, tmp_path / "net.rsk")
    with pytest.raises(VerificationError, match="something else than the graph with rounded weights"):
        verify_file(Written(tmp_path / "net.rsk", store, rounded), source(graph))


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"x": np.zeros((2, 5))}, r"input 'x' has shape \(2, 5\); the model takes \('any', 4\)"),
        ({"x": np.zeros((0, 4))}, r"shape \(0, 4\)"),
        ({"x": np.zeros((2, 4)), "z": np.zeros(2)}, r"holds \['x', 'z'\], the model's inputs are \['x'\]"),
        ({"x": np.zeros((2, 4)), "labels": np.zeros(3, int)}, "different numbers of rows"),
        ({"x": np.zeros((2, 4)), "labels": np.array(3)}, r"'labels' holds int64 of shape \(\); it is the number of the true class"),
        ({"x": np.zeros((2, 4)), "labels": np.eye(2)}, r"'labels' holds float64 of shape \(2, 2\)"),
        ({"x": np.zeros((2, 4)), "labels": np.array([0, 4])}, "'labels' go from 0 to 4; the network's classes are 0 to 3"),
        ({"x": np.zeros((2, 4)), "labels": np.array([-1, 3])}, "'labels' go from -1 to 3; the network's classes are 0 to 3"),
        ({"x": np.array([[0, 0, 0, 0], [0, np.nan, 0, 0]])}, r"input 'x' holds nan at \[1, 1\]; give finite float32"),
        ({"x": np.array([[0, 0, -np.inf, 0]], np.float32)}, r"input 'x' holds -inf at \[0, 2\]; give finite float32"),
        ({"x": np.array([[0, 0, 0, 1e300]])}, r"input 'x' holds 1e\+300 at \[0, 3\]; give finite float32"),
        ({"x": np.full((2, 4), "a")}, "'x' holds <U1; inputs are real numbers"),
        ({"x": np.zeros((2, 4), complex)}, "'x' holds complex128"),
        ({"x": np.array([[{}] * 4], dtype=object)}, "plain arrays"),
    ],
)
def test_a_sample_that_does_not_fit_is_a_sentence(tmp_path, arrays, sentence):
    np.savez(tmp_path / "sample.npz", **arrays)
    with pytest.raises(RskError, match=sentence):
        read_sample(tmp_path / "sample.npz", network(1))


def scaled(factor):
    """A network of small outputs."""
    layer = Linear(name="fc", inputs=("x",), outputs=("y",), weight=Dense(EYE * np.float32(factor)))
    return Graph((Input("x", (1, 4)),), ("y",), (layer,))


@pytest.mark.parametrize("tolerance", [None, Tolerance(rtol=HALF)])
def test_small_outputs_are_held_to_their_own_scale(tmp_path, tolerance):
    with pytest.raises(VerificationError, match="read or folded wrongly"):
        verify_file(written(scaled(0), tmp_path), source(scaled(1e-5)), tolerance=tolerance)


def test_a_tolerance_below_rounding_is_said_to_be_one(tmp_path):
    graph = scaled(1)
    nearly = Source(graph, lambda inputs: {"y": inputs["x"] * (1 + 1e-7)})
    with pytest.raises(VerificationError, match="of the size of rounding errors"):
        verify_file(written(graph, tmp_path), nearly, tolerance=Tolerance(atol=0, rtol=0))


def test_values_that_are_not_finite_are_counted(tmp_path):
    graph = scaled(1)
    half = Source(graph, lambda inputs: {"y": np.where(np.arange(4) < 2, np.nan, inputs["x"])})
    double = Graph(graph.inputs, graph.outputs, graph.layers)
    with pytest.raises(VerificationError):
        verify_file(written(double, tmp_path), half)
    assert verify_file(written(graph, tmp_path), source(graph)).not_finite == 0


def test_inputs_of_different_sizes_are_cut_each_by_its_own(tmp_path):
    inputs = (Input("x", (1, 4)), Input("z", (5, 4)))
    layers = (
        Linear(name="fc", inputs=("x",), outputs=("y",), weight=Dense(EYE)),
        Linear(name="other", inputs=("z",), outputs=("w",), weight=Dense(EYE)),
    )
    graph = Graph(inputs, ("y", "w"), layers)
    np.savez(tmp_path / "sample.npz", x=np.ones((2, 4)), z=np.ones((10, 4)))
    assert verify_file(written(graph, tmp_path), source(graph), sample=read_sample(tmp_path / "sample.npz", graph)).batches == 5


TWO_LAYERS = Graph(
    (Input("x", ("batch", 4)),),
    ("y",),
    (
        Linear(name="one", inputs=("x",), outputs=("a",), weight=Dense(EYE)),
        Activation(name="act", inputs=("a",), outputs=("b",), kind="relu"),
        Linear(name="two", inputs=("b",), outputs=("y",), weight=Dense(EYE)),
    ),
)


@pytest.mark.parametrize("converter", [store, onnx_converter])
@pytest.mark.parametrize("half", [False, True])
def test_the_file_is_run_in_our_own_runtime_too(tmp_path, converter, half):
    graph = pack(TWO_LAYERS, half=half)
    path = tmp_path / f"net.{'rsk' if converter is store else 'onnx'}"
    converter.write(graph, path)
    found = verify_file(Written(path, converter, graph), source(TWO_LAYERS))
    assert found.runtime.passed
    assert found.runtime.outputs[0].name == "y"
    assert not found.not_in_runtime


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ("a", "The first layer that differs is one."),
        ("y", "The first layer that differs is two."),
        ("fusion", "Every layer is right when rsk-deploy's runtime executes them one by one: its graph optimisation changes the result"),
    ],
)
def test_a_runtime_that_computes_something_else_is_found_with_the_layer(tmp_path, monkeypatch, wrong, sentence):
    class Wrong(Session):
        def run(self, inputs):
            values = super().run(inputs)
            spoils_all = wrong == "fusion" and len(values) == 1
            return {name: value + 0.01 * (spoils_all or name == wrong or (wrong != "fusion" and name == "y")) for name, value in values.items()}

    monkeypatch.setattr(verify, "Session", Wrong)
    with pytest.raises(VerificationError, match="something else than the model in rsk-deploy's runtime") as error:
        verify_file(written(TWO_LAYERS, tmp_path), source(TWO_LAYERS))
    assert sentence in str(error.value)


def test_what_our_runtime_cannot_run_is_said(tmp_path):
    whole = Graph((Input("x", (1, 4), "int64"),), ("y",), (Linear(name="fc", inputs=("x",), outputs=("y",), weight=Dense(EYE)),))
    found = verify_file(written(whole, tmp_path), source(whole))
    assert found.runtime is None
    assert found.not_in_runtime == "input 'x' is int64; the runtime computes in float32 and takes float32 inputs alone"


def test_our_runtime_has_no_say_in_files_that_it_does_not_open(tmp_path):
    store.write(pack(network(1)), tmp_path / "net.bin")
    found = verify_file(Written(tmp_path / "net.bin", store, pack(network(1))), source(network(1)))
    assert (found.runtime, found.not_in_runtime) == (None, "")


def test_a_folder_is_named_by_its_format_and_measured_whole(tmp_path):
    graph = small_net()
    result = rsk.export(graph, tmp_path / "net.mlpackage", options={"target": "ios17"})
    dense = sum(4 * np.prod(layer.weight.shape) + (0 if layer.bias is None else layer.bias.nbytes) for layer in graph.weighted())
    assert (result.format, result.nbytes, result.dense_nbytes) == ("coreml", size_of(tmp_path / "net.mlpackage"), dense)
    assert result.verification.runner == coreml.RUNNER
    assert sum(weight.nbytes for weight in mlprogram.summary(result.path).weights) < min(result.nbytes, dense)


@pytest.mark.parametrize("converter", [store, onnx_converter])
def test_a_file_with_one_other_weight_is_refused_though_it_computes_nearly_the_same(tmp_path, converter):
    graph = network(1)
    nearly = np.where(np.arange(16).reshape(4, 4) == 1, np.float32(1e-6), EYE)
    path = tmp_path / f"net.{'rsk' if converter is store else 'onnx'}"
    converter.write(pack(Graph(graph.inputs, graph.outputs, (replace(graph.layers[0], weight=Dense(nearly)),))), path)
    with pytest.raises(VerificationError, match="fc has another weight or bias in the file than in the network that was written"):
        verify_file(Written(path, converter, pack(graph)), source(graph))


def test_another_encoding_of_the_same_weights_is_no_other_weight(tmp_path):
    graph = pack(TWO_LAYERS, "bitmask")
    onnx_converter.write(graph, tmp_path / "net.onnx", sparse_initializer=True)
    assert store.load(tmp_path / "net.onnx") != graph
    assert verify_file(Written(tmp_path / "net.onnx", onnx_converter, graph), source(TWO_LAYERS)).runtime.passed


@pytest.mark.parametrize("compress", [None, "int8"])
def test_a_layer_that_is_wrong_by_less_than_half_precision_may_add_up_to_is_found(tmp_path, monkeypatch, compress):
    graph = small_net()
    right = coreml_windows.bias
    monkeypatch.setattr(coreml_windows, "bias", lambda scope, layer: right(scope, layer) * np.float16(1.15 if layer.name == "left" else 1))
    footprint = coreml.write(graph, tmp_path / "net.mlpackage", compress=compress)
    file = Written(tmp_path / "net.mlpackage", coreml, graph, footprint)
    assert max(output.max_rel for output in compare(coreml.runner(file.path), footprint.held).outputs) < HALF
    with pytest.raises(VerificationError, match=r"left computes something else .* than the reference does from the same values: they differ by"):
        verify_file(file, source(graph))
    assert verify_file(file, source(graph), tolerance=Tolerance(rtol=HALF)).comparison.passed
