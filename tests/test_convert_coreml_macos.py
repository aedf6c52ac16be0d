"""What stands for Core ML on macOS runs the saved package, and says what it refuses."""

from pathlib import Path

import numpy as np
import pytest
from test_convert_onnx import image, small_net

from rsk_deploy import mlprogram
from rsk_deploy.converters import coreml
from rsk_deploy.errors import VerificationError


class FakeModel:
    """What Core ML's model is to the runner."""

    def __init__(self, path):
        self.program = mlprogram.load(Path(path))

    def predict(self, inputs):
        if inputs["image"].shape[0] > 4:
            raise RuntimeError("no such shape")
        return self.program.run(inputs, ["scores", "features"])


def test_on_macos_core_ml_runs_the_file(tmp_path, monkeypatch):
    path = tmp_path / "net.mlpackage"
    coreml.write(small_net(), path)
    expected = coreml.runner(path)(image(2))
    with coreml.coremltools() as package:
        monkeypatch.setattr(package.models, "MLModel", FakeModel)
    monkeypatch.setattr(coreml.sys, "platform", "darwin")
    run = coreml.runner(path)
    found = run(image(2))
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    with pytest.raises(VerificationError, match="Core ML does not run the file: no such shape"):
        run(image(5))
    assert coreml.runner(path, ["hidden"])(image(5)).keys() == {"scores", "features", "hidden"}
