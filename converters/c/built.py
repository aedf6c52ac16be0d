"""An exported folder compiled for its target: the object files, and what they take in flash."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rsk_deploy.converters.c.source import flags
from rsk_deploy.converters.c.targets import Target
from rsk_deploy.converters.c.tools import installed, run
from rsk_deploy.errors import UsageError, VerificationError

COMPILING = 300
"""Seconds that a compiler has."""
STRICT = ("-pedantic", "-Werror")
FLASH = (".text", ".rodata", ".data")
"""How the sections begin that a program keeps in flash; those of exceptions and of notes are not needed."""


@dataclass(frozen=True)
class Built:
    """Object files by name, and the bytes that they take in flash: code, constants and tables."""

    objects: Mapping[str, bytes]
    flash: int


def built(path: Path, name: str, target: Target) -> Built:
    """Compile the folder as its header says. A UsageError says what is missing for it."""
    compiler = compiler_of(target)
    sources = [file for file in (f"{name}.c", f"{name}.S") if (path / file).exists()]
    objects, flash = {}, 0
    with tempfile.TemporaryDirectory() as folder:
        for source in sources:
            to = Path(folder) / f"{source}.o"
            done = run([compiler, *flags(target), *STRICT, "-c", source, "-o", str(to)], path, COMPILING)
            if done.returncode:
                raise VerificationError(f"{target.compiler} refuses the written code:\n{done.stderr[-2000:]}")
            objects[to.name] = to.read_bytes()
            flash += flash_of(to, compiler)
    return Built(objects, flash)


def compiler_of(target: Target) -> str:
    """The path of the target's compiler, whose C library is there."""
    path = installed([target.compiler])
    if path is None:
        raise UsageError(f"{target.compiler} is not installed{remedy(target, 0)}")
    if target.emulator:
        library = run([path, f"-print-file-name={target.emulator.library}"], Path(), COMPILING).stdout.strip()
        if library == target.emulator.library:  # a path where it is found
            raise UsageError(f"{target.compiler} has no C library{remedy(target, 1)}")
    return path


def remedy(target: Target, which: int) -> str:
    """How to get the compiler, its library or the emulator."""
    return f" (Debian: apt install {target.emulator.packages[which]})" if target.emulator else ""


def flash_of(file: Path, compiler: str) -> int:
    """Bytes that an object takes in flash, as the compiler's ``size`` reports its sections."""
    size = installed([re.sub(r"g?cc$", "size", compiler)])
    if size is None:
        raise UsageError(f"{Path(compiler).name} comes without its program size, which measures code")
    rows = [line.split() for line in run([size, "-A", str(file)], file.parent, COMPILING).stdout.splitlines()]  # section, size, address
    sections = [int(row[1]) for row in rows if len(row) == 3 and row[0].startswith(FLASH)]
    if not sections:
        raise UsageError(f"{size} does not tell the sizes of sections, which measure code")
    return sum(sections)
