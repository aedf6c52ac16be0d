"""A packed graph as one JSON document and named arrays, and back.

The document mirrors the dataclasses of ``ir``: a record is an object with the fields of its class, a layer has its class
name as ``layer`` besides, bytes are base64, an infinite number is ``"inf"`` or ``"-inf"``, and an array is the name it is
stored under: ``conv1.weight.values``, ``conv1.bias``. Every type, name, length and number is checked before it is used;
a field with a default may be left out, nothing may be added. Numbers keep their bits.
"""

from __future__ import annotations

import base64
import binascii
import collections.abc
import math
import operator
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from types import NoneType
from typing import Any, TypeAlias, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from rsk_deploy import ir
from rsk_deploy.errors import CorruptFileError, UsageError, about
from rsk_deploy.ir.layers import MAX_ELEMENTS
from rsk_deploy.registry import FORMATS, format_named

LAYERS: dict[str, Any] = {
    layer.__name__: layer
    for layer in (
        ir.Conv, ir.ConvTranspose, ir.Linear, ir.Affine, ir.LayerNorm, ir.GroupNorm, ir.LRN, ir.MaxPool, ir.AveragePool, ir.Activation,
        ir.PRelu, ir.Softmax, ir.Binary, ir.MatMul, ir.Constant, ir.Concat, ir.Slice, ir.Gather, ir.Pad, ir.Reshape, ir.Transpose,
        ir.Resize, ir.Reduce, ir.Opaque,
    )
}  # fmt: skip
"""What a document can hold, by class name."""

DTYPES = ("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64")
MAX_LAYERS = 10_000
MAX_RANK = 32
"""Axes of a value: as many as the oldest numpy has. Lists of numbers are at most twice as long (pads)."""
MAX_DEPTH = 32
"""Nesting of free-form JSON (``meta``, ``params``)."""


class Arrays(dict[str, NDArray[Any]]):
    """Named arrays: ``put`` while a document is made, ``take`` (each once) while it is read."""

    def put(self, name: str, array: NDArray[Any]) -> str:
        """Keep an array; its name, made unique (a layer may be called ``conv1.weight``)."""
        while name in self:
            name += "~"
        self[name] = np.asarray(array, array.dtype.newbyteorder("="), order="C")
        return name

    def take(self, name: str, where: str) -> NDArray[Any]:
        """The array of that name, which nothing else may use."""
        if name not in self:
            raise CorruptFileError(f"{where}: the array {name!r} is missing or used twice")
        return self.pop(name)


Step: TypeAlias = Callable[[Any, str, Arrays], Any]
"""``(value, where, arrays) -> value``; ``where`` is what an error is about, and what an array is stored under."""


@dataclass(frozen=True)
class Recipe:
    """How values of one type go into a document and come out of it."""

    encode: Step
    decode: Step


def wrong(where: str, expected: str, found: Any) -> CorruptFileError:
    """The error for a value of the wrong kind; long values are cut."""
    return CorruptFileError(f"{where or 'graph'}: expected {expected}, found {reprlib.repr(found)}")


def text(value: Any, where: str, arrays: Arrays | None = None) -> str:
    """A string that every file and terminal can hold: no lone surrogates."""
    if type(value) is not str or not (value.isascii() or value == value.encode(errors="replace").decode()):
        raise wrong(where, "a text", value)
    return value


def flag(value: Any, where: str, arrays: Arrays | None = None) -> bool:
    """True or false, and not 1 or 0."""
    if type(value) is not bool:
        raise wrong(where, "true or false", value)
    return value


def whole(value: Any, where: str, arrays: Arrays | None = None) -> int:
    """A whole number of at most 64 bits: beyond, sizes could not even be computed as floats."""
    if type(value) is bool or not hasattr(value, "__index__") or not -(2**63) <= operator.index(value) < 2**64:
        raise wrong(where, "a whole number of at most 64 bits", value)
    return operator.index(value)


def put_number(value: Any, where: str, arrays: Arrays) -> ir.Json:
    """A float, or the name of an infinity."""
    if math.isnan(value):
        raise wrong(where, "a number", value)
    return float(value) if math.isfinite(value) else "inf" if value > 0 else "-inf"


def take_number(value: Any, where: str, arrays: Arrays) -> float:
    """The float, its bits unchanged."""
    if value in ("inf", "-inf"):
        return float(value)
    if type(value) is not float or not math.isfinite(value):
        raise wrong(where, "a number with a decimal point, 'inf' or '-inf'", value)
    return value


def take_bytes(value: Any, where: str, arrays: Arrays) -> bytes:
    """The bytes behind a base64 text."""
    try:
        return base64.b64decode(text(value, where), validate=True)
    except (binascii.Error, ValueError):
        raise wrong(where, "bytes in base64", value) from None


def free_json(value: Any, where: str, arrays: Arrays | None = None, depth: int = 0) -> ir.Json:
    """Free-form JSON of bounded depth with finite numbers; tuples become lists."""
    if depth > MAX_DEPTH:
        raise CorruptFileError(f"{where}: is nested more than {MAX_DEPTH} deep")
    if isinstance(value, Mapping):
        return {text(key, where): free_json(item, where, arrays, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [free_json(item, where, arrays, depth + 1) for item in value]
    if type(value) is int:
        return whole(value, where)
    if type(value) is str:
        return text(value, where)
    if value is None or type(value) is bool or (type(value) is float and math.isfinite(value)):
        return value
    raise wrong(where, "null, true, false, a finite number, a text, a list or an object", value)


SCALARS: dict[Any, Recipe] = {
    str: Recipe(text, text),
    bool: Recipe(flag, flag),
    int: Recipe(whole, whole),
    float: Recipe(put_number, take_number),
    bytes: Recipe(lambda value, where, arrays: base64.b64encode(value).decode(), take_bytes),
    Any: Recipe(free_json, free_json),
}


def sequence_of(hint: Any) -> Recipe:
    """A tuple, as a list."""
    item = recipe(hint)
    most = 2 * MAX_RANK if hint in (int, float, int | str) else MAX_LAYERS

    def decode(value: Any, where: str, arrays: Arrays) -> tuple[Any, ...]:
        if type(value) is not list or len(value) > most:
            raise wrong(where, f"a list of at most {most}", value)
        return tuple(item.decode(entry, f"{where}[{index}]", arrays) for index, entry in enumerate(value))

    return Recipe(lambda value, where, arrays: [item.encode(entry, f"{where}[{index}]", arrays) for index, entry in enumerate(value)], decode)


def mapping_of(hint: Any) -> Recipe:
    """A mapping from texts, as an object. The arrays of a weight are named after the weight."""
    item = recipe(hint)

    def at(where: str, key: str) -> str:
        return f"{where.removesuffix('.arrays')}.{key}"

    def decode(value: Any, where: str, arrays: Arrays) -> dict[str, Any]:
        return {text(key, where): item.decode(entry, at(where, key), arrays) for key, entry in entries(value, where).items()}

    return Recipe(lambda value, where, arrays: {key: item.encode(value[key], at(where, key), arrays) for key in sorted(value)}, decode)


def union_of(options: tuple[Any, ...]) -> Recipe:
    """One of: null, a text, and one other type."""
    (other,) = (recipe(option) for option in options if option not in (NoneType, str))
    kept = tuple(option for option in options if option in (NoneType, str))

    def either(step: Step) -> Step:
        def go(value: Any, where: str, arrays: Arrays) -> Any:
            if type(value) is str and str in kept:
                return text(value, where)
            return None if value is None and NoneType in kept else step(value, where, arrays)

        return go

    return Recipe(either(other.encode), either(other.decode))


def array_of(scalar: Any) -> Recipe:
    """An array, as the name it is stored under."""
    allowed = {np.int64: ("int64",), np.floating: ("float32",)}.get(get_origin(scalar) or scalar, DTYPES)

    def check(array: NDArray[Any], where: str) -> NDArray[Any]:
        if not isinstance(array, np.ndarray) or array.dtype.name not in allowed or array.ndim > MAX_RANK:
            raise wrong(where, f"an array of {' or '.join(allowed)}", getattr(array, "dtype", array))
        if scalar is not Any and not np.isfinite(array).all():
            raise CorruptFileError(f"{where}: has values that are not finite")
        return array

    def decode(value: Any, where: str, arrays: Arrays) -> NDArray[Any]:
        return check(arrays.take(text(value, where), where), where)

    return Recipe(lambda value, where, arrays: arrays.put(where, check(value, where)), decode)


def record_of(kind: type[Any]) -> Recipe:
    """A dataclass, as an object with its fields."""
    hints = get_type_hints(kind)
    parts = {field.name: recipe(hints[field.name]) for field in fields(kind)}
    required = {field.name for field in fields(kind) if field.default is MISSING and field.default_factory is MISSING}

    def at(where: str, name: str) -> str:
        return f"{where}.{name}" if where else name

    def encode(value: Any, where: str, arrays: Arrays) -> dict[str, ir.Json]:
        return {name: part.encode(getattr(value, name), at(where, name), arrays) for name, part in parts.items()}

    def decode(value: Any, where: str, arrays: Arrays) -> Any:
        given = entries(value, where)
        for complaint, names in (("an unknown field", given.keys() - parts.keys()), ("no field", required - given.keys())):
            if names:
                raise CorruptFileError(f"{where or 'graph'}: has {complaint} {min(names)!r}; {kind.__name__} has {', '.join(parts)}")
        return kind(**{name: part.decode(given[name], at(where, name), arrays) for name, part in parts.items() if name in given})

    return Recipe(encode, decode)


def entries(value: Any, where: str) -> dict[str, Any]:
    """``value``, if it is an object."""
    if type(value) is not dict:
        raise wrong(where, "an object", value)
    return value


def encode_layer(layer: ir.Layer, where: str, arrays: Arrays) -> ir.Json:
    """The fields of the layer's class, and the class."""
    kind = type(layer).__name__
    return {"layer": kind, **recipe(LAYERS[kind]).encode(layer, layer.name, arrays)}


def decode_layer(value: Any, where: str, arrays: Arrays) -> ir.Layer:
    """The layer; what is wrong with it is said under its own name, if it has one."""
    given = dict(entries(value, where))
    kind, name = given.pop("layer", None), given.get("name")
    where = name if type(name) is str else where
    if type(kind) is not str or kind not in LAYERS:
        raise wrong(where, f"a layer of {', '.join(LAYERS)}", kind)
    layer: ir.Layer = recipe(LAYERS[kind]).decode(given, where, arrays)
    return layer


def encode_weight(weight: ir.Packed, where: str, arrays: Arrays) -> ir.Json:
    """The fields of a packed weight."""
    if not isinstance(weight, ir.Packed):
        raise UsageError(f"{where}: is not packed. Run rsk_deploy.pack(graph) first.")
    return recipe(ir.Packed).encode(weight, where, arrays)


def decode_weight(value: Any, where: str, arrays: Arrays) -> ir.Packed:
    """The packed weight, found consistent by its format and small enough to be decoded."""
    weight: ir.Packed = recipe(ir.Packed).decode(value, where, arrays)
    if weight.format not in FORMATS:
        raise wrong(f"{where}.format", f"one of {', '.join(FORMATS)}", weight.format)
    if not weight.shape or min(weight.shape) < 1 or math.prod(weight.shape) > MAX_ELEMENTS:
        raise CorruptFileError(f"{where}: has shape {weight.shape}; allowed are 1 to {MAX_ELEMENTS} elements")
    with about(where):
        format_named(weight.format).validate(weight)
    return weight


@cache
def recipe(hint: Any) -> Recipe:
    """The recipe for an annotation of ``ir``."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in SCALARS:
        return SCALARS[hint]
    if hint is ir.Weight:
        return Recipe(encode_weight, decode_weight)
    if hint is ir.Layer:
        return Recipe(encode_layer, decode_layer)
    if isinstance(hint, type) and is_dataclass(hint):
        return record_of(hint)
    if origin is tuple:
        return sequence_of(arguments[0])
    if origin is collections.abc.Mapping:
        return mapping_of(arguments[1])
    if origin is np.ndarray:
        return array_of(get_args(arguments[1])[0])
    return union_of(arguments)


def encode(graph: ir.Graph[ir.Packed]) -> tuple[ir.Json, dict[str, NDArray[Any]]]:
    """The document of a graph, and the arrays that it names."""
    arrays = Arrays()
    return recipe(ir.Graph).encode(graph, "", arrays), arrays


def decode(document: ir.Json, arrays: Mapping[str, NDArray[Any]]) -> ir.Graph[ir.Packed]:
    """The graph of a document; CorruptFileError says what is wrong with it, and in which layer."""
    left = Arrays(arrays)
    graph: ir.Graph[ir.Packed] = recipe(ir.Graph).decode(document, "", left)
    if left:
        raise CorruptFileError(f"the array {min(left)!r} belongs to no layer")
    if strange := [entry for entry in graph.inputs if entry.dtype not in DTYPES]:
        raise wrong(f"input {strange[0].name}", f"a type of {', '.join(DTYPES)}", strange[0].dtype)
    return graph
