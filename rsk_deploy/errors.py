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
    """An optional package is needed and not installed."""

    exit_code = 6

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f'{purpose} needs {package}, which is not installed. Run: pip install "rsk-deploy[{extra}]"')


@contextmanager
def about(subject: str) -> Iterator[None]:
    """Put ``subject: `` in front of any error of ours raised inside, so that the outer call adds the layer's name."""
    try:
        yield
    except RskError as error:
        error.args = (f"{subject}: {error}",)
        raise
