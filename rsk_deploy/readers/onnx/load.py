"""From a file or a model in memory to a checked ModelProto: nothing outside its own folder is read, nothing unbounded is expanded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rsk_deploy.errors import CorruptFileError, RskError, UnsafeFileError, UnsupportedError, needing

MAX_FILE_BYTES = 1 << 31
MAX_NODES = 200_000
"""After inlining functions: small functions that call each other many times over grow exponentially."""

OLDEST_OPSET = 11
ONNX_DOMAINS = ("", "ai.onnx")

UNCHECKED, UNCHECKED_DOMAIN = frozenset({"GroupNormalization"}), "unchecked"
"""The checker refuses GroupNormalization of opset 18 to 20 as deprecated; exporters wrote it and runtimes run it."""


@contextmanager
def onnx_says(what: str) -> Iterator[None]:
    """Turn whatever the onnx package raises about a file into a CorruptFileError that starts with ``what``."""
    try:
        yield
    except RskError:
        raise
    except Exception as error:  # parser, checker, inference and evaluator each have their own zoo of exceptions
        raise CorruptFileError(f"{what}: {type(error).__name__}: {str(error).strip()[:500]}") from error


def load(model: Any) -> Any:
    """The ModelProto of a path (with its external data) or of a model in memory, which stays as it is: checked, functions inlined, opset 11 or newer."""
    with needing("onnx", "onnx", "reading ONNX"):
        import onnx
    if isinstance(model, onnx.ModelProto):
        proto = onnx.ModelProto()
        proto.CopyFrom(model)
    else:
        size = Path(model).stat().st_size
        if size >= MAX_FILE_BYTES:
            raise CorruptFileError(f"has {size} bytes; an ONNX file is smaller than {MAX_FILE_BYTES}, larger weights are external data")
        with onnx_says("is no ONNX model"):
            proto = onnx.load(str(model), load_external_data=False)
        attach_external_data(proto, Path(model).parent)
    prepare(proto)
    return proto


def prepare(proto: Any) -> None:
    """Check a ModelProto and inline its functions, in place."""
    check_text(proto)
    check_opset(proto)
    inline_functions(proto)
    check(proto)


def check_text(message: Any) -> None:
    """Refuse text that is no text: protobuf hands it over as bytes."""
    for field, value in message.ListFields():
        if field.type not in (field.TYPE_STRING, field.TYPE_MESSAGE):
            continue
        for each in [value] if isinstance(value, str | bytes) or hasattr(value, "ListFields") else value:
            if isinstance(each, bytes):
                raise CorruptFileError(f"holds text that is not UTF-8: {each[:60]!r} as {field.full_name}")
            if not isinstance(each, str):
                check_text(each)


def check_opset(proto: Any) -> None:
    """Refuse a model without outputs, without an opset, or from before opset 11."""
    versions = [entry.version for entry in proto.opset_import if entry.domain in ONNX_DOMAINS]
    if not proto.graph.output or not versions:
        raise CorruptFileError(f"is no ONNX model: it has {len(proto.graph.output)} outputs and {len(versions)} opset versions")
    from onnx.defs import onnx_opset_version

    if versions[0] > onnx_opset_version():
        raise UnsupportedError(f"uses opset {versions[0]}; the onnx package installed here knows opset {onnx_opset_version()} at most. Upgrade onnx.")
    if versions[0] < OLDEST_OPSET:
        raise UnsupportedError(
            f"uses opset {versions[0]}; opset {OLDEST_OPSET} and newer are read. Run onnx.version_converter.convert_version(model, 17) on it."
        )


def attach_external_data(proto: Any, folder: Path) -> None:
    """Read the tensors stored beside the model into it; a place outside the model's folder is refused."""
    from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

    root = folder.resolve()
    for tensor in filter(uses_external_data, tensors(proto)):
        place = {entry.key: entry.value for entry in tensor.external_data}.get("location", "")
        target = (root / place).resolve()
        if not place or not target.is_relative_to(root) or target == root:
            raise UnsafeFileError(f"{tensor.name}: its data lies at {place!r}, outside the model's folder; it is not read")
        if not target.is_file():
            raise CorruptFileError(f"{tensor.name}: its data lies in {place!r}, and there is no such file beside the model")
        with onnx_says(f"{tensor.name}: its data in {place!r} cannot be read"):
            load_external_data_for_tensor(tensor, str(root))


def tensors(message: Any) -> Iterator[Any]:
    """Every tensor in a message: the initializers, and those in attributes, subgraphs and functions."""
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for each in [value] if hasattr(value, "ListFields") else value:
                yield from [each] if each.DESCRIPTOR.name == "TensorProto" else tensors(each)


def inline_functions(proto: Any) -> None:
    """Replace the calls of model-local functions by their bodies."""
    check_size(proto)
    if not proto.functions:
        return
    from onnx import ModelProto, inliner

    shell = ModelProto()  # without the weights: the inliner serialises what it is given
    shell.CopyFrom(ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import, functions=proto.functions))
    shell.graph.node.extend(proto.graph.node)
    shell.graph.input.extend(proto.graph.input)
    shell.graph.output.extend(proto.graph.output)
    with onnx_says("its functions cannot be inlined"):
        inlined = inliner.inline_local_functions(shell)
    del proto.graph.node[:], proto.functions[:]
    proto.graph.node.extend(inlined.graph.node)


def check_size(proto: Any) -> None:
    """Refuse functions that call themselves, and more than MAX_NODES nodes once they are inlined."""
    functions = {(function.domain, function.name): function for function in proto.functions}
    sizes: dict[tuple[str, str], int] = {}

    def size(nodes: Iterable[Any]) -> int | None:
        total = 0
        for node in nodes:
            called = (node.domain, node.op_type)
            if called in functions and called not in sizes:
                return None
            inner = [size(graph.node) for graph in subgraphs(node)]
            if None in inner:
                return None
            total += sizes.get(called, 1) + sum(count or 0 for count in inner)
        return total

    while len(sizes) < len(functions):
        known = {key: count for key, function in functions.items() if key not in sizes and (count := size(function.node)) is not None}
        if not known:
            raise CorruptFileError(f"function {next(key for key in functions if key not in sizes)} calls itself")
        sizes.update(known)
    if (size(proto.graph.node) or 0) > MAX_NODES:
        raise CorruptFileError(f"has more than {MAX_NODES} nodes, those of its functions counted wherever they are called")


def subgraphs(node: Any) -> Iterator[Any]:
    """The graphs in a node's attributes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def check(proto: Any) -> None:
    """Run onnx.checker on everything but the weights' values, which are checked where they are used."""
    from onnx import ModelProto, TensorProto, checker, helper

    graph = proto.graph
    stored = [tensor.name for tensor in graph.initializer] + [tensor.values.name for tensor in graph.sparse_initializer]
    if repeated := [name for name, count in Counter(stored).items() if count > 1]:
        raise CorruptFileError(f"the initializer name {repeated[0]!r} is used more than once")
    declared = {entry.name for entry in graph.input}
    with onnx_says("onnx.checker refuses it"):
        weights = [
            helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)) for tensor in graph.initializer if tensor.name not in declared
        ]
        weights += [helper.make_tensor_value_info(tensor.values.name, tensor.values.data_type, list(tensor.dims)) for tensor in graph.sparse_initializer]
        shell = ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import)
        outputs = [entry if typed(entry) else helper.make_tensor_value_info(entry.name, TensorProto.FLOAT, ()) for entry in graph.output]
        shell.graph.CopyFrom(helper.make_graph(graph.node, graph.name or "graph", [*graph.input, *weights], outputs))
        for node in shell.graph.node:
            if node.op_type in UNCHECKED:
                node.domain = UNCHECKED_DOMAIN
        shell.opset_import.append(helper.make_opsetid(UNCHECKED_DOMAIN, 1))
        checker.check_model(shell)


def typed(output: Any) -> bool:
    """Whether an output says its type and rank. It need not: both follow from the nodes; only the checker asks for them."""
    return output.type.WhichOneof("value") not in (None, "tensor_type") or (output.type.tensor_type.elem_type > 0 and output.type.tensor_type.HasField("shape"))
