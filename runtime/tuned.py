"""What was measured on this machine: for each layer's work the fastest way to run it, in one file of the user's cache folder."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rsk_deploy.errors import RskError
from rsk_deploy.files import atomic
from rsk_deploy.runtime.choose import Plan
from rsk_deploy.runtime.cost import Work

told_once: set[str] = set()


@dataclass(frozen=True)
class Measured:
    """The fastest way found, by what tells it from others, its time, and the same of the second; for a network, ``kernel`` is its form."""

    kernel: str
    filled: bool = False
    packed: bool = False
    vectors: int = 0
    microseconds: float = 0.0
    runner_up: str = ""
    runner_up_microseconds: float = 0.0

    def is_of(self, plan: Plan) -> bool:
        """Whether this is about that plan."""
        return (self.kernel, self.filled, self.packed, self.vectors) == (plan.kernel, plan.filled, plan.packed, plan.vectors)

    @property
    def told(self) -> str:
        """For people."""
        other = f", runner-up {self.runner_up} {self.runner_up_microseconds:.0f} µs" if self.runner_up else ""
        return f"measured {self.microseconds:.0f} µs{other}"


def signature(works: Work | Sequence[Sequence[Work]], kernels: Sequence[str], threads: int) -> str:
    """The name of a measurement: the same work, or that of all a network's forms, with the same kernels on as many threads."""
    return hashlib.sha256(repr((works, tuple(kernels), threads)).encode()).hexdigest()[:32]


def recall() -> dict[str, Measured]:
    """What the file holds. One that cannot be read, or says something else, counts as empty, and is told of once."""
    path = cache_file()
    try:
        text = path.read_text()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        return ignored(path, str(error))
    try:
        return {key: measured(entry) for key, entry in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        return ignored(path, f"it holds no measurements: {error}")


def measured(entry: Any) -> Measured:
    """One entry, with every field of the type it must have."""
    found = Measured(**entry)
    kinds = (str, bool, bool, int, float, str, float)
    if any(type(value) is not kind for value, kind in zip(astuple(found), kinds, strict=True)):
        raise TypeError(f"{str(entry)[:100]} is no measurement")
    return found


def remember(new: Mapping[str, Measured]) -> None:
    """Add measurements to the file. What other processes added in the meantime stays; a folder that cannot be written is told of once."""
    path = cache_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        entries = {key: vars(entry) for key, entry in sorted({**recall(), **new}.items())}
        with atomic(path, force=True) as temporary:
            temporary.write_text(json.dumps(entries, indent=0))
    except (OSError, RskError) as error:
        ignored(path, str(error))


def ignored(path: Path, why: str) -> dict[str, Measured]:
    """Warn of a file that is of no use, once a process; no measurements."""
    if str(path) not in told_once:
        told_once.add(str(path))
        warnings.warn(f"{path}: the cache of measured kernels is ignored ({why}); RSK_CACHE_DIR names another folder", RuntimeWarning, stacklevel=2)
    return {}


def cache_file() -> Path:
    """One file for each model of CPU and version of the runtime."""
    try:
        release = version("rsk-deploy")
    except PackageNotFoundError:
        release = "0"
    return cache_folder() / f"kernels-{hashlib.sha256(cpu_model().encode()).hexdigest()[:12]}-{release}.json"


def cache_folder() -> Path:
    """RSK_CACHE_DIR, or the place that the platform has for caches."""
    if chosen := os.environ.get("RSK_CACHE_DIR"):
        return Path(chosen)
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "rsk-deploy"


def cpu_model() -> str:
    """What tells this kind of CPU from others."""
    told = ("model name", "cpu family", "model", "CPU implementer", "CPU part")
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0].splitlines()
    except OSError:
        lines = []
    fields = [line for line in lines if line.split(":")[0].strip() in told]
    return "\n".join([platform.machine(), platform.processor(), *fields])
