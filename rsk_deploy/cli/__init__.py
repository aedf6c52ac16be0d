"""The commands: parse, call, print. No logic."""

from __future__ import annotations

import importlib
import signal
import sys

INTERRUPTED = 130


def run_export() -> None:
    """``rsk-export``."""
    _run("export")


def run_inspect() -> None:
    """``rsk-inspect``."""
    _run("inspect")


def _run(command: str) -> None:
    """Load a command and run it. Ctrl-C while it is loaded is told as while it runs; other requests to end leave nothing half-written either."""
    for name in ("SIGTERM", "SIGHUP"):
        if getattr(signal, name, None) and signal.getsignal(getattr(signal, name)) is signal.SIG_DFL:
            signal.signal(getattr(signal, name), lambda number, _: sys.exit(128 + number))
    try:
        importlib.import_module(f"rsk_deploy.cli.{command}").main()
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted before anything was written\n")
        sys.exit(INTERRUPTED)
