"""Walk an ONNX graph once, at every batch size side by side: shapes by ONNX's own inference, elements where they follow from constants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsk_deploy.errors import CorruptFileError, UnsupportedError, about
from rsk_deploy.ir import Shape
from rsk_deploy.ir.layers import MAX_ELEMENTS
from rsk_deploy.readers.onnx.branches import defined, taken_branch
from rsk_deploy.readers.onnx.inputs import Inputs
from rsk_deploy.readers.onnx.load import ONNX_DOMAINS, onnx_says, subgraphs
from rsk_deploy.readers.onnx.measure import measure
from rsk_deploy.readers.onnx.sequences import sequence_part
from rsk_deploy.readers.onnx.values import Value, constant, dtype_of, per_batch, sparse_array, tensor_array

MOVING = frozenset({"Cast", "CastLike", "DequantizeLinear", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
"""A constant made by one of these is still the stored tensor that it was made from, in other clothes."""

FOLDED = MOVING | frozenset(
    [
        "Abs",
        "Add",
        "And",
        "BitShift",
        "BitwiseAnd",
        "BitwiseNot",
        "BitwiseOr",
        "BitwiseXor",
        "Ceil",
        "Clip",
        "Concat",
        "Constant",
        "ConstantOfShape",
        "Cos",
        "CumSum",
        "Div",
        "Equal",
        "Erf",
        "Exp",
        "Expand",
        "Flatten",
        "Floor",
        "Gather",
        "GatherElements",
        "Gemm",
        "Greater",
        "GreaterOrEqual",
        "Less",
        "LessOrEqual",
        "Log",
        "MatMul",
        "Max",
        "Mean",
        "Min",
        "Mod",
        "Mul",
        "Neg",
        "Not",
        "Or",
        "Pad",
        "Pow",
        "Range",
        "Reciprocal",
        "ReduceL2",
        "ReduceMax",
        "ReduceMean",
        "ReduceMin",
        "ReduceProd",
        "ReduceSum",
        "ReduceSumSquare",
        "Relu",
        "Round",
        "ScatterElements",
        "Shape",
        "Sigmoid",
        "Sign",
        "Sin",
        "Size",
        "Slice",
        "Split",
        "Sqrt",
        "Sub",
        "Sum",
        "Tanh",
        "Tile",
        "Where",
        "Xor",
    ]
)
SLOWLY_FOLDED = frozenset({"GatherND", "OneHot", "ScatterND", "Trilu"})
"""Evaluated element by element: folded up to SLOW_ELEMENTS."""
SLOW_ELEMENTS = 1 << 16

EVALUATED_AT = {"DequantizeLinear": 19}
"""onnx.reference has it from this opset on, where it still means the same."""

INFERRED_AT = {"AveragePool": 22, "LpPool": 22, "MaxPool": 22}
"""ONNX infers from this opset on what torch and onnxruntime compute at any: in ceil mode, a last window that would start behind the input is left out."""

INFERENCE_READS = 4096
"""Constants up to this many elements are shown to shape inference: targets, axes, pads, scales."""

FREE_BYTES = 256 << 20
BYTES_PER_STORED = 64
"""Folding may hold FREE_BYTES, and this many bytes for each byte of the file: packed weights grow when they are decoded."""
PASSES = 4
"""Over the whole model, folding may compute this many times what it may hold."""
MAX_MULTIPLICATIONS = 1 << 30


class Trace:
    """What is known of every value of a model, by name.

    ``values`` has the inputs, the initializers and every node's outputs; ``named`` the node names of Constant nodes by
    their value; ``nodes`` the model's nodes, with slices in place of splits into a sequence, and the branch that is taken
    in place of an If. A known value that only other constants were computed from is dropped as soon as they are.
    """

    def __init__(self, model: Any, inputs: Inputs) -> None:
        self.inputs, self.batches = inputs.entries, inputs.batches
        self.opsets: dict[str, int] = {"" if entry.domain in ONNX_DOMAINS else entry.domain: entry.version for entry in model.opset_import}
        self.values: dict[str, Value] = {}
        self.named: dict[str, str] = {}
        self.outputs = [entry.name for entry in model.graph.output]
        self._declared = {entry.name: entry for entry in [*model.graph.value_info, *model.graph.output]}
        self._readers = Counter(name for node in model.graph.node for name in reads(node)) + Counter(self.outputs)
        self._limit = FREE_BYTES
        self._held = self._computed = 0
        self._stored: set[str] = set()
        shapes = inputs.shapes()
        for entry in model.graph.input:
            if entry.name in shapes:
                self.values[entry.name] = Value(dtype_of(entry.type.tensor_type.elem_type, entry.name), shapes[entry.name])
        for tensor in model.graph.initializer:
            self._store(tensor.name, tensor_array(tensor))
        for sparse in model.graph.sparse_initializer:
            self._store(sparse.values.name, sparse_array(sparse, self._limit))
        self.nodes: list[Any] = []
        self._sequences: dict[str, Any] = {}
        for node in model.graph.node:
            self._add(node)

    def _add(self, node: Any) -> None:
        """Visit a node, or the nodes that it stands for."""
        if node.op_type == "SplitToSequence" and node.domain in ONNX_DOMAINS:
            self._sequences[node.output[0]] = node
        elif node.op_type == "SequenceAt" and node.input[0] in self._sequences:
            for part in self._part(node, self._sequences[node.input[0]]):
                self._visit(part)
        elif node.op_type == "If" and node.domain in ONNX_DOMAINS and (condition := self._condition(node)) is not None:
            branch = taken_branch(node, condition)
            self._readers.update(name for inner in branch.node for name in reads(inner))
            for tensor in branch.initializer:
                self._store(tensor.name, tensor_array(tensor))
            for inner in branch.node:
                self._add(inner)
        else:
            self._visit(node)

    def _condition(self, node: Any) -> bool | None:
        """The condition of an If, where it follows from constants."""
        known = self.values[node.input[0]].constant if node.input[0] in self.values else None
        return None if known is None or known.size != 1 else bool(known.reshape(()))

    def _part(self, node: Any, split: Any) -> list[Any]:
        """One part of a split into a sequence, as the slice that it is."""
        from onnx import helper

        with about(label(node)):
            start, stop, axis, keep = sequence_part(split, [self.values.get(name) for name in [*split.input, *node.input[1:]]])
            bounds = [f"{node.output[0]}/{what}" for what in ("start", "stop", "axis")]
            for name, number in zip(bounds, (start, stop, axis), strict=True):
                self.values[name] = constant(np.array([number], np.int64), len(self.batches), name)
            cut = node.output[0] if keep else f"{node.output[0]}/kept"
            nodes = [helper.make_node("Slice", [split.input[0], *bounds], [cut], name=node.name or node.output[0])]
            if not keep:
                nodes.append(helper.make_node("Squeeze", [cut, bounds[2]], [node.output[0]], name=f"{node.name}/squeeze"))
            for made in nodes:
                made.metadata_props.extend(node.metadata_props)
            return nodes

    def _store(self, name: str, array: NDArray[Any]) -> None:
        self.values[name] = constant(array, len(self.batches), name)
        self._stored.add(name)
        self._limit += BYTES_PER_STORED * array.nbytes

    def stored(self, name: str) -> bool:
        """Whether a value is an initializer, or one reshaped or converted."""
        return name in self._stored or self.values[name].source in self._stored

    def opset(self, node: Any) -> int:
        """The version of a node's domain."""
        domain = "" if node.domain in ONNX_DOMAINS else node.domain
        if domain not in self.opsets:
            raise CorruptFileError(f"{label(node)}: the model imports no opset of domain {node.domain!r}")
        return self.opsets[domain]

    def _visit(self, node: Any) -> None:
        self.nodes.append(node)
        if missing := [name for name in reads(node) if name not in self.values]:
            raise CorruptFileError(f"{label(node)}: reads {missing[0]!r}, which no earlier node computes")
        inferred = self._infer(node)
        folded = self._fold(node, inferred)
        for index, name in enumerate(node.output):
            if not name:
                continue
            if name in self.values:
                raise CorruptFileError(f"{label(node)}: computes {name!r}, which exists already")
            self.values[name] = folded[index] if folded else inferred[index]
        if folded and all(value.constant is not None for value in folded):
            if node.op_type == "Constant" and node.name:
                self.named[node.output[0]] = node.name
            self._release(node)

    def _release(self, node: Any) -> None:
        """Forget what nobody else reads; the nodes that are lowered read the rest."""
        for name in node.input:
            self._readers[name] -= 1
            if name and not self._readers[name] and (known := self.values[name]).arrays is not None:
                self._held -= 0 if name in self._stored else known.arrays[0].nbytes
                self.values[name] = Value(known.dtype, known.shapes, None, known.source)

    def _fold(self, node: Any, inferred: Sequence[Value]) -> list[Value] | None:
        """The outputs, if they follow from what is known."""
        known = [self.values[name] if name else None for name in node.input]
        if node.domain not in ONNX_DOMAINS or node.op_type not in FOLDED | SLOWLY_FOLDED or any(subgraphs(node)):
            return None
        if node.op_type in ("Shape", "Size"):
            return [per_batch([shape_of(node, shape) for shape in self.values[node.input[0]].shapes], node.output[0])]
        if node.op_type == "CastLike":
            return self._cast_like(node, *known)
        if any(value is not None and value.arrays is None for value in known):
            return None
        self._afford(node, [value for value in known if value is not None], inferred)
        same = all(value is None or value.constant is not None for value in known)
        batches = range(1 if same else len(self.batches))
        results = [self._evaluate(node, [None if value is None or value.arrays is None else value.arrays[batch] for value in known]) for batch in batches]
        source = known[0].source if node.op_type in MOVING and known[0] is not None else ""
        return [per_batch(arrays * (len(self.batches) if same else 1), source or node.output[index]) for index, arrays in enumerate(zip(*results, strict=True))]

    def _cast_like(self, node: Any, value: Value | None, like: Value | None) -> list[Value] | None:
        if value is None or like is None or value.constant is None:
            return None
        return [constant(value.constant.astype(like.dtype), len(self.batches), value.source)]

    def _afford(self, node: Any, known: Sequence[Value], inferred: Sequence[Value]) -> None:
        """Refuse, before it is computed, what is out of proportion to the file."""
        elements = sum(prod(shape) for value in inferred for shape in value.shapes)
        size = sum(prod(shape) * value.dtype.itemsize for value in inferred for shape in set(value.shapes))
        self._held, self._computed = self._held + size, self._computed + size
        work = prod(known[0].shapes[0]) * (known[1].shapes[0][-1:] or (1,))[0] if node.op_type in ("MatMul", "Gemm") else elements
        slow = node.op_type in SLOWLY_FOLDED and elements + sum(prod(value.shapes[0]) for value in known) > SLOW_ELEMENTS
        if self._held > self._limit or self._computed > PASSES * self._limit or work > MAX_MULTIPLICATIONS or slow:
            stored = (self._limit - FREE_BYTES) // BYTES_PER_STORED
            raise CorruptFileError(f"{label(node)}: computes {elements} constant elements, out of proportion to the {stored} bytes of weights in the file")

    def _evaluate(self, node: Any, arrays: Sequence[NDArray[Any] | None]) -> tuple[NDArray[Any], ...]:
        from onnx import helper
        from onnx.reference import ReferenceEvaluator

        with onnx_says(f"{label(node)} cannot be evaluated"), np.errstate(all="ignore"):
            if (array := along_axis(node, arrays)) is not None:
                return (array,)
            names = [name for name in node.input if name]
            graph = helper.make_graph([node], "one", [info(name) for name in dict.fromkeys(names)], [info(name) for name in node.output])
            model = helper.make_model(graph, opset_imports=[helper.make_opsetid(node.domain, max(self.opset(node), EVALUATED_AT.get(node.op_type, 1)))])
            feeds = {name: array for name, array in zip(node.input, arrays, strict=True) if name and array is not None}
            return tuple(np.asarray(array) for array in ReferenceEvaluator(model).run(None, feeds))

    def _infer(self, node: Any) -> list[Value]:
        """Type and shape of every output, by ONNX's inference for this one node at each batch size."""
        names = reads(node)
        results: list[list[tuple[np.dtype[Any], Shape]]] = []
        for batch in range(len(self.batches)):
            if batch and all(
                self.values[name].shapes[batch] == self.values[name].shapes[0] and self._shown(name, batch) is self._shown(name, 0) for name in names
            ):
                results.append(results[0])
            else:
                results.append(self._infer_at(node, names, batch))
        columns = zip(*results, strict=True)
        return [Value(column[0][0], tuple(shape for _, shape in column), None, name) for name, column in zip(node.output, columns, strict=True)]

    def _shown(self, name: str, batch: int) -> NDArray[Any] | None:
        arrays = self.values[name].arrays
        return arrays[batch] if arrays is not None and arrays[batch].size <= INFERENCE_READS else None

    def _infer_at(self, node: Any, names: Sequence[str], batch: int) -> list[tuple[np.dtype[Any], Shape]]:
        from onnx import defs, helper, numpy_helper, shape_inference

        types, data = {}, {}
        for name in names:
            value, shown = self.values[name], self._shown(name, batch)
            code = helper.np_dtype_to_tensor_dtype(value.dtype)
            types[name] = helper.make_tensor_type_proto(code, value.shapes[batch])
            if shown is not None:
                data[name] = numpy_helper.from_array(shown, name)
        found: dict[str, Any] = {}
        domain = "" if node.domain in ONNX_DOMAINS else node.domain
        if defs.has(node.op_type, domain=domain):
            with onnx_says(f"{label(node)} does not fit its inputs"):
                schema = defs.get_schema(node.op_type, max(self.opset(node), INFERRED_AT.get(node.op_type, 1)), domain)
                opsets = [helper.make_opsetid(domain, version) for domain, version in self.opsets.items()]
                if schema.has_type_and_shape_inference_function:
                    found = shape_inference.infer_node_outputs(schema, node, types, data, opset_imports=opsets)
        results = []
        for name in node.output:
            with about(label(node)):
                inferred = tensor_type(found.get(name)) or (name in self._declared and tensor_type(self._declared[name].type))
            if name and not inferred:
                return measure(node, {read: self.values[read] for read in names}, self.opsets, batch)
            results.append(inferred or (np.dtype(np.float32), ()))
        for name, (_, shape) in zip(node.output, results, strict=True):
            if prod(shape) > MAX_ELEMENTS:
                raise CorruptFileError(f"{label(node)}: computes {name!r} of shape {shape}, more than {MAX_ELEMENTS} elements")
        return results


def tensor_type(proto: Any) -> tuple[np.dtype[Any], Shape] | None:
    """Element type and shape, if all of it is told."""
    if proto is None or proto.WhichOneof("value") is None:
        return None
    if proto.WhichOneof("value") != "tensor_type":
        raise UnsupportedError(f"computes a {proto.WhichOneof('value').removesuffix('_type')}; only tensors are read")
    tensor = proto.tensor_type
    if not tensor.elem_type or not tensor.HasField("shape") or not all(dim.HasField("dim_value") for dim in tensor.shape.dim):
        return None
    return dtype_of(tensor.elem_type, "value"), tuple(dim.dim_value for dim in tensor.shape.dim)


def shape_of(node: Any, shape: Shape) -> NDArray[np.int64]:
    """What a Shape or Size node gives for an input of this shape."""
    bounds = {attribute.name: attribute.i for attribute in node.attribute}
    if node.op_type == "Size":
        return np.array(prod(shape), np.int64)
    return np.array(shape[bounds.get("start", 0) : bounds.get("end", len(shape))], np.int64)


def along_axis(node: Any, arrays: Sequence[NDArray[Any] | None]) -> NDArray[Any] | None:
    """GatherElements and ScatterElements at once; onnx.reference goes element by element."""
    from onnx import helper

    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    axis = attributes.get("axis", 0)
    if node.op_type not in ("GatherElements", "ScatterElements") or attributes.get("reduction", b"none") != b"none":
        return None
    data, indices, *updates = (np.asarray(array) for array in arrays)
    if not updates:
        return np.take_along_axis(data, indices, axis)
    filled = data.copy()
    np.put_along_axis(filled, indices, updates[0], axis)
    return filled


def info(name: str) -> Any:
    """A declaration that says only a name."""
    from onnx import ValueInfoProto

    return ValueInfoProto(name=name)


def label(node: Any) -> str:
    """How messages call a node."""
    return f"{node.name or next(iter(node.output), '')} ({node.op_type})"


def captured(graph: Any) -> Iterator[str]:
    """The values of the outer graph that a subgraph reads, in order."""
    own = defined(graph)
    for node in graph.node:
        yield from (name for name in [*node.input, *(inner for sub in subgraphs(node) for inner in captured(sub))] if name and name not in own)
    yield from (entry.name for entry in graph.output if entry.name not in own)


def reads(node: Any) -> list[str]:
    """The values that a node reads: its inputs, then what its subgraphs capture; each captured name once."""
    inputs = [name for name in node.input if name]
    return inputs + [name for name in dict.fromkeys(name for graph in subgraphs(node) for name in captured(graph)) if name not in inputs]
