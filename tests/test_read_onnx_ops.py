"""Every operator of the lowering table computes what onnxruntime computes, over opsets, with a fixed and with an open batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from rsk_deploy import reference
from rsk_deploy.ir import Activation, Affine, Concat, Constant, Conv, GroupNorm, LayerNorm, Linear, Opaque, Reduce
from rsk_deploy.readers import ReadOptions
from rsk_deploy.readers.onnx import read
from rsk_deploy.readers.onnx.table import LOWERINGS

NEWEST = 22
RNG = np.random.default_rng(7)


def f(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def i(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@dataclass(frozen=True)
class Case:
    """One node: the shape of its computed input, then its constants, its attributes, the opsets it is written in, and the layers it must become."""

    op: str
    x: tuple[int, ...]
    constants: Sequence[Any] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    opsets: Sequence[int] = (13, 17, NEWEST)
    becomes: type | None = None
    first: bool = False
    outputs: int = 1
    positive: bool = False
    batches: Sequence[bool] = (False, True)


def model_of(case: Case, opset: int) -> ModelProto:
    inputs, initializers = ["x"], []
    for index, constant in enumerate(case.constants):
        if constant is None:
            inputs.append("")
        elif isinstance(constant, str):
            inputs.append(constant)
        else:
            inputs.append(f"c{index}")
            initializers.append(numpy_helper.from_array(np.asarray(constant), f"c{index}"))
    if case.first:
        inputs = [*inputs[1:], "x"]
    names = [f"y{index}" for index in range(case.outputs)]
    node = helper.make_node(case.op, inputs, names, name="the_node", **case.attributes)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *case.x[1:]])
    ys = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * rank_of(node, x, initializers, opset, index)) for index, name in enumerate(names)]
    graph = helper.make_graph([node], "one", [x], ys, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def rank_of(node: Any, x: Any, initializers: list[TensorProto], opset: int, index: int) -> int:
    from onnx import shape_inference

    graph = helper.make_graph([node], "one", [x], [helper.make_empty_tensor_value_info(name) for name in node.output], initializers)
    found = shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), strict_mode=True, data_prop=True
    )
    return len(found.graph.output[index].type.tensor_type.shape.dim) or len(x.type.tensor_type.shape.dim)  # none for GroupNormalization


SAME = [{"auto_pad": auto} for auto in ("SAME_UPPER", "SAME_LOWER", "VALID")]

CASES = {
    "conv": Case("Conv", (2, 4, 7, 6), (f(6, 4, 3, 3), f(6)), {"pads": [1, 0, 2, 1], "strides": [2, 1]}, (11, 13, NEWEST), Conv),
    "conv 1d dilated": Case("Conv", (2, 4, 11), (f(6, 4, 3),), {"dilations": [2]}, becomes=Conv),
    "conv 3d": Case("Conv", (2, 2, 5, 4, 6), (f(3, 2, 2, 3, 2),), {}, becomes=Conv),
    "conv grouped": Case("Conv", (2, 4, 5, 5), (f(6, 2, 3, 3), f(6)), {"group": 2}, becomes=Conv),
    "conv depthwise": Case("Conv", (2, 4, 5, 5), (f(4, 1, 3, 3),), {"group": 4}, becomes=Conv),
    **{f"conv {auto['auto_pad']}": Case("Conv", (2, 3, 8, 9), (f(4, 3, 4, 3),), {"strides": [3, 2], **auto}, becomes=Conv) for auto in SAME},
    "conv SAME dilated": Case("Conv", (2, 3, 9, 9), (f(4, 3, 3, 2),), {"dilations": [2, 3], "auto_pad": "SAME_UPPER"}),
    "transposed": Case("ConvTranspose", (2, 4, 5, 6), (f(4, 3, 3, 2), f(3)), {"strides": [2, 3], "pads": [1, 0, 0, 1], "output_padding": [1, 2]}, (11, NEWEST)),
    "transposed grouped": Case("ConvTranspose", (2, 4, 5, 6), (f(4, 3, 3, 3),), {"group": 2, "dilations": [2, 1]}),
    "transposed 1d": Case("ConvTranspose", (2, 4, 5), (f(4, 3, 4),), {"strides": [2]}),
    "transposed output_shape": Case("ConvTranspose", (2, 4, 5, 5), (f(4, 3, 3, 3),), {"strides": [2, 2], "output_shape": [10, 9]}),
    "transposed longer output_shape": Case("ConvTranspose", (2, 4, 5, 5), (f(4, 3, 3, 3),), {"strides": [2, 2], "output_shape": [11, 12]}),
    **{f"transposed {auto['auto_pad']}": Case("ConvTranspose", (2, 4, 5, 5), (f(4, 3, 4, 3),), {"strides": [2, 2], **auto}) for auto in SAME},
    "max pool": Case("MaxPool", (2, 3, 8, 9), (), {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1]}, (11, 12, NEWEST)),
    "max pool ceil": Case("MaxPool", (2, 3, 8, 8), (), {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    "max pool dilated": Case("MaxPool", (2, 3, 9, 9), (), {"kernel_shape": [3, 3], "dilations": [2, 2]}),
    **{f"max pool {auto['auto_pad']}": Case("MaxPool", (2, 3, 8, 9), (), {"kernel_shape": [3, 3], "strides": [2, 2], **auto}) for auto in SAME},
    "average pool": Case("AveragePool", (2, 3, 8, 9), (), {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1]}, (11, NEWEST)),
    "average pool counts pads": Case("AveragePool", (2, 3, 8, 9), (), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    "average pool ceil": Case("AveragePool", (2, 3, 8, 8), (), {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, (13, 19, NEWEST)),
    "average pool ceil counts pads": Case(
        "AveragePool", (2, 3, 8, 8), (), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1, "count_include_pad": 1}, (19, NEWEST)
    ),
    "average pool dilated": Case("AveragePool", (2, 3, 8, 8), (), {"kernel_shape": [2, 3], "dilations": [2, 2]}, (19, NEWEST)),
    **{f"average pool {auto['auto_pad']}": Case("AveragePool", (2, 3, 8, 9), (), {"kernel_shape": [3, 3], "strides": [2, 2], **auto}) for auto in SAME},
    "global average pool": Case("GlobalAveragePool", (2, 3, 4, 5), becomes=Reduce),
    "global max pool": Case("GlobalMaxPool", (2, 3, 4, 5), becomes=Reduce),
    "gemm": Case("Gemm", (2, 5), (f(5, 4), f(4)), {"alpha": 0.5, "beta": 2.0}, (11, 13, NEWEST), Linear),
    "gemm transposed": Case("Gemm", (2, 5), (f(4, 5), f(1)), {"transB": 1}, becomes=Linear),
    "gemm with a matrix": Case("Gemm", (2, 5), (f(4, 5), f(2, 4)), {"transB": 1, "beta": 0.5}, batches=(False,)),
    "gemm of the transposed": Case("Gemm", (5, 2), (f(5, 4),), {"transA": 1}, batches=(False,)),
    "gemm from the left": Case("Gemm", (5, 3), (f(4, 5),), {}, first=True, batches=(False,)),
    "gemm without bias": Case("Gemm", (2, 5), (f(5, 4),), {"alpha": 3.0}, becomes=Linear),
    "matmul": Case("MatMul", (2, 3, 5), (f(5, 4),), becomes=Linear),
    "matmul from the left": Case("MatMul", (2, 5, 3), (f(4, 5),), first=True),
    "matmul batched": Case("MatMul", (2, 3, 4, 5), (f(3, 5, 4),)),
    "batch norm": Case("BatchNormalization", (2, 3, 4, 4), (f(3), f(3), f(3), np.abs(f(3))), {"epsilon": 1e-3}, (11, 14, NEWEST), Affine),
    "instance norm": Case("InstanceNormalization", (2, 3, 4, 4), (f(3), f(3)), {"epsilon": 1e-3}, becomes=GroupNorm),
    "group norm per group": Case("GroupNormalization", (2, 6, 4, 4), (f(2), f(2)), {"num_groups": 2}, (18, 20), GroupNorm),
    "group norm per channel": Case("GroupNormalization", (2, 6, 4, 4), (f(6), f(6)), {"num_groups": 2}, (21, NEWEST), GroupNorm),
    "layer norm": Case("LayerNormalization", (2, 3, 4), (f(4), f(4)), {}, (17, NEWEST), LayerNorm),
    "layer norm of two axes": Case("LayerNormalization", (2, 3, 4), (f(3, 4),), {"axis": -2, "epsilon": 1e-2}, (17, NEWEST), LayerNorm),
    "lrn": Case("LRN", (2, 7, 3, 3), (), {"size": 5, "alpha": 0.3, "beta": 0.6, "bias": 2.0}),
    **{
        op.lower(): Case(op, (2, 3, 5), opsets=(13, NEWEST), becomes=Activation)
        for op in ["Relu", "Sigmoid", "Tanh", "Softplus", "Softsign", "Exp", "Abs", "Neg", "Erf", "Reciprocal"]
    },
    **{op.lower(): Case(op, (2, 3, 5), positive=True, becomes=Activation) for op in ("Log", "Sqrt")},
    "hard swish": Case("HardSwish", (2, 3, 5), opsets=(14, NEWEST), becomes=Activation),
    "mish": Case("Mish", (2, 3, 5), opsets=(18, NEWEST), becomes=Activation),
    **{f"{op.lower()} default": Case(op, (2, 3, 5), becomes=Activation) for op in ("LeakyRelu", "Elu", "Celu", "Selu", "HardSigmoid")},
    "leaky relu": Case("LeakyRelu", (2, 3, 5), (), {"alpha": 0.3}, (11, NEWEST), Activation),
    "elu": Case("Elu", (2, 3, 5), (), {"alpha": 0.3}, becomes=Activation),
    "celu": Case("Celu", (2, 3, 5), (), {"alpha": 0.3}, becomes=Activation),
    "selu": Case("Selu", (2, 3, 5), (), {"alpha": 0.3, "gamma": 1.5}, becomes=Activation),
    "hard sigmoid": Case("HardSigmoid", (2, 3, 5), (), {"alpha": 0.3, "beta": 0.4}, becomes=Activation),
    "gelu": Case("Gelu", (2, 3, 5), (), {}, (20, NEWEST), Activation),
    "gelu tanh": Case("Gelu", (2, 3, 5), (), {"approximate": "tanh"}, (20, NEWEST), Activation),
    "clip": Case("Clip", (2, 3, 5), (np.float32(-0.5), np.float32(0.7)), {}, (11, 12, NEWEST), Activation),
    "clip below": Case("Clip", (2, 3, 5), (np.float32(-0.5),)),
    "clip at zero": Case("Clip", (2, 3, 5), (np.float32(0),), becomes=Activation),
    "clip above": Case("Clip", (2, 3, 5), (None, np.float32(0.7))),
    "prelu": Case("PRelu", (2, 3, 5, 4), (f(3, 1, 1),), opsets=(11, NEWEST)),
    "prelu of one slope": Case("PRelu", (2, 3, 5), (f(1),)),
    "softmax": Case("Softmax", (2, 3, 5), (), {"axis": 1}),
    "softmax default": Case("Softmax", (2, 3, 5), opsets=(11, 13)),
    "softmax flattening": Case("Softmax", (2, 3, 5), (), {"axis": 1}, (11, 12)),
    "log softmax": Case("LogSoftmax", (2, 3, 5), (), {"axis": -1}, (11, 13, NEWEST)),
    **{op.lower(): Case(op, (2, 3, 4, 5), (f(4, 5),)) for op in ("Add", "Sub", "Mul", "Div")},
    **{f"{op.lower()} per channel": Case(op, (2, 3, 4, 5), (f(3, 1, 1),), becomes=Affine) for op in ("Add", "Sub", "Mul")},
    **{f"{op.lower()} per channel from the left": Case(op, (2, 3, 4, 5), (f(1, 3, 1, 1),), first=True, becomes=Affine) for op in ("Add", "Sub", "Mul")},
    "add that widens": Case("Add", (2, 1, 4), (f(3, 1),)),
    "pow": Case("Pow", (2, 3, 4), (np.float32(1.7),), positive=True),
    "max": Case("Max", (2, 3, 4), (f(4), f(3, 1))),
    "min": Case("Min", (2, 3, 4), (f(4), "x")),
    "sum": Case("Sum", (2, 3, 4), (f(4), f(3, 1), "x")),
    "sum of one": Case("Sum", (2, 3, 4)),
    "identity": Case("Identity", (2, 3)),
    "dropout": Case("Dropout", (2, 3)),
    "reshape": Case("Reshape", (2, 3, 4), (i(0, -1),), becomes=None),
    "reshape joins the batch": Case("Reshape", (2, 3, 4), (i(-1, 4),)),
    "flatten": Case("Flatten", (2, 3, 4), (), {"axis": 2}, (11, 13, NEWEST)),
    "squeeze": Case("Squeeze", (2, 1, 4, 1), (i(1, -1),)),
    "squeeze before 13": Case("Squeeze", (2, 1, 4, 1), (), {"axes": [1, 3]}, (11, 12)),
    "unsqueeze": Case("Unsqueeze", (2, 4), (i(0, -1),)),
    "unsqueeze before 13": Case("Unsqueeze", (2, 4), (), {"axes": [1, 3]}, (11, 12)),
    "transpose": Case("Transpose", (2, 3, 4), (), {"perm": [0, 2, 1]}),
    "transpose default": Case("Transpose", (2, 3, 4)),
    "depth to space": Case("DepthToSpace", (2, 12, 3, 5), (), {"blocksize": 2}, (11, 13)),
    "depth to space crd": Case("DepthToSpace", (2, 12, 3, 5), (), {"blocksize": 2, "mode": "CRD"}),
    "space to depth": Case("SpaceToDepth", (2, 3, 4, 6), (), {"blocksize": 2}),
    "concat": Case("Concat", (2, 3, 4), ("x",), {"axis": -1}, becomes=Concat),
    "concat with a constant": Case("Concat", (2, 3, 4), (f(2, 1, 4),), {"axis": 1}, batches=(False,)),
    "split": Case("Split", (2, 6, 4), (i(1, 2, 3),), {"axis": 1}, outputs=3),
    "split before 13": Case("Split", (2, 6, 4), (), {"axis": 1, "split": [2, 4]}, (11, 12), outputs=2),
    "split evenly": Case("Split", (2, 7, 4), (), {"axis": 1, "num_outputs": 3}, (18, NEWEST), outputs=3),
    "slice": Case("Slice", (2, 6, 5), (i(1, 0), i(-1, 100), i(1, 2), i(2, 3))),
    "slice backwards": Case("Slice", (2, 6, 5), (i(-1, -2), i(-100, 0), i(1, 2), i(-1, -2))),
    "slice of everything": Case("Slice", (2, 6, 5), (i(0), i(2**31), i(0))),
    "gather": Case("Gather", (2, 6, 5), (i(3, 0, -1, 3),), {"axis": 1}),
    "gather one": Case("Gather", (2, 6, 5), (np.array(-2),), {"axis": 1}),
    "gather a table": Case("Gather", (2, 6, 5), (np.array([[0, 1], [2, -1]]),), {"axis": 2}),
    "pad": Case("Pad", (2, 3, 4), (i(0, 1, 2, 0, 0, 3), np.float32(0.5))),
    "pad reflect": Case("Pad", (2, 3, 4), (i(0, 1, 2, 0, 0, 3),), {"mode": "reflect"}),
    "pad edge": Case("Pad", (2, 3, 4), (i(0, 1, 2, 0, 0, 3),), {"mode": "edge"}),
    "pad crops": Case("Pad", (2, 5, 4), (i(0, -1, 2, 0, -2, -1),)),
    "pad of axes": Case("Pad", (2, 3, 4), (i(1, 2), None, i(-1)), {}, (18, NEWEST)),
    "expand": Case("Expand", (2, 3, 1), (i(2, 1, 3, 4),), batches=(False,)),
    "expand of nothing": Case("Expand", (2, 3, 4), (i(1, 1),)),
    "expand an axis": Case("Expand", (2, 3, 1), (i(1, 4),)),
    "tile": Case("Tile", (2, 3, 4), (i(1, 2, 3),)),
    "resize nearest": Case("Resize", (2, 3, 4, 5), (None, np.array([1, 1, 2, 3], np.float32)), {"mode": "nearest"}, (13, 19)),
    "resize with roi": Case("Resize", (2, 3, 4, 5), (f(0), np.array([1, 1, 2, 3], np.float32)), {"mode": "nearest"}, (11, 13)),
    "resize 3d": Case("Resize", (2, 3, 4, 5, 3), (None, np.array([1, 1, 2, 2, 2], np.float32)), {"mode": "nearest"}),
    "resize asymmetric": Case(
        "Resize",
        (2, 3, 4, 5),
        (f(0), np.array([1, 1, 2, 2], np.float32)),
        {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
        (11, 13, 19),
    ),
    "resize down": Case("Resize", (2, 3, 8, 9), (None, np.array([1, 1, 0.6, 0.4], np.float32)), {"mode": "nearest", "nearest_mode": "ceil"}),
    "resize linear": Case("Resize", (2, 3, 4, 5), (f(0), np.array([1, 1, 2, 1.7], np.float32)), {"mode": "linear"}, (11, 13, 19)),
    "resize pytorch": Case(
        "Resize", (2, 3, 4, 5), (None, np.array([1, 1, 2, 2], np.float32)), {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"}
    ),
    "resize align corners": Case(
        "Resize", (2, 3, 4, 5), (None, None, i(2, 3, 7, 9)), {"mode": "linear", "coordinate_transformation_mode": "align_corners"}, batches=(False,)
    ),
    "resize by sizes": Case("Resize", (2, 3, 4, 5), (None, None, i(2, 3, 7, 9)), {"mode": "nearest"}, batches=(False,)),
    "resize axes": Case("Resize", (2, 3, 4, 5), (None, None, i(7, 9)), {"mode": "linear", "axes": [2, 3]}, (18, 19)),
    **{
        f"{op} before 18": Case(op, (2, 3, 4, 5), (), {"axes": [1, -1], "keepdims": keep}, (11, 13), Reduce)
        for op, keep in (("ReduceMean", 0), ("ReduceMax", 1), ("ReduceMin", 1), ("ReduceL2", 0), ("ReduceProd", 1))
    },
    **{f"{op} by input": Case(op, (2, 3, 4, 5), (i(-1, 1),), {"keepdims": 0}, (18, NEWEST), Reduce) for op in ("ReduceMean", "ReduceMax", "ReduceL2")},
    "reduce sum": Case("ReduceSum", (2, 3, 4), (i(2),), {}, (13, NEWEST), Reduce),
    "reduce all": Case("ReduceMean", (2, 3, 4), opsets=(13, NEWEST), becomes=Reduce, batches=(False,)),
    "reduce nothing": Case("ReduceSum", (2, 3, 4), (), {"noop_with_empty_axes": 1}),
    "cast": Case("Cast", (2, 3), (), {"to": TensorProto.FLOAT}),
    "swish": Case("Swish", (2, 3, 4), opsets=(24,), becomes=Activation),
    "castlike": Case("CastLike", (2, 3), (f(1),), opsets=(15, NEWEST)),
}


@pytest.mark.parametrize(
    ("name", "opset", "dynamic"), [(name, opset, dynamic) for name, case in CASES.items() for opset in case.opsets for dynamic in case.batches]
)
def test_a_lowered_operator_computes_what_onnxruntime_computes(name: str, opset: int, dynamic: bool) -> None:
    case = CASES[name]
    source = read(model_of(case, opset), ReadOptions(dynamic_batch=dynamic, input_shape=None if dynamic else case.x))
    assert not [layer.op for layer in source.graph.layers if isinstance(layer, Opaque)]
    assert case.becomes is None or any(isinstance(layer, case.becomes) for layer in source.graph.layers)
    assert source.graph.dynamic == dynamic
    for batch in (1, 4) if dynamic else (case.x[0],):
        x = np.random.default_rng(batch).standard_normal((batch, *case.x[1:])).astype(np.float32)
        feeds = {"x": np.abs(x) + 0.1 if case.positive else x}
        wanted = run_original(source, model_of(case, opset), feeds)
        found = reference.run(source.graph, feeds)
        assert list(found) == list(wanted)
        for output in wanted:
            np.testing.assert_allclose(found[output], wanted[output], rtol=2e-5, atol=2e-5)


def run_original(source: Any, model: ModelProto, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """onnxruntime, or onnx's own reference where that has no kernel."""
    from rsk_deploy.errors import UnsupportedError

    try:
        return source.run(feeds)
    except UnsupportedError:
        from onnx.reference import ReferenceEvaluator

        return dict(zip([entry.name for entry in model.graph.output], ReferenceEvaluator(model).run(None, dict(feeds)), strict=True))


def test_every_row_of_the_table_has_a_case() -> None:
    assert set(LOWERINGS) == {case.op for case in CASES.values()}


def test_a_constant_operand_stays_a_constant_layer() -> None:
    graph = read(model_of(CASES["add"], 17), ReadOptions()).graph
    assert isinstance(graph.layers[0], Constant)
    assert graph.layers[0].name == "c0"
