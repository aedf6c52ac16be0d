"""What is inside a torch file, found without running any of it."""

from __future__ import annotations

import pickletools
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from rsk_deploy.errors import CorruptFileError, UnsupportedError

MAX_EXPANSION = 4
"""A zip that claims more than this many times its own size is not unpacked: torch stores its archives uncompressed."""

ZIP_MAGIC = b"PK\x03\x04"
PLAIN = (
    r"collections\.OrderedDict|torch\._utils\._rebuild_(tensor|tensor_v2|parameter)|torch\.nn\.parameter\.Parameter"
    r"|torch\.(\w+Storage|[a-z]+\d+|bool|Size|device|strided)"
)
"""The Python names in a pickle of plain tensors."""


@contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """The archive, after its table of contents was checked. What reading it raises becomes a CorruptFileError."""
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            if min((entry.header_offset for entry in archive.infolist()), default=0):  # an archive inside the one that lost its end
                raise CorruptFileError(f"is a zip archive that lost its end; of its {size} bytes the last are missing")
            claimed = sum(entry.file_size for entry in archive.infolist())
            if claimed > MAX_EXPANSION * size:
                raise CorruptFileError(f"claims to unpack to {claimed} bytes from {size}; torch stores its files as they are, so it did not write this one")
            yield archive
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, LookupError, NotImplementedError, RuntimeError) as error:
        told = str(error) or type(error).__name__
        raise CorruptFileError(f"starts like a zip archive and is none ({told}); of its {size} bytes some are missing or changed") from error


def kind_of(path: Path) -> str:
    """``checkpoint``, ``program`` (torch.export) or ``legacy`` (torch before 1.6), by content. TorchScript and strangers are refused."""
    with path.open("rb") as file:
        start = file.read(4)
    if start != ZIP_MAGIC:
        if start[:1] == b"\x80":
            return "legacy"
        raise CorruptFileError(f"is no torch file: it starts with {start!r}, has {path.stat().st_size} bytes, and torch writes zip archives")
    with opened(path) as archive:
        names = {PurePosixPath(name).parts[1:] for name in archive.namelist()}
        damaged = archive.testzip() if ("data.pkl",) in names else None
        packed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
    if ("archive_format",) in names:
        return "program"
    if ("constants.pkl",) in names or any(parts[:1] == ("code",) for parts in names):
        raise UnsupportedError(
            "is TorchScript (torch.jit.save), which has lost its Python layers; "
            "save the original model with torch.export.save(torch.export.export(model.eval(), (example,)), 'model.pt2')"
        )
    if ("data.pkl",) not in names:
        raise CorruptFileError("is a zip archive without data.pkl: not a file that torch.save wrote")
    if damaged:
        raise CorruptFileError(f"is damaged: the checksum of {damaged!r} is not that of its bytes ({path.stat().st_size} in the file)")
    if packed:
        raise CorruptFileError(f"stores {packed[0]!r} compressed; torch.save stores its files as they are, so it did not write this one")
    return "checkpoint"


def names_called(path: Path) -> list[str]:
    """The Python names that unpickling the file would import, beyond those of plain tensors."""
    if path.read_bytes()[:4] == ZIP_MAGIC:
        with opened(path) as archive:
            pickles = [archive.read(name) for name in archive.namelist() if name.endswith("/data.pkl")]
    else:
        pickles = [path.read_bytes()]
    return unusual({name for content in pickles for name in globals_of(content)})


def unusual(names: set[str]) -> list[str]:
    """Those of the names that a plain tensor does not need."""
    return sorted(name for name in names if not re.fullmatch(PLAIN, name))


def globals_of(content: bytes) -> set[str]:
    """``module.name`` of every global that a pickle (or several in a row) asks for, read opcode by opcode."""
    found: set[str] = set()
    strings: list[str] = []
    memo: dict[int, str] = {}
    position = 0
    try:
        while position < len(content) and content[position : position + 1] == b"\x80":
            value: Any
            for code, value, place in pickletools.genops(content[position:]):
                if code.name in ("GLOBAL", "INST"):
                    found.add(str(value).replace(" ", "."))
                elif code.name == "STACK_GLOBAL":
                    found.add(".".join(strings[-2:]))
                elif isinstance(value, str):
                    strings.append(value)
                elif code.name == "MEMOIZE" or "PUT" in code.name:
                    memo[len(memo) if value is None else int(value)] = strings[-1] if strings else ""
                elif "GET" in code.name and int(value) in memo:
                    strings.append(memo[int(value)])
                if code.name == "STOP":
                    position += (place or 0) + 1
    except Exception:  # noqa: S110  # the names are for a message; what was found up to a broken opcode is enough
        pass
    return found
