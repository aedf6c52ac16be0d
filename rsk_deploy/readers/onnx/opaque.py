"""A node that the graph does not model, kept as it is."""

from __future__ import annotations

from rsk_deploy.ir import Opaque
from rsk_deploy.readers.onnx.branches import rename
from rsk_deploy.readers.onnx.build import Node
from rsk_deploy.readers.onnx.load import ONNX_DOMAINS, subgraphs
from rsk_deploy.readers.onnx.trace import reads
from rsk_deploy.readers.onnx.values import graph_dtype, open_shape


def keep(node: Node) -> None:
    """Append the node itself, in one canonical form: named as its layer, values called as in the graph, without comments."""
    from onnx import NodeProto, defs

    builder, proto = node.builder, NodeProto()
    proto.CopyFrom(node.proto)
    names = {name: node.resolve(name) for name in reads(node.proto)}
    outputs = tuple(name for name in proto.output if name)
    proto.name = builder.layer_name(node.name)
    proto.input[:] = [names.get(name, "") for name in proto.input]
    for graph in subgraphs(proto):
        rename(graph, names)
    proto.ClearField("doc_string")
    proto.ClearField("metadata_props")
    domain = "" if proto.domain in ONNX_DOMAINS else proto.domain
    values = [builder.trace.values[name] for name in outputs]
    since = defs.get_schema(proto.op_type, node.opset, domain).since_version if defs.has(proto.op_type, domain=domain) else node.opset
    builder.append(
        Opaque(
            name=proto.name,
            inputs=tuple(names[name] for name in reads(node.proto)),
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
