"""An atheris target: whatever bytes an ONNX file has, reading it gives a graph or an RskError. Run: python fuzz_onnx.py [libFuzzer options] CORPUS."""

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent.parent))
with atheris.instrument_imports(include=["rsk_deploy"]):
    from hostile.rsk_model import network

    import rsk_deploy.readers.onnx  # noqa: F401 - instrumented on import
    from rsk_deploy import store
    from rsk_deploy.errors import RskError
    from rsk_deploy.readers import ReadOptions, read
    from rsk_deploy.registry import converter_named

FILE = Path("net.onnx")  # in the working folder: libFuzzer ends the process without any clean-up


def open_file(data: bytes) -> None:
    """One run of the target: as a trained model, and as a packed file."""
    FILE.write_bytes(data)
    for opening in (lambda: read(FILE, ReadOptions()), lambda: store.load(FILE)):
        try:
            opening()
        except RskError:
            continue


def seed_corpus(folder: Path) -> None:
    """A packed network with every layer that can be run."""
    converter_named("onnx").write(network(opaque=False), folder / "valid.onnx")


if __name__ == "__main__":
    seed_corpus(Path(sys.argv[-1]))
    atheris.Setup(sys.argv, open_file)
    atheris.Fuzz()
