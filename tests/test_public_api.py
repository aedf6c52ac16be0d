import subprocess
import sys

import numpy as np
import pytest

import rsk_deploy
from rsk_deploy.errors import UsageError

MEASURE = """
import sys, time
start = time.perf_counter()
import rsk_deploy
from rsk_deploy.errors import UsageError
seconds = time.perf_counter() - start
heavy = {"numpy", "torch", "onnx", "onnxruntime", "scipy", "safetensors", "typer", "rich", "openvino"} & set(sys.modules)
print(seconds, *heavy)
"""


def test_the_public_names():
    assert sorted(rsk_deploy.__all__) == ["Graph", "RskError", "Session", "compare", "export", "load", "pack", "read", "report", "save"]
    assert all(hasattr(rsk_deploy, name) for name in rsk_deploy.__all__)


def test_importing_loads_nothing_that_is_not_used_yet():
    seconds, *heavy = subprocess.run([sys.executable, "-c", MEASURE], check=True, capture_output=True, text=True).stdout.split()
    assert not heavy
    assert float(seconds) < 5  # a hang, not a figure: the 150 ms are measured by benchmarks/import_time.py


def test_the_submodules_do_not_hide_the_functions():
    modules = "rsk_deploy.packing, rsk_deploy.exporting, rsk_deploy.comparing, rsk_deploy.reporting"
    code = f"import {modules}, rsk_deploy as rsk; print(all(callable(getattr(rsk, name)) for name in rsk.__all__))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() == "True"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'exprt'"):
        rsk_deploy.exprt  # noqa: B018 - the access is the test


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"dynamic": "batch"}, "rsk_deploy.read takes no argument 'dynamic'; it takes input_shape=None, dynamic_batch=False, .* Did you mean 'dynamic_batch'"),
        ({"zzz": 1}, r"rsk_deploy.read takes no argument 'zzz'; it takes .*rsk_seed=1\.$"),
    ],
)
def test_an_option_that_reading_does_not_have_is_refused_with_those_it_has(onnx_model, arguments, sentence):
    with pytest.raises(UsageError, match=sentence):
        rsk_deploy.read(onnx_model, **arguments)


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        ("net.onnx", {"dynamic": "batch"}, "rsk_deploy.export takes no argument 'dynamic'; it takes .* Did you mean 'dynamic_batch'"),
        ("net.onnx", {"wieghts": "csr"}, "rsk_deploy.export takes no argument 'wieghts'; it takes .*, format, weights, .* Did you mean 'weights'"),
        ("net.onnx", {"opset": 17}, "'opset' is an option of format onnx: give it as options={'opset': 17}"),
        ("net.onnx", {"options": {"opst": 17}}, "--format onnx has no option 'opst'; it has opset, sparse_initializer"),
        ("net.onnx", {"tolerance": 1e-3}, r"tolerance is 0\.001; give a rsk_deploy\.verify\.Tolerance"),
        ("net", {}, "net: has no suffix that says its format; give format= one of onnx, c, rsk, coreml"),
    ],
)
def test_an_option_that_exporting_does_not_have_is_refused_with_those_it_has(onnx_model, tmp_path, name, arguments, sentence):
    with pytest.raises(UsageError, match=sentence):
        rsk_deploy.export(onnx_model, tmp_path / name, **arguments)
    assert not list(tmp_path.iterdir())


def test_an_option_of_reading_is_refused_for_a_graph_that_has_been_read(onnx_model, tmp_path):
    graph = rsk_deploy.read(onnx_model)
    with pytest.raises(UsageError, match="'dynamic_batch' changes nothing here: the graph has been read"):
        rsk_deploy.export(graph, tmp_path / "net.rsk", dynamic_batch=True)
    with pytest.raises(UsageError, match="'input_shape' changes nothing here"):
        rsk_deploy.export(graph, tmp_path / "net.rsk", input_shape=np.array([1, 3, 8, 8]))
    for given in ({"weights": "csr"}, {"half": True}, {"lower": "always"}):
        with pytest.raises(UsageError, match=f"'{next(iter(given))}' changes nothing here: the graph has been packed"):
            rsk_deploy.export(rsk_deploy.pack(graph), tmp_path / "net.rsk", **given)
    assert not list(tmp_path.iterdir())
    rsk_deploy.export(graph, tmp_path / "net.rsk", weights="csr")
    assert {layer.weight.format for layer in rsk_deploy.load(tmp_path / "net.rsk").weighted()} == {"csr", "dense"}
