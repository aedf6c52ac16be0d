"""Files with a torch suffix that are broken or would run code: each named after what is wrong, written from a good checkpoint's bytes."""

import io
import pickle  # noqa: TID251  # writes what the reader must refuse
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hostile.torch_pt2 import Touch


def _saved(content: Any, **how: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **how)
    return buffer.getvalue()


def _legacy() -> bytes:
    return _saved({"weight": torch.ones(64)}, _use_new_zipfile_serialization=False)


def _rezipped(good: bytes, edit: Callable[[dict[str, bytes]], None], compression: int = zipfile.ZIP_STORED) -> bytes:
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    edit(entries)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def _without(part: str) -> Callable[[dict[str, bytes]], None]:
    def edit(entries: dict[str, bytes]) -> None:
        for name in [name for name in entries if part in name]:
            del entries[name]

    return edit


def _pickled(replace: Callable[[bytes], bytes]) -> Callable[[dict[str, bytes]], None]:
    def edit(entries: dict[str, bytes]) -> None:
        name = next(name for name in entries if name.endswith("data.pkl"))
        entries[name] = replace(entries[name])

    return edit


def _huge(content: bytes) -> bytes:
    """A storage and a tensor of 37 elements that say they have 2³⁰."""
    claimed = b"J" + struct.pack("<i", 1 << 30)
    assert content.count(b"K\x25tq") == content.count(b"K\x25\x85") == 1
    return content.replace(b"K\x25tq", claimed + b"tq").replace(b"K\x25\x85", claimed + b"\x85")


def _flipped(good: bytes) -> bytes:
    """One bit of the first weight is another."""
    place = good.index(struct.pack("<3f", 1, 2, 3))
    return good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :]


CORRUPT: dict[str, Callable[[bytes], bytes]] = {
    "one byte": lambda good: b"P",
    "text": lambda good: b"not a model at all\n",
    "name that is no text": lambda good: good.replace(b"/data.pkl", b"/data.pk\xff", 1),
    "half": lambda good: good[: len(good) // 2],
    "without its end": lambda good: good[:-30],
    "zip without data.pkl": lambda good: _rezipped(good, _without("data.pkl")),
    "zip without the weights": lambda good: _rezipped(good, _without("/data/")),
    "zip bomb": lambda good: _rezipped(good, lambda entries: entries.update({"archive/data/9": bytes(1 << 26)}), zipfile.ZIP_DEFLATED),
    "compressed": lambda good: _rezipped(good, lambda entries: None, zipfile.ZIP_DEFLATED),
    "flipped bit": _flipped,
    "tensor larger than its record": lambda good: _rezipped(good, _pickled(_huge)),
    "broken pickle": lambda good: _rezipped(good, _pickled(lambda content: content[:-20])),
    "empty pickle": lambda good: _rezipped(good, _pickled(lambda content: b"")),
    "legacy file cut short": lambda good: _legacy()[:300],
    "legacy file with an unknown opcode": lambda good: _legacy().replace(b"M\xe9\x03", b"\xa0\xe9\x03", 1),
    "pickle of nothing": lambda good: b"\x80\x02.",
}
"""What is refused as corrupt: name → (bytes of a good .pt) → bytes."""

UNSAFE: dict[str, Callable[[Path], bytes]] = {
    "call in the archive": lambda marker: _saved({"state": Touch(marker)}),
    "call in a legacy file": lambda marker: _saved({"state": Touch(marker)}, _use_new_zipfile_serialization=False),
    "call in a plain pickle": lambda marker: pickle.dumps(Touch(marker), protocol=4),
    "whole module": lambda marker: _saved(torch.nn.Sequential(torch.nn.ReLU())),
}
"""What would run code: name → (marker that running it makes) → bytes."""
