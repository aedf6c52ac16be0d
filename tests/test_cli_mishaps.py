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
from rsk_deploy.cli import run_export
from rsk_deploy.converters import onnx

def runner(*_):
    open(place, "w").close()
    time.sleep(60)

onnx.runner = runner
place = sys.argv.pop()
run_export()
"""


def listen():
    """Ctrl-C arrives even where the tests run in the background of a shell, which ignores it; the end of a terminal even under nohup."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def asked_to_end(program, model, folder, number):
    """What an export says on stderr that gets a signal while it verifies, and its exit code."""
    arguments = [sys.executable, "-c", program, model, "--format", "onnx", "-o", folder / "out", folder / "verifying"]
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, preexec_fn=listen)
    deadline = time.monotonic() + 100
    while not (folder / "verifying").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    return stderr, process.returncode


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_request_to_end_leaves_nothing(onnx_model, tmp_path, number, code):
    stderr, returned = asked_to_end(VERIFY_FOREVER, onnx_model, tmp_path, number)
    assert returned == code
    assert ("interrupted" in stderr) == (number == signal.SIGINT)
    assert "Traceback" not in stderr
    assert left_in(tmp_path) == ["verifying"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_request_to_end_is_told_from_what_a_library_makes_of_it(onnx_model, tmp_path, number, code):
    failing = VERIFY_FOREVER.replace("    time.sleep(60)", "    try:\n        time.sleep(60)\n    finally:\n        assert not 'the mode stack is empty'")
    stderr, returned = asked_to_end(failing, onnx_model, tmp_path, number)
    assert (returned, stderr) == (code, "error: interrupted; nothing half-written is left\n")
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


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit), (signal.SIGHUP, SystemExit)])
def test_a_request_to_end_is_not_lost_in_an_import_that_swallows_exceptions(number, error):
    reached = []

    def end(*_):
        raise error

    def hold():
        with interrupts_held():
            signal.raise_signal(number)
            reached.append("the end of the import")

    outer = signal.signal(number, end)
    try:
        with pytest.raises(error):
            hold()
        assert signal.getsignal(number) is end
    finally:
        signal.signal(number, outer)
    assert reached
