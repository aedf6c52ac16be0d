"""ONNX: a standard file (ai.onnx operators only) that rebuilds each packed weight with a few nodes, folded by the runtime when it loads.

A dense weight is the initializer ``layer.weight``; the arrays of a packed one are ``layer.weight.<array>``. The metadata
property ``rsk`` (JSON) says how they decode, what was folded, and where the file comes from; ``readers/onnx.py`` reads it back.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from rsk_deploy.converters.onnx_body import Body, LayerScope, Node, Sparse
from rsk_deploy.converters.onnx_layers import write_layer
from rsk_deploy.converters.onnx_lfsr import write_sequences
from rsk_deploy.converters.onnx_opset import choose_opset
from rsk_deploy.errors import VerificationError, needing
from rsk_deploy.ir import Constant, FloatArray, Graph, Mask, Opaque, Packed
from rsk_deploy.provenance import provenance, tool_version
from rsk_deploy.registry import Runner, format_named

OPTIONS = frozenset({"opset", "sparse_initializer"})
RUNNER = "onnxruntime"
VERSION = 1
EXTERNAL_ABOVE = 2_000_000_000
"""Bytes of weights above which they go into one file beside: a protobuf message ends at 2 GiB."""
INLINE_BELOW = 1024
"""Tensors smaller than this many bytes stay in the file: shape inference reads them."""

Proto: TypeAlias = Any  # a message of onnx, which has no types


def write(graph: Graph[Packed], path: Path, *, opset: int | None = None, sparse_initializer: bool = False) -> None:
    """Write the network. The weights of a very large one go to ``<path>.data``, which the file refers to by its name.

    With ``sparse_initializer``, sparse weights are stored in ONNX's own form instead of ours, which few runtimes read: a
    value and an int64 place for each that is kept, 1.33 times the dense weight at 4 of 9.
    """
    onnx = _onnx()
    version = choose_opset(graph, opset)
    if sparse_initializer:
        graph = _in_rows(graph)
    body = _body(graph, version, sparse_initializer)
    sidecar = path.with_name(f"{path.name}.data") if sum(array.nbytes for array in body.initializers.values()) > EXTERNAL_ABOVE else None
    imports = {"": version} | {layer.domain: layer.opset for layer in graph.layers if isinstance(layer, Opaque) and layer.domain not in ("", "ai.onnx")}
    opsets = [onnx.helper.make_opsetid(domain, number) for domain, number in sorted(imports.items())]
    options = {name: value for name, value in (("opset", opset), ("sparse_initializer", sparse_initializer)) if value}
    model = onnx.helper.make_model(
        _graph(graph, body, _tensors(body.initializers, sidecar), _sparse_tensors(body.sparse)),
        opset_imports=opsets,
        ir_version=onnx.helper.find_min_ir_version_for(opsets, ignore_unknown=True),
        producer_name="rsk-deploy",
        producer_version=tool_version(),
    )
    onnx.helper.set_model_props(model, {"rsk": _metadata(graph, options)})
    path.write_bytes(model.SerializeToString(deterministic=True))


def runner(path: Path, values: Iterable[str] = ()) -> Runner:
    """The file as a function, run on one thread. Asking for inner values turns graph optimisation off, so that they all exist."""
    runtime = _onnxruntime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    model: Any = str(path)
    if wanted := list(values):
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.resolve().parent))
        model = _with_outputs(path, wanted)

    def run(inputs: Mapping[str, NDArray[Any]]) -> dict[str, FloatArray]:
        with _says(runtime):
            return dict(zip(names, session.run(names, dict(inputs)), strict=True))

    with _says(runtime):
        session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return run


@contextmanager
def _says(runtime: Any) -> Iterator[None]:
    """A file that onnxruntime does not load or run is a wrong file."""
    try:
        yield
    except Exception as error:  # onnxruntime's own exceptions have no public base
        raise VerificationError(f"onnxruntime {runtime.__version__} does not run the file: {error}") from error


def _with_outputs(path: Path, values: Iterable[str]) -> bytes:
    """The file with more of its values as outputs; names it does not compute are left out."""
    onnx = _onnx()
    model = onnx.load(path, load_external_data=False)
    computed = {name for node in model.graph.node for name in node.output}
    outputs = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(values) if name in computed - outputs)
    return cast(bytes, model.SerializeToString())


def _in_rows(graph: Graph[Packed]) -> Graph[Packed]:
    """The graph with its sparse weights as compressed rows, the encoding that says as much as a sparse initializer does."""

    def in_rows(weight: Packed) -> Packed:
        support = format_named(weight.format).support(weight)
        values = np.zeros(weight.shape, weight.arrays["values"].dtype)
        values[support] = weight.arrays["values"]
        return replace(format_named("csr").encode(values, Mask("unstructured", support)), choice=weight.choice)

    sparse = (layer for layer in graph.weighted() if layer.weight.format != "dense")
    found = {layer.name: replace(layer, weight=in_rows(layer.weight)) for layer in sparse}
    return graph.with_layers(tuple(found.get(layer.name, layer) for layer in graph.layers))


def _body(graph: Graph[Packed], opset: int, as_sparse: bool) -> Body:
    """Every layer's nodes."""
    body = Body(opset, (entry.name for entry in graph.inputs), as_sparse=as_sparse)
    write_sequences(body, graph)
    shapes = graph.shapes()
    for layer in graph.layers:
        write_layer(LayerScope(body, layer, tuple(shapes[name] for name in layer.inputs)))
    return body


def _graph(graph: Graph[Packed], body: Body, tensors: list[Proto], sparse: list[Proto]) -> Proto:
    onnx = _onnx()
    dims, dtypes = _dims(graph), _dtypes(graph)

    def info(name: str) -> Proto:
        return onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtypes[name])), dims[name])

    opaque = [name for layer in graph.layers if isinstance(layer, Opaque) for name in layer.outputs if name not in graph.outputs]
    inputs, outputs = [info(entry.name) for entry in graph.inputs], [info(name) for name in graph.outputs]
    nodes = [_node(node) for node in body.nodes]
    return onnx.helper.make_graph(nodes, "rsk", inputs, outputs, initializer=tensors, value_info=[info(name) for name in opaque], sparse_initializer=sparse)


def _dims(graph: Graph[Packed]) -> dict[str, list[int | str | None]]:
    """The shape of every value: a dimension that follows the batch is called so, one that varies otherwise is left open."""
    two, three = graph.shapes(2), graph.shapes(3)
    named: dict[tuple[int, int], str | None] = {(2, 3): "batch"}
    return {name: [a if a == b else named.get((a, b)) for a, b in zip(two[name], three[name], strict=True)] for name in two}


def _dtypes(graph: Graph[Packed]) -> dict[str, str]:
    """The element type of every value: layers keep their input's, opaque nodes say theirs."""
    dtypes = {entry.name: entry.dtype for entry in graph.inputs}
    for layer in graph.layers:
        if isinstance(layer, Opaque):
            dtypes |= zip(layer.outputs, layer.output_dtypes, strict=True)
        elif isinstance(layer, Constant):
            dtypes[layer.outputs[0]] = str(layer.values.dtype)
        else:
            dtypes[layer.outputs[0]] = dtypes[layer.inputs[0]]
    return dtypes


def _node(node: Node) -> Proto:
    onnx = _onnx()
    if not node.verbatim:
        return onnx.helper.make_node(node.op, node.inputs, node.outputs, node.name, node.doc or None, **_attributes(node.attributes))
    proto = onnx.NodeProto.FromString(node.verbatim)
    for slots, names in ((proto.input, iter(node.inputs)), (proto.output, iter(node.outputs))):
        slots[:] = [slot and next(names) for slot in slots]
    proto.name, proto.doc_string = node.name, node.doc
    return proto


def _attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    from onnx import numpy_helper

    return {key: numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value for key, value in attributes.items()}


def _tensors(initializers: Mapping[str, NDArray[Any]], sidecar: Path | None) -> list[Proto]:
    """The initializers, with the large ones' bytes in ``sidecar`` if there is one."""
    from onnx import TensorProto, numpy_helper
    from onnx.external_data_helper import set_external_data
    from onnx.helper import np_dtype_to_tensor_dtype

    if sidecar is None:
        return [numpy_helper.from_array(array, name) for name, array in initializers.items()]
    tensors = []
    with sidecar.open("wb") as file:
        for name, array in initializers.items():
            if array.nbytes < INLINE_BELOW:
                tensors.append(numpy_helper.from_array(array, name))
                continue
            tensor = TensorProto(name=name, dims=array.shape, data_type=np_dtype_to_tensor_dtype(array.dtype), raw_data=b"")
            set_external_data(tensor, sidecar.name, offset=file.tell(), length=array.nbytes)
            tensor.ClearField("raw_data")
            file.write(np.ascontiguousarray(array).data)
            tensors.append(tensor)
    return tensors


def _sparse_tensors(tensors: Mapping[str, Sparse]) -> list[Proto]:
    """The sparse initializers."""
    from onnx import SparseTensorProto, numpy_helper

    def proto(name: str, tensor: Sparse) -> Proto:
        values, places = numpy_helper.from_array(tensor.values, name), numpy_helper.from_array(tensor.places, f"{name}.places")
        return SparseTensorProto(values=values, indices=places, dims=tensor.shape)

    return [proto(name, tensor) for name, tensor in tensors.items()]


def _metadata(graph: Graph[Packed], options: Mapping[str, Any]) -> str:
    """The one property of the file, as JSON whose bytes depend on nothing but the graph."""
    content = {
        "version": VERSION,
        "weights": {layer.name: _description(layer.weight) for layer in graph.weighted()},
        "log": [astuple(entry) for entry in graph.log],
        "meta": graph.meta,
        "provenance": provenance(graph, **options),
    }
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False, default=dict)


def _description(weight: Packed) -> dict[str, Any]:
    return {"format": weight.format, "shape": weight.shape, "params": weight.params, "choice": weight.choice and vars(weight.choice)}


def _onnx() -> Any:
    with needing("onnx", "onnx", "writing ONNX files"):
        import onnx
    return onnx


def _onnxruntime() -> Any:
    with needing("onnxruntime", "onnx", "verifying ONNX files"):
        import onnxruntime
    return onnxruntime
