"""An exported folder as a function of this process: compiled with the machine's compiler, loaded, called."""

from __future__ import annotations

import ctypes
import json
import os
import shlex
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsk_deploy.converters.c import tools
from rsk_deploy.converters.c.assembly import runs_here
from rsk_deploy.converters.c.tools import installed
from rsk_deploy.errors import UsageError, VerificationError
from rsk_deploy.ir import FloatArray
from rsk_deploy.registry import Runner

COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-std=c99", "-pedantic", "-O2", "-ffp-contract=fast", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-shared", "-fPIC")
SECONDS = 600
"""The compiler has so long."""
OBSERVER = """#include <stddef.h>
extern void (*rsk_observer)(const char *, const float *, size_t, const char *);
#define RSK_OBSERVE(name, values, size, shape) rsk_observer(name, values, size, shape);
"""
OBSERVED = "#include <stddef.h>\nvoid (*rsk_observer)(const char *, const float *, size_t, const char *);\n"
LISTENER = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.POINTER(ctypes.c_float), ctypes.c_size_t, ctypes.c_char_p)


@dataclass(frozen=True)
class Signature:
    """What the header says of the function."""

    name: str
    inputs: Mapping[str, tuple[int, ...]]
    outputs: Mapping[str, tuple[int, ...]]
    scratch: int
    isa: str | None


def runner(path: Path, values: tuple[str, ...]) -> Runner:
    """Compile the folder and load it. The library lives in memory: its file goes at once."""
    signature = read_signature(path)
    if signature.isa and not runs_here(signature.isa):
        raise UsageError(f"verifying runs the folder here, and this machine has no {signature.isa}, which its machine code is for. Give --no-verify")
    with tempfile.TemporaryDirectory() as folder:
        file = _library(path, signature.name, Path(folder), observe=bool(values))
        try:
            library = ctypes.CDLL(str(file))
        except OSError as error:
            raise UsageError(f"what {compiler()[0]} makes does not run on this machine ({error}). Name another compiler in CC, or give --no-verify") from error
    function = library[f"{signature.name}_run"]
    function.restype = None

    def run(inputs: Mapping[str, NDArray[Any]]) -> dict[str, FloatArray]:
        arrays = [np.ascontiguousarray(inputs[name], np.float32) for name in signature.inputs]
        results: dict[str, FloatArray] = {name: np.empty(shape, np.float32) for name, shape in signature.outputs.items()}
        seen: dict[str, FloatArray] = {}
        if values:
            listener = LISTENER(lambda name, data, _, shape: seen.update({name.decode(): np.ctypeslib.as_array(data, dims(shape)).copy()}))
            ctypes.c_void_p.in_dll(library, "rsk_observer").value = ctypes.cast(listener, ctypes.c_void_p).value
        scratch = np.full(signature.scratch // 4, np.nan, np.float32)
        function(*(array.ctypes.data_as(ctypes.c_void_p) for array in (*arrays, *results.values(), scratch)))
        return results | {name: array for name, array in seen.items() if name in values and name not in results}

    return run


def dims(text: bytes) -> tuple[int, ...]:
    """``b"1,3,8,8"`` → (1, 3, 8, 8)."""
    return tuple(map(int, text.split(b",")))


def read_signature(path: Path) -> Signature:
    """From the header in the folder."""
    (file,) = (file for file in path.glob("*.h") if not file.name.startswith("rsk_"))
    text = file.read_text()
    about = json.loads(text.split("\n   rsk: ")[1].split(" */\n")[0])
    scratch = int(text.split("_SCRATCH_BYTES ")[1].split()[0])
    inputs, outputs = ({name: tuple(shape) for name, shape in about[side]} for side in ("inputs", "outputs"))
    return Signature(file.stem, inputs, outputs, scratch, about["isa"])


def compiler() -> list[str]:
    """The machine's C compiler: $CC with its arguments, or the first that is there."""
    try:
        asked = shlex.split(os.environ.get("CC", ""))
    except ValueError as error:
        raise UsageError(f"CC is no command: {error}. Name a C compiler in it, as in CC=gcc") from error
    found = installed(asked[:1] or COMPILERS)
    if found is None:
        what = f"CC asks for {asked[0]}, which is not there" if asked else "none of cc, gcc and clang is here"
        raise UsageError(f"verifying C code needs a C compiler, and {what}. Install one (apt install gcc), name one in CC, or give --no-verify")
    return [found, *asked[1:]]


def _library(path: Path, name: str, folder: Path, *, observe: bool) -> Path:
    sources, options = [f"{name}.c"], []
    if (path / f"{name}.S").exists():
        sources.append(f"{name}.S")
    if observe:
        (folder / "observer.h").write_text(OBSERVER)
        (folder / "observed.c").write_text(OBSERVED)
        sources.append(str(folder / "observed.c"))
        options = ["-include", str(folder / "observer.h")]
    library = folder / "net.so"
    done = tools.run([*compiler(), *FLAGS, *options, "-o", str(library), *sources, "-lm"], path, SECONDS)
    if done.returncode:
        raise VerificationError(f"the C compiler refuses the written code ({compiler()[0]}):\n{done.stderr[-2000:]}")
    return library
