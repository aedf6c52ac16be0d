"""What the ONNX reader makes of whole models: names, batches, patterns, opaque nodes, precision, packed files, and what it says of models it cannot read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile.onnx_files import functions, model, node, valid
from networks import NETWORKS
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.external_data_helper import convert_model_to_external_data
from torch.nn import functional

from rsk_deploy import reference
from rsk_deploy.converters import onnx as converter
from rsk_deploy.errors import CorruptFileError, UnsupportedError, UsageError
from rsk_deploy.ir import Activation, Constant, GroupNorm, LayerNorm, Linear, Opaque
from rsk_deploy.packing import pack
from rsk_deploy.readers import ReadOptions, read
from rsk_deploy.readers import onnx as onnx_reader
from rsk_deploy.readers.onnx import read_packed
from rsk_deploy.readers.onnx.build import Builder
from rsk_deploy.readers.onnx.inputs import plan_inputs
from rsk_deploy.readers.onnx.trace import Trace

NETS = (("convnext", True), ("odd-convs", True), ("norms", False), ("psconv-periodic", True), ("skeleton", False))


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = torch.nn.Conv2d(3, 8, 3, padding=1, bias=False), torch.nn.BatchNorm2d(8)
        self.norm, self.fc = torch.nn.LayerNorm(8), torch.nn.Linear(8, 8)
        self.groups = torch.nn.GroupNorm(2, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.silu(self.groups(self.bn1(self.conv1(x))))
        tokens = self.norm(x.flatten(2).transpose(1, 2))
        return functional.hardswish(functional.gelu(self.fc(tokens))).mean(1)


def legacy(path: Path, opset: int) -> Path:
    torch.manual_seed(0)
    torch.onnx.export(Block().eval(), (torch.randn(1, 3, 6, 6),), path, dynamo=False, opset_version=opset, input_names=["x"], dynamic_axes={"x": {0: "n"}})
    return path


def agree(source: Any, feeds: dict[str, np.ndarray]) -> None:
    wanted, found = source.run(feeds), reference.run(source.graph, feeds)
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("opset", [11, 13, 16, 17])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning", "ignore::UserWarning")
def test_the_long_forms_of_torchs_older_exporter_become_the_layers_they_mean(opset: int, tmp_path: Path) -> None:
    source = read(legacy(tmp_path / "net.onnx", opset), ReadOptions(dynamic_batch=True))
    assert not [layer for layer in source.graph.layers if isinstance(layer, Opaque | Constant)]
    assert [layer.kind for layer in source.graph.layers if isinstance(layer, Activation)] == ["silu", "gelu", "hard-swish"]
    (norm,) = (layer for layer in source.graph.layers if isinstance(layer, LayerNorm))
    (groups,) = (layer for layer in source.graph.layers if isinstance(layer, GroupNorm))
    (linear,) = (layer for layer in source.graph.layers if isinstance(layer, Linear))
    assert (norm.name, groups.groups, linear.bias is not None) == ("norm", 2, True)
    agree(source, {"x": np.random.default_rng(0).standard_normal((3, 3, 6, 6)).astype(np.float32)})


def test_layers_are_named_after_their_weights_and_values_keep_their_names() -> None:
    graph = onnx_reader.read(valid(), ReadOptions()).graph
    assert [layer.name for layer in graph.layers] == ["conv", "the_BatchNormalization", "the_Relu", "the_MaxPool", "the_Reshape", "fc"]
    assert [layer.outputs[0] for layer in graph.layers] == ["a", "n", "r", "p", "f", "y"]


def test_a_weight_that_two_layers_share_names_both() -> None:
    shared = model([node("Conv", "x w.weight", "a", pads=[1] * 4), node("Conv", "a w.weight", pads=[1] * 4)], {"w.weight": np.ones((3, 3, 3, 3), np.float32)})
    assert [layer.name for layer in onnx_reader.read(shared, ReadOptions()).graph.layers] == ["w", "w_2"]


def test_weights_have_no_negative_zero() -> None:
    signed = model([node("Conv", "x w.weight")], {"w.weight": np.full((3, 3, 3, 3), -0.0, np.float32)})
    (layer,) = onnx_reader.read(signed, ReadOptions()).graph.weighted()
    assert not np.signbit(layer.weight.values).any()


def fixed_batch(*target: int) -> ModelProto:
    return model([node("Relu", "x", "a"), node("Reshape", "a t")], {"t": np.array(target)}, (2, 3, 4), (None, None))


def test_a_file_with_a_fixed_batch_is_read_with_an_open_one() -> None:
    source = onnx_reader.read(fixed_batch(-1, 12), ReadOptions(dynamic_batch=True))
    assert source.graph.inputs[0].shape == ("batch", 3, 4)
    agree(source, {"x": np.random.default_rng(0).standard_normal((5, 3, 4)).astype(np.float32)})


def test_a_batch_that_the_file_pins_cannot_be_opened() -> None:
    with pytest.raises(UsageError, match=r"with a fixed batch size only: the_Reshape: .* does not reshape to .* Leave out --dynamic batch"):
        onnx_reader.read(fixed_batch(2, 12), ReadOptions(dynamic_batch=True))


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        (("n", 3, "h", "w"), {}, "open beyond the batch: give its shape with --input-shape"),
        (("n", 3, 8, 8), {"input_shape": (1, 4, 8, 8)}, r"has shape \('n', 3, 8, 8\) in the file; \(1, 4, 8, 8\) is asked"),
        (("n", 3, 8, 8), {"input_shape": (1, 3, 8)}, "is asked"),
        (("n", 3, 8, 8), {"input_shape": {"z": (1, 3, 8, 8)}}, "given for 'z'; the inputs are x"),
    ],
)
def test_an_input_shape_that_does_not_fit_is_refused(shape: Any, options: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        onnx_reader.read(model([node("Relu", "x")], x=shape), ReadOptions(**options))


def test_open_heights_and_widths_are_fixed_by_the_options() -> None:
    graph = onnx_reader.read(model([node("Relu", "x")], x=("n", 3, "h", "w")), ReadOptions(input_shape=(1, 3, 5, 7), dynamic_batch=True)).graph
    assert graph.inputs[0].shape == ("batch", 3, 5, 7)


def test_weights_that_are_not_finite_are_counted_and_placed() -> None:
    weight = np.zeros((4, 3, 3, 3), np.float32)
    weight[1, 2, 0, 1] = weight[3] = np.nan
    with pytest.raises(CorruptFileError, match=r"w: 28 of 108 weights are not finite, the first at \(1, 2, 0, 1\)"):
        onnx_reader.read(model([node("Conv", "x w")], {"w": weight}), ReadOptions())


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_precisions_become_float32_and_the_log_says_so(dtype: Any) -> None:
    code = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    weight = np.random.default_rng(0).standard_normal((8, 5)).astype(dtype)
    proto = model([node("MatMul", "x w")], {"w": weight}, dtype=code)
    proto.graph.output[0].type.tensor_type.elem_type = code
    source = onnx_reader.read(proto, ReadOptions())
    assert source.graph.inputs[0].dtype == "float32"
    assert [(entry.action, np.dtype(dtype).name in entry.detail) for entry in source.graph.log] == [("precision", True)]
    (layer,) = source.graph.weighted()
    np.testing.assert_array_equal(layer.weight.values, weight.T.astype(np.float32))
    assert source.run({"x": np.ones((1, 3, 8, 8), np.float32)})["y"].dtype == np.float32


def test_quantised_weights_are_decoded() -> None:
    nodes = [node("DequantizeLinear", "q s", "conv.weight"), node("Conv", "x conv.weight")]
    quantised = np.random.default_rng(0).integers(-100, 100, (4, 3, 3, 3)).astype(np.int8)
    source = onnx_reader.read(model(nodes, {"q": quantised, "s": np.float32(0.05)}), ReadOptions())
    assert [type(layer).__name__ for layer in source.graph.layers] == ["Conv"]
    agree(source, {"x": np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)})


def test_options_for_training_time_layers_are_refused(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(valid().SerializeToString())
    with pytest.raises(UsageError, match=r"net.onnx: --arch changes nothing here: an ONNX file is a network without training-time layers. Leave it out"):
        onnx_reader.read(tmp_path / "net.onnx", ReadOptions(arch="cnn6"))


def test_what_is_not_modelled_stays_an_opaque_node_with_its_constants() -> None:
    proto = model([node("Relu", "x", "a"), node("Einsum", "a w", "b", equation="nchw,cd->ndhw"), node("Abs", "b")], {"w": np.ones((3, 5), np.float32)})
    graph = onnx_reader.read(proto, ReadOptions(dynamic_batch=True, input_shape=(1, 3, 8, 8))).graph
    assert [type(layer).__name__ for layer in graph.layers] == ["Activation", "Constant", "Opaque", "Activation"]
    opaque = graph.layers[2]
    assert isinstance(opaque, Opaque)
    assert (opaque.op, opaque.inputs, opaque.output_shapes, opaque.output_dtypes) == ("Einsum", ("a", "w"), (("batch", 5, 8, 8),), ("float32",))


def test_a_subgraph_is_kept_with_what_it_captures() -> None:
    info = helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 3, 8, 8])
    then, other = (helper.make_graph([helper.make_node(op, ["a"], ["z"])], op, [], [info]) for op in ("Abs", "Neg"))
    nodes = [node("ReduceSum", "x", "s", keepdims=0), node("Cast", "s", "c", to=TensorProto.BOOL), node("Dropout", "x", "a")]
    proto = model([*nodes, helper.make_node("If", ["c"], ["y"], name="the_If", then_branch=then, else_branch=other)])
    graph = onnx_reader.read(proto, ReadOptions()).graph
    assert isinstance(graph.layers[-1], Opaque)
    assert graph.layers[-1].inputs == ("c", "x")  # the dropout between is gone
    assert b"\n\x01x" in graph.layers[-1].node


def test_a_value_that_follows_the_batch_size_keeps_the_nodes_that_compute_it() -> None:
    nodes = [node("Shape", "x", "s", end=1), node("Concat", "s rest", "t", axis=0), node("Expand", "token t", "e"), node("Concat", "e x", axis=1)]
    weights = {"rest": np.array([1, 4]), "token": np.ones((1, 1, 4), np.float32)}
    graph = onnx_reader.read(model(nodes, weights, ("n", 3, 4), (None, None, None)), ReadOptions(dynamic_batch=True)).graph
    assert [layer.op for layer in graph.layers if isinstance(layer, Opaque)] == ["Shape", "Concat", "Expand"]
    assert graph.shapes(5)["y"] == (5, 4, 4)


def test_model_local_functions_are_inlined() -> None:
    graph = onnx_reader.read(functions({"f0": ["f1", "Relu"], "f1": ["Neg"]}), ReadOptions()).graph
    assert [layer.kind for layer in graph.layers if isinstance(layer, Activation)] == ["neg", "relu"]


def test_external_data_beside_the_model_is_read(tmp_path: Path) -> None:
    import onnx

    proto = valid()
    wanted = onnx_reader.read(proto, ReadOptions()).graph
    convert_model_to_external_data(proto, location="net.data", size_threshold=300)
    onnx.save(proto, tmp_path / "net.onnx")
    source = onnx_reader.read(tmp_path / "net.onnx", ReadOptions())
    assert source.graph == wanted
    agree(source, {"x": np.ones((1, 3, 8, 8), np.float32)})


def test_a_sparse_initializer_is_read() -> None:
    from onnx import SparseTensorProto

    proto = model([node("Conv", "x w")])
    values, places = numpy_helper.from_array(np.array([2, 3], np.float32), "w"), numpy_helper.from_array(np.array([5, 100]), "i")
    proto.graph.sparse_initializer.append(SparseTensorProto(values=values, indices=places, dims=[4, 3, 3, 3]))
    (layer,) = onnx_reader.read(proto, ReadOptions()).graph.weighted()
    assert np.flatnonzero(layer.weight.values).tolist() == [5, 100]


def test_an_output_that_is_only_passed_on_keeps_its_name() -> None:
    graph = onnx_reader.read(model([node("Relu", "x", "a"), node("Dropout", "a")]), ReadOptions()).graph
    assert [layer.outputs for layer in graph.layers] == [("a",), ("y",)]


@pytest.mark.parametrize(("name", "dynamic"), NETS)
def test_a_packed_file_reads_back_to_the_graph_that_was_exported(name: str, dynamic: bool, tmp_path: Path) -> None:
    build, shape = NETWORKS[name]
    packed = pack(read(build(), ReadOptions(input_shape=shape, dynamic_batch=dynamic)).graph)
    converter.write(packed, tmp_path / "net.onnx")
    assert read_packed(tmp_path / "net.onnx") == packed


def test_an_ordinary_file_is_no_packed_one(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(valid().SerializeToString())
    with pytest.raises(UsageError, match="carries no 'rsk' metadata: it is an ordinary ONNX file"):
        read_packed(tmp_path / "net.onnx")


METADATA = {
    "no JSON": ("{", "is no JSON"),
    "a list": ("[]", "has version 'list'"),
    "another version": ('{"version": 2}', "has version 2; this program reads version 1"),
    "no weights": ('{"version": 1}', "has no weights"),
    "an odd log": ('{"version": 1, "weights": {}, "log": [["a"]], "meta": {}}', r"logs \['a'\]"),
    "not finite": ('{"version": 1, "weights": {}, "log": [], "meta": {"a": NaN}}', "contains NaN"),
    "too few weights": ('{"version": 1, "weights": {}, "log": [], "meta": {}}', "lists 0 weights and its graph has 2"),
    "an odd weight": ('{"version": 1, "weights": {"the_Conv": 1, "the_Gemm": 1}, "log": [], "meta": {}}', "its metadata says 1; a format of"),
}


@pytest.mark.parametrize("name", METADATA)
def test_metadata_that_makes_no_sense_is_refused(name: str, tmp_path: Path) -> None:
    text, message = METADATA[name]
    proto = valid()
    proto.metadata_props.add(key="rsk", value=text)
    (tmp_path / "net.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(CorruptFileError, match=message):
        read_packed(tmp_path / "net.onnx")


def test_a_packed_weight_that_the_graph_does_not_compute_with_is_refused(tmp_path: Path) -> None:
    proto = valid()
    entry = '{"format": "dense", "shape": [4, 3, 3, 3], "params": {}}'
    proto.metadata_props.add(key="rsk", value=f'{{"version": 1, "log": [], "meta": {{}}, "weights": {{"conv": {entry}, "the_Gemm": {entry}}}}}')
    proto.graph.node[0].name = "conv"
    proto.graph.node[0].input[1] = "other"
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros((4, 3, 3, 3), np.float32), "other"))
    (tmp_path / "net.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(CorruptFileError, match="conv: the metadata disagrees with the graph"):
        read_packed(tmp_path / "net.onnx")


def test_a_sequence_that_depends_on_the_input_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match=r"the_SequenceConstruct.*computes a sequence"):
        onnx_reader.read(model([node("SequenceConstruct", "x x", "s"), node("ConcatFromSequence", "s", axis=0)]), ReadOptions())


def test_taking_back_layers_frees_their_names_and_costs_nothing_for_those_before() -> None:
    trace = Trace(valid(), plan_inputs(valid(), ReadOptions()))
    builder = Builder(trace, exact=False, by_nodes=lambda name: None)
    builder.append(Constant(name=builder.layer_name("kept"), inputs=(), outputs=(builder.value_name("kept"),), values=np.zeros(1, np.float32)))
    mark = builder.mark()
    assert mark == (1, 1, len(trace.values) + 1, 1)
    builder.append(Constant(name=builder.layer_name("gone"), inputs=(), outputs=(builder.value_name("gone"),), values=np.zeros(1, np.float32)))
    builder.roll_back(mark)
    assert [layer.name for layer in builder.layers] == ["kept"]
    assert builder.has("kept")
    assert not builder.has("gone")
    assert (builder.layer_name("gone"), builder.value_name("gone"), builder.layer_name("kept")) == ("gone", "gone", "kept_2")
