"""Constants as C source: literals that keep every bit, arrays by name, and a binary beside the source for large weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINARY_ABOVE = 4_000_000
"""Bytes of constants above which large arrays go into a binary: as text a compiler takes 100 times their size in memory."""
INLINE_BELOW = 1024
"""Arrays smaller than this many bytes stay in the source."""
ALIGNMENT = 64
TYPES = {"float32": "float", "float16": "uint16_t", "uint8": "uint8_t", "uint16": "uint16_t", "uint32": "uint32_t", "int8": "int8_t", "int32": "int32_t"}


@dataclass(frozen=True, eq=False)
class Array:
    """A constant array of the source."""

    name: str
    kind: str
    values: NDArray[Any]


@dataclass
class Data:
    """What the source declares before its functions: arrays, each content once, and structures."""

    tables: frozenset[tuple[int, int]] = frozenset()
    """Of these taps of these a table of all patterns is worth its place."""
    arrays: dict[tuple[str, bytes], Array] = field(default_factory=dict)
    structures: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)

    def array(self, hint: str, values: NDArray[Any], kind: str | None = None) -> str:
        """The name of an array with these values (a zero if there are none, since C has no empty array); ``kind`` is its C type where numpy's is another."""
        values = values if values.size else np.zeros(1, values.dtype)
        values = np.ascontiguousarray(values.view(np.uint16) if values.dtype == np.float16 else values).reshape(-1)
        kind = kind or TYPES[values.dtype.name]
        key = (kind, values.tobytes())
        if key not in self.arrays:
            self.arrays[key] = Array(self.named(hint), kind, values)
        return self.arrays[key].name

    def integers(self, hint: str, values: Iterable[int]) -> str:
        """The name of an array of sizes or steps."""
        return self.array(hint, np.array([*values], np.uint32))

    def structure(self, kind: str, hint: str, fields: Mapping[str, Any]) -> str:
        """The address of a structure with these fields."""
        name = self.named(f"{hint}_layer")
        self.structures.append(f"static const struct {kind} {name} = {initialiser(fields)};")
        return f"&{name}"

    def named(self, hint: str) -> str:
        """A C identifier like ``hint`` that is not taken yet."""
        name, number = identifier(hint), 1
        while name in self.names:
            number += 1
            name = f"{identifier(hint)}_{number}"
        self.names.add(name)
        return name

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.values.nbytes for array in self.arrays.values())

    @property
    def in_binary(self) -> list[Array]:
        """The arrays that go into the binary, in order."""
        return [array for array in self.arrays.values() if array.values.nbytes >= INLINE_BELOW] if self.nbytes > BINARY_ABOVE else []

    def binary(self) -> bytes:
        """The content of the binary, little-endian, each array aligned."""
        content = bytearray()
        for array in self.in_binary:
            content += bytes(-len(content) % ALIGNMENT)
            content += array.values.astype(array.values.dtype.newbyteorder("<")).tobytes()
        return bytes(content)

    def declarations(self, blob: str) -> str:
        """The arrays and structures as C; those of the binary as places in the array ``blob``."""
        lines, offset, outside = [], 0, {array.name for array in self.in_binary}
        for array in self.arrays.values():
            if array.name not in outside:
                lines.append(f"static const {array.kind} {array.name}[{array.values.size}] = {{\n{listing(literals(array.values))}}};")
                continue
            offset += -offset % ALIGNMENT
            lines.append(f"#define {array.name} ((const {array.kind} *)(const void *)({blob} + {offset}))")
            offset += array.values.nbytes
        return "\n".join([*lines, "", *self.structures])


def identifier(name: str) -> str:
    """``name`` with what C does not allow in an identifier replaced; none begins as those of C itself or of the runtime do."""
    plain = re.sub(r"\W", "_", name, flags=re.ASCII)
    return plain if re.match(r"(?!rsk)[A-Za-z]", plain) else f"n_{plain}"


def kind_name(activation: str) -> str:
    """The constant of ``enum rsk_activation_kind``."""
    return "RSK_" + activation.upper().replace("-", "_")


def initialiser(fields: Mapping[str, Any]) -> str:
    """Fields as a C initialiser; zeros are what a field is without being named."""
    parts = [f".{name} = {initialiser(value) if isinstance(value, Mapping) else value}" for name, value in fields.items() if value != 0]
    return "{" + ", ".join(parts or ["0"]) + "}"


def literals(values: NDArray[Any]) -> list[str]:
    """Every value as a C literal."""
    return [f"{number}" for number in values.tolist()] if values.dtype.kind in "iu" else [floating(number) for number in values.astype(np.float64).tolist()]


def floating(value: float) -> str:
    """The shortest of the exact literals of a float: whole, or an odd hexadecimal number times a power of two."""
    if value in (np.inf, -np.inf):
        return "INFINITY" if value > 0 else "-INFINITY"
    if value == int(value) and abs(value) < 10**6:
        return f"{int(value)}.0f" if value or not np.signbit(value) else "-0.0f"
    numerator, denominator = value.as_integer_ratio()
    exponent = 1 - denominator.bit_length()
    if denominator == 1:
        exponent = (numerator & -numerator).bit_length() - 1
        numerator >>= exponent
    return f"{numerator:#x}p{exponent}f"


def listing(words: list[str], width: int = 150) -> str:
    """Words with commas, in lines of about ``width`` characters."""
    lines, line = [], ""
    for word in words:
        if len(line) + len(word) > width:
            lines.append(line)
            line = ""
        line += word + ","
    return "\n".join([*lines, line])
