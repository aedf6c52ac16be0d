"""What this installation can do, and what to install for the rest."""

from __future__ import annotations

import platform
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


@dataclass(frozen=True)
class Finding:
    """One package: its version, or None and how to get it."""

    package: str
    version: str | None
    purpose: str
    remedy: str | None


def doctor() -> tuple[Finding, ...]:
    """Look at every package the tool can use."""
    return (Finding("python", platform.python_version(), f"on {platform.system()} {platform.machine()}", None), *(_find(*row) for row in PACKAGES))


def _find(package: str, extra: str | None, purpose: str) -> Finding:
    try:
        purpose += ELSEWHERE if purpose == COREML and platform.system() != "Darwin" else ""
        return Finding(package, version(package), purpose, None)
    except PackageNotFoundError:
        return Finding(package, None, purpose, f'pip install "rsk-deploy[{extra}]"' if extra else f"pip install {package}")
