"""Writing a file so that its name never shows half of it."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from rsk_deploy.errors import UsageError

OURS = "rsk_"
"""How files of a folder begin that are written whole and never by hand: other options write others of them."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def atomic(path: Path, force: bool = False) -> Iterator[Path]:
    """A path of the same name in a hidden folder beside ``path``; the file written there takes its place when the block ends without an exception.

    A writer may put further files next to it (``net.onnx.data``): they move with it. Until then old files keep their names, and they are
    only replaced with ``force``. After an exception, Ctrl-C included, nothing is left. What the system refuses is a UsageError.
    """
    with staged(path, force, folder=False) as temporary:
        yield temporary
        settle(temporary, path, force)


@contextmanager
def staged(path: Path, force: bool, *, folder: bool, dry_run: bool = False) -> Iterator[Path]:
    """``atomic`` for a block that calls ``settle`` itself once the file is whole, and may go on for as long as others have to be whole too.

    It may be a ``folder``, which replaces another only if it has all that the other holds. A ``dry_run`` writes where the system keeps
    temporary files, and moves nothing.
    """
    check(path, force, folder=folder)
    if not dry_run:
        check_folder(path)
    with tempfile.TemporaryDirectory() if dry_run else nullcontext(path.parent) as home:
        hidden = Path(home) / f".{path.name[:40]}.partial-{secrets.token_hex(4)}"
        temporary = hidden / path.name
        try:
            hidden.mkdir()
            yield temporary
            for file in () if dry_run else beside(temporary):
                take_place(file, path.with_name(file.name))
        except OSError as error:
            if error.filename is not None and hidden not in (Path(error.filename), *Path(error.filename).parents):
                raise
            raise UsageError(f"{path}: {reason(error, hidden)}") from error
        finally:
            shutil.rmtree(hidden, ignore_errors=True)


def settle(temporary: Path, path: Path, force: bool) -> None:
    """All that can refuse a whole file its place, but for the move."""
    mode = temporary.parent.stat().st_mode & 0o666  # what the umask allows; some writers make their files private
    for file in beside(temporary):
        target = path.with_name(file.name)
        check(target, force, folder=file.is_dir())
        if target.is_dir():
            check_content(target, file)
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


def check(path: Path, force: bool, *, folder: bool) -> None:
    """Refuse a place that a file, or a ``folder``, cannot take or should not."""
    if not os.path.lexists(path):
        return
    if not path.is_file() and not path.is_dir():
        raise UsageError(f"{path}: is a device, a pipe or a link to nothing; a model is written to a plain file")
    if path.is_dir() != folder:
        there, new = ("a folder", "a file") if path.is_dir() else ("a file", "a folder")
        raise UsageError(f"{path}: is {there}, and {new} is to be written there; move it elsewhere, or write to another place")
    if not force:
        raise UsageError(f"{path}: exists already and is kept. Give --force (force=True) to replace it once the new one is complete, or write to another place")


def check_folder(path: Path) -> None:
    """Refuse a place in no folder."""
    if not path.parent.is_dir():
        raise UsageError(f"{path}: the folder {path.parent} {'is not a folder' if os.path.lexists(path.parent) else 'does not exist'}; make it first")


def check_content(path: Path, by: Path) -> None:
    """Refuse to replace a folder that holds what ``by`` does not: somebody's own files, or an export under another name."""
    new = {file.relative_to(by).with_suffix("") for file in contents(by)}
    old = [file.relative_to(path) for file in contents(path) if not file.name.startswith(OURS)]
    if foreign := [file for file in old if file.with_suffix("") not in new]:
        raise UsageError(f"{path}: {held(foreign, whole=foreign == old)}; move it elsewhere or choose another folder")


def held(foreign: Sequence[Path], *, whole: bool) -> str:
    """What is in the way; ``whole`` if it is all that the folder holds beside files that are ours."""
    name = foreign[0].stem
    if whole and {file.stem for file in foreign} == {name} and Path(f"{name}.h") in foreign:
        return f"holds an export named {name}, which --name {name} replaces and one of another name does not"
    return f"holds {foreign[0]}, which the new folder does not have"


def reason(error: OSError, folder: Path) -> str:
    """Why the system refused, and what to do."""
    if error.errno in FULL:
        written = size_of(folder) if folder.is_dir() else 0
        return f"the disk is full, or a file may not be larger; more than the {written} bytes that fitted are needed. Free some space or choose another folder"
    return f"cannot be written: {error.strerror or error}. Choose a folder that you can write to"
