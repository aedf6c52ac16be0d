"""What every command does around its work: errors become a sentence and an exit code, progress goes to the terminal alone."""

from __future__ import annotations

import functools
import os
import shutil
import sys
from collections.abc import Callable

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from rsk_deploy.cli import INTERRUPTED
from rsk_deploy.errors import RskError, UsageError
from rsk_deploy.provenance import tool_version


def app(command: Callable[..., None]) -> Callable[[], None]:
    """The entry point of a command with one function."""
    application = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
    application.command(no_args_is_help=True)(guarded(command))
    return application


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """The command, with errors of ours and of the machine as a sentence on stderr and the right exit code."""

    @functools.wraps(command)
    def run(*args: object, **options: object) -> None:
        try:
            command(*args, **options)
            sys.stdout.flush()
        except RskError as error:
            fail(str(error), error.exit_code)
        except KeyboardInterrupt:
            fail("interrupted; nothing half-written is left", INTERRUPTED)
        except MemoryError:
            fail("out of memory", 1)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has gone; the interpreter's last flush must not complain
        except OSError as error:
            fail(f"{error.filename or 'the output'}: {error.strerror or error}", UsageError.exit_code)

    return run


def say(text: str, *, error: bool = False) -> None:
    """Print a line. Names come from files: control characters, which could drive a terminal, are written as escapes."""
    typer.echo("".join(char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in text), err=error)


def fail(message: str, code: int) -> None:
    """Say it on stderr and stop."""
    say(f"error: {message}", error=True)
    raise typer.Exit(code)


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
