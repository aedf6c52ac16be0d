"""What rsk-export leaves behind when the machine or its user ends it: nothing."""

import resource
import signal
import subprocess
import sys
import time

import pytest
from test_cli_export import COMMAND, left_in

from rsk_deploy.converters.coreml_body import interrupts_held


@pytest.mark.parametrize("formats", ["onnx,rsk", "coreml", "c"])
def test_a_full_disk_leaves_nothing(onnx_model, tmp_path, formats):
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    result = subprocess.run([*COMMAND, onnx_model, "--format", formats, "-o", tmp_path / "out"], capture_output=True, text=True, preexec_fn=limit, check=False)
    assert result.returncode == 2, result.stderr
    assert "the disk is full, or a file may not be larger" in result.stderr
    assert "Traceback" not in result.stderr
    assert left_in(tmp_path) == []


VERIFY_FOREVER = """
import sys, time
from rsk_deploy.cli.export import main
from rsk_deploy.converters import onnx

def runner(*_):
    open(sys.argv[-1], "w").close()
    time.sleep(60)

onnx.runner = runner
main(sys.argv[1:-1])
"""


def listen():
    """Ctrl-C arrives even where the tests run in the background of a shell, which ignores it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_an_interrupt_leaves_nothing(onnx_model, tmp_path):
    arguments = [sys.executable, "-c", VERIFY_FOREVER, onnx_model, "--format", "onnx", "-o", tmp_path / "out", tmp_path / "verifying"]
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, preexec_fn=listen)
    deadline = time.monotonic() + 100
    while not (tmp_path / "verifying").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in stderr
    assert "Traceback" not in stderr
    assert left_in(tmp_path) == ["verifying"]


INTERRUPTED_LOADING = """
import signal, sys
from rsk_deploy.cli import run_export

class Finder:
    def find_spec(self, name, *_):
        if name == "typer":
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Finder())
run_export()
"""


def test_an_interrupt_while_the_command_is_loaded_is_a_sentence_too():
    result = subprocess.run([sys.executable, "-c", INTERRUPTED_LOADING], capture_output=True, text=True, preexec_fn=listen, check=False)
    assert result.returncode == 130
    assert result.stderr == "error: interrupted before anything was written\n"


def test_an_interrupt_is_not_lost_in_an_import_that_swallows_exceptions():
    reached = []

    def hold():
        with interrupts_held():
            signal.raise_signal(signal.SIGINT)
            reached.append("the end of the import")

    outer = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            hold()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, outer)
    assert reached
