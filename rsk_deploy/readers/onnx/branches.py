"""The graphs inside a node: what they define, what they are called, and the one that an If with a known condition takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rsk_deploy.errors import CorruptFileError
from rsk_deploy.readers.onnx.load import subgraphs


def taken_branch(node: Any, condition: bool) -> Any:
    """A copy of the branch that an If takes. Its nodes compute the If's outputs; every other value is named after the first of these, which makes it unique."""
    from onnx import GraphProto, helper

    branch = GraphProto()
    for attribute in node.attribute:
        if attribute.name == ("then_branch" if condition else "else_branch"):
            branch.CopyFrom(attribute.g)
    if len(branch.output) != len(node.output):
        raise CorruptFileError(f"{node.name}: an If with {len(node.output)} outputs takes a branch with {len(branch.output)}")
    names = {name: f"{node.output[0]}/{name}" for name in defined(branch) if name}
    for tensor in branch.initializer:
        tensor.name = names[tensor.name]
    for inner in branch.node:
        inner.output[:] = [names.get(name, "") for name in inner.output]
    rename(branch, names)
    branch.node.extend(
        helper.make_node("Identity", [inner.name], [outer], name=node.name) for inner, outer in zip(branch.output, node.output, strict=True) if outer
    )
    return branch


def defined(graph: Any) -> set[str]:
    """The values that a subgraph defines."""
    return {entry.name for entry in graph.input} | {tensor.name for tensor in graph.initializer} | {name for node in graph.node for name in node.output}


def rename(graph: Any, names: Mapping[str, str]) -> None:
    """Call the values that a subgraph reads and does not define by their new names."""
    own = defined(graph)
    seen = {old: new for old, new in names.items() if old not in own and old != new}
    for node in graph.node:
        node.input[:] = [seen.get(name, name) for name in node.input]
        for inner in subgraphs(node):
            rename(inner, seen)
    for entry in graph.output:
        entry.name = seen.get(entry.name, entry.name)
