"""The text of ``net.c`` and ``net.h``: constants, one function, and a comment that says how to compile it and what it takes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from rsk_deploy.converters.c.call import OPTIONAL
from rsk_deploy.converters.c.data import identifier, kind_name
from rsk_deploy.converters.c.plan import SCRATCH, Plan
from rsk_deploy.converters.c.targets import Target
from rsk_deploy.errors import UnsupportedError, UsageError
from rsk_deploy.ir import Graph, Json, Packed, Shape

FLAGS = "-std=c99 -O3 -ffp-contract=fast -Wall -Wextra -Wconversion"
WORDS = (
    "alignas alignof and and_eq asm auto bitand bitor bool break case catch char char16_t char32_t char8_t class co_await co_return co_yield compl "
    "concept const const_cast consteval constexpr constinit continue decltype default delete do double dynamic_cast else enum explicit export extern "
    "false float for friend goto if inline int long main mutable namespace new noexcept not not_eq nullptr operator or or_eq private protected public "
    "register reinterpret_cast requires restrict return short signed sizeof static static_assert static_cast struct switch template this thread_local "
    "throw true try typedef typeid typename typeof typeof_unqual union unsigned using virtual void volatile wchar_t while xor xor_eq"
)
HEADERS = (
    "arm_acle arm_mve assert complex ctype errno fenv float inttypes iso646 limits locale math setjmp signal stdalign stdarg stdatomic stdbit stdbool "
    "stdckdint stddef stdint stdio stdlib stdnoreturn string tgmath threads time uchar wchar wctype"
)
TAKEN = frozenset(f"{WORDS} {HEADERS} rsk".split())
"""Words of C and C++, where the header may be included, and names of headers, which one of the same name in a compiler's path would hide."""


@dataclass(frozen=True)
class Parameter:
    """A value that the caller holds: its name in the graph and in C, and its shape."""

    value: str
    name: str
    shape: Shape

    @property
    def size(self) -> str:
        """The name of its size, which has no small letters."""
        return f"{self.name.strip('_').upper()}_SIZE"


@dataclass(frozen=True)
class Interface:
    """The function that is written."""

    name: str
    inputs: tuple[Parameter, ...]
    outputs: tuple[Parameter, ...]

    @property
    def names(self) -> dict[str, str]:
        """The C names of all parameters, by value."""
        return {parameter.value: parameter.name for parameter in (*self.inputs, *self.outputs)}


def interface(graph: Graph[Packed], name: str) -> Interface:
    """One input is called ``in`` and one output ``out``; several keep their names, as far as C allows them."""
    if not re.fullmatch(r"[A-Za-z](_?[A-Za-z0-9])*", name) or name.lower() in TAKEN or name.lower().startswith("rsk_"):
        raise UsageError(
            f"{name!r} is no name for a C function and its files. Use letters, digits and single _ between them, a letter first and not rsk_, no word or "
            "header of C or C++: --name net"
        )
    shapes = graph.shapes()
    sides = [("in", [entry.name for entry in graph.inputs]), ("out", list(dict.fromkeys(graph.outputs)))]
    inputs, outputs = (
        [Parameter(value, side if len(values) == 1 else parameter_name(value, side), shapes[value]) for value in values] for side, values in sides
    )
    seen: dict[str, str] = {}
    for parameter in (*inputs, *outputs):
        other = seen.setdefault(parameter.size, parameter.value)
        if other != parameter.value:
            raise UnsupportedError(f"{other!r} and {parameter.value!r} would both be the C parameter {parameter.name}; rename one in the model")
    return Interface(name, tuple(inputs), tuple(outputs))


def parameter_name(value: str, side: str) -> str:
    """The C name of one of several values on a side; "in" and "out" are what one alone is called, on the other side."""
    plain = identifier(value)
    return f"{side}_{plain}_" if plain.lower() in ("in", "out") else f"{plain}_"


def flags(target: Target) -> list[str]:
    """How the compiler of a target is called."""
    return f"{FLAGS} {target.flags}".split()


def command(target: Target, name: str, assembly: bool = False) -> str:
    """The one command that compiles the folder."""
    sources = ["-r", "-nostdlib", f"{name}.c", f"{name}.S", "-o", f"{name}.o"] if assembly else ["-c", f"{name}.c"]
    return " ".join([target.compiler, *flags(target), *sources])


def header(face: Interface, plan: Plan, target: Target, summary: Sequence[str], about: Mapping[str, Json]) -> str:
    """``net.h``."""
    macro = face.name.upper()
    lines = [
        f"/* A network exported by rsk-deploy. In this folder: {command(target, face.name, plan.code is not None)}",
        "",
        *(f"   {line}" for line in summary),
        "",
        f"   rsk: {record(about)} */",
        f"#ifndef {macro}_H",
        f"#define {macro}_H",
        "",
        *(
            f"#define {macro}_{parameter.size} {prod(parameter.shape)} /* floats, {'x'.join(map(str, parameter.shape))} */"
            for parameter in (*face.inputs, *face.outputs)
        ),
        f"#define {macro}_SCRATCH_BYTES {4 * max(plan.scratch, 1)} /* bytes, aligned as for a float */",
        "",
        "#ifdef __cplusplus",
        'extern "C" {',
        "#endif",
        "/* Reentrant: nothing is kept between calls, and `scratch` is all that is written besides the outputs. */",
        f"{prototype(face)};",
        "#ifdef __cplusplus",
        "}",
        "#endif",
        "#endif",
        "",
    ]
    return "\n".join(lines)


def record(about: Mapping[str, Json]) -> str:
    """JSON for a comment: a slash after a star is an escape."""
    return json.dumps(about, sort_keys=True, allow_nan=False, default=dict).replace("*/", "*\\u002f")


def prototype(face: Interface) -> str:
    """The function's declaration."""
    inputs = [f"const float *{parameter.name}" for parameter in face.inputs]
    return f"void {face.name}_run({', '.join([*inputs, *(f'float *{parameter.name}' for parameter in face.outputs), 'void *scratch'])})"


def source(face: Interface, plan: Plan) -> str:
    """``net.c``."""
    blob = f"{face.name}_weights"
    lines = [
        f'#include "{face.name}.h"',
        "",
        *(["#define RSK_WIDE_PLACES"] if plan.wide else []),
        f"#define RSK_KINDS ({' | '.join(f'1u << {kind_name(kind)}' for kind in ('identity', *plan.activations))})",
        *(f"#define RSK_{part} {int(part in plan.needs)}" for part in OPTIONAL),
        *(f'#include "rsk_{name}.h"' for name in plan.headers),
        "",
        *(binary(blob, f"{face.name}.bin", len(plan.data.binary())) if plan.data.in_binary else []),
        *(plan.code.declarations() if plan.code else []),
        plan.data.declarations(blob),
        "",
        "#ifndef RSK_OBSERVE /* called with the name, the place, the size and the shape of every value once it is known */",
        "#define RSK_OBSERVE(name, values, size, shape)",
        "#endif",
        "",
        f"{prototype(face)} {{",
        f"  float *{SCRATCH} = (float *)scratch;",
        f"  (void){SCRATCH};",
    ]
    for step in plan.steps:
        lines += [f"  /* {comment(step.layer)} */", *(f"  {line}" for line in step.text.splitlines())]
        if step.value:
            lines.append(f"  RSK_OBSERVE({quoted(step.value)}, {step.place}, {prod(step.shape)}, {quoted(','.join(map(str, step.shape)))})")
    return "\n".join([*lines, "}", ""])


def binary(blob: str, file: str, nbytes: int) -> list[str]:
    """The declaration of the binary, and the ways to take it in."""
    macro = blob.upper()
    return [
        f"/* The large constants are in {file}: the assembler takes it in, from the folder that it runs in. Without such an assembler compile with",
        f"   -D{macro}_AS_TEXT, after `xxd -i < {file} > {file}.inc`; or with -D{macro}_ELSEWHERE, and link an object that defines",
        f"   {blob}, aligned to 64 bytes. */",
        f"#if defined({macro}_AS_TEXT)",
        f"static const union {{\n  double aligned;\n  unsigned char bytes[{nbytes}];\n}} {blob}_text = {{.bytes = {{",
        f'#include "{file}.inc"',
        f"}}}};\n#define {blob} {blob}_text.bytes",
        "#else",
        f"extern const unsigned char {blob}[];",
        f"#if defined({macro}_ELSEWHERE)",
        "#elif defined(__APPLE__)",
        f'__asm__(".const\\n.balign 64\\n.globl _{blob}\\n_{blob}:\\n.incbin \\"{file}\\"\\n.text\\n");',
        "#elif defined(__GNUC__)",
        f'__asm__(".section .rodata\\n.balign 64\\n.globl {blob}\\n{blob}:\\n.incbin \\"{file}\\"\\n.text\\n");',
        "#endif",
        "#endif",
        "#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__",
        f'#error "{file} is little-endian"',
        "#endif",
        "",
    ]


def comment(text: str) -> str:
    """Text that cannot end a comment or begin one."""
    return re.sub(r"[^ -~]", "?", text).replace("*/", "* /").replace("/*", "/ *").replace("??", "?.")


def quoted(text: str) -> str:
    """Text as a C string: bytes other than plain characters as octal escapes."""
    return '"' + "".join(char if re.match(r"[A-Za-z0-9_.,/ -]", char) else "".join(f"\\{byte:03o}" for byte in char.encode()) for char in text) + '"'
