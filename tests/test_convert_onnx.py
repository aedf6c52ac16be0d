"""ONNX files as wholes: what they declare, what they say of themselves, that their bytes depend on the graph alone, and how they run."""

import json
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest

from rsk_deploy import reference
from rsk_deploy.converters import onnx as converter
from rsk_deploy.errors import CorruptFileError, MissingExtraError, UnsupportedError, UsageError, VerificationError
from rsk_deploy.ir import Activation, Choice, Concat, Constant, Conv, Graph, Input, Linear, LogEntry, Mask, MatMul, MaxPool, Opaque, Packed, Reduce, Reshape
from rsk_deploy.packing import pack, unpack
from rsk_deploy.provenance import provenance, tool_version
from rsk_deploy.readers.onnx import read_packed
from rsk_deploy.registry import format_named


def packed(rng, format, *shape):
    support = rng.random(shape) < 0.5
    values = np.where(support, rng.standard_normal(shape), 0).astype(np.float32)
    weight = format_named(format).encode(values, Mask("unstructured", support))
    choice = Choice("unstructured", "any place", f"{support.sum()} of {support.size} kept", {"dense": values.nbytes, format: weight.nbytes}, "the smallest")
    return Packed(weight.format, weight.shape, weight.arrays, weight.params, choice)


def window(size):
    return {"stride": (1,) * 2, "pads": (size // 2,) * 4, "dilation": (1,) * 2}


def small_net(batch="batch"):
    """A stem, a branch, pooling and a classifier: one weight in each of four encodings."""
    rng = np.random.default_rng(7)
    common = {"bias": rng.standard_normal(8).astype(np.float32), **window(3)}
    layers = (
        Conv(name="stem", inputs=("image",), outputs=("stem.out",), weight=packed(rng, "dense", 8, 3, 3, 3), origin="net.py:12", **common),
        Activation(name="relu", inputs=("stem.out",), outputs=("hidden",), kind="relu"),
        Conv(name="left", inputs=("hidden",), outputs=("l",), weight=packed(rng, "pattern", 8, 8, 3, 3), **common),
        Conv(name="right", inputs=("hidden",), outputs=("r",), weight=packed(rng, "bitmask", 8, 8, 3, 3), **common),
        Concat(name="join", inputs=("l", "r"), outputs=("both",), axis=1),
        MaxPool(name="pool", inputs=("both",), outputs=("pooled",), kernel=(2, 2), stride=(2, 2), pads=(0,) * 4, dilation=(1, 1)),
        Reduce(name="mean", inputs=("pooled",), outputs=("averaged",), kind="mean", axes=(2, 3)),
        Reshape(name="flat", inputs=("averaged",), outputs=("features",), target=(-1, 16)),
        Linear(name="classifier", inputs=("features",), outputs=("scores",), weight=packed(rng, "csr", 5, 16)),
    )
    log = (LogEntry("stem", "batch norm", "bn1 scaled 8 filters"),)
    return Graph[Packed]((Input("image", (batch, 3, 6, 6)),), ("scores", "features"), layers, log, {"labels": ["a", "é"], "arch": {"width": 8}})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.onnx"


def image(batch):
    return {"image": np.random.default_rng(batch).standard_normal((batch, 3, 6, 6)).astype(np.float32)}


@pytest.mark.parametrize("batch", [1, 5])
def test_a_network_with_an_open_batch_runs_at_any(path, batch):
    graph = small_net()
    converter.write(graph, path)
    onnx.checker.check_model(str(path), full_check=True)
    actual, expected = converter.runner(path)(image(batch)), reference.run(graph, image(batch))
    assert list(actual) == ["scores", "features"]
    for name in actual:
        np.testing.assert_allclose(actual[name], expected[name], rtol=1e-5, atol=1e-5)


def dims(value):
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


@pytest.mark.parametrize("batch", ["batch", 2])
def test_inputs_and_outputs_name_the_open_batch(path, batch):
    converter.write(small_net(batch), path)
    model = onnx.load(path)
    assert [dims(value) for value in (*model.graph.input, *model.graph.output)] == [[batch, 3, 6, 6], [batch, 5], [batch, 16]]


def test_a_dimension_that_is_a_multiple_of_the_batch_is_left_open(path):
    layer = Reshape(name="flat", inputs=("x",), outputs=("y",), target=(-1, 4))
    converter.write(Graph[Packed]((Input("x", ("batch", 3, 4)),), ("y",), (layer,)), path)
    (output,) = onnx.load(path).graph.output
    assert dims(output) == [0, 4]
    assert converter.runner(path)({"x": np.ones((2, 3, 4), np.float32)})["y"].shape == (6, 4)


def test_the_file_declares_the_lowest_versions_and_who_wrote_it(path):
    converter.write(small_net(), path)
    model = onnx.load(path)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    assert (model.ir_version, model.producer_name, model.producer_version) == (8, "rsk-deploy", tool_version())
    assert {node.domain for node in model.graph.node} == {""}


def test_the_metadata_says_how_weights_are_stored_and_what_was_done(path):
    graph = small_net()
    converter.write(graph, path, opset=18)
    (entry,) = onnx.load(path).metadata_props
    content = json.loads(entry.value)
    assert entry.key == "rsk"
    assert entry.value == json.dumps(content, sort_keys=True, separators=(",", ":"))
    assert content["version"] == 1
    assert content["log"] == [["stem", "batch norm", "bn1 scaled 8 filters"]]
    assert content["meta"] == graph.meta
    assert content["provenance"]["options"] == {"opset": 18}
    weights = {layer.name: layer.weight for layer in graph.weighted()}
    assert content["weights"] == {
        name: {"format": weight.format, "shape": list(weight.shape), "params": weight.params, "choice": vars(weight.choice)} for name, weight in weights.items()
    }


def test_packed_arrays_are_stored_as_they_are_and_dense_weights_plainly(path):
    graph = small_net()
    converter.write(graph, path)
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    for layer in graph.weighted():
        if layer.weight.format == "dense":
            np.testing.assert_array_equal(stored[f"{layer.name}.weight"], layer.weight.arrays["values"].reshape(layer.weight.shape))
            continue
        for what, array in layer.weight.arrays.items():
            found = stored[f"{layer.name}.weight.{what}"]
            assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, array.shape, array.tobytes())


def test_nodes_have_the_layers_names_and_origins(path):
    graph = small_net()
    converter.write(graph, path)
    by_output = {name: node for node in onnx.load(path).graph.node for name in node.output}
    for layer in graph.layers:
        assert (by_output[layer.outputs[0]].name, by_output[layer.outputs[0]].doc_string) == (layer.name, layer.origin)


def test_constants_of_the_writer_are_stored_once(path):
    converter.write(small_net(), path)
    arrays = [onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer if tensor.name.startswith("rsk.constant.")]
    contents = {(array.dtype, array.shape, array.tobytes()) for array in arrays}
    assert len(contents) == len(arrays) > 1


def test_the_bytes_are_the_same_in_every_process_and_under_every_name(tmp_path):
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; from test_convert_onnx import small_net; "
        "from rsk_deploy.converters import onnx; onnx.write(small_net(), Path(sys.argv[2]))"
    )
    files = [tmp_path / f"{seed}.onnx" for seed in (1, 2)]
    for seed, file in enumerate(files, start=1):
        subprocess.run([sys.executable, "-c", script, os.path.dirname(__file__), str(file)], env=os.environ | {"PYTHONHASHSEED": str(seed)}, check=True)
    converter.write(small_net(), tmp_path / "here.onnx")
    assert files[0].read_bytes() == files[1].read_bytes() == (tmp_path / "here.onnx").read_bytes()


@pytest.mark.parametrize("opset", [12, 27, 0, -1])
def test_an_opset_that_cannot_be_written_is_refused(path, opset):
    with pytest.raises(UsageError, match=rf"^opset {opset} cannot be written; 13 to 26 can$"):
        converter.write(small_net(), path, opset=opset)
    assert not path.exists()


def test_two_values_of_one_name_are_refused(path):
    graph = small_net()
    clash = Constant(name="constant", inputs=(), outputs=("stem.bias",), values=np.ones(1, np.float32))
    with pytest.raises(UnsupportedError, match=r"two values of the file would be called 'stem.bias'; rename the layer or the value of that name"):
        converter.write(Graph[Packed](graph.inputs, graph.outputs, (*graph.layers, clash)), path)


def test_inner_values_are_given_where_they_exist(path):
    graph = small_net()
    converter.write(graph, path)
    names = ["hidden", "pooled", "scores", "no such value"]
    actual = converter.runner(path, names)(image(2))
    expected = reference.run(graph, image(2), names[:3])
    assert actual.keys() == expected.keys()
    for name in actual:
        np.testing.assert_allclose(actual[name], expected[name], rtol=1e-5, atol=1e-5)


def test_large_weights_go_to_one_file_beside(path, monkeypatch):
    graph = small_net()
    converter.write(graph, path)
    expected = converter.runner(path)(image(2))
    (path.parent / "beside").mkdir()
    large = path.parent / "beside" / "large.onnx"
    monkeypatch.setattr(converter, "EXTERNAL_ABOVE", 4000)
    converter.write(graph, large)
    assert sorted(file.name for file in large.parent.iterdir()) == ["large.onnx", "large.onnx.data"]
    onnx.checker.check_model(str(large), full_check=True)
    external = [tensor for tensor in onnx.load(large, load_external_data=False).graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
    assert {tensor.name for tensor in external} == {"left.weight.values", "right.weight.values", "rsk.constant.4"}
    for actual in (converter.runner(large)(image(2)), converter.runner(large, ["hidden"])(image(2))):
        for name in expected:
            np.testing.assert_allclose(actual[name], expected[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("package", "message"), [("onnx", "writing ONNX files needs onnx"), ("onnxruntime", "verifying ONNX files needs onnxruntime")])
def test_a_missing_package_is_named_with_how_to_install_it(path, monkeypatch, package, message):
    converter.write(small_net(), path)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf'{message}, which is not installed. Run: pip install "rsk-deploy\[onnx\]"'):
        converter.write(small_net(), path) if package == "onnx" else converter.runner(path)(image(1))


def opaque(op, opset, inputs=("x",), outputs=("y",), shape=("batch", 4), dtype="float32", domain="", **attributes):
    """A network of one node that the graph does not model; omitted inputs are empty."""
    slots = [[name and f"its.{name}" for name in side] for side in (inputs, outputs)]
    node = onnx.helper.make_node(op, *slots, "its name", domain=domain, **attributes).SerializeToString()
    names, results = tuple(filter(None, inputs)), tuple(filter(None, outputs))
    types = {"output_shapes": (shape,) * len(results), "output_dtypes": (dtype,) * len(results)}
    layer = Opaque(name="mystery", inputs=names, outputs=results, origin="net.py:3", op=op, node=node, domain=domain, opset=opset, **types)
    return Graph[Packed](tuple(Input(name, ("batch", 4)) for name in names), results, (layer,))


def opset_of(path):
    (entry,) = onnx.load(path).opset_import
    return entry.version


@pytest.mark.parametrize(
    ("op", "opset", "expected"),
    [
        ("Sinh", 11, 17),  # the same since 9
        ("Sign", 11, 17),  # more types since 13
        ("BitwiseNot", 18, 18),  # new in 18
        ("Hardmax", 13, 17),
        ("Swish", 24, 24),
    ],
)
def test_an_opaque_node_decides_the_opset(path, op, opset, expected):
    converter.write(opaque(op, opset, dtype="int32" if op == "BitwiseNot" else "float32"), path)
    assert opset_of(path) == expected


def test_an_opaque_node_is_written_back_unchanged(path):
    converter.write(opaque("Hardmax", 13, axis=0), path)
    onnx.checker.check_model(str(path), full_check=True)
    (node,) = onnx.load(path).graph.node
    assert (node.op_type, node.name, node.doc_string, list(node.input), list(node.output)) == ("Hardmax", "mystery", "net.py:3", ["x"], ["y"])
    assert node.attribute == [onnx.helper.make_attribute("axis", 0)]
    x = np.array([[1, 5, 2, 0], [2, 4, 8, 0]], np.float32)
    np.testing.assert_array_equal(converter.runner(path)({"x": x})["y"], [[0, 1, 0, 1], [1, 0, 1, 0]])


def test_an_opaque_node_that_means_something_else_now_is_refused(path):
    with pytest.raises(UnsupportedError, match=r"no opset from 13 to 26 holds mystery \(Hardmax\) as it is meant in opset 11"):
        converter.write(opaque("Hardmax", 11), path)


def test_an_opset_that_changes_an_opaque_node_is_refused(path):
    with pytest.raises(UsageError, match=r"opset 17 cannot hold mystery \(Swish\); 24 to 26 can\. Leave --opset out to have one chosen"):
        converter.write(opaque("Swish", 24), path, opset=17)


def test_omitted_inputs_and_outputs_of_an_opaque_node_stay_omitted(path):
    converter.write(opaque("Dropout", 13, inputs=("x", "", ""), outputs=("y", "")), path)
    onnx.checker.check_model(str(path), full_check=True)
    (node,) = onnx.load(path).graph.node
    assert (list(node.input), list(node.output)) == (["x", "", ""], ["y", ""])


def test_a_node_of_another_domain_keeps_its_version(path):
    converter.write(opaque("FastGelu", 1, domain="com.microsoft"), path)
    assert [(entry.domain, entry.version) for entry in onnx.load(path).opset_import] == [("", 17), ("com.microsoft", 1)]
    assert converter.runner(path)({"x": np.zeros((3, 4), np.float32)})["y"].shape == (3, 4)


@pytest.mark.parametrize("values", [(), ("y",)])
def test_a_file_that_onnxruntime_does_not_run_is_said(path, values):
    converter.write(opaque("Nonesuch", 1, domain="no.such"), path)
    with pytest.raises(VerificationError, match=r"^onnxruntime [\d.]+ does not run the file: .*Nonesuch"):
        converter.runner(path, values)({"x": np.zeros((3, 4), np.float32)})


def test_a_network_reads_back_as_it_was(path):
    converter.write(small_net(), path)
    assert read_packed(path) == small_net()


def test_a_product_with_a_constant_reads_back_as_a_product(tmp_path):
    constant = Constant(name="c", inputs=(), outputs=("c",), values=np.ones((3, 4), np.float32))
    product = MatMul(name="m", inputs=("x", "c"), outputs=("y",))
    graph = Graph[Packed]((Input("x", (2, 3)),), ("y",), (constant, product))
    converter.write(graph, tmp_path / "net.onnx")
    assert read_packed(tmp_path / "net.onnx") == graph


@pytest.mark.parametrize("half", [False, True])
def test_sparse_weights_as_sparse_initializers_on_request(path, half):
    graph = small_net()
    if half:
        graph = pack(unpack(graph), {"left": "pattern", "right": "bitmask"}, half=True)
    converter.write(graph, path, sparse_initializer=True)
    stored = onnx.load(path).graph.sparse_initializer
    assert [tensor.values.name.removesuffix(".values") for tensor in stored] == [
        f"{layer.name}.weight" for layer in graph.weighted() if layer.weight.format != "dense"
    ]
    actual, expected = converter.runner(path)(image(2)), reference.run(graph, image(2))
    for name in actual:
        np.testing.assert_allclose(actual[name], expected[name], rtol=1e-5, atol=1e-5)
    again = read_packed(path)
    assert {layer.weight.format for layer in again.weighted()} == ({"csr"} if half else {"dense", "csr"})
    for layer, written in zip(again.weighted(), graph.weighted(), strict=True):
        assert decoded(layer).tobytes() == decoded(written).tobytes()
    assert provenance(again)["weights_sha256"] == provenance(graph)["weights_sha256"]


def test_a_sparse_initializer_whose_places_do_not_rise_is_refused(path):
    converter.write(small_net(), path, sparse_initializer=True)
    model = onnx.load(path)
    tensor = model.graph.sparse_initializer[0]
    places, values = (onnx.numpy_helper.to_array(part)[::-1] for part in (tensor.indices, tensor.values))
    tensor.indices.CopyFrom(onnx.numpy_helper.from_array(places, tensor.indices.name))
    tensor.values.CopyFrom(onnx.numpy_helper.from_array(values, tensor.values.name))
    onnx.save(model, path)
    with pytest.raises(CorruptFileError, match=r"left: its sparse initializer has places of shape .* that do not rise"):
        read_packed(path)


def decoded(layer):
    return format_named(layer.weight.format).decode(layer.weight)
