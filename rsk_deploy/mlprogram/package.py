"""The folder that is a Core ML model: a manifest, the model's protocol buffer, and its weights in one file of blobs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsk_deploy.errors import CorruptFileError, UsageError
from rsk_deploy.ir import Json
from rsk_deploy.mlprogram.wire import Message, parse

SUFFIX, MANIFEST = ".mlpackage", "Manifest.json"
MOST_JSON, MOST_MODEL = 1 << 20, 16 << 20
"""Bytes of a manifest, and of a model without its weights: what Python parses in seconds."""
MODEL_PATH = "@model_path/"
BLOB, SENTINEL = 64, 0xDEADBEEF
"""Bytes of a blob's head, and what it begins with."""

TYPES = {
    1: ("bool", 8), 2: ("string", 0), 10: ("float16", 16), 11: ("float32", 32), 21: ("int8", 8), 22: ("int16", 16), 23: ("int32", 32),
    24: ("int64", 64), 31: ("uint8", 8), 32: ("uint16", 16), 33: ("uint32", 32), 35: ("uint4", 4), 36: ("uint2", 2), 37: ("uint1", 1), 38: ("uint6", 6),
    39: ("uint3", 3),
}  # fmt: skip
"""Element types as programs number them: name and bits."""
BLOB_TYPES = {1: "float16", 2: "float32", 3: "uint8", 4: "int8", 6: "int16", 7: "uint16", 9: "uint1", 10: "uint2", 11: "uint4", 12: "uint3", 13: "uint6",
              14: "int32", 15: "uint32"}  # fmt: skip
"""The same as blobs number them."""


@dataclass(frozen=True)
class Feature:
    """An input or output: its kind (tensor, string, dictionary, an image with its layout), and its shape, ranges as ``1..64``."""

    name: str
    kind: str
    shape: tuple[int | str, ...] = ()

    @property
    def is_image(self) -> bool:
        """Whether pictures go in."""
        return self.kind.startswith("image")

    @property
    def layout(self) -> str:
        """Of a picture: grayscale, rgb or bgr."""
        return self.kind.removeprefix("image (").removesuffix(")")


@dataclass(frozen=True)
class Package:
    """A model as it lies on disk. ``value`` gives the arrays that the program's messages hold or point to."""

    path: Path
    model: Message
    home: Path
    files: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    """Of weights, mapped into memory once they are pointed to."""

    @property
    def description(self) -> Message:
        """Inputs, outputs and metadata."""
        return dict(self.model.get("description", {}))

    @property
    def said(self) -> Mapping[str, Json]:
        """What rsk-deploy left in the metadata; empty in other people's files."""
        text = self.description.get("metadata", {}).get("userDefined", {}).get("rsk", "{}")
        return _json(text, "its metadata 'rsk'")

    def features(self, which: str) -> tuple[Feature, ...]:
        """The ``input`` or ``output`` features."""
        return tuple(_feature(message) for message in self.description.get(which, []))

    def value(self, message: Message) -> Any:
        """A value: an array, or a string, or a list of strings."""
        if "list" in message.get("immediate", {}):
            return [self.value(item) for item in message["immediate"]["list"].get("values", [])]
        name, bits, shape = tensor_type(message.get("type", {}))
        if "blob" in message:
            return self._blob(message["blob"], name, bits, shape)
        return _immediate(message.get("immediate", {}).get("tensor", {}), name, shape)

    def _blob(self, pointer: Message, name: str, bits: int, shape: tuple[int, ...]) -> NDArray[Any]:
        file = pointer.get("fileName", "")
        content, offset = self._file(file), pointer.get("offset", 0)
        count = prod(shape)
        if not 0 <= offset <= content.size - BLOB:
            raise CorruptFileError(f"a blob at {offset} of {file}, which has {content.size} bytes")
        head = content[offset : offset + BLOB].tobytes()
        sentinel, kind, size, start = (int.from_bytes(head[low:high], "little") for low, high in ((0, 4), (4, 8), (8, 16), (16, 24)))
        if sentinel != SENTINEL or BLOB_TYPES.get(kind) != name:
            raise CorruptFileError(f"at {offset} of {file} is no blob of {name}")
        if size != -(-count * bits // 8) or not 0 <= start <= content.size - size:
            raise CorruptFileError(f"the blob at {offset} of {file} has {size} bytes from {start} on; {shape} of {name} do not fit in it")
        data = content[start : start + size]
        if bits < 8:
            return _unpacked(data, bits, count).reshape(shape)
        return np.frombuffer(data.tobytes(), np.dtype(name).newbyteorder("<")).reshape(shape)

    def _file(self, name: str) -> NDArray[np.uint8]:
        """A file beside the model, whatever the name says."""
        parts = name.removeprefix(MODEL_PATH).split("/")
        path = self.home.joinpath(*parts)
        if not name.startswith(MODEL_PATH) or not set(parts).isdisjoint({"", ".", ".."}) or not _is_inside(path, self.path):
            raise CorruptFileError(f"its weights are said to be in {name!r}, which is outside the package")
        if not path.is_file():
            raise CorruptFileError(f"its weights in {name!r} are missing")
        if name not in self.files:
            self.files[name] = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)
        return self.files[name]


def is_package(path: Path) -> bool:
    """Whether the path is named as a Core ML package."""
    return path.suffix.lower() == SUFFIX


def read(path: Path) -> Package:
    """The package at ``path``: its manifest followed to the model, the model parsed."""
    if not path.is_dir():
        raise UsageError(f"{'is not a folder, as a Core ML package is' if path.exists() else 'no such file'}")
    manifest = _json(_bytes(path / MANIFEST, MOST_JSON).decode(errors="replace"), MANIFEST)
    entries, root = manifest.get("itemInfoEntries"), manifest.get("rootModelIdentifier")
    entry = entries.get(root) if isinstance(entries, dict) and isinstance(root, str) else None
    place = entry.get("path") if isinstance(entry, dict) else None
    if not isinstance(place, str):
        raise CorruptFileError(f"its {MANIFEST} names no model")
    model = path.joinpath("Data", *place.split("/"))
    if not _is_inside(model, path):
        raise CorruptFileError(f"its {MANIFEST} names the model {place!r}, which is outside the package")
    return Package(path, parse("Model", _bytes(model, MOST_MODEL)), model.parent)


def tensor_type(message: Message, batch: int = 0) -> tuple[str, int, tuple[int, ...]]:
    """Element type, its bits, and shape; an unknown dimension is ``batch``."""
    tensor = message.get("tensor")
    if tensor is None or tensor.get("dataType") not in TYPES:
        raise CorruptFileError(f"a value is of no known type ({tensor.get('dataType') if tensor else 'none'})")
    shape = tuple(dim["constant"].get("size", 0) if "constant" in dim else batch for dim in tensor.get("dimensions", []))
    if len(shape) != tensor.get("rank", 0) or len(shape) > 8 or min(shape, default=0) < 0 or prod(shape) > MOST_ELEMENTS:
        raise CorruptFileError(f"a value has shape {shape}; at most 8 axes and {MOST_ELEMENTS} elements are read")
    name, bits = TYPES[tensor["dataType"]]
    return name, bits, shape


MOST_ELEMENTS = 1 << 28
"""Of one value: more is refused before memory is taken."""


def _immediate(tensor: Message, name: str, shape: tuple[int, ...]) -> Any:
    count = prod(shape)
    if name == "string":
        values = tensor.get("strings", {}).get("values", [])
        if len(values) != 1 or shape:
            raise CorruptFileError(f"a string of shape {shape} with {len(values)} values")
        return values[0]
    if "bytes" in tensor:
        array = np.frombuffer(_whole_items(tensor["bytes"].get("values", b""), np.dtype(name if not name.startswith("uint") else "uint8")), name)
    else:
        numbers: list[Any] = next((tensor[key].get("values", []) for key in ("floats", "ints", "bools", "longInts") if key in tensor), [])
        try:
            array = np.array(numbers, name)
        except (OverflowError, ValueError, TypeError) as error:
            raise CorruptFileError(f"numbers that are no {name}: {error}") from error
    if array.size != count:
        raise CorruptFileError(f"{array.size} numbers for the shape {shape}")
    return array.reshape(shape)


def _whole_items(data: bytes, dtype: np.dtype[Any]) -> bytes:
    if len(data) % dtype.itemsize:
        raise CorruptFileError(f"{len(data)} bytes for numbers of {dtype.itemsize}")
    return data


def _unpacked(data: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.uint8]:
    """Numbers of fewer than eight bits, the lowest first."""
    places = np.unpackbits(data, count=count * bits, bitorder="little").reshape(count, bits)
    return np.packbits(places, axis=1, bitorder="little").reshape(count)


def _feature(message: Message) -> Feature:
    name, type_ = message.get("name", ""), message.get("type", {})
    if "imageType" in type_:
        image = type_["imageType"]
        layout = {10: "grayscale", 20: "rgb", 30: "bgr"}.get(image.get("colorSpace", 0), "?")
        return Feature(name, f"image ({layout})", (image.get("height", 0), image.get("width", 0)))
    if "multiArrayType" in type_:
        array = type_["multiArrayType"]
        ranges = [(item.get("lowerBound", 0), item.get("upperBound", 0)) for item in array.get("shapeRange", {}).get("sizeRanges", [])]
        return Feature(name, "tensor", tuple(low if low == high else f"{low}..{high}" for low, high in ranges) or tuple(array.get("shape", [])))
    return Feature(name, "string" if "stringType" in type_ else "dictionary")


def _is_inside(path: Path, folder: Path) -> bool:
    """Whether links and all lead to a place inside the folder that a file can have."""
    try:
        path.is_file()  # no system looks for a name that is too long
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):
        return False


def _bytes(path: Path, most: int) -> bytes:
    if not path.is_file():
        raise CorruptFileError(f"has no {path.name}")
    if (size := path.stat().st_size) > most:
        raise CorruptFileError(f"its {path.name} has {size} bytes; at most {most} are read")
    return path.read_bytes()


def _json(text: str, what: str) -> dict[str, Json]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"{what} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise CorruptFileError(f"{what} is no JSON object")
    return content
