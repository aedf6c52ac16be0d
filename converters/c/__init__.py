"""C: a folder with ``net.c``, ``net.h`` and the kernels they need, which one compiler command builds. No allocation, no dependency but the C library.

Weights stay sparse: their structure is data that the kernels decode while they run. The folder is proven by compiling it for this machine and
running it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib import resources
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsk_deploy.converters.c import compiled, elsewhere, emulated
from rsk_deploy.converters.c.built import Built, built
from rsk_deploy.converters.c.eight import calibrated
from rsk_deploy.converters.c.footprint import check, sizes
from rsk_deploy.converters.c.plan import Plan, plan
from rsk_deploy.converters.c.source import Interface, command, header, interface, source
from rsk_deploy.converters.c.targets import TARGETS as TARGETS
from rsk_deploy.converters.c.targets import target_named
from rsk_deploy.errors import UsageError
from rsk_deploy.ir import Graph, Layer, Packed, Weighted
from rsk_deploy.provenance import provenance
from rsk_deploy.registry import Footprint, Runner

OPTIONS = frozenset({"target", "dtype", "name", "max_flash", "max_ram", "sample", "emit_asm"})
RUNNER = "the compiled C code"
DTYPES = {"fp32": (4, 24), "fp16-storage": (2, 11), "int8": (1, 8)}
"""How weights are stored: bytes of each, and bits of precision of what is computed."""


def write(
    graph: Graph[Packed],
    path: Path,
    *,
    target: str = "generic",
    dtype: str = "fp32",
    name: str = "net",
    max_flash: str | int | None = None,
    max_ram: str | int | None = None,
    sample: Mapping[str, NDArray[Any]] | None = None,
    emit_asm: bool = False,
) -> Footprint:
    """Write the folder ``path``. With ``dtype`` int8, ``sample`` gives the ranges of the values; ``emit_asm`` writes machine code of hot layers."""
    if dtype not in DTYPES:
        raise UsageError(f"unknown dtype {dtype!r} of the C export; known are {', '.join(DTYPES)}")
    aim, face = target_named(target), interface(graph, name)
    if emit_asm and aim.isa is None:
        able = ", ".join(other for other, row in TARGETS.items() if row.isa)
        raise UsageError(f"--emit-asm writes machine code for --target {able}; --target {target} has none. Choose one of them, or leave --emit-asm out")
    if emit_asm and dtype != "fp32":
        raise UsageError(f"--emit-asm writes machine code that computes with fp32, not with --dtype {dtype}; leave one of the two out")
    if dtype == "fp16-storage":
        graph = halved(graph)
    itemsize, bits = DTYPES[dtype]
    scale = calibrated(graph, sample) if dtype == "int8" else None
    program = plan(graph, aim, face.names, scale, f"{name}_code" if emit_asm else None)
    check(program, target, dtype, max_flash, max_ram)
    about = {
        "inputs": [[entry.value, entry.shape] for entry in face.inputs],
        "outputs": [[entry.value, entry.shape] for entry in face.outputs],
        "provenance": provenance(graph, target=target, dtype=dtype, name=name),
        "isa": aim.isa if emit_asm else None,
    }
    caller = sum(4 * prod(parameter.shape) for parameter in (*face.inputs, *face.outputs))
    taken = sizes(graph, program, caller, itemsize, "given --target or --max-flash, it is counted", aim.compiler)
    put(path, face, program, header(face, program, aim, taken.summary(), about))
    machine = None
    if target != "generic" or max_flash is not None:
        made = compiled_for(path, name, target)
        code = counted(made, program, max_flash)
        taken = replace(taken, code=code)
        check(program, target, dtype, max_flash, max_ram, code if isinstance(code, int) else 0)
        if target != "generic":
            machine = elsewhere.machine(target, made, taken.total.macs, assembly=emit_asm)
    flash, dense_flash = taken.flash
    lines = (*taken.lines(), f"to compile, in the folder: {command(aim, name, emit_asm)}")
    return Footprint(flash, dense_flash, lines, taken.figures(), bits, emulated.runner(graph, scale) if scale else None, machine)


def put(path: Path, face: Interface, program: Plan, header: str) -> None:
    """Write the files."""
    path.mkdir()
    (path / f"{face.name}.h").write_text(header)
    (path / f"{face.name}.c").write_text(source(face, program))
    if program.data.in_binary:
        (path / f"{face.name}.bin").write_bytes(program.data.binary())
    if program.code:
        (path / f"{face.name}.S").write_text(program.code.assembly(f"{face.name}.code"))
        (path / f"{face.name}.code").write_bytes(program.code.content)
    for file in needed(program.headers):
        (path / file).write_text(kernel(file))


def compiled_for(path: Path, name: str, target: str) -> Built | str:
    """The folder compiled for its target; or why it cannot be, here."""
    try:
        return built(path, name, TARGETS[target])
    except UsageError as error:
        return str(error)


def counted(made: Built | str, program: Plan, max_flash: str | int | None) -> int | str:
    """Bytes of code; or why they are not known, and what ``max_flash`` is then about."""
    if isinstance(made, Built):
        return made.flash - program.flash
    return made if max_flash is None else f"{made}; --max-flash {max_flash} allows the constants alone"


def halved(graph: Graph[Packed]) -> Graph[Packed]:
    """The same network with weights rounded to 16 bits."""
    layers: list[Layer] = []
    for layer in graph.layers:
        if isinstance(layer, Weighted):
            values = layer.weight.arrays["values"]
            with np.errstate(over="ignore"):
                short = values.astype(np.float16)
            if not np.isfinite(short).all():
                raise UsageError(f"{layer.name}: a weight of {np.abs(values).max():.9g} does not fit 16 bits, whose largest is 65504. Use --dtype fp32")
            layer = replace(layer, weight=replace(layer.weight, arrays={**layer.weight.arrays, "values": short}))
        layers.append(layer)
    return graph.with_layers(tuple(layers))


def runner(path: Path, values: Iterable[str] = ()) -> Runner:
    """The folder as a function: compiled for this machine and run in this process. ``values`` are observed while it runs."""
    return compiled.runner(path, tuple(values))


def needed(headers: Iterable[str]) -> list[str]:
    """The files of the runtime that these headers take in, themselves included."""
    found: dict[str, None] = {}
    todo = [f"rsk_{name}.h" for name in headers]
    while todo:
        file = todo.pop()
        if file not in found:
            found[file] = None
            todo += [line.split('"')[1] for line in kernel(file).splitlines() if line.startswith('#include "')]
    return sorted(found)


def kernel(file: str) -> str:
    """A file of the runtime."""
    return (resources.files("rsk_deploy.converters") / "c_runtime" / file).read_text()
