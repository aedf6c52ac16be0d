"""What every command does around its work: errors become a sentence and an exit code, progress goes to the terminal alone."""

from __future__ import annotations

import functools
import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from typer.core import TyperCommand

from rsk_deploy.cli import INTERRUPTED
from rsk_deploy.errors import RskError, UsageError, interrupted
from rsk_deploy.provenance import tool_version


class Command(TyperCommand):
    """A command that runs with any standard output, and whose ``--json`` is heard even where the rest of the line cannot be parsed."""

    def main(self, *args: Any, **options: Any) -> Any:
        nowhere = Path(os.devnull)
        sys.stdout, sys.stderr = sys.stdout or nowhere.open("w"), sys.stderr or nowhere.open("w")  # None where the caller has closed them
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # a question mark for what its encoding lacks
        return super().main(*args, **options)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        asked = "--json" in args  # parsing empties the list
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            if asked and hasattr(error, "format_message"):  # as the exceptions of click have, which typer holds in different places
                refuse_as_json(error.format_message(), UsageError.exit_code)
            raise


def app(command: Callable[..., None]) -> Callable[[], None]:
    """The entry point of a command with one function."""
    application = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
    application.command(cls=Command, no_args_is_help=True)(guarded(command))
    return application


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """The command, with errors of ours and of the machine as a sentence on stderr, with ``--json`` as a document on stdout too, and the right exit code."""

    @functools.wraps(command)
    def run(*args: object, as_json: bool = False, **options: object) -> None:
        try:
            command(*args, as_json=as_json, **options)
        except (Exception, KeyboardInterrupt) as error:
            if (refusal := told(error)) is None:
                raise
            if as_json:
                refuse_as_json(*refusal)
            say(f"error: {refusal[0]}", error=True)
            raise typer.Exit(refusal[1]) from error

    return run


def told(error: BaseException) -> tuple[str, int] | None:
    """The sentence and the exit code for an error of ours or of the machine; None for one that is a bug."""
    if request := interrupted(error):
        return "interrupted; nothing half-written is left", getattr(request, "code", INTERRUPTED)
    if isinstance(error, RskError):
        return str(error), error.exit_code
    if isinstance(error, MemoryError):
        return "out of memory", RskError.exit_code
    if isinstance(error, OSError):
        return f"{error.filename or 'the output'}: {error.strerror or error}", UsageError.exit_code
    return None


def refuse_as_json(message: str, code: int) -> None:
    """What a command that was asked for a document prints when it has no other, as far as that can be printed."""
    with suppress(OSError):
        say(json.dumps({"error": message, "exit": code}, indent=1))


def say(text: str, *, error: bool = False) -> None:
    """Print a line. Names come from files: control characters, which could drive a terminal, are written as escapes.

    When the reader of a pipe has gone, as ``head`` does, the work goes on and nothing more is printed.
    """
    try:
        typer.echo("".join(char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in text), err=error)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), (sys.stderr if error else sys.stdout).fileno())


class Steps:
    """A bar on a terminal's stderr that moves on by one with every step, and text that is printed while the bar is away."""

    def __init__(self, count: int, *, quiet: bool = False) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
        self.bar = Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal)
        self.quiet = quiet
        self.task = self.bar.add_task("", total=count)
        self.done = -1

    def __enter__(self) -> Steps:
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def step(self, description: str) -> None:
        """The next step begins."""
        self.done += 1
        self.bar.update(self.task, description=description, completed=self.done)
        self.bar.start()

    def say(self, text: str) -> None:
        """Print a line, unless quiet."""
        self.bar.stop()
        if not self.quiet:
            say(text)


def terminal_width() -> int | None:
    """Columns of the terminal that output goes to; None when it goes elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def version(value: bool) -> None:
    """What ``--version`` does."""
    if value:
        say(f"rsk-deploy {tool_version()}")
        raise typer.Exit


def plain(value: object) -> str:
    """A value of a file's provenance: ``{"pattern": 2}`` → ``pattern 2``."""
    return ", ".join(f"{key} {item}" for key, item in value.items()) if isinstance(value, dict) else str(value)


def size(nbytes: int) -> str:
    """``1234567`` → ``1.23 MB``."""
    value, unit = float(nbytes), "B"
    for larger in ("kB", "MB", "GB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}" if value < 1000 else f"{value:.0f} {unit}"
