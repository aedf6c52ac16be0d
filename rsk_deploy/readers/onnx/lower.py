"""From a traced model to the graph: every node that the outputs need, through the table; then patterns, order, and a last check of the shapes."""

from __future__ import annotations

from typing import Any

from rsk_deploy.errors import CorruptFileError, RskError, about
from rsk_deploy.ir import Activation, Dense, Graph, Layer, LogEntry
from rsk_deploy.readers.onnx import opaque
from rsk_deploy.readers.onnx.build import Builder, Node, NotModelled
from rsk_deploy.readers.onnx.load import ONNX_DOMAINS
from rsk_deploy.readers.onnx.patterns import simplify
from rsk_deploy.readers.onnx.table import LOWERINGS
from rsk_deploy.readers.onnx.trace import Trace, label, reads
from rsk_deploy.readers.onnx.values import HALVES


def lower(trace: Trace, exact: bool = False) -> Graph[Dense]:
    """The graph of a traced model. ``exact``: the file is ours, so only what our converter takes apart is put together."""
    outputs = trace.outputs
    if len(set(outputs)) < len(outputs):
        raise CorruptFileError(f"its outputs {', '.join(outputs)} name a value more than once")
    producers = {name: node for node in trace.nodes for name in node.output if name}
    builder = Builder(trace, exact, lambda name: materialise(name, builder, producers))
    log = []
    for node in needed(trace, outputs):
        if trace.values[first_output(node)].arrays is None:
            lower_node(node, builder, outputs)
    for name in outputs:
        if trace.values[name].arrays is not None:
            builder.constant(name)
    if narrow := sorted({value.dtype.name for name, value in trace.values.items() if value.floating} - {"float32"}):
        log.append(LogEntry("", "precision", f"{', '.join(narrow)} values of the file are float32 in the graph, inputs and outputs included"))
    shapes = {name: value.shape for name, value in trace.values.items()}
    layers = ordered(used(simplify(builder.layers, set(outputs), shapes, exact), outputs))
    graph = Graph(trace.inputs, tuple(outputs), layers, tuple(log))
    check_shapes(graph, trace)
    return graph


def first_output(node: Any) -> str:
    """The first output that is asked for."""
    return next((name for name in node.output if name), "")


def computes_in_half(trace: Trace) -> bool:
    """Whether anything that is not a constant has half precision in the model."""
    computed = [entry.name for entry in trace.inputs] + [name for node in needed(trace, trace.outputs) for name in node.output if name]
    return any(trace.values[name].dtype.name in HALVES for name in computed)


def needed(trace: Trace, outputs: list[str]) -> list[Any]:
    """The nodes that the outputs depend on, other than through constants, in order."""
    wanted = set(outputs)
    kept = []
    for node in reversed(trace.nodes):
        if wanted.intersection(node.output) and trace.values[first_output(node)].constant is None:
            wanted.update(reads(node))
            kept.append(node)
    return kept[::-1]


def lower_node(proto: Any, builder: Builder, outputs: list[str]) -> None:
    """Append the layers of one node; what its inputs need first."""
    node = Node(proto, builder)
    mark = builder.mark()
    try:
        if not modelled(proto, builder.trace):
            raise NotModelled
        with about(label(proto)):
            LOWERINGS[proto.op_type](node)
    except NotModelled:
        builder.roll_back(mark)
        opaque.keep(Node(proto, builder))
    except RskError:
        raise
    except (ArithmeticError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise CorruptFileError(f"{label(proto)} has attributes or parameters that make no sense: {type(error).__name__}: {error}") from error
    if (same := builder.alias.get(proto.output[0])) is not None and proto.output[0] in outputs:
        del builder.alias[proto.output[0]]
        node.emit(Activation, same, kind="identity")


def modelled(proto: Any, trace: Trace) -> bool:
    """Whether the table has the operator, and the graph the types."""
    if proto.op_type not in LOWERINGS or proto.domain not in ONNX_DOMAINS or not (proto.input and proto.input[0]):
        return False
    return trace.values[proto.input[0]].floating and all(trace.values[name].floating for name in proto.output if name)


def materialise(name: str, builder: Builder, producers: dict[str, Any]) -> None:
    """Append the nodes that compute a known value that depends on the batch size, its inputs' first."""
    pending = [name]
    while pending:
        waiting = [read for read in reads(producers[pending[-1]]) if known_by_batch(read, builder)]
        if waiting:
            pending.append(waiting[0])
        else:
            opaque.keep(Node(producers[pending.pop()], builder))


def known_by_batch(name: str, builder: Builder) -> bool:
    """Whether a value is known, depends on the batch size, and has no layer yet."""
    value = builder.trace.values[name]
    return value.arrays is not None and value.constant is None and not builder.has(name)


def used(layers: list[Layer], outputs: list[str]) -> list[Layer]:
    """The layers that the outputs depend on."""
    wanted, kept = set(outputs), []
    for layer in reversed(layers):
        if wanted.intersection(layer.outputs):
            wanted.update(layer.inputs)
            kept.append(layer)
    return kept[::-1]


def ordered(layers: list[Layer]) -> tuple[Layer, ...]:
    """Each constant directly before its first reader, in the order of that reader's inputs."""
    constants = {layer.outputs[0]: layer for layer in layers if not layer.inputs}
    result: list[Layer] = []
    for layer in layers:
        if layer.inputs:
            result += [constants.pop(name) for name in layer.inputs if name in constants]
            result.append(layer)
    return (*result, *constants.values())


def check_shapes(graph: Graph[Dense], trace: Trace) -> None:
    """Refuse a graph whose shapes are not the model's."""
    for index, batch in enumerate(trace.batches):
        for name, shape in graph.shapes(batch).items():
            if name in trace.values and trace.values[name].shapes[index] != shape:
                raise CorruptFileError(f"value {name!r} has shape {shape} as read and {trace.values[name].shapes[index]} by ONNX's inference")
