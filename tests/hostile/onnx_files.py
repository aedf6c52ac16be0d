"""ONNX files that are wrong, each named after what is wrong with it: HOSTILE maps the name to a function that gives the file's bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from onnx import AttributeProto, FunctionProto, ModelProto, SparseTensorProto, TensorProto, helper, numpy_helper

HUGE = 1 << 40


def model(
    nodes: list[Any], weights: dict[str, Any] | None = None, x: Any = (1, 3, 8, 8), y: Any = (None,) * 4, opset: int = 17, dtype: int = TensorProto.FLOAT
) -> ModelProto:
    """A model of one input and one output."""
    tensors = [value if isinstance(value, TensorProto) else numpy_helper.from_array(np.asarray(value), name) for name, value in (weights or {}).items()]
    inputs, outputs = [helper.make_tensor_value_info("x", dtype, x)], [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)]
    return helper.make_model(helper.make_graph(nodes, "hostile", inputs, outputs, tensors), opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def node(op: str, inputs: str, output: str = "y", **attributes: Any) -> Any:
    return helper.make_node(op, inputs.split(), output.split(), name=f"the_{op}", **attributes)


def weight(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def valid() -> ModelProto:
    """Nothing wrong: convolution, batch norm, pool, flatten, linear."""
    nodes = [
        node("Conv", "x conv.weight conv.bias", "a", pads=[1, 1, 1, 1]),
        node("BatchNormalization", "a s b m v", "n"),
        node("Relu", "n", "r"),
        node("MaxPool", "r", "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("Reshape", "p shape", "f"),
        node("Gemm", "f fc.weight fc.bias", transB=1),
    ]
    norm = {name: np.arange(1, 5, dtype=np.float32) for name in "sbmv"}
    weights = {"conv.weight": weight(4, 3, 3, 3), "conv.bias": weight(4), **norm, "shape": np.array([0, -1]), "fc.weight": weight(5, 64), "fc.bias": weight(5)}
    return model(nodes, weights, ("batch", 3, 8, 8), ("batch", 5))


def conv(**attributes: Any) -> ModelProto:
    return model([node("Conv", "x w", **attributes)], {"w": weight(4, 3, 3, 3)})


def stored(**fields: Any) -> ModelProto:
    """A convolution whose weight is a tensor of these protobuf fields."""
    return model([node("Conv", "x w")], {"w": TensorProto(name="w", **{"data_type": TensorProto.FLOAT, "dims": [4, 3, 3, 3], **fields})})


def external(location: str, **more: Any) -> ModelProto:
    result = stored(data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **more}.items():
        result.graph.initializer[0].external_data.add(key=key, value=str(value))
    return result


def external_in_a_node(location: str) -> ModelProto:
    tensor = external(location).graph.initializer[0]
    return model([helper.make_node("Constant", [], ["w"], value=tensor), node("Conv", "x w")])


def grows(op: str, *inputs: Any, **attributes: Any) -> ModelProto:
    """A constant of a size out of all proportion, added to the input."""
    weights = {f"c{index}": value for index, value in enumerate(inputs)}
    return model([node(op, " ".join(weights), "big", **attributes), node("ReduceSum", "big", "sum", keepdims=0), node("Add", "x sum")], weights)


def grows_often() -> ModelProto:
    nodes, size = [], {"n": np.array([1 << 25])}
    for index in range(200):
        nodes += [helper.make_node("ConstantOfShape", ["n"], [f"a{index}"]), helper.make_node("ReduceSum", [f"a{index}"], [f"s{index}"], keepdims=0)]
    return model([*nodes, helper.make_node("Sum", ["x", *(f"s{index}" for index in range(200))], ["y"])], size)


def doubles() -> ModelProto:
    """Concatenates a constant with itself, sixty times."""
    nodes = [helper.make_node("Concat", [f"a{index}"] * 2, [f"a{index + 1}"], axis=0) for index in range(60)]
    return model([*nodes, node("ReduceSum", "a60", "s", keepdims=0), node("Add", "x s")], {"a0": weight(4)})


def functions(pairs: dict[str, list[str]]) -> ModelProto:
    """Model-local functions that call one another."""
    result = model([helper.make_node("f0", ["x"], ["y"], domain="local")])
    result.opset_import.append(helper.make_opsetid("local", 1))
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    for name, called in pairs.items():
        names = ["i", *(f"v{index}" for index in range(len(called) - 1)), "o"]
        body = [helper.make_node(op, [a], [b], domain="local" if op.startswith("f") else "") for op, a, b in zip(called, names, names[1:], strict=False)]
        result.functions.append(FunctionProto(name=name, domain="local", input=["i"], output=["o"], node=body, opset_import=imports))
    return result


def edited(change: Callable[[ModelProto], Any]) -> Callable[[], ModelProto]:
    """The valid file with one thing changed."""

    def build() -> ModelProto:
        result = valid()
        change(result)
        return result

    return build


def named(proto: ModelProto, name: str) -> TensorProto:
    return next(tensor for tensor in proto.graph.initializer if tensor.name == name)


def swap(proto: ModelProto, name: str, value: np.ndarray) -> None:
    named(proto, name).CopyFrom(numpy_helper.from_array(value, name))


def odd_attribute() -> ModelProto:
    result = conv(strides=[1, 1])
    result.graph.node[0].attribute[0].CopyFrom(AttributeProto(name="strides", type=AttributeProto.STRING, s=b"two"))
    return result


def sparse() -> ModelProto:
    result = model([node("Conv", "x w")])
    values, places = numpy_helper.from_array(weight(2), "w"), numpy_helper.from_array(np.array([5, 1 << 50]), "i")
    result.graph.sparse_initializer.append(SparseTensorProto(values=values, indices=places, dims=[4, 3, 3, 3]))
    return result


HOSTILE: dict[str, Callable[[], ModelProto | bytes]] = {
    "nothing but zeros": lambda: bytes(1000),
    "random bytes": lambda: np.random.default_rng(0).bytes(1000),
    "a zip archive": lambda: b"PK\x03\x04" + bytes(100),
    "text": lambda: b"this is not a model\n" * 10,
    "cut in the middle": lambda: valid().SerializeToString()[:700],
    "cut in the last byte": lambda: valid().SerializeToString()[:-1],
    "a name that is not UTF-8": lambda: valid().SerializeToString().replace(b"batch", b"b\xb2tch"),
    "no graph": lambda: ModelProto(ir_version=8, opset_import=[helper.make_opsetid("", 17)]),
    "no opset": edited(lambda proto: proto.ClearField("opset_import")),
    "opset of the future": edited(lambda proto: setattr(proto.opset_import[0], "version", 10**6)),
    "opset below 11": edited(lambda proto: setattr(proto.opset_import[0], "version", 8)),
    "negative opset": edited(lambda proto: setattr(proto.opset_import[0], "version", -3)),
    "ir version of the future": edited(lambda proto: setattr(proto, "ir_version", 10**6)),
    "a cycle": lambda: model([node("Add", "x b", "a"), node("Relu", "a", "b"), node("Relu", "a", "y")]),
    "a node that reads itself": lambda: model([node("Add", "x y")]),
    "a missing input": lambda: model([node("Add", "x nowhere")]),
    "nodes out of order": lambda: model([node("Relu", "a"), node("Relu", "x", "a")]),
    "a value computed twice": lambda: model([node("Relu", "x", "a"), node("Abs", "x", "a"), node("Relu", "a")]),
    "an initializer twice": edited(lambda proto: proto.graph.initializer.append(named(proto, "fc.bias"))),
    "an initializer named as a value": lambda: model([node("Relu", "x", "a"), node("Relu", "a")], {"a": weight(1, 3, 8, 8)}),
    "an output that nobody computes": edited(lambda proto: setattr(proto.graph.output[0], "name", "nobody")),
    "an output twice": edited(lambda proto: proto.graph.output.append(proto.graph.output[0])),
    "an unknown operator": lambda: model([node("Frobnicate", "x")]),
    "an unknown domain": lambda: model([helper.make_node("Relu", ["x"], ["y"], domain="com.nobody")]),
    "a required input left out": lambda: model([node("Conv", "x")]),
    "an attribute of the wrong type": odd_attribute,
    "an unknown attribute": lambda: conv(colour=3),
    "an unknown auto_pad": lambda: conv(auto_pad="SAME_SIDEWAYS"),
    "a stride of zero": lambda: conv(strides=[0, 1]),
    "a negative stride": lambda: conv(strides=[-1, 1]),
    "three strides for two axes": lambda: conv(strides=[1, 1, 1]),
    "a dilation of zero": lambda: conv(dilations=[0, 0]),
    "negative pads": lambda: conv(pads=[-1, -1, -1, -1]),
    "pads beyond all memory": lambda: conv(pads=[HUGE] * 4),
    "zero groups": lambda: conv(group=0),
    "groups that do not divide": lambda: conv(group=2),
    "a kernel_shape unlike the weight": lambda: conv(kernel_shape=[5, 5]),
    "a kernel larger than the input": lambda: model([node("Conv", "x w")], {"w": weight(4, 3, 9, 9)}),
    "a pool without kernel_shape": lambda: model([node("MaxPool", "x")]),
    "a pool of size zero": lambda: model([node("MaxPool", "x", kernel_shape=[0, 0])]),
    "a weight of negative size": lambda: stored(dims=[-4, 3, 3, 3], raw_data=bytes(432)),
    "a weight of huge size": lambda: stored(dims=[HUGE, HUGE, 3, 3], raw_data=bytes(432)),
    "a weight with too few bytes": lambda: stored(raw_data=bytes(431)),
    "a weight with too many bytes": lambda: stored(raw_data=bytes(436)),
    "a weight without data": lambda: stored(),
    "a weight in the wrong field": lambda: stored(int64_data=[1] * 108),
    "a weight of an unknown type": lambda: stored(data_type=99, raw_data=bytes(432)),
    "a weight of text": lambda: stored(data_type=TensorProto.STRING, string_data=[b"x"] * 108),
    "a weight of integers": lambda: stored(data_type=TensorProto.INT32, raw_data=bytes(432)),
    "a weight that is NaN": lambda: edited(lambda proto: swap(proto, "conv.weight", np.full((4, 3, 3, 3), np.nan, np.float32)))(),
    "a weight too large for float32": lambda: model(
        [node("Cast", "x", "d", to=11), node("Conv", "d w", "c"), node("Cast", "c", to=1)], {"w": np.full((4, 3, 3, 3), 1e300)}
    ),
    "an infinite bias": edited(lambda proto: swap(proto, "fc.bias", np.array([1, 2, np.inf, 4, 5], np.float32))),
    "a negative variance": edited(lambda proto: swap(proto, "v", -np.arange(1, 5, dtype=np.float32))),
    "a batch norm of other channels": edited(lambda proto: swap(proto, "s", weight(3))),
    "a reshape to another size": edited(lambda proto: swap(proto, "shape", np.array([1, 7]))),
    "a reshape with two unknowns": edited(lambda proto: swap(proto, "shape", np.array([-1, -1]))),
    "a reshape to a negative size": edited(lambda proto: swap(proto, "shape", np.array([-5, 64]))),
    "a matrix that does not fit": edited(lambda proto: swap(proto, "fc.weight", weight(5, 63))),
    "an input of no rank": lambda: model([node("Relu", "x")], x=None),
    "an input of size zero": lambda: model([node("Relu", "x")], x=(1, 0, 8, 8)),
    "an input of negative size": lambda: model([node("Relu", "x")], x=(1, -3, 8, 8)),
    "an input of huge size": lambda: model([node("Relu", "x")], x=(1, HUGE, HUGE, 8)),
    "an input of an unknown type": lambda: model([node("Relu", "x")], dtype=99),
    "an input of text": lambda: model([node("Identity", "x")], dtype=TensorProto.STRING),
    "values that do not broadcast": lambda: model([node("Add", "x w")], {"w": weight(7)}),
    "a gather outside its axis": lambda: model([node("Gather", "x i", axis=1)], {"i": np.array([9])}),
    "a gather of nothing": lambda: model([node("Gather", "x i", axis=1)], {"i": np.zeros(0, np.int64)}),
    "a slice of nothing": lambda: model([node("Slice", "x a a")], {"a": np.array([0])}),
    "a slice with a step of zero": lambda: model([node("Slice", "x a b a c")], {"a": np.array([0]), "b": np.array([1]), "c": np.array([0])}),
    "a slice of an axis that is not there": lambda: model([node("Slice", "x a b c")], {"a": np.array([0]), "b": np.array([1]), "c": np.array([9])}),
    "a split that does not add up": lambda: model([node("Split", "x s", "y z", axis=1)], {"s": np.array([1, 1])}),
    "a permutation that is none": lambda: model([node("Transpose", "x", perm=[0, 0, 1, 2])]),
    "a concat along no axis": lambda: model([node("Concat", "x x", axis=7)]),
    "a softmax along no axis": lambda: model([node("Softmax", "x", axis=9)]),
    "a reduction along no axis": lambda: model([node("ReduceMean", "x", axes=[9])]),
    "a resize by zero": lambda: model(
        [
            node("Resize", "x", "y"),
        ],
        {},
    ),
    "a resize to huge size": lambda: model([helper.make_node("Resize", ["x", "", "s"], ["y"])], {"s": np.array([1, 1, 1e6, 1e6], np.float32)}),
    "a pad to huge size": lambda: model([node("Pad", "x p")], {"p": np.array([0, 0, HUGE, HUGE] * 2)}),
    "a pad with too few numbers": lambda: model([node("Pad", "x p")], {"p": np.array([1, 2, 3])}),
    "a tile to huge size": lambda: model([node("Tile", "x r")], {"r": np.array([1, 1, HUGE, HUGE])}),
    "an expand to huge size": lambda: model([node("Expand", "x r")], {"r": np.array([1, 3, 8, 8]) * np.array([HUGE, 1, 1, 1])}),
    "blocks of size zero": lambda: model([node("DepthToSpace", "x", blocksize=0)]),
    "a size that depends on the values": lambda: model([node("NonZero", "x", "n"), node("Cast", "n", to=1)], y=(None, None)),
    "a huge ConstantOfShape": lambda: grows("ConstantOfShape", np.array([HUGE])),
    "a large ConstantOfShape": lambda: grows("ConstantOfShape", np.array([1 << 30])),
    "a ConstantOfShape of negative size": lambda: grows("ConstantOfShape", np.array([-1])),
    "a ConstantOfShape of many axes": lambda: grows("ConstantOfShape", np.ones(3000, np.int64)),
    "a huge Expand": lambda: grows("Expand", weight(1), np.array([1 << 20, 1 << 20])),
    "a huge Tile": lambda: grows("Tile", weight(10), np.array([1 << 40])),
    "a huge Range": lambda: grows("Range", np.int64(0), np.int64(1 << 60), np.int64(1)),
    "a Range that never ends": lambda: grows("Range", np.float32(0), np.float32(1), np.float32(0)),
    "a huge Pad": lambda: grows("Pad", weight(10), np.array([0, 1 << 45])),
    "a huge Gather": lambda: grows("Gather", weight(1, 1 << 16), np.zeros(1 << 18, np.int64)),
    "a huge product": lambda: grows("MatMul", weight(1 << 20, 1), weight(1, 1 << 20)),
    "a product of long loops": lambda: grows("MatMul", weight(1 << 10, 1 << 12), weight(1 << 12, 1 << 10)),
    "a slow scatter": lambda: grows("ScatterND", weight(1 << 20), np.zeros((1 << 20, 1), np.int64), weight(1 << 20)),
    "many large constants": grows_often,
    "a constant that doubles sixty times": doubles,
    "a division by zero in a shape": lambda: model([node("Div", "a b", "s"), node("Reshape", "x s")], {"a": np.array([4]), "b": np.array([0])}),
    "a function that calls itself": lambda: functions({"f0": ["f0"]}),
    "functions that call each other": lambda: functions({"f0": ["f1"], "f1": ["f0"]}),
    "functions that grow exponentially": lambda: functions({f"f{level}": [f"f{level + 1}"] * 10 for level in range(12)} | {"f12": ["Relu"]}),
    "external data outside the folder": lambda: external("../secret"),
    "external data at an absolute path": lambda: external("/etc/passwd"),
    "external data outside the folder in a node": lambda: external_in_a_node("../secret"),
    "external data at an absolute path in a node": lambda: external_in_a_node("/etc/passwd"),
    "external data that is not there": lambda: external("nowhere.bin"),
    "external data that is a folder": lambda: external("."),
    "external data without a place": lambda: external(""),
    "external data behind a link": lambda: external("link.bin", length=432),
    "external data past the end": lambda: external("short.bin", offset=4, length=432),
    "external data of negative offset": lambda: external("short.bin", offset=-4, length=4),
    "external data with an offset of text": lambda: external("short.bin", offset="four"),
    "external data that is too short": lambda: external("short.bin"),
    "a sparse weight with an index outside": sparse,
}


def write(name: str, folder: Path) -> Path:
    """Write one of the files, with what it refers to beside it."""
    made = HOSTILE[name]()
    (folder / "short.bin").write_bytes(bytes(100))
    (folder / "link.bin").symlink_to("/etc/hostname")
    path = folder / "hostile.onnx"
    path.write_bytes(made if isinstance(made, bytes) else made.SerializeToString())
    return path
