"""Run the original model, for comparison."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from rsk_deploy.errors import MissingExtraError, UnsupportedError, needing
from rsk_deploy.ir import FloatArray
from rsk_deploy.readers.onnx.load import load
from rsk_deploy.readers.onnx.values import dtype_of
from rsk_deploy.readers.onnx.windows import same_pads
from rsk_deploy.registry import Runner

Arrays: TypeAlias = Mapping[str, np.ndarray[Any, Any]]
Engine: TypeAlias = Callable[[Arrays], Arrays]

TYPES = {"tensor(float16)": "float16", "tensor(double)": "float64", "tensor(bfloat16)": "bfloat16"}


def runner(model: Any) -> Runner:
    """A function that runs the model (a path or a ModelProto), loaded on first use.

    Inputs and outputs of another precision are converted from and to float32.
    """
    engines: list[Engine] = []

    def run(inputs: Arrays) -> dict[str, FloatArray]:
        if not engines:
            engines.append(working_engine(model, inputs))
        return {name: array.astype(np.float32) if array.dtype.name in TYPES.values() else array for name, array in engines[0](inputs).items()}

    return run


def working_engine(model: Any, inputs: Arrays) -> Engine:
    """onnxruntime, if it runs these inputs; else onnxruntime without SAME pads, else the slow evaluator of the onnx package."""
    refusals = []
    attempts: list[Callable[[], Engine]] = [lambda: runtime(model), lambda: runtime(with_explicit_pads(load(model))), lambda: evaluator(load(model))]
    for attempt in attempts:
        try:
            engine = attempt()
            engine(inputs)
        except MissingExtraError:
            raise
        except Exception as error:  # neither's exceptions have a common base
            refusals.append(error)
        else:
            return engine
    raise UnsupportedError(f"onnxruntime cannot run the original model: {str(refusals[0]).strip()[:500]}") from refusals[0]


def runtime(model: Any) -> Engine:
    """The model in onnxruntime, on the CPU."""
    with needing("onnxruntime", "onnx", "running the original ONNX model"):
        import onnxruntime
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    stored = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(stored, options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_outputs()]

    def run(inputs: Arrays) -> Arrays:
        feeds = {entry.name: inputs[entry.name].astype(TYPES.get(entry.type, inputs[entry.name].dtype)) for entry in session.get_inputs()}
        return dict(zip(names, session.run(names, feeds), strict=True))

    return run


def with_explicit_pads(proto: Any) -> Any:
    """The model with SAME pads of stride 1 written out. torch's older exporter writes them with a dilation, which onnxruntime does not have."""
    from onnx import helper

    stored = {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        given = {attribute.name: attribute for attribute in node.attribute}
        kernel = tuple(given["kernel_shape"].ints) if "kernel_shape" in given else stored.get("".join(node.input[1:2]), ())[2:]
        dilation = given["dilations"].ints if "dilations" in given else (1,) * len(kernel)
        if "auto_pad" in given and given["auto_pad"].s.startswith(b"SAME") and all(step == 1 for step in (given["strides"].ints if "strides" in given else ())):
            pads = same_pads([step * (size - 1) for step, size in zip(dilation, kernel, strict=True)], given["auto_pad"].s.decode())
            node.attribute.remove(given["auto_pad"])
            node.attribute.append(helper.make_attribute("pads", pads))
    return proto


def evaluator(proto: Any) -> Engine:
    """The model in the onnx package's evaluator, which has every operator in every precision."""
    from onnx.reference import ReferenceEvaluator

    network = ReferenceEvaluator(proto)
    types = {entry.name: dtype_of(entry.type.tensor_type.elem_type, entry.name) for entry in proto.graph.input}

    def run(inputs: Arrays) -> Arrays:
        with np.errstate(all="ignore"):
            results = network.run(None, {name: array.astype(types[name]) for name, array in inputs.items()})
        return {name: np.asarray(array) for name, array in zip(network.output_names, results, strict=True)}

    return run
