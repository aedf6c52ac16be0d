"""A node that the graph does not model, kept as it is."""

from __future__ import annotations

from typing import Any

from rsk_deploy.ir import Opaque
from rsk_deploy.readers.onnx.branches import rename
from rsk_deploy.readers.onnx.build import Node
from rsk_deploy.readers.onnx.load import ONNX_DOMAINS, subgraphs
from rsk_deploy.readers.onnx.trace import reads
from rsk_deploy.readers.onnx.values import graph_dtype, open_shape

RESIZE = 13
"""The opset from which a Resize may leave out what it does not use; before, an empty tensor says so, and nothing else is different."""


def keep(node: Node) -> None:
    """Append the node itself, in one canonical form: named as its layer, values called as in the graph, without comments."""
    from onnx import NodeProto, defs

    builder, proto = node.builder, NodeProto()
    proto.CopyFrom(node.proto)
    leave_out_empty(proto, node)
    read = reads(proto)
    names = {name: node.resolve(name) for name in read}
    outputs = tuple(name for name in proto.output if name)
    proto.name = builder.layer_name(node.name)
    proto.input[:] = [names.get(name, "") for name in proto.input]
    for graph in subgraphs(proto):
        rename(graph, names)
    proto.ClearField("doc_string")
    proto.ClearField("metadata_props")
    domain = "" if proto.domain in ONNX_DOMAINS else proto.domain
    values = [builder.trace.values[name] for name in outputs]
    opset = max(node.opset, RESIZE) if node.op == "Resize" else node.opset
    since = defs.get_schema(proto.op_type, opset, domain).since_version if defs.has(proto.op_type, domain=domain) else opset
    builder.append(
        Opaque(
            name=proto.name,
            inputs=tuple(names[name] for name in read),
            outputs=outputs,
            origin=node.origin,
            op=proto.op_type,
            node=proto.SerializeToString(deterministic=True),
            domain=domain,
            opset=since,
            output_shapes=tuple(open_shape(value, builder.trace.batches, name) for value, name in zip(values, outputs, strict=True)),
            output_dtypes=tuple(graph_dtype(value.dtype).name for value in values),
        )
    )


def leave_out_empty(proto: Any, node: Node) -> None:
    """Take the empty region and the empty scales of a Resize out: the graph has no empty values."""
    if node.op == "Resize":
        proto.input[:] = [name if index not in (1, 2) or not node.has(index) or all(node.shape(index)) else "" for index, name in enumerate(proto.input)]
