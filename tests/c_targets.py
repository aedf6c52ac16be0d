"""Exported C on other machines: cross compilers and emulators, and what to install where they are missing."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent / "c"
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-O1", "-ffp-contract=fast")


@dataclass(frozen=True)
class Machine:
    """A target of the export, how to build a program for it, and how to run that."""

    target: str
    compiler: str
    flags: tuple[str, ...]
    emulator: tuple[str, ...]
    packages: str


CORTEX_M4 = Machine(
    "cortex-m4",
    "arm-none-eabi-gcc",
    ("-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16", "--specs=rdimon.specs", "-nostartfiles", f"-T{HERE / 'cortex_m.ld'}"),
    ("qemu-system-arm", "-M", "mps2-an386", "-nographic", "-monitor", "none", "-serial", "none", "-semihosting", "-kernel"),
    "gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm",
)
AARCH64 = Machine("aarch64", "aarch64-linux-gnu-gcc", ("-static",), ("qemu-aarch64-static",), "gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static")
MACHINES = {machine.target: machine for machine in (CORTEX_M4, AARCH64)}


def needs(*tools, packages):
    """Skip without these tools, with what to install; fail in CI, which has them."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing and os.environ.get("CI") == "true":
        pytest.fail(f"CI has no {', '.join(missing)}: apt install {packages}")
    if missing:
        pytest.skip(f"no {', '.join(missing)}: apt install {packages}")


def run_on(machine, folder, x):
    """The network's output, computed on the emulated machine."""
    needs(machine.compiler, machine.emulator[0], packages=machine.packages)
    words = ",".join(f"{word:#x}u" for word in x.astype(np.float32).view(np.uint32).reshape(-1).tolist())
    (folder / "input.h").write_text(f"#include <stdint.h>\nstatic const uint32_t input[] = {{{words}}};\n")
    sources = [
        "net.c",
        *(name for name in ("net.S",) if (folder / name).exists()),
        str(HERE / "main.c"),
        *([str(HERE / "cortex_m.c")] if machine is CORTEX_M4 else []),
    ]
    subprocess.run([machine.compiler, *STRICT, *machine.flags, "-I.", *sources, "-o", "program", "-lm"], cwd=folder, check=True, timeout=200)
    done = subprocess.run([*machine.emulator, "./program"], cwd=folder, check=True, capture_output=True, text=True, timeout=200)
    return np.array([int(line, 16) for line in done.stdout.split()], np.uint32).view(np.float32)
