"""An atheris target: whatever bytes a .rsk file has, opening it gives a graph or an RskError. Run: python fuzz_rsk.py [libFuzzer options] CORPUS."""

import json
import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent.parent))
with atheris.instrument_imports(include=["rsk_deploy"]):
    from hostile.rsk_files import FILES, Parts
    from hostile.rsk_model import network

    from rsk_deploy import codec, files, provenance, store  # noqa: F401 - instrumented on import
    from rsk_deploy.errors import RskError

FILE = Path("net.rsk")  # in the working folder: libFuzzer ends the process without any clean-up


def open_file(data: bytes) -> None:
    """One run of the target."""
    FILE.write_bytes(data)
    try:
        store.load(FILE)
    except RskError:
        return


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Mutate the document, an array or the raw bytes, in turn: blind changes rarely get past the header."""
    try:
        parts = Parts(data)
        if seed % 3 == 0:
            parts.text = atheris.Mutate(json.dumps(parts.content).encode(), max_size // 2).decode(errors="replace")
        elif seed % 3 == 1:
            parts.data[:] = atheris.Mutate(bytes(parts.data), len(parts.data)).ljust(len(parts.data), b"\0")
        else:
            return atheris.Mutate(data, max_size)
        return parts.join()[:max_size]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return atheris.Mutate(data, max_size)


def seed_corpus(folder: Path) -> None:
    """The valid file and every small hostile one."""
    store.save(network(), folder / "valid.rsk", force=True)
    valid = (folder / "valid.rsk").read_bytes()
    for name, (damage, _) in FILES.items():
        if len(data := damage(valid)) < 1 << 18:
            (folder / name).write_bytes(data)


if __name__ == "__main__":
    seed_corpus(Path(sys.argv[-1]))
    atheris.Setup(sys.argv, open_file, custom_mutator=mutate)
    atheris.Fuzz()
