import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from rsk_deploy.nn import PSConv2d, RSKConv2d, load_checkpoint


@pytest.fixture
def example():
    path = Path(__file__).parent.parent / "examples" / "train_digits.py"
    spec = importlib.util.spec_from_file_location("train_digits", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_saves_networks_that_recognise_its_sample(example, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(example, "EPOCHS", 2)
    example.main(tmp_path / "demo")
    sample = np.load(tmp_path / "demo" / "digits-sample.npz")
    for name, kind in (("digits-rsk", RSKConv2d), ("digits-psconv", PSConv2d)):
        checkpoint = load_checkpoint(tmp_path / "demo" / f"{name}.pt")
        model = checkpoint.model()
        assert any(isinstance(module, kind) for module in model.modules())
        assert sample["images"].shape[1:] == checkpoint.input_shape[1:]
        with torch.no_grad():
            found = model(torch.from_numpy(sample["images"])).argmax(1).numpy()
        assert (found == sample["labels"]).mean() > 0.85
        assert checkpoint.labels == tuple("0123456789")
    assert capsys.readouterr().out.count("held-out digits right") == 2
    assert [module.p for module in load_checkpoint(tmp_path / "demo" / "digits-rsk.pt").model().modules() if isinstance(module, RSKConv2d)] == [
        pytest.approx(0.7)
    ]
