"""What a Core ML package holds, for people: sizes, operations, how weights are stored, where it comes from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from rsk_deploy.errors import about
from rsk_deploy.files import size_of
from rsk_deploy.ir import Json
from rsk_deploy.mlprogram.constants import CONSTANTS
from rsk_deploy.mlprogram.package import Feature, read, tensor_type
from rsk_deploy.mlprogram.wire import Message

SMALL = 1024
"""Constants of fewer bytes are counted, not listed."""


@dataclass(frozen=True)
class Stored:
    """One constant: what it unfolds to, how it is stored, and the bytes of both."""

    name: str
    shape: tuple[int, ...]
    form: str
    nbytes: int
    dense_nbytes: int


@dataclass(frozen=True)
class Summary:
    """The package at a glance. ``said`` is what rsk-deploy left in it; empty in other people's."""

    path: Path
    nbytes: int
    specification: int
    inputs: tuple[Feature, ...]
    outputs: tuple[Feature, ...]
    operations: Mapping[str, int]
    weights: tuple[Stored, ...]
    about: Mapping[str, str]
    said: Mapping[str, Json]


def summary(path: Path) -> Summary:
    """Look into a package; nothing in it is executed."""
    with about(str(path)):
        package = read(path)
        function = package.model.get("mlProgram", {}).get("functions", {}).get("main", {})
        operations = function.get("blocks", {}).get(function.get("opset", ""), {}).get("operations", [])
        weights = [entry for entry in _constants(operations) if entry.dense_nbytes >= SMALL]
        metadata = package.description.get("metadata", {})
        told = {key: metadata[key] for key in ("author", "license", "shortDescription") if metadata.get(key)}
        kinds = Counter(operation.get("type", "") for operation in operations)
        computing = {kind: kinds[kind] for kind in sorted(kinds) if kind != "const" and kind not in CONSTANTS}
        return Summary(
            path, size_of(path), package.model.get("specificationVersion", 0), package.features("input"), package.features("output"), computing,
            tuple(weights), told, package.said,
        )  # fmt: skip


def _constants(operations: Sequence[Message]) -> Iterator[Stored]:
    """The constants of numbers. One that another reads (the kept values of a sparse weight) counts as part of that one."""
    parts: dict[str, tuple[str, int]] = {}
    for operation in operations:
        kind, outputs = operation.get("type", ""), operation.get("outputs", [])
        if (kind != "const" and kind not in CONSTANTS) or not outputs or "tensor" not in outputs[-1].get("type", {}):
            continue
        bindings = [binding for argument in operation.get("inputs", {}).values() for binding in argument.get("arguments", [])]
        values = [*operation.get("attributes", {}).values(), *(binding["value"] for binding in bindings if "value" in binding)]
        types = [tensor_type(value["type"]) for value in values if "tensor" in value.get("type", {})]
        size = sum(-(-prod(shape) * bits // 8) for name, bits, shape in types if name != "string")
        name, bits, shape = tensor_type(outputs[-1]["type"])
        form = name if kind == "const" else f"{kind.removeprefix('constexpr_').replace('_', ' ')} {name}"
        for inner in {binding["name"] for binding in bindings if binding.get("name") in parts}:
            form, size = f"{parts[inner][0]}, {form}", size + parts[inner][1]
        if len(outputs) > 1:
            parts |= {output.get("name", ""): (form, size) for output in outputs[-1:]}
        elif name != "string":
            yield Stored(outputs[0].get("name", ""), shape, form, size, -(-prod(shape) * bits // 8))
