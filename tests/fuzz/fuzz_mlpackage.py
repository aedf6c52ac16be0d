"""An atheris target: whatever bytes the model of a Core ML package has, looking into it and opening it gives a result or an RskError."""

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent.parent))
with atheris.instrument_imports(include=["rsk_deploy.mlprogram"]):
    from test_convert_onnx import small_net

    from rsk_deploy import mlprogram
    from rsk_deploy.converters import coreml
    from rsk_deploy.errors import RskError

PACKAGE = Path("net.mlpackage")  # in the working folder: libFuzzer ends the process without any clean-up
MODEL = PACKAGE / "Data" / "com.apple.CoreML" / "model.mlmodel"


def open_package(data: bytes) -> None:
    """One run of the target."""
    MODEL.write_bytes(data)
    for look in (mlprogram.summary, mlprogram.load):
        try:
            look(PACKAGE)
        except RskError:
            continue


if __name__ == "__main__":
    coreml.write(small_net(), PACKAGE, target="ios18")
    (Path(sys.argv[-1]) / "valid").write_bytes(MODEL.read_bytes())
    atheris.Setup(sys.argv, open_package)
    atheris.Fuzz()
