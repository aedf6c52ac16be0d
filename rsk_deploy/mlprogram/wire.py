"""Protocol buffers, as far as Core ML models need them: a message is a dict of the fields that it has.

A repeated field is a list, a map a dict; other fields are the last value given. Unknown fields are skipped, as the format asks.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from rsk_deploy.errors import CorruptFileError

Message: TypeAlias = dict[str, Any]
DEPTH = 64
"""How deep messages may nest: types of types, values of values."""

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

SCHEMA: Mapping[str, Mapping[int, tuple[str, str]]] = {  # message → number → field, type; * repeated, + a map from strings
    "Model": {1: ("specificationVersion", "int"), 2: ("description", "Description"), 502: ("mlProgram", "Program")},
    "Description": {
        1: ("input", "*Feature"), 10: ("output", "*Feature"), 11: ("predictedFeatureName", "string"),
        12: ("predictedProbabilitiesName", "string"), 100: ("metadata", "Metadata"),
    },
    "Metadata": {1: ("shortDescription", "string"), 3: ("author", "string"), 4: ("license", "string"), 100: ("userDefined", "+string")},
    "Feature": {1: ("name", "string"), 3: ("type", "FeatureType")},
    "FeatureType": {3: ("stringType", "Empty"), 4: ("imageType", "Image"), 5: ("multiArrayType", "Array"), 6: ("dictionaryType", "Empty")},
    "Image": {1: ("width", "int"), 2: ("height", "int"), 3: ("colorSpace", "int")},
    "Array": {1: ("shape", "*int"), 2: ("dataType", "int"), 31: ("shapeRange", "ShapeRange")},
    "ShapeRange": {1: ("sizeRanges", "*SizeRange")},
    "SizeRange": {1: ("lowerBound", "int"), 2: ("upperBound", "int")},
    "Program": {1: ("version", "int"), 2: ("functions", "+Function")},
    "Function": {1: ("inputs", "*Named"), 2: ("opset", "string"), 3: ("blocks", "+Block")},
    "Block": {2: ("outputs", "*string"), 3: ("operations", "*Operation")},
    "Operation": {1: ("type", "string"), 2: ("inputs", "+Argument"), 3: ("outputs", "*Named"), 4: ("blocks", "*Empty"), 5: ("attributes", "+Value")},
    "Argument": {1: ("arguments", "*Binding")},
    "Binding": {1: ("name", "string"), 2: ("value", "Value")},
    "Named": {1: ("name", "string"), 2: ("type", "Type")},
    "Type": {1: ("tensor", "Tensor"), 2: ("list", "List"), 4: ("dictionary", "Empty")},
    "Tensor": {1: ("dataType", "int"), 2: ("rank", "int"), 3: ("dimensions", "*Dimension")},
    "List": {1: ("type", "Type"), 2: ("length", "Dimension")},
    "Dimension": {1: ("constant", "Size"), 2: ("unknown", "Empty")},
    "Size": {1: ("size", "int")},
    "Value": {2: ("type", "Type"), 3: ("immediate", "Immediate"), 5: ("blob", "Blob")},
    "Immediate": {1: ("tensor", "Tensors"), 3: ("list", "Values")},
    "Values": {1: ("values", "*Value")},
    "Blob": {1: ("fileName", "string"), 2: ("offset", "int")},
    "Tensors": {1: ("floats", "Floats"), 2: ("ints", "Ints"), 3: ("bools", "Ints"), 4: ("strings", "Strings"), 5: ("longInts", "Ints"), 7: ("bytes", "Bytes")},
    "Floats": {1: ("values", "*float")},
    "Ints": {1: ("values", "*int")},
    "Strings": {1: ("values", "*string")},
    "Bytes": {1: ("values", "bytes")},
    "Empty": {},
}  # fmt: skip
"""The fields that matter here, with their numbers in Apple's schema (mlmodel/format/*.proto)."""


def parse(kind: str, data: bytes) -> Message:
    """The message of that kind in ``data``."""
    try:
        return _message(kind, memoryview(data), 0)
    except (struct.error, UnicodeDecodeError, IndexError) as error:
        raise CorruptFileError(f"is no Core ML model: its protocol buffer is cut off or garbled ({error})") from error


def _message(kind: str, data: memoryview, depth: int) -> Message:
    if depth > DEPTH:
        raise CorruptFileError(f"is no Core ML model: its messages nest deeper than {DEPTH}")
    fields = SCHEMA[kind]
    message: Message = {}
    for number, wire, value in _fields(data):
        if number not in fields:
            continue
        name, type_ = fields[number]
        if type_.startswith("+"):
            entry = _entry(type_[1:], _chunk(wire, value), depth)
            message.setdefault(name, {})[entry.get("key", "")] = entry.get("value", "" if type_ == "+string" else {})
        elif type_.startswith("*"):
            message.setdefault(name, []).extend(_several(type_[1:], wire, value, depth))
        else:
            message[name] = _single(type_, wire, value, depth)
    return message


def _entry(kind: str, data: memoryview, depth: int) -> Message:
    """A map's entry: its key, a string, and its value."""
    return {("key" if number == 1 else "value"): _single("string" if number == 1 else kind, wire, value, depth + 1) for number, wire, value in _fields(data)}


def _fields(data: memoryview) -> Iterator[tuple[int, int, Any]]:
    """Number, wire type and raw value of one field after the other."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value: Any
            value, at = _varint(data, at)
        elif wire in (FIXED32, FIXED64):
            size = 4 if wire == FIXED32 else 8
            value, at = data[at : at + size], at + size
        elif wire == BYTES:
            length, at = _varint(data, at)
            value, at = data[at : at + length], at + length
        else:
            raise CorruptFileError(f"is no Core ML model: its protocol buffer has a field of kind {wire}")
        if at > len(data):
            raise CorruptFileError("is no Core ML model: its protocol buffer is cut off")
        yield number, wire, value


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (1 << 64) - 1, at
    raise CorruptFileError("is no Core ML model: its protocol buffer has a number of more than ten bytes")


def _chunk(wire: int, value: Any) -> memoryview:
    if wire != BYTES:
        raise CorruptFileError(f"is no Core ML model: its protocol buffer has a field of kind {wire} where bytes belong")
    chunk: memoryview = value
    return chunk


def _single(kind: str, wire: int, value: Any, depth: int) -> Any:
    if kind == "int":
        return _signed(_whole(wire, value))
    if kind == "float":
        return _floats(value if wire == FIXED32 else b"")[0]
    if kind == "string":
        return str(_chunk(wire, value), "utf-8")
    if kind == "bytes":
        return bytes(_chunk(wire, value))
    return _message(kind, _chunk(wire, value), depth + 1)


def _several(kind: str, wire: int, value: Any, depth: int) -> list[Any]:
    """The values of one repetition: numbers come packed, or one by one."""
    if kind not in ("int", "float") or wire != BYTES:
        return [_single(kind, wire, value, depth)]
    if kind == "float":
        return list(_floats(value))
    numbers, at = [], 0
    while at < len(value):
        number, at = _varint(value, at)
        numbers.append(_signed(number))
    return numbers


def _floats(data: Any) -> tuple[float, ...]:
    return struct.unpack(f"<{len(data) // 4}f", data)


def _whole(wire: int, value: Any) -> int:
    if wire != VARINT:
        raise CorruptFileError(f"is no Core ML model: its protocol buffer has a field of kind {wire} where a number belongs")
    return int(value)


def _signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number
