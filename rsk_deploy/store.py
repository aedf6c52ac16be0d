"""The ``.rsk`` file: a safetensors file with the arrays of a packed graph, and one metadata key, ``rsk``.

Its value is compact JSON with sorted keys: ``{"format_version": 1, "graph": …, "provenance": …}``, the graph as ``codec``
writes it. One key, because the bytes of several would depend on the order of a hash table. The same graph gives the same
bytes. Opening a file runs nothing from it and takes memory in proportion to its size.
"""

from __future__ import annotations

import importlib
import json
import re
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsk_deploy import codec
from rsk_deploy.errors import CorruptFileError, UsageError, about, needing
from rsk_deploy.files import atomic
from rsk_deploy.ir import Graph, Json, Packed
from rsk_deploy.ir.layers import MAX_ELEMENTS
from rsk_deploy.provenance import provenance, tool_version, weights_sha256
from rsk_deploy.registry import READERS, Runner

OPTIONS: frozenset[str] = frozenset()
RUNNER = "the numpy reference"

FORMAT_VERSION = 1
MAX_HEADER = 8 << 20
"""Bytes of a header: room for 10 000 layers, and what Python can parse in well under a second."""

STORED = ("BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64", "F16", "F32", "F64")
"""The types of safetensors that an array of ours can have; its others (bfloat16, 8 bits and less) numpy does not know."""


@dataclass(frozen=True)
class Saved:
    """What a ``.rsk`` file holds: the graph, and where it comes from (a claim of the file; ``read_checked`` checks what it says of the weights)."""

    graph: Graph[Packed]
    provenance: Mapping[str, Json]


def save(graph: Graph[Packed], path: str | Path, *, force: bool = False) -> None:
    """Write a ``.rsk`` file. An existing file is replaced only with ``force``, and only by a complete one."""
    path = Path(path)
    if path.suffix.lower() != ".rsk":
        raise UsageError(f"{path}: a packed graph is saved as .rsk; for other files use rsk_deploy.export")
    with atomic(path, force) as temporary:
        write(graph, temporary)


def load(path: str | Path) -> Graph[Packed]:
    """The packed graph in a ``.rsk`` file, or in an ONNX file that rsk-deploy wrote."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".rsk", ".onnx"):
        known = "is a model that is not packed yet; read it and pack it: rsk_deploy.pack(rsk_deploy.read(path))"
        raise UsageError(f"{path}: {known if suffix in READERS else 'is neither .rsk nor .onnx'}")
    if suffix == ".rsk":
        return read(path).graph
    graph: Graph[Packed] = onnx_reader().read_packed(present(path))
    return graph


def present(path: Path) -> Path:
    """``path``, if a file is there."""
    if not path.is_file():
        raise UsageError(f"{path}: {'is not a file' if path.exists() else 'no such file'}")
    return path


def is_ours(path: Path) -> bool:
    """Whether ``load`` opens the file: a ``.rsk``, or an ONNX file with our metadata."""
    return path.suffix.lower() == ".rsk" or (path.suffix.lower() == ".onnx" and onnx_metadata(present(path)) is not None)


def write(graph: Graph[Packed], path: Path) -> None:
    """Write the file in place (``save`` is the atomic one). What ``load`` would refuse is refused here."""
    document, arrays = codec.encode(graph)
    codec.decode(document, arrays)
    content = {"format_version": FORMAT_VERSION, "graph": document, "provenance": provenance(graph)}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    data = safetensors().numpy.save(arrays, metadata={"rsk": text})
    check_header(int.from_bytes(data[:8], "little"), len(data))
    path.write_bytes(data)


def runner(path: Path, values: Iterable[str] = ()) -> Runner:
    """The file as a function, executed by the numpy reference."""
    from rsk_deploy import reference
    from rsk_deploy.packing import unpack

    graph, wanted = unpack(read(path).graph), tuple(values)  # decoded once
    return lambda inputs: reference.run(graph, inputs, wanted)


def read(path: Path) -> Saved:
    """Everything in a file of ours, checked."""
    if present(path).suffix.lower() == ".onnx":
        content = onnx_reader().parse(onnx_metadata(path))
        return Saved(load(path), provenance_of(content))
    with about(str(path)):
        metadata, arrays = read_arrays(path)
        if metadata.keys() != {"rsk"}:
            raise CorruptFileError(f"is a safetensors file with the metadata keys {sorted(metadata)}; a packed graph has the one key 'rsk'")
        content = codec.entries(parse(metadata["rsk"]), "metadata")
        origin = provenance_of(content)
        check_version(content.get("format_version"), origin)
        if content.keys() != {"format_version", "graph", "provenance"}:
            raise CorruptFileError(f"its metadata has the fields {sorted(content)}, not format_version, graph and provenance")
        return Saved(codec.decode(content["graph"], arrays), origin)


def read_checked(path: Path) -> Saved:
    """``read``, and refuse weights that are not those that were written, by the hash in the file. It takes as long as decoding them all."""
    saved = read(path)
    said = saved.provenance.get("weights_sha256")
    if said is not None and said != (found := weights_sha256(saved.graph)):
        raise CorruptFileError(f"{path}: its weights have the SHA-256 {found}, and had {str(said)[:64]} when it was written. Some of its bytes have changed.")
    return saved


def provenance_of(content: Mapping[str, Json]) -> Mapping[str, Json]:
    """Where a file says that it comes from."""
    claims: Mapping[str, Json] = codec.free_json(codec.entries(content.get("provenance"), "provenance"), "provenance")
    return claims


def onnx_reader() -> ModuleType:
    """The reader of packed ONNX files, by name: only files of that kind need it."""
    return importlib.import_module("rsk_deploy.readers.onnx.packed")


def onnx_metadata(path: Path) -> str | None:
    """What our converter left in an ONNX file; None in other people's."""
    reader = onnx_reader()
    with about(str(path)):
        return next((entry.value for entry in reader.load(path).metadata_props if entry.key == reader.PROPERTY), None)


def check_version(version: Json, origin: Mapping[str, Json]) -> None:
    """Refuse a file from a later tool, naming the tool to get."""
    if codec.whole(version, "format_version") < 1:
        raise CorruptFileError(f"format_version {version} does not exist")
    if version > FORMAT_VERSION:
        claimed = str(origin.get("tool_version"))
        writer = claimed if re.fullmatch(r"[0-9A-Za-z.+]{1,40}", claimed) else "of a later version"
        raise UsageError(
            f"was written in format {version} by rsk-deploy {writer}; this is rsk-deploy {tool_version()}, which reads format {FORMAT_VERSION}."
            " Run: pip install --upgrade rsk-deploy"
        )


def read_header(path: Path) -> str:
    """The JSON at the head of the file, of bounded length."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        check_header(length, path.stat().st_size)
        return file.read(length).decode(errors="replace")


def check_header(length: int, size: int) -> None:
    """Refuse a header that does not fit its file, or that takes long to read."""
    if size == 0:
        raise CorruptFileError("the file is empty")
    if length > size - 8:
        raise CorruptFileError(f"is truncated or no .rsk file: it begins with a header of {length} bytes, and has {size} in all")
    if length > MAX_HEADER:
        raise CorruptFileError(f"its header (layers, names, opaque nodes) has {length} bytes; allowed are {MAX_HEADER}")


def read_arrays(path: Path) -> tuple[Mapping[str, str], dict[str, NDArray[Any]]]:
    """The metadata and the arrays.

    The library refuses offsets that overlap, leave holes, leave the file or disagree with shape and type, and nesting
    deeper than 128. It takes the last of two equal names, ignores unknown fields, and lets through types and shapes that
    numpy refuses and booleans that are neither 0 nor 1: those are refused here.
    """
    library = safetensors()
    header = read_header(path)
    try:
        with library.safe_open(path, framework="numpy") as file:
            for name, entry in parse(header).items():
                if name != "__metadata__":
                    check_entry(name, entry)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping, though it has keys
            metadata = file.metadata() or {}
    except library.SafetensorError as error:
        raise CorruptFileError(f"is no readable safetensors file: {error}") from error
    for name, array in arrays.items():
        if array.dtype == np.bool_ and array.size and array.view(np.uint8).max() > 1:
            raise CorruptFileError(f"array {name!r}: has booleans that are neither 0 nor 1")
    return metadata, arrays


def check_entry(name: str, entry: Mapping[str, Any]) -> None:
    """Refuse an array that numpy cannot hold, from its entry in the header."""
    if entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise CorruptFileError(f"array {name!r}: its entry has the fields {sorted(entry)}, not data_offsets, dtype and shape")
    if entry["dtype"] not in STORED:
        raise CorruptFileError(f"array {name!r}: has type {entry['dtype']}; allowed are {', '.join(STORED)}")
    shape = entry["shape"]
    if len(shape) > codec.MAX_RANK or prod(dim for dim in shape if dim) > MAX_ELEMENTS:
        raise CorruptFileError(f"array {name!r}: has shape {reprlib.repr(shape)}; allowed are {codec.MAX_RANK} axes and {MAX_ELEMENTS} elements")


def parse(text: str) -> Any:
    """JSON in which no name occurs twice in an object and every number is finite."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) < len(pairs):
            raise CorruptFileError("its header has a name twice in one object")
        return result

    def refuse(constant: str) -> Any:
        raise CorruptFileError(f"its header has the number {constant}, which is not JSON")

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except RecursionError:
        raise CorruptFileError("its header is nested too deep") from None
    except ValueError as error:
        raise CorruptFileError(f"its header is not JSON: {error}") from error


def safetensors() -> ModuleType:
    """The library, imported on first use."""
    with needing("safetensors", "all", "A .rsk file"):
        import safetensors.numpy
    return safetensors
