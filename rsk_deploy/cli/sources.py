"""Folders of C as rsk-inspect shows them: by the comment that heads their header."""

from __future__ import annotations

import json
import re
from pathlib import Path

from rsk_deploy.cli.console import plain, say, size
from rsk_deploy.errors import CorruptFileError

READ = 1 << 20
"""Bytes of a header that are looked at; the comment comes first."""


def header(path: Path) -> re.Match[str] | None:
    """The comment of an exported folder, in two parts: for people, and as JSON; None for any other folder or file."""
    for file in sorted(path.glob("*.h")) if path.is_dir() else ():
        with file.open(encoding="utf-8", errors="replace") as opened:
            if found := re.match(r"/\* (A network exported by rsk-deploy.*?)\n\n(.*?)\n\n   rsk: (\{.*?\}) \*/\n", opened.read(READ), re.DOTALL):
                return found
    return None


def show(path: Path, found: re.Match[str], *, as_json: bool) -> None:
    """Print what the folder says of itself."""
    nbytes = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    try:
        document = dict(json.loads(found[3]))
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"{path}: its header says nothing that can be read of the network ({error})") from error
    if as_json:
        say(json.dumps({"kind": "C source", "path": str(path), "nbytes": nbytes, **document}, indent=1))
        return
    lines = [f"{path}: C source, {size(nbytes)}", "", *(f"  {line.strip()}" for line in (found[1] + "\n\n" + found[2]).splitlines()), ""]
    provenance = document.get("provenance")
    lines += [f"  {key}: {plain(value)}" for key, value in provenance.items() if value] if isinstance(provenance, dict) else []
    say("\n".join(line.rstrip() for line in lines))
