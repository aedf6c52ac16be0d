"""What this installation can do, and what to install for the rest."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

COREML = "writing .mlpackage"
ELSEWHERE = (
    "; Core ML itself is on macOS: here files are run by our interpreter, and what coremltools logs of libcoremlpython, torch and scikit-learn is silenced"
)

PACKAGES = (  # package, extra it comes with (None: always there), what it is for
    ("rsk-deploy", None, "this tool"),
    ("numpy", None, "arrays"),
    ("scipy", None, "the reference"),
    ("safetensors", None, ".rsk and .safetensors files"),
    ("torch", "torch", "reading .pt, .pth, .pt2 and modules; the layers to train with"),
    ("onnx", "onnx", "reading and writing .onnx"),
    ("onnxruntime", "onnx", "verifying .onnx"),
    ("onnxscript", "onnx", "reading torch models"),
    ("coremltools", "coreml", COREML),
)

TOOLS = (  # names of one program, Debian packages that bring it, what it is for
    (("cc", "gcc", "clang"), "gcc", "verifying C"),
    (("arm-none-eabi-gcc",), "gcc-arm-none-eabi libnewlib-arm-none-eabi", "C for cortex-m4, cortex-m7 and cortex-m55: the size of its code"),
    (("qemu-system-arm",), "qemu-system-arm", "verifying that on an emulated board"),
    (("aarch64-linux-gnu-gcc",), "gcc-aarch64-linux-gnu libc6-dev-arm64-cross", "C for aarch64 and cortex-a53: the size of its code"),
    (("qemu-aarch64-static", "qemu-aarch64"), "qemu-user-static", "verifying that under emulation"),
)
SECONDS = 10
"""A program has so long to say its version."""


@dataclass(frozen=True)
class Finding:
    """One package or program: its version, or None and how to get it."""

    package: str
    version: str | None
    purpose: str
    remedy: str | None


def doctor() -> tuple[Finding, ...]:
    """Look at every package and program the tool can use."""
    python = Finding("python", platform.python_version(), f"on {platform.system()} {platform.machine()}", None)
    return (python, *(_find(*row) for row in PACKAGES), *(_program(*row) for row in TOOLS))


def _find(package: str, extra: str | None, purpose: str) -> Finding:
    try:
        purpose += ELSEWHERE if purpose == COREML and platform.system() != "Darwin" else ""
        return Finding(package, version(package), purpose, None)
    except PackageNotFoundError:
        return Finding(package, None, purpose, f'pip install "rsk-deploy[{extra}]"' if extra else f"pip install {package}")


def _program(names: tuple[str, ...], packages: str, purpose: str) -> Finding:
    found = next((name for name in names if shutil.which(name)), None)
    if found is None:
        return Finding(names[-1], None, purpose, f"apt install {packages}, for {purpose}")
    try:
        said = subprocess.run([found, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=True)  # noqa: S603  # no shell reads the list; `found` is one of the tools that the doctor names
    except (OSError, subprocess.SubprocessError) as error:
        return Finding(found, None, purpose, f"it is there and does not run ({error})")
    number = re.search(r"\d+(\.\d+)+", re.sub(r"\([^)]*\)", "", said.stdout))
    return Finding(found, number[0] if number else "there", purpose, None)
