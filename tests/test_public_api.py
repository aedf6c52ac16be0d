import subprocess
import sys

import rsk_deploy

MEASURE = """
import sys, time
start = time.perf_counter()
import rsk_deploy
seconds = time.perf_counter() - start
heavy = {"torch", "onnx", "onnxruntime", "scipy", "safetensors", "typer", "rich", "openvino"} & set(sys.modules)
print(seconds, *heavy)
"""


def test_the_public_names():
    assert sorted(rsk_deploy.__all__) == ["Graph", "RskError", "Session", "compare", "export", "load", "pack", "read", "report", "save"]
    assert all(hasattr(rsk_deploy, name) for name in rsk_deploy.__all__)


def test_importing_needs_numpy_alone():
    seconds, *heavy = subprocess.run([sys.executable, "-c", MEASURE], check=True, capture_output=True, text=True).stdout.split()
    assert not heavy
    assert float(seconds) < 5  # a hang, not a figure: the 150 ms are measured by benchmarks/import_time.py
