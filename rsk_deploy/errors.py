"""What can go wrong, as one family of exceptions.

Every message is a sentence with the user's values: what was asked, what was found, what is allowed, what to do next.
The class decides the exit code of the commands; nothing else is read from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class RskError(Exception):
    """Base of every error that rsk-deploy raises on purpose."""

    exit_code = 1


class UsageError(RskError):
    """The request cannot be met as it stands: a missing file, an unknown name, a wrong shape, an unwritable place."""

    exit_code = 2


class VerificationError(RskError):
    """A written file computes something else than the model; it is not handed out."""

    exit_code = 3


class UnsupportedError(RskError):
    """A layer or an option that the reader, the graph or the target does not have."""

    exit_code = 4


class CorruptFileError(RskError):
    """A file or a model whose content contradicts itself: truncated, out of range, not finite."""

    exit_code = 5


class UnsafeFileError(CorruptFileError):
    """A file that would run code when opened, without the user's leave."""


class MissingExtraError(RskError):
    """An optional package is needed, and it is not installed or cannot be imported."""

    exit_code = 6


@contextmanager
def needing(package: str, extra: str, purpose: str) -> Iterator[None]:
    """A block that imports an optional package: its absence, what it raises instead of being imported, and Ctrl-C meanwhile are told apart."""
    try:
        yield
    except Exception as error:  # what a broken package raises has no common base
        if isinstance(error, ModuleNotFoundError) and error.name == package:
            raise MissingExtraError(f'{purpose} needs {package}, which is not installed. Run: pip install "rsk-deploy[{extra}]"') from error
        if request := interrupted(error):
            raise type(request)(*request.args) from error
        said = f"{type(error).__name__}: {str(error).strip()[:500]}"
        raise MissingExtraError(
            f'{purpose} needs {package}, which is installed and cannot be imported: {said}. Run: pip install --force-reinstall "rsk-deploy[{extra}]"'
        ) from error


def interrupted(error: BaseException | None) -> KeyboardInterrupt | SystemExit | None:
    """The Ctrl-C, or other request to end, that somebody made the error of: extension modules turn one that arrives in their first lines into an
    ImportError, and torch fails an assertion on its way out of what it was tracing.
    """
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            return error
        seen.append(error)
        error = error.__context__ if error.__cause__ is None else error.__cause__
    return None


@contextmanager
def about(subject: str) -> Iterator[None]:
    """Put ``subject: `` in front of any error of ours raised inside, so that the outer call adds the layer's name."""
    try:
        yield
    except RskError as error:
        error.args = (f"{subject}: {error}",)
        raise
