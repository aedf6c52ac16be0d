import subprocess
import sys

import pytest

import rsk_deploy

MEASURE = """
import sys, time
start = time.perf_counter()
import rsk_deploy
seconds = time.perf_counter() - start
heavy = {"numpy", "torch", "onnx", "onnxruntime", "scipy", "safetensors", "typer", "rich", "openvino"} & set(sys.modules)
print(seconds, *heavy)
"""


def test_the_public_names():
    assert sorted(rsk_deploy.__all__) == ["Graph", "RskError", "Session", "compare", "export", "load", "pack", "read", "report", "save"]
    assert all(hasattr(rsk_deploy, name) for name in rsk_deploy.__all__)


def test_importing_loads_nothing_that_is_not_used_yet():
    seconds, *heavy = subprocess.run([sys.executable, "-c", MEASURE], check=True, capture_output=True, text=True).stdout.split()
    assert not heavy
    assert float(seconds) < 5  # a hang, not a figure: the 150 ms are measured by benchmarks/import_time.py


def test_the_submodules_do_not_hide_the_functions():
    modules = "rsk_deploy.packing, rsk_deploy.exporting, rsk_deploy.comparing, rsk_deploy.reporting"
    code = f"import {modules}, rsk_deploy as rsk; print(all(callable(getattr(rsk, name)) for name in rsk.__all__))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() == "True"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'exprt'"):
        rsk_deploy.exprt  # noqa: B018 - the access is the test
