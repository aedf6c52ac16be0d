import contextlib
import importlib.util
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from c_targets import needs_machine

import rsk_deploy as rsk
from rsk_deploy.nn import PSConv2d, RSKConv2d, load_checkpoint


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The folder that the example writes after two epochs, and what it prints."""
    path = Path(__file__).parent.parent / "examples" / "train_digits.py"
    spec = importlib.util.spec_from_file_location("train_digits", path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    example.EPOCHS = 2
    folder, said = tmp_path_factory.mktemp("digits") / "demo", io.StringIO()
    with contextlib.redirect_stdout(said):
        example.main(folder)
    return folder, said.getvalue()


def test_the_example_saves_networks_that_recognise_its_sample(digits):
    folder, said = digits
    sample = np.load(folder / "digits-sample.npz")
    for name, kind in (("digits-rsk", RSKConv2d), ("digits-psconv", PSConv2d)):
        checkpoint = load_checkpoint(folder / f"{name}.pt")
        model = checkpoint.model()
        assert any(isinstance(module, kind) for module in model.modules())
        assert sample["images"].shape[1:] == checkpoint.input_shape[1:]
        with torch.no_grad():
            found = model(torch.from_numpy(sample["images"])).argmax(1).numpy()
        assert (found == sample["labels"]).mean() > 0.85
        assert checkpoint.labels == tuple("0123456789")
    assert said.count("held-out digits right") == 2
    assert [module.p for module in load_checkpoint(folder / "digits-rsk.pt").model().modules() if isinstance(module, RSKConv2d)] == [pytest.approx(0.7)]


@pytest.fixture(scope="module")
def graphs(digits):
    """The trained networks, packed, by name."""
    return {name: rsk.pack(rsk.read(digits[0] / f"{name}.pt")) for name in ("digits-rsk", "digits-psconv")}


@pytest.mark.parametrize("target", ["cortex-m4", "aarch64"])
@pytest.mark.parametrize("name", ["digits-rsk", "digits-psconv"])
def test_the_trained_networks_run_on_other_machines(name, target, graphs, tmp_path):
    needs_machine(target)
    found = rsk.export(graphs[name], tmp_path / "net.csource", options={"target": target, "max_flash": "4M"}).verification
    assert found.elsewhere.passed, found.not_elsewhere
    assert found.elsewhere.outputs[0].top1_agreement == 1
    assert found.batches_elsewhere == 3


def test_in_8_bits_a_trained_network_keeps_its_accuracy_on_a_microcontroller(digits, graphs, tmp_path):
    needs_machine("cortex-m4")
    options = {"target": "cortex-m4", "dtype": "int8"}
    found = rsk.export(graphs["digits-psconv"], tmp_path / "net.csource", options=options, sample=digits[0] / "digits-sample.npz").verification
    assert found.elsewhere.passed, found.not_elsewhere
    assert found.accuracy > found.original_accuracy - 0.02
    assert found.drift.outputs[0].top1_agreement > 0.97


@pytest.mark.parametrize("example", ["train_digits.py", "demo.py"])
def test_an_example_without_what_it_needs_says_how_to_get_it(tmp_path, example):
    (tmp_path / "sklearn.py").write_text("raise ModuleNotFoundError(\"No module named 'sklearn'\", name='sklearn')")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, Path(__file__).parent.parent / "examples" / example, tmp_path / "demo"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": path})
    said = "No module named 'sklearn'. `make demo` sets up what this example needs, or: pip install scikit-learn \"rsk-deploy[torch,onnx]\"\n"
    assert (result.returncode, result.stderr) == (1, said)
