"""Legal ONNX that is seldom written: known conditions, pools that leave a window out, outputs without a shape, half precision, names used again."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from hostile.onnx_files import functions, model, node, valid
from onnx import ModelProto, TensorProto, helper, numpy_helper

from rsk_deploy import export, pack, reference
from rsk_deploy.errors import CorruptFileError, UnsupportedError
from rsk_deploy.ir import Conv, Opaque
from rsk_deploy.readers import ReadOptions
from rsk_deploy.readers import onnx as onnx_reader
from rsk_deploy.readers.onnx.build import Names

RNG = np.random.default_rng(5)
PLAIN = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)


def f(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def read(proto: Any, **options: Any) -> Any:
    return onnx_reader.read(proto, ReadOptions(**options))


def check(source: Any, batch: int = 1, scale: float = 1.0) -> None:
    feeds = {entry.name: f(*entry.at(batch)) for entry in source.graph.inputs}
    wanted, found = source.run(feeds), reference.run(source.graph, feeds)
    assert list(wanted) == list(source.graph.outputs)
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], rtol=2e-5 * scale, atol=2e-5 * scale)


def branch(*nodes: Any, **weights: np.ndarray) -> Any:
    """A subgraph that gives ``z``."""
    return helper.make_graph(list(nodes), "branch", [], [PLAIN], [numpy_helper.from_array(value, name) for name, value in weights.items()])


def chosen(condition: str, output: str, then: Any, other: Any) -> Any:
    return helper.make_node("If", [condition], [output], name=f"the_If_{output}", then_branch=then, else_branch=other)


@pytest.mark.parametrize("truth", [True, False])
@pytest.mark.parametrize("dynamic", [False, True])
def test_an_if_whose_condition_follows_from_constants_is_the_branch_that_it_takes(truth: bool, dynamic: bool) -> None:
    scaled, shifted = branch(node("Mul", "x k", "z"), k=f(3, 1, 1)), branch(node("Relu", "x", "k"), node("Neg", "k", "z"))
    inner = branch(chosen("c", "a", scaled, shifted), node("Add", "a b", "z"), b=f(1))
    nodes = [
        node("Shape", "x", "s"), node("Gather", "s one", "channels"), node("Equal", "channels n", "c"), node("Not", "c", "d"),
        chosen("c", "u", scaled, shifted), chosen("d", "v", inner, scaled), node("Concat", "u v", axis=1),
    ]  # fmt: skip
    proto = model(nodes, {"one": np.int64(1), "n": np.int64(3 if truth else 4)}, ("batch", 3, 4, 4))
    source = read(proto, dynamic_batch=dynamic)
    assert not [layer for layer in source.graph.layers if isinstance(layer, Opaque)]
    check(source, 3 if dynamic else 1)


def test_an_if_whose_branch_only_hands_an_outer_value_on_computes_nothing() -> None:
    proto = model([node("Relu", "x", "r"), chosen("c", "y", branch(node("Identity", "r", "z")), branch(node("Neg", "r", "z")))], {"c": np.ones((), bool)})
    assert [layer.outputs for layer in read(proto).graph.layers] == [("r",), ("y",)]


def test_a_branch_with_other_outputs_than_its_if_is_refused() -> None:
    two = helper.make_graph([node("Neg", "x", "z"), node("Relu", "x", "w")], "branch", [], [PLAIN, helper.make_tensor_value_info("w", TensorProto.FLOAT, None)])
    proto = model([chosen("c", "y", two, two)], {"c": np.ones((), bool)})
    with pytest.raises(CorruptFileError, match="the_If_y: an If with 1 outputs takes a branch with 2"):
        read(proto)


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning", "ignore::UserWarning")
def test_torchs_older_exporter_writes_normalisation_over_channels_with_an_if(opset: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.LocalResponseNorm(3, alpha=0.5)).eval()
    torch.onnx.export(net, (torch.randn(1, 3, 6, 6),), tmp_path / "net.onnx", dynamo=False, opset_version=opset)
    assert b"then_branch" in (tmp_path / "net.onnx").read_bytes()
    check(read(tmp_path / "net.onnx"))


POOLS = {
    "padded": ((1, 3, 5, 5), {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [1, 1, 1, 1]}, torch.nn.MaxPool2d(2, 2, 1, ceil_mode=True)),
    "sparse": ((1, 3, 10, 12), {"kernel_shape": [2, 2], "strides": [3, 3]}, torch.nn.MaxPool2d(2, 3, ceil_mode=True)),
}


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("opset", [11, 13, 19, 21, 22])
def test_a_last_window_that_starts_behind_the_input_is_left_out_at_every_opset(op: str, name: str, opset: int) -> None:
    shape, attributes, pool = POOLS[name]
    source = read(model([node(op, "x", "p", ceil_mode=1, **attributes), node("Flatten", "p")], x=shape, y=(None, None), opset=opset))
    assert source.graph.shapes()["p"] == tuple(pool(torch.zeros(shape)).shape)
    check(source)


@pytest.mark.parametrize("what", ["shape", "type", "element type"])
def test_an_output_need_not_say_its_type_and_shape(what: str) -> None:
    proto = valid()
    output = proto.graph.output[0]
    if what == "element type":
        output.type.tensor_type.ClearField("elem_type")
    else:
        (output if what == "type" else output.type.tensor_type).ClearField(what)
    source = read(proto)
    assert source.graph.shapes()["y"] == (1, 5)
    check(source)


def test_a_model_without_nodes_gives_its_input_back() -> None:
    proto = model([])
    proto.graph.output[0].name = "x"
    assert read(proto).graph.outputs == ("x",)


@pytest.mark.parametrize(("dtype", "half"), [(np.float16, True), (np.float32, False), (np.float64, False)])
def test_a_model_that_computes_in_half_precision_says_so(dtype: Any, half: bool) -> None:
    code = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    proto = model([node("MatMul", "x w")], {"w": f(8, 5).astype(dtype)}, dtype=code)
    proto.graph.output[0].type.tensor_type.elem_type = code
    assert read(proto).half is half


def test_weights_that_are_only_stored_in_half_precision_are_no_half_model() -> None:
    source = read(model([node("Cast", "h", "w", to=TensorProto.FLOAT), node("Conv", "x w")], {"h": f(4, 3, 3, 3).astype(np.float16)}))
    assert not source.half
    check(source)


@pytest.mark.parametrize("auto", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
def test_same_pads_with_a_dilation_are_run_though_onnxruntime_has_none(auto: str, tmp_path: Path) -> None:
    proto = model([node("Conv", "x w", auto_pad=auto, dilations=[2, 3])], {"w": f(4, 3, 3, 4)}, (1, 3, 9, 11))
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    x = f(1, 3, 9, 11)
    with pytest.raises(Exception, match="Dilation not supported for AutoPadType"):
        session.run(None, {"x": x})
    (tmp_path / "net.onnx").write_bytes(proto.SerializeToString())
    source = read(tmp_path / "net.onnx")
    check(source)
    (layer,) = source.graph.layers
    assert isinstance(layer, Conv)
    wanted = torch.nn.functional.conv2d(torch.from_numpy(x), torch.tensor(layer.weight.values), padding="same", dilation=(2, 3))
    if auto == "SAME_UPPER":  # what torch calls "same"
        np.testing.assert_allclose(source.run({"x": x})["y"], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("opset", [11, 13, 19])
@pytest.mark.parametrize("by", ["scales", "sizes"])
def test_a_cubic_resize_with_the_empty_tensors_of_older_exporters_is_kept_and_written(opset: int, by: str, tmp_path: Path) -> None:
    empty, larger = np.zeros(0, np.float32), {"s": np.array([1, 1, 2, 1.5], np.float32)} if by == "scales" else {"s": np.zeros(0, np.float32)}
    sizes = {} if by == "scales" else {"z": np.array([1, 4, 5, 13])}
    resize = node("Resize", " ".join(["h", "r", "s", *sizes]), mode="cubic", coordinate_transformation_mode="half_pixel")
    proto = model([node("Conv", "x w", "h"), resize], {"w": f(4, 3, 3, 3), "r": empty, **larger, **sizes}, y=(None,) * 4, opset=opset)
    source = read(proto)
    result = export(pack(source.graph), tmp_path / "net.onnx", verify=False)
    x = f(1, 3, 8, 8)
    found = onnxruntime.InferenceSession(result.path).run(None, {"x": x})[0]
    np.testing.assert_allclose(found, source.run({"x": x})["y"], rtol=2e-5, atol=2e-5)


def test_what_onnxruntime_does_not_have_the_evaluator_of_onnx_runs() -> None:
    proto = model([node("Conv", "x w")], {"w": f(4, 3, 3, 3).astype(np.float64)}, dtype=TensorProto.DOUBLE)
    proto.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    with pytest.raises(Exception, match="NOT_IMPLEMENTED"):
        onnxruntime.InferenceSession(proto.SerializeToString())
    check(read(proto))


def test_what_nobody_can_run_is_said_with_onnxruntimes_reason() -> None:
    proto = model([helper.make_node("Own", ["x"], ["y"], domain="own", name="the_Own")], y=(1, 3, 8, 8))
    proto.opset_import.append(helper.make_opsetid("own", 1))
    with pytest.raises(UnsupportedError, match=r"onnxruntime cannot run the original model: .*Own"):
        read(proto).run({"x": f(1, 3, 8, 8)})


def same_names(count: int) -> ModelProto:
    nodes = [helper.make_node("Neg", [f"v{index}"], [f"v{index + 1}"], name="same") for index in range(count)]
    proto = model(nodes, x=(1, 2), y=(1, 2))
    proto.graph.input[0].name, proto.graph.output[0].name = "v0", f"v{count}"
    return proto


def test_nodes_that_share_a_name_are_numbered_in_linear_time() -> None:
    names = Names()
    start = time.perf_counter()
    taken = [names.take("same") for _ in range(100_000)]
    assert time.perf_counter() - start < 5  # a search from 1 each time takes an hour
    assert (taken[0], taken[1], taken[-1]) == ("same", "same_2", "same_100000")
    assert [layer.name for layer in read(same_names(3)).graph.layers] == ["same", "same_2", "same_3"]


def test_a_number_that_is_a_name_already_is_passed_over() -> None:
    names = Names(["a_2"])
    assert [names.take("a") for _ in range(3)] == ["a", "a_3", "a_4"]
    names.keep(2)
    assert "a_3" not in names
    assert [names.take("a"), names.take("b")] == ["a_3", "b"]


def test_the_number_of_nodes_is_limited_with_and_without_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["rsk_deploy.readers.onnx.load"], "MAX_NODES", 20)
    assert len(read(same_names(20)).graph.layers) == 20
    with pytest.raises(CorruptFileError, match="has more than 20 nodes, those of its functions counted wherever they are called"):
        read(same_names(21))


def test_functions_that_are_called_in_a_subgraph_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["rsk_deploy.readers.onnx.load"], "MAX_NODES", 20)
    proto = functions({"f0": ["Neg"], "f1": ["Relu"] * 25})
    inner = helper.make_graph([helper.make_node("f1", ["i"], ["z"], domain="local")], "branch", [], [PLAIN])
    proto.functions[0].node.append(helper.make_node("If", ["i"], ["q"], then_branch=inner, else_branch=inner))
    with pytest.raises(CorruptFileError, match="has more than 20 nodes"):
        read(proto)
