"""Hostile ``.rsk`` files: each named after what is wrong, made from a valid file, with what the refusal must say."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

Damage = Callable[[bytes], bytes]
NUMPY = {"F32": "f4", "F16": "f2", "I64": "i8", "U32": "u4", "U16": "u2", "U8": "u1", "BOOL": "u1"}


class Parts:
    """A ``.rsk`` file taken apart: header entries, the content of its metadata, and the arrays' bytes."""

    def __init__(self, file: bytes) -> None:
        length = int.from_bytes(file[:8], "little")
        self.header: dict[str, Any] = json.loads(file[8 : 8 + length])
        self.content: dict[str, Any] = json.loads(self.header["__metadata__"]["rsk"])
        self.data = bytearray(file[8 + length :])
        self.text: str | None = None

    def layer(self, name: str) -> dict[str, Any]:
        return next(layer for layer in self.content["graph"]["layers"] if layer["name"] == name)

    def array(self, name: str) -> np.ndarray[Any, Any]:
        entry = self.header[name]
        start, end = entry["data_offsets"]
        return np.frombuffer(memoryview(self.data)[start:end], NUMPY[entry["dtype"]]).reshape(entry["shape"])

    def join(self) -> bytes:
        text = json.dumps(self.content) if self.text is None else self.text
        return assembled(json.dumps({**self.header, "__metadata__": {**self.header["__metadata__"], "rsk": text}}), bytes(self.data))


def assembled(header: str, data: bytes) -> bytes:
    return struct.pack("<Q", len(header.encode())) + header.encode() + data


def edited(change: Callable[[Parts], object]) -> Damage:
    def damage(file: bytes) -> bytes:
        parts = Parts(file)
        change(parts)
        return parts.join()

    return damage


def fields(layer: str, /, **values: Any) -> Damage:
    """Other values for some fields of a layer."""
    return edited(lambda parts: parts.layer(layer).update(values))


def weight(layer: str, /, **values: Any) -> Damage:
    """Other values for some fields of a layer's weight."""
    return edited(lambda parts: parts.layer(layer)["weight"].update(values))


def params(layer: str, /, **values: Any) -> Damage:
    """Other values for some parameters of a layer's weight."""
    return edited(lambda parts: parts.layer(layer)["weight"]["params"].update(values))


def numbers(name: str, change: Callable[[np.ndarray[Any, Any]], object]) -> Damage:
    """Other bytes in an array."""
    return edited(lambda parts: change(parts.array(name)))


def entry(name: str, /, **values: Any) -> Damage:
    """Other values in an array's header entry."""
    return edited(lambda parts: parts.header[name].update(values))


def document(text: str) -> Damage:
    """Another text in place of our JSON."""
    return edited(lambda parts: setattr(parts, "text", text))


def fill(value: Any) -> Callable[[np.ndarray[Any, Any]], object]:
    return lambda array: array.fill(value)


def metadata(**values: str) -> Damage:
    def damage(file: bytes) -> bytes:
        parts = Parts(file)
        return assembled(json.dumps({**parts.header, "__metadata__": values}), bytes(parts.data))

    return damage


def without_metadata(file: bytes) -> bytes:
    parts = Parts(file)
    del parts.header["__metadata__"]
    return assembled(json.dumps(parts.header), bytes(parts.data))


def array_twice(file: bytes) -> bytes:
    parts = Parts(file)
    header = json.dumps(parts.header)
    return assembled(header[:-1] + ',"bn.scale":' + json.dumps(parts.header["bn.scale"]) + "}", bytes(parts.data))


def relabelled(parts: Parts) -> None:
    """A float array that says it is bfloat16: half of the elements, twice as many."""
    shape = parts.header["bn.scale"]["shape"]
    parts.header["bn.scale"].update(dtype="BF16", shape=[2 * shape[0]])


def empty_but_huge(parts: Parts) -> None:
    parts.header["nothing"] = {"dtype": "F32", "shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}


def extra(parts: Parts) -> None:
    end = len(parts.data)
    parts.data += bytes(4)
    parts.header["stowaway"] = {"dtype": "F32", "shape": [1], "data_offsets": [end, end + 4]}


def cycle(parts: Parts) -> None:
    first, *_, last = parts.content["graph"]["layers"]
    first["inputs"] = last["outputs"][:1]


def chain(parts: Parts, count: int) -> None:
    """As many softmax layers in a row."""
    parts.content["graph"]["layers"] = [
        {"layer": "Softmax", "name": f"s{i}", "inputs": [f"s{i - 1}" if i else "x"], "outputs": [f"s{i}"], "axis": 1} for i in range(count)
    ]


def activation_bomb(parts: Parts) -> None:
    """A few layers whose values together fill any memory, each of them as large as is allowed."""
    grow = {"layer": "Resize", "sizes": [16384, 16384], "scales": [2048.0, 2048.0], "mode": "nearest", "inputs": ["x"]}
    parts.content["graph"].update(layers=[{**grow, "name": f"r{i}", "outputs": [f"r{i}"]} for i in range(100)], outputs=[f"r{i}" for i in range(100)])
    parts.header, parts.data = {"__metadata__": parts.header["__metadata__"]}, bytearray()


def shared_constant_tower(parts: Parts) -> None:
    """Binary layers that double a shape at every step."""
    parts.content["graph"]["layers"] = [
        {"layer": "Concat", "name": f"c{i}", "inputs": [f"c{i - 1}" if i else "x"] * 2, "outputs": [f"c{i}"], "axis": 1} for i in range(200)
    ]


FILES: dict[str, tuple[Damage, str]] = {
    # the container
    "empty": (lambda file: b"", "the file is empty"),
    "truncated-length": (lambda file: file[:5], "truncated"),
    "truncated-header": (lambda file: file[:200], "truncated"),
    "truncated-data": (lambda file: file[:-1], "not fully covered"),
    "trailing-data": (lambda file: file + b"\0", "not fully covered"),
    "header-longer-than-file": (lambda file: struct.pack("<Q", 2**63) + file[8:], "truncated"),
    "huge-header": (lambda file: assembled('{"__metadata__":{"rsk":"' + "x" * (9 << 20) + '"}}', b""), "allowed are 8388608"),
    "header-not-json": (lambda file: assembled("{'a'}", b""), "no readable safetensors"),
    "header-a-list": (lambda file: assembled("[]", b""), "no readable safetensors"),
    "header-not-utf8": (lambda file: file[:8] + b"\xff" + file[9:], "no readable safetensors"),
    "deep-header": (lambda file: assembled('{"a":' + "[" * 100_000 + "]" * 100_000 + "}", b""), "recursion"),
    "a-zip": (lambda file: b"PK\x03\x04" + bytes(100), "truncated"),
    "overlapping-offsets": (entry("bn.shift", data_offsets=[0, 32]), "offset"),
    "hole-between-arrays": (lambda file: assembled('{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}', b"ab"), "offset"),
    "negative-offset": (entry("bn.shift", data_offsets=[-32, 0]), "expected usize"),
    "swapped-offsets": (entry("bn.shift", data_offsets=[64, 32]), "offset"),
    "shape-overflow": (entry("bn.shift", shape=[2**63, 2]), "overflow"),
    "shape-larger-than-data": (entry("bn.shift", shape=[9]), "shape"),
    "empty-but-huge-array": (edited(empty_but_huge), "'nothing': has shape"),
    "too-many-axes": (entry("bn.shift", shape=[1] * 99 + [8]), "allowed are 32 axes"),
    "unknown-dtype": (entry("bn.shift", dtype="F128"), "unknown variant"),
    "unreadable-dtype": (edited(relabelled), "BF16; allowed are"),
    "array-twice": (array_twice, "a name twice"),
    "array-with-unknown-field": (entry("bn.shift", code="x"), "code"),
    "missing-metadata": (without_metadata, "metadata keys \\[\\]"),
    "other-metadata": (metadata(format="pt"), "metadata keys \\['format'\\]"),
    "two-metadata-keys": (edited(lambda parts: parts.header["__metadata__"].update(more="")), "the one key 'rsk'"),
    # our JSON
    "document-not-json": (document("{"), "not JSON"),
    "document-empty": (document(""), "not JSON"),
    "document-a-list": (document("[]"), "expected an object, found \\[\\]"),
    "deep-json": (document('{"graph":' + "[" * 200_000), "nested too deep"),
    "deep-meta": (edited(lambda parts: parts.content["graph"]["meta"].update(a=json.loads("[" * 60 + "]" * 60))), "nested more than 32 deep"),
    "name-twice-in-object": (document('{"graph":{},"graph":{}}'), "a name twice"),
    "huge-integer": (document('{"format_version":' + "9" * 5000 + "}"), "not JSON"),
    "nan-literal": (document('{"format_version":NaN}'), "the number NaN"),
    "overflowing-float": (edited(lambda parts: parts.content["graph"]["meta"].update(a=[])), "finite number"),
    "unknown-content": (edited(lambda parts: parts.content.update(script="")), "script"),
    "no-graph": (edited(lambda parts: parts.content.pop("graph")), "not format_version, graph and provenance"),
    "no-provenance": (edited(lambda parts: parts.content.pop("provenance")), "provenance: expected an object"),
    "future-format": (edited(lambda parts: parts.content.update(format_version=2)), "written in format 2 by rsk-deploy .*pip install --upgrade"),
    "format-zero": (edited(lambda parts: parts.content.update(format_version=0)), "format_version 0"),
    "format-true": (edited(lambda parts: parts.content.update(format_version=True)), "format_version: expected a whole number"),
    "lone-surrogate": (edited(lambda parts: parts.content["graph"]["meta"].update(a="\ud800")), "expected a text"),
    # the graph
    "graph-null": (edited(lambda parts: parts.content.update(graph=None)), "graph: expected an object, found None"),
    "unknown-op": (fields("gn", layer="Exec"), "gn: expected a layer of .*found 'Exec'"),
    "dunder-op": (fields("gn", layer="__class__"), "gn: expected a layer"),
    "op-a-list": (fields("gn", layer=["GroupNorm"]), "gn: expected a layer"),
    "unknown-field": (fields("gn", script="rm"), "gn: has an unknown field 'script'; GroupNorm has"),
    "missing-field": (edited(lambda parts: parts.layer("gn").pop("groups")), "gn: has no field 'groups'"),
    "layer-without-name": (edited(lambda parts: parts.layer("gn").pop("name")), "has no field 'name'"),
    "layer-a-string": (edited(lambda parts: parts.content["graph"]["layers"].append("x")), "expected an object, found 'x'"),
    "name-twice": (fields("gn", name="bn"), "'bn' is used more than once"),
    "bool-as-int": (fields("gn", groups=True), "gn.groups: expected a whole number of at most 64 bits, found True"),
    "int-as-bool": (fields("avgpool", count_pads=1), "avgpool.count_pads: expected true or false, found 1"),
    "float-as-int": (fields("gn", groups=4.0), "gn.groups: expected a whole number"),
    "string-as-list": (fields("gn", inputs="x"), "gn.inputs: expected a list"),
    "int-as-name": (fields("gn", inputs=[1]), "gn.inputs\\[0\\]: expected a text"),
    "nan-epsilon": (fields("gn", epsilon="nan"), "gn.epsilon: expected a number"),
    "int-beyond-64-bits": (fields("gn", groups=10**400), "gn.groups: expected a whole number"),
    "long-list": (fields("transpose", perm=[0] * 65), "transpose.perm: expected a list of at most 64"),
    "not-base64": (fields("det", node="%%%"), "det.node: expected bytes in base64"),
    "cyclic-layers": (edited(cycle), "conv.*: reads .*no earlier layer computes"),
    "output-of-no-layer": (edited(lambda parts: parts.content["graph"].update(outputs=["nowhere"])), "'nowhere' is computed by no layer"),
    "two-batches": (edited(lambda parts: parts.content["graph"]["inputs"][0].update(shape=["batch", "batch", 8, 8])), "may be open"),
    "empty-input": (edited(lambda parts: parts.content["graph"]["inputs"][0].update(shape=[1, 8, 0, 8])), "input x: "),
    "huge-input": (edited(lambda parts: parts.content["graph"]["inputs"][0].update(shape=[1, 8, 2**40, 8])), "input x: .*more than 2147483648"),
    "object-input": (edited(lambda parts: parts.content["graph"]["inputs"][0].update(dtype="object")), "input x: expected a type of"),
    "million-layers": (document('{"graph":{"layers":[' + '{"layer":"Softmax"},' * 1_000_000), "allowed are 8388608"),
    "many-layers": (edited(lambda parts: chain(parts, 10_001)), "layers: expected a list of at most 10000, found \\["),
    "doubling-layers": (edited(shared_constant_tower), "more than 2147483648 elements"),
    "huge-resize": (fields("resize", sizes=[2**30, 2**30]), "resize: .*more than 2147483648 elements"),
    "huge-pad": (fields("pad", pads=[0, 0, 2**62, 0, 0, 0, 0, 0]), "pad: .*more than 2147483648 elements"),
    "huge-stride": (fields("maxpool", dilation=[2**62, 2**62]), "maxpool: window of .* does not fit"),
    "negative-pad": (fields("pad", pads=[0, 0, -1, 0, 0, 0, 0, 0]), "pad: pads"),
    "expanding-reshape": (fields("flatten", target=[2**40, 8]), "flatten: .*does not reshape"),
    "zero-reshape": (fields("flatten", target=[0, -1]), "flatten: target"),
    "gather-outside": (numbers("shuffle.indices", fill(8)), "shuffle: index outside axis"),
    "gather-negative": (numbers("shuffle.indices", fill(-1)), "shuffle: index outside axis"),
    # the arrays
    "array-missing": (fields("bn", scale="bn.scales"), "bn.scale: the array 'bn.scales' is missing or used twice"),
    "array-used-twice": (fields("bn", scale="bn.shift"), "bn.shift: the array 'bn.shift' is missing or used twice"),
    "array-unused": (edited(extra), "the array 'stowaway' belongs to no layer"),
    "array-inline": (fields("bn", scale=[1.0]), "bn.scale: expected a text"),
    "wrong-dtype": (entry("bn.scale", dtype="I32"), "bn.scale: expected an array of float32, found dtype\\('int32'\\)"),
    "nan-scale": (numbers("bn.scale", fill(np.nan)), "bn.scale: has values that are not finite"),
    "infinite-bias": (numbers("fc.bias", fill(np.inf)), "fc.bias: has values that are not finite"),
    "bias-too-long": (edited(lambda parts: parts.layer("fc").update(bias=parts.layer("fc")["weight"]["arrays"].pop("values"))), "fc"),
    # the weights
    "unknown-format": (weight("fc", format="pickle"), "fc.weight.format: expected one of"),
    "format-a-path": (weight("fc", format="rsk_deploy.store"), "fc.weight.format: expected one of"),
    "weight-null": (fields("fc", weight=None), "fc.weight: expected an object"),
    "weight-array-missing": (edited(lambda parts: parts.layer("conv.csr")["weight"]["arrays"].pop("rows")), "conv.csr.weight: format csr stores .*rows"),
    "unknown-parameter": (params("fc", eval="1"), "fc.weight: format dense has the parameters"),
    "empty-weight": (weight("fc", shape=[0, 8]), "fc.weight: has shape \\(0, 8\\)"),
    "huge-weight": (weight("conv.periodic", shape=[2**20, 2**20, 3, 3]), "conv.periodic.weight: has shape"),
    "negative-weight-shape": (weight("fc", shape=[-8, -8]), "fc.weight: has shape"),
    "value-count-too-small": (weight("fc", shape=[8, 9]), "stores 64 values for 72 places"),
    "nan-weight": (numbers("conv.bitmask.weight.values", fill(np.nan)), "conv.bitmask.weight: .*not finite"),
    "bits-past-the-values": (numbers("conv.bitmask.weight.bits", fill(255)), "conv.bitmask.weight: .*values for 576 places"),
    "index-past-kernel": (numbers("conv.csr.weight.columns", fill(72)), "conv.csr.weight: array columns reaches 72 in rows of 72"),
    "index-twice": (numbers("conv.csr.weight.columns", fill(3)), "conv.csr.weight: array columns does not rise"),
    "row-pointer-not-monotonic": (
        numbers("conv.csr.weight.rows", lambda rows: rows[1:3].sort() or np.copyto(rows[1:3], rows[2:0:-1].copy())),
        "array rows falls",
    ),
    "row-pointer-past-the-end": (numbers("conv.csr.weight.rows", fill(2**32 - 1)), "array rows runs from"),
    "pattern-id-past-table": (numbers("conv.pattern.weight.ids", fill(255)), "array ids reaches 255 in a table of"),
    "pattern-not-of-bits": (numbers("conv.pattern.weight.patterns", fill(7)), "conv.pattern.weight: array patterns .*7"),
    "lfsr-zero-seed": (params("conv.lfsr", seed=0), "conv.lfsr.weight: format lfsr"),
    "lfsr-huge-width": (params("conv.lfsr", width=2**62), "conv.lfsr.weight: format lfsr"),
    "lfsr-unknown-parameter": (params("conv.lfsr", __import__="os"), "conv.lfsr.weight: format lfsr"),
    "lfsr-list-seed": (params("conv.lfsr", seed=[1]), "conv.lfsr.weight: format lfsr"),
    "lfsr-float-seed": (params("conv.lfsr", seed=0.5), "conv.lfsr.weight: format lfsr"),
    "lfsr-huge-shape": (weight("conv.lfsr", shape=[2**14, 2**13, 3, 3]), "conv.lfsr.weight: "),
}
"""Each file, by what is wrong: how it is made, and a pattern that the refusal matches."""

BOMBS: dict[str, Damage] = {"activation-memory-bomb": edited(activation_bomb), "most-layers": edited(lambda parts: chain(parts, 9_000))}
"""Files that may be well formed: opening them is cheap, whatever running them would take."""


def overflowing(file: bytes) -> bytes:
    parts = Parts(file)
    parts.content["graph"]["meta"]["a"] = "<here>"
    parts.text = json.dumps(parts.content).replace('"<here>"', "1e999")
    return parts.join()


FILES["overflowing-float"] = (overflowing, "expected null, true, false, a finite number")
