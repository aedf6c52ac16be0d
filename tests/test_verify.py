"""Verification finds what is wrong, and counts what is right."""

import numpy as np
import pytest

from rsk_deploy import reference, store
from rsk_deploy.errors import RskError, VerificationError
from rsk_deploy.ir import Dense, Graph, Input, Linear
from rsk_deploy.pack import pack
from rsk_deploy.readers import Source
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


@pytest.mark.parametrize("tolerance", [None, HALF])
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
