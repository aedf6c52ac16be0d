"""An exported folder run as its target runs it: linked for a machine that an emulator shows, or for this one where it is such a machine."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from contextlib import nullcontext
from importlib import resources
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsk_deploy.converters.c.assembly import runs_here
from rsk_deploy.converters.c.built import COMPILING, Built, compiler_of, remedy
from rsk_deploy.converters.c.compiled import Signature, read_signature
from rsk_deploy.converters.c.targets import TARGETS, Emulator, Target
from rsk_deploy.converters.c.tools import installed, run
from rsk_deploy.errors import UsageError, VerificationError, about
from rsk_deploy.ir import FloatArray
from rsk_deploy.registry import Elsewhere, Runner

BATCHES, WORTH = 3, 100_000_000
"""Batches at most, and multiplications from which one is enough: an emulator takes seconds for them."""
SECONDS = 300.0
"""All runs of a program have so long together."""


def machine(target: str, made: Built | str, macs: int, *, assembly: bool) -> Elsewhere:
    """The machine of a target: as many batches as are worth the time that a network of ``macs`` multiplications takes."""
    aim = TARGETS[target]
    alone = assembly and not native(aim)
    name = f"{target} code on this machine" if native(aim) else f"an emulated {target}"

    def run(path: Path) -> Runner:
        needed = about(f"this machine cannot run machine code for {target}; verifying it takes an emulator, or give --no-verify") if alone else nullcontext()
        with needed:
            return runner(path, target, made)

    return Elsewhere(name, run, max(1, min(BATCHES, WORTH // max(macs, 1))), alone)


def native(target: Target) -> bool:
    """Whether this machine is such a machine."""
    return target.isa is not None and runs_here(target.isa)


def runner(path: Path, target: str, made: Built | str) -> Runner:
    """The folder as a function. A UsageError says why it cannot be run: what is missing, or too small; ``made`` is why it could not be compiled."""
    aim, emulator = TARGETS[target], TARGETS[target].emulator
    if isinstance(made, str) or emulator is None:
        raise UsageError(made if isinstance(made, str) else f"no emulator is known for --target {target}")
    start: list[str] = []
    if not native(aim):
        found = installed(emulator.commands)
        if found is None:
            raise UsageError(f"{emulator.commands[-1]} is not installed{remedy(aim, 2)}")
        start = [found, *emulator.arguments]
    signature = read_signature(path)
    program = linked(path, aim, emulator, signature, made)
    until = time.monotonic() + SECONDS

    def once(inputs: Mapping[str, NDArray[Any]]) -> dict[str, FloatArray]:
        with tempfile.TemporaryDirectory() as folder:
            return _run(Path(folder), start, program, signature, inputs, until)

    return once


def _run(folder: Path, start: list[str], program: bytes, signature: Signature, inputs: Mapping[str, NDArray[Any]], until: float) -> dict[str, FloatArray]:
    (folder / "program").write_bytes(program)
    (folder / "program").chmod(0o700)
    (folder / "inputs").write_bytes(b"".join(np.ascontiguousarray(inputs[name], "<f4").tobytes() for name in signature.inputs))
    done = run([*start, "./program"], folder, max(until - time.monotonic(), 1))
    if done.returncode:
        raise VerificationError(f"the program stops with code {done.returncode} on the machine that it is for: {(done.stdout + done.stderr).strip()[-500:]}")
    values = np.frombuffer((folder / "outputs").read_bytes(), "<f4")
    ends = [*accumulate(prod(shape) for shape in signature.outputs.values())]
    return {name: part.reshape(shape) for (name, shape), part in zip(signature.outputs.items(), np.split(values, ends[:-1]), strict=True)}


def linked(path: Path, target: Target, emulator: Emulator, signature: Signature, made: Built) -> bytes:
    """The program."""
    compiler, machines = compiler_of(target), resources.files("rsk_deploy.converters") / "c_machines"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for own in machines.iterdir():
            (folder / own.name).write_bytes(own.read_bytes())
        for file, content in made.objects.items():
            (folder / file).write_bytes(content)
        (folder / "rsk_network.h").write_text(network(path, signature))
        link = () if native(target) else emulator.link
        words = [*target.flags.split(), *link, "-std=c99", f"-I{path.absolute()}", *emulator.sources, *made.objects, "-o", "program", "-lm"]
        done = run([compiler, *words], folder, COMPILING)
        if "overflowed" in done.stderr:
            raise UsageError("the network is larger than the emulated board, which has 16 MB for constants and 4 MB for values")
        if done.returncode:
            raise VerificationError(f"{target.compiler} does not link the written code:\n{done.stderr[-2000:]}")
        return (folder / "program").read_bytes()


def network(path: Path, signature: Signature) -> str:
    """What main.c takes in: the network, and where its inputs and outputs are."""
    sides = {side: [prod(shape) for shape in shapes.values()] for side, shapes in (("in", signature.inputs), ("out", signature.outputs))}
    places = [f"{side} + {start}" for side, sizes in sides.items() for start in accumulate(sizes[:-1], initial=0)]
    return "\n".join(
        [
            f'#include "{signature.name}.h"',
            f"#define INPUTS {sum(sides['in'])}",
            f"#define OUTPUTS {sum(sides['out'])}",
            f"#define SCRATCH {signature.scratch // 4}",
            f"#define RUN(in, out, scratch) {signature.name}_run({', '.join(places)}, scratch)",
            "",
        ]
    )
