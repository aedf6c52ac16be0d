"""Writing a file so that its name never shows half of it."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rsk_deploy.errors import UsageError

OURS = "rsk_"
"""How files of a folder begin that are written whole and never by hand: other options write others of them."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def atomic(path: Path, force: bool = False) -> Iterator[Path]:
    """A path of the same name in a hidden folder beside ``path``; what is written there takes its place when the block ends without an exception.

    A writer may make it a folder, and may put further files next to it (``net.onnx.data``): they move with it. Until then old
    files keep their names, and they are only replaced with ``force``; a folder only if all that it holds is replaced. After an
    exception, Ctrl-C included, nothing is left. What the system refuses is a UsageError.
    """
    with staged(path, force) as temporary:
        yield temporary
        settle(temporary, path, force)


@contextmanager
def staged(path: Path, force: bool) -> Iterator[Path]:
    """``atomic`` for a block that calls ``settle`` itself once the file is whole, and may go on for as long as others have to be whole too."""
    check(path, force)
    folder = path.with_name(f".{path.name[:40]}.partial-{secrets.token_hex(4)}")
    temporary = folder / path.name
    try:
        folder.mkdir()
        yield temporary
        for file in beside(temporary):
            take_place(file, path.with_name(file.name))
    except OSError as error:
        if error.filename is not None and folder not in (Path(error.filename), *Path(error.filename).parents):
            raise
        raise UsageError(f"{path}: {reason(error, folder)}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def settle(temporary: Path, path: Path, force: bool) -> None:
    """All that can refuse a whole file its place, but for the move."""
    mode = temporary.parent.stat().st_mode & 0o666  # what the umask allows; some writers make their files private
    for file in beside(temporary):
        check(path.with_name(file.name), force, by=file)
        for part in contents(file):
            part.chmod(mode)
            with part.open("rb+") as opened:
                os.fsync(opened.fileno())


def beside(temporary: Path) -> list[Path]:
    """What was written: the file itself last, since it needs the others."""
    return sorted(temporary.parent.iterdir(), key=lambda file: (file == temporary, file))


def contents(path: Path) -> list[Path]:
    """The file, or every file in the folder."""
    return sorted(file for file in path.rglob("*") if not file.is_dir()) if path.is_dir() else [path]


def size_of(path: Path) -> int:
    """Bytes of the file, or of every file in the folder."""
    return sum(file.stat().st_size for file in contents(path))


def take_place(new: Path, path: Path) -> None:
    """Give ``new`` the name. A folder cannot replace one that has files: that steps aside first, and comes back if the new one cannot follow."""
    if not path.is_dir():
        os.replace(new, path)
        return
    aside = new.with_name(f"{new.name}.old")
    os.rename(path, aside)
    try:
        os.rename(new, path)
    except BaseException:
        os.rename(aside, path)
        raise


def check(path: Path, force: bool, by: Path | None = None) -> None:
    """Refuse a target that cannot be replaced, or should not be; ``by`` is what will replace it, once it is there."""
    if not path.parent.is_dir():
        raise UsageError(f"{path}: the folder {path.parent} {'is not a folder' if os.path.lexists(path.parent) else 'does not exist'}; make it first")
    if path.is_dir() and by is not None:
        if not by.is_dir():
            raise UsageError(f"{path}: is a folder; give the name of a file in it")
        new = {file.relative_to(by).with_suffix("") for file in contents(by)}
        if foreign := [file for file in contents(path) if file.relative_to(path).with_suffix("") not in new and not file.name.startswith(OURS)]:
            raise UsageError(f"{path}: holds {foreign[0].relative_to(path)}, which the new folder does not have; move it elsewhere or choose another folder")
    if path.exists() and not path.is_file() and not path.is_dir():
        raise UsageError(f"{path}: is a device or a pipe; a model is written to a plain file")
    if path.exists() and not force:
        raise UsageError(f"{path}: exists already and is kept. Give --force (force=True) to replace it once the new file is complete")


def reason(error: OSError, folder: Path) -> str:
    """Why the system refused, and what to do."""
    if error.errno in FULL:
        written = size_of(folder) if folder.is_dir() else 0
        return f"the disk is full, or a file may not be larger; more than the {written} bytes that fitted are needed. Free some space or choose another folder"
    return f"cannot be written: {error.strerror or error}. Choose a folder that you can write to"
