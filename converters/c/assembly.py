"""Machine code of hot sparse convolutions, from the runtime's generator: a file that the assembler takes in, and what the C source says of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsk_deploy.converters.c.data import Data
from rsk_deploy.ir import Packed
from rsk_deploy.registry import format_named

POSITIONS = 16
"""Output positions that one call of a piece computes (rsk_generated.h)."""
HOT = 256
"""Output positions from which code pays: each of its bytes is read once for every few of them."""
STRIP = 256
"""Output positions of a strip: ResNet18 at 4 of 9 takes 10.7 ms, and 11.7 in strips of 128."""
SPARSE = 0.75
"""The share of weights that are kept up to which code pays."""
REACH = (1 << 29) - 64
"""How far from the first float of a panel an instruction addresses (codegen/unrolled.h)."""
LINE = 64
"""Bytes that one prefetch brings."""
OBJECT_FORMATS = """#if defined(__APPLE__)
#define SYMBOL(name) _##name
#define HIDDEN .private_extern
#define FUNCTION(name)
#define END
#else
#define SYMBOL(name) name
#define HIDDEN .hidden
#define FUNCTION(name) .type name, %function
#define END .section .note.GNU-stack, "", %progbits
#endif"""
"""How Mach-O and ELF write what an assembly file needs."""


@dataclass(frozen=True)
class Generated:
    """The C names of a layer's blocks and pieces; ``filters`` a block has at most."""

    blocks: str
    pieces: str
    count: int
    filters: int
    code_ahead: int
    values_ahead: int


@dataclass
class Code:
    """The code of a network for the instruction set ``isa``; its symbols begin with ``name``."""

    isa: str
    name: str
    content: bytearray = field(default_factory=bytearray)
    entries: list[int] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)
    excess: dict[str, int] = field(default_factory=dict)
    """Bytes of code and values beyond those of the layers' weights as they are packed."""

    def pays(self, weight: Packed, groups: int, positions: int, cells: int) -> bool:
        """Whether this convolution is hot and sparse, and its code can be generated."""
        return groups == 1 and positions >= HOT and weight.arrays["values"].size <= SPARSE * prod(weight.shape) and cells <= REACH

    def add(self, layer: str, weight: Packed, bias: NDArray[np.float32] | None, offsets: Sequence[int], tiles: int, data: Data) -> Generated:
        """Generate a layer, ``offsets`` from the first float of the panel to each input's first."""
        from rsk_deploy.runtime import _native

        values = format_named(weight.format).decode(weight).astype(np.float32).reshape(weight.shape[0], -1)
        kept = values != 0
        start = np.concatenate([[0], np.cumsum(kept.sum(axis=1))]).astype(np.uint32)
        matrix = start, np.nonzero(kept)[1].astype(np.uint32), values[kept], np.array(offsets, np.int32)
        content, stream, _, _, blocks = _native.unrolled(self.isa, *matrix, 1, bias, tiles=tiles)
        floats = data.array(f"{layer}_stream", np.frombuffer(stream, np.float32))
        before, first = len(self.content), len(self.entries)
        self.content += content
        self.layers.append(layer)
        self.excess[layer] = len(content) + len(stream) - weight.nbytes
        pieces = [piece for _, found in blocks for piece in found]
        self.entries += [before + entry for entry, _ in pieces]
        rows = [f"{{{self.symbol(first + index)}, {self.name} + {before + entry}, {floats} + {value}}}" for index, (entry, value) in enumerate(pieces)]
        code = max(end - begin for (begin, _), (end, _) in zip(pieces, [*pieces[1:], (len(content), 0)], strict=True))
        ahead = -(-code // tiles // LINE) * LINE
        return Generated(
            listed(data, "rsk_block", f"{layer}_blocks", [f"{{{len(filters)}, {len(found)}}}" for filters, found in blocks]),
            listed(data, "rsk_piece", f"{layer}_pieces", rows),
            len(blocks),
            max(len(filters) for filters, _ in blocks),
            ahead,
            ahead // 8,  # a value takes about 8 bytes of code
        )

    def symbol(self, number: int) -> str:
        """The function of a piece."""
        return f"{self.name}_{number}"

    def declarations(self) -> list[str]:
        """What the C source says of the assembly file."""
        return [f"extern const unsigned char {self.name}[];", *(f"extern rsk_code {self.symbol(number)};" for number in range(len(self.entries))), ""]

    def assembly(self, file: str) -> str:
        """The assembly file, which takes in the binary ``file``."""
        lines = [
            f"/* Code for {self.isa} of the convolutions {', '.join(self.layers)!a}: the assembler takes {file} in, from the folder that it runs in. */",
            OBJECT_FORMATS,
            ".text",
            ".balign 64",
            *exported(self.name),
            f"SYMBOL({self.name}):",
            f'.incbin "{file}"',
        ]
        for number, entry in enumerate(self.entries):
            symbol = self.symbol(number)
            lines += [*exported(symbol), f"FUNCTION({symbol})", f".set SYMBOL({symbol}), SYMBOL({self.name}) + {entry}"]
        return "\n".join([*lines, "END", ""])


def exported(symbol: str) -> list[str]:
    """A name for the files that it is linked with, and no others."""
    return [f".globl SYMBOL({symbol})", f"HIDDEN SYMBOL({symbol})"]


def listed(data: Data, kind: str, hint: str, rows: Sequence[Any]) -> str:
    """The name of a constant array of structures."""
    name = data.named(hint)
    data.structures.append(f"static const struct {kind} {name}[] = {{\n" + ",\n".join(rows) + "};")
    return name


def runs_here(isa: str) -> bool:
    """Whether this machine has the instructions."""
    from rsk_deploy.runtime import _native

    return any(name.startswith(f"{isa}/") for name in _native.kernels())
