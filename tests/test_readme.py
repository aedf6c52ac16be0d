"""What the README shows is what happens."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import SHAPE
from typer.testing import CliRunner

import rsk_deploy as rsk
from rsk_deploy.cli import export, inspect

README = (Path(__file__).parent.parent / "README.md").read_text()
COMMANDS = {"rsk-export": export.main, "rsk-inspect": inspect.main}


TRAINING, USING = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_checkpoint_of_the_training_example_is_read_without_a_flag(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(TRAINING)  # noqa: S102  # this repository's README, which is what is tested
    graph = rsk.read("model.pt")
    assert graph.inputs[0].shape == (1, 3, 32, 32)
    assert [entry.action for entry in graph.log].count("fixed mask") == 3


def test_the_python_example_runs(checkpoints, tmp_path, monkeypatch):
    shutil.copy(checkpoints["psconv"], tmp_path / "model.pt")
    monkeypatch.chdir(tmp_path)
    exec(USING, {"x": np.zeros(SHAPE, np.float32)})  # noqa: S102  # this repository's README, which is what is tested
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.pt", "model.rsk"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_shown_exists(command):
    shown = {option for line in README.splitlines() if command in line for option in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", line)}
    known = CliRunner().invoke(COMMANDS[command], ["--help"], env={"COLUMNS": "200", "NO_COLOR": "1"}).output
    assert shown
    assert {option for option in shown if option not in known} == set()
