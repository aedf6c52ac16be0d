"""The shapes of a node's outputs where ONNX infers none: run the node."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from rsk_deploy.errors import UnsupportedError, needing
from rsk_deploy.ir import Shape
from rsk_deploy.readers.onnx.load import onnx_says, subgraphs
from rsk_deploy.readers.onnx.values import Value

MAX_MEASURED = 1 << 24
"""Elements of the inputs, above which a node is not run to learn a shape."""


def measure(node: Any, values: Mapping[str, Value], opsets: Mapping[str, int], batch: int) -> list[tuple[np.dtype[Any], Shape]]:
    """Type and shape of every output, from running the node on zeros and on ones with onnxruntime: they must agree."""
    where = f"{node.name or node.output[0]} ({node.op_type})"
    if any(subgraphs(node)) or any(prod(value.shapes[batch]) > MAX_MEASURED for value in values.values()):
        raise UnsupportedError(f"{where}: ONNX does not infer the shape of what it computes; add it to the model's value_info")
    runs = [run_once(node, values, opsets, batch, fill, where) for fill in (0, 1)]
    if runs[0] != runs[1]:
        raise UnsupportedError(f"{where}: the shape of its outputs depends on the values of its inputs ({runs[0]} or {runs[1]}); such networks are not read")
    return runs[0]


def run_once(node: Any, values: Mapping[str, Value], opsets: Mapping[str, int], batch: int, fill: int, where: str) -> list[tuple[np.dtype[Any], Shape]]:
    """Run the node with every unknown input filled with one number."""
    with needing("onnxruntime", "onnx", f"{where}: finding the shape of its outputs"):
        import onnxruntime
    from onnx import ValueInfoProto, helper

    with onnx_says(f"{where}: onnxruntime cannot run it"):
        feeds = {name: np.full(value.shapes[batch], fill, value.dtype) if value.arrays is None else value.arrays[batch] for name, value in values.items()}
        inputs = [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape) for name, array in feeds.items()]
        graph = helper.make_graph([node], "one", inputs, [ValueInfoProto(name=name) for name in node.output if name])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid(domain, version) for domain, version in opsets.items()], ir_version=8)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found = iter(session.run(None, feeds))
        return [(array.dtype, array.shape) for array in (next(found) if name else np.float32(0) for name in node.output)]
