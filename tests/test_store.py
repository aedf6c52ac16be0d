"""A .rsk file holds the whole packed graph, bit for bit, in the same bytes every time."""

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
import safetensors.numpy
from hostile.rsk_model import network
from hypothesis import given
from hypothesis import strategies as st

from rsk_deploy import codec, ir, reference, store
from rsk_deploy.errors import CorruptFileError, MissingExtraError, UsageError
from rsk_deploy.provenance import provenance
from rsk_deploy.registry import FORMATS, converter_named

TESTS = os.path.dirname(__file__)
SAVE = "import sys; sys.path.insert(0, sys.argv[1]); from hostile.rsk_model import network; from rsk_deploy import store; store.save(network(), sys.argv[2])"


@pytest.fixture(scope="module")
def graph():
    return network()


@pytest.fixture(scope="module")
def path(graph, tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "net.rsk"
    store.save(graph, path)
    return path


def concrete(kind=ir.Layer):
    """The layer classes that have no subclass."""
    below = kind.__subclasses__()
    return {kind} if not below else set().union(*map(concrete, below))


def small(*layers, **fields):
    """A graph of a few layers on one input."""
    return ir.Graph((ir.Input("x", (1, 4, 6, 6)),), ("y",), layers, **fields)


def activation(alpha, beta=1.0, **fields):
    return ir.Activation(name="act", inputs=("x",), outputs=("y",), kind="clip", alpha=alpha, beta=beta, **fields)


def constant(values):
    return ir.Constant(name="c", inputs=(), outputs=("y",), values=values)


def again(graph):
    """The graph after a trip through JSON text and arrays."""
    document, arrays = codec.encode(graph)
    return codec.decode(json.loads(json.dumps(document)), arrays)


def test_the_sample_has_every_layer_and_every_format(graph):
    assert {type(layer) for layer in graph.layers} == concrete() == set(codec.LAYERS.values())
    assert {layer.weight.format for layer in graph.weighted()} == set(FORMATS)


def test_a_saved_graph_loads_equal(graph, path):
    loaded = store.load(path)
    assert loaded == graph
    assert all(layer.weight.choice == original.weight.choice for layer, original in zip(loaded.weighted(), graph.weighted(), strict=True))
    assert loaded.dynamic


def test_a_loaded_graph_saves_to_the_same_bytes(path, tmp_path):
    store.save(store.load(path), tmp_path / "again.rsk")
    assert (tmp_path / "again.rsk").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("seed", ["0", "1", "4242"])
def test_other_processes_and_hash_seeds_write_the_same_bytes(path, tmp_path, seed):
    other = tmp_path / "other.rsk"
    subprocess.run([sys.executable, "-c", SAVE, TESTS, other], check=True, env={**os.environ, "PYTHONHASHSEED": seed})
    assert hashlib.sha256(other.read_bytes()).hexdigest() == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_file_is_plain_safetensors_with_one_metadata_key(graph, path):
    with safetensors.safe_open(path, framework="numpy") as file:
        assert list(file.metadata()) == ["rsk"]
        text = file.metadata()["rsk"]
    content = json.loads(text)
    assert text == json.dumps(content, sort_keys=True, separators=(",", ":"))
    assert content["format_version"] == 1
    assert content["provenance"] == provenance(graph) == store.read(path).provenance
    arrays = safetensors.numpy.load_file(path)
    (csr,) = (layer.weight for layer in graph.weighted() if layer.name == "conv.csr")
    np.testing.assert_array_equal(arrays["conv.csr.weight.values"], csr.arrays["values"])
    assert {"conv.csr.weight.rows", "conv.csr.bias", "bn.scale", "shuffle.indices"} <= arrays.keys()


def test_names_that_would_meet_are_kept_apart(path):
    arrays = safetensors.numpy.load_file(path)  # the constant "fc.weight" has values, and so has the weight of "fc"
    assert arrays["fc.weight.values"].shape == (64,)
    assert arrays["fc.weight.values~"].shape == (8, 8)


def test_loaded_arrays_cannot_be_written_to(path):
    weight = next(store.load(path).weighted()).weight
    with pytest.raises(ValueError, match="read-only"):
        weight.arrays["values"][0] = 1


@given(st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_floats_keep_their_bits(alpha, beta):
    (layer,) = again(small(activation(alpha, beta))).layers
    assert (layer.alpha.hex(), layer.beta.hex()) == (alpha.hex(), beta.hex())


@pytest.mark.parametrize(
    "values", [np.array(2.5, "f4"), np.arange(3, dtype=">i4"), np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.array([np.inf, np.nan], "f2")]
)
def test_constants_of_any_layout_keep_their_values(values, tmp_path):
    store.save(small(constant(values)), tmp_path / "c.rsk")
    (layer,) = store.load(tmp_path / "c.rsk").layers
    assert layer.values.dtype == values.dtype.newbyteorder("=")
    np.testing.assert_array_equal(layer.values, values)


@pytest.mark.parametrize("dtype", codec.DTYPES)
def test_constants_of_every_type_come_back(dtype, tmp_path):
    store.save(small(constant(np.array([0, 1], dtype))), tmp_path / "c.rsk")
    assert store.load(tmp_path / "c.rsk").layers[0].values.dtype == dtype


def test_meta_comes_back_as_json(tmp_path):
    assert again(small(activation(0.0), meta={"size": (1, 2), "é\n": [None, True, 1e-300, -0.0]})).meta == {"size": [1, 2], "é\n": [None, True, 1e-300, -0.0]}


@pytest.mark.parametrize(
    ("graph", "said"),
    [
        (small(activation(float("nan"))), "act.alpha: expected a number, found nan"),
        (small(activation(0.0, origin="\ud800")), "act.origin: expected a text"),
        (small(constant(np.array(["text"]))), "c.values: expected an array of bool or .*found dtype"),
        (small(constant(np.array([1j]))), "c.values: expected an array of"),
        (small(ir.PRelu(name="p", inputs=("x",), outputs=("y",), slope=np.ones(4))), "p.slope: expected an array of float32, found dtype\\('float64'\\)"),
        (small(ir.PRelu(name="p", inputs=("x",), outputs=("y",), slope=np.full(4, np.inf, "f4"))), "p.slope: has values that are not finite"),
        (small(activation(0.0), meta={"a": float("inf")}), "meta.a: expected null, true, false, a finite number"),
        (small(activation(0.0), meta={"a": np.float32(1)}), "meta.a: expected null"),
        (small(activation(0.0), meta={"a": {1: 2}}), "meta.a: expected a text, found 1"),
        (small(activation(0.0), meta={"a": 2**64}), "meta.a: expected a whole number of at most 64 bits"),
        (small(activation(0.0), meta={"a": "x" * (9 << 20)}), "its header .* allowed are 8388608"),
    ],
)
def test_what_would_not_load_is_not_written(graph, said, tmp_path):
    with pytest.raises(CorruptFileError, match=said):
        store.save(graph, tmp_path / "net.rsk")
    assert os.listdir(tmp_path) == []


def test_a_graph_that_is_not_packed_is_refused_with_what_to_do(tmp_path):
    layer = ir.Linear(name="fc", inputs=("x",), outputs=("y",), weight=ir.Dense(np.ones((2, 6), "f4")))
    with pytest.raises(UsageError, match=r"fc\.weight: is not packed\. Run rsk_deploy\.pack"):
        store.save(small(layer), tmp_path / "net.rsk")


def test_an_existing_file_is_replaced_only_with_force(graph, tmp_path):
    path = tmp_path / "net.rsk"
    path.write_text("old")
    with pytest.raises(UsageError, match="exists already"):
        store.save(graph, path)
    assert path.read_text() == "old"
    store.save(graph, str(path), force=True)
    assert store.load(str(path)) == graph


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("missing.rsk", "no such file$"),
        ("missing.onnx", "no such file$"),
        ("folder.rsk", "is not a file$"),
        ("model.pt", r"is a model that is not packed yet; read it and pack it: rsk_deploy\.pack\(rsk_deploy\.read\(path\)\)"),
        ("net.txt", r"is neither \.rsk nor \.onnx"),
    ],
)
def test_what_is_no_packed_file_is_refused_with_what_to_do(tmp_path, name, said):
    (tmp_path / "folder.rsk").mkdir()
    with pytest.raises(UsageError, match=f"^{tmp_path / name}: {said}"):
        store.load(tmp_path / name)


def test_saving_under_another_suffix_is_refused(graph, tmp_path):
    with pytest.raises(UsageError, match=r"net\.onnx: a packed graph is saved as \.rsk; .*rsk_deploy\.export"):
        store.save(graph, tmp_path / "net.onnx")


def test_a_packed_onnx_file_opens_like_a_rsk_file(tmp_path):
    path = tmp_path / "net.onnx"
    graph = network(opaque=False)
    converter_named("onnx").write(graph, path)
    assert store.is_ours(path)
    saved = store.read(path)
    assert saved.graph == store.load(path)
    assert saved.provenance["weights_sha256"] == provenance(graph)["weights_sha256"] == provenance(saved.graph)["weights_sha256"]


def test_an_ordinary_onnx_file_is_to_be_read_and_packed(tmp_path):
    path = tmp_path / "net.onnx"
    value = onnx.helper.make_tensor_value_info("x", 1, [1, 4])
    onnx.save(
        onnx.helper.make_model(
            onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [value], [onnx.helper.make_tensor_value_info("y", 1, [1, 4])])
        ),
        path,
    )
    assert not store.is_ours(path)
    with pytest.raises(UsageError, match=rf"^{path}: carries no .*rsk_deploy\.read, then pack it"):
        store.load(path)


@pytest.mark.parametrize(("name", "ours"), [("net.rsk", True), ("net.pt", False)])
def test_a_rsk_file_is_ours_by_its_name(tmp_path, name, ours):
    assert store.is_ours(tmp_path / name) is ours


def finder_of_all_but(package):
    """A finder that knows that a package is not there."""

    class Finder:
        @staticmethod
        def find_spec(name, *_):
            if name == package:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    return Finder


def test_a_missing_safetensors_is_said_with_the_command_to_run(path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "safetensors"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [finder_of_all_but("safetensors"), *sys.meta_path])
    with pytest.raises(MissingExtraError, match=r'A \.rsk file needs safetensors, .*pip install "rsk-deploy'):
        store.load(path)


def test_it_is_a_converter_whose_files_run_in_the_reference(tmp_path):
    graph, converter = network(opaque=False), converter_named("rsk")
    converter.write(graph, tmp_path / "net.rsk", **dict.fromkeys(converter.OPTIONS))
    inputs = {"x": np.random.default_rng(0).standard_normal((2, 8, 8, 10)).astype("f4")}
    found = converter.runner(tmp_path / "net.rsk", ["mean:0"])(inputs)
    expected = reference.run(graph, inputs, ["mean:0"])
    assert found.keys() == expected.keys() == {"y", "mean:0"}
    assert all(found[name].tobytes() == expected[name].tobytes() for name in expected)
    assert converter.RUNNER == "the numpy reference"
