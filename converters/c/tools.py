"""Programs of others that the export runs: for a limited time, and gone with all that they started and wrote, whatever happens."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from rsk_deploy.errors import UsageError


def installed(names: Iterable[str]) -> str | None:
    """The path of the first of these programs that is there."""
    return next((path for name in names if (path := shutil.which(name))), None)


def run(command: Sequence[str], folder: Path, seconds: float) -> subprocess.CompletedProcess[str]:
    """Run a program in ``folder``; one that takes longer is a UsageError."""
    with tempfile.TemporaryDirectory() as temporary:  # for what a killed compiler leaves
        process = subprocess.Popen(  # noqa: S603  # no shell reads the list; to run compilers and what they built is the purpose
            command,
            cwd=folder,
            env=os.environ | {"TMPDIR": temporary},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise UsageError(f"{Path(command[0]).name} takes longer than {seconds:g} s") from None
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, out, err)
