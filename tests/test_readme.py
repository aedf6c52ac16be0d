"""What the README shows is what happens."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import SHAPE
from typer.testing import CliRunner

from rsk_deploy.cli import export, inspect

README = (Path(__file__).parent.parent / "README.md").read_text()
COMMANDS = {"rsk-export": export.main, "rsk-inspect": inspect.main}


def test_the_python_example_runs(checkpoints, tmp_path, monkeypatch):
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    shutil.copy(checkpoints["psconv"], tmp_path / "model.pt")
    monkeypatch.chdir(tmp_path)
    exec(block, {"x": np.zeros(SHAPE, np.float32)})  # noqa: S102  # the README is ours
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.pt", "model.rsk"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_shown_exists(command):
    shown = {option for line in README.splitlines() if command in line for option in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", line)}
    known = CliRunner().invoke(COMMANDS[command], ["--help"], env={"COLUMNS": "200", "NO_COLOR": "1"}).output
    assert shown
    assert {option for option in shown if option not in known} == set()
