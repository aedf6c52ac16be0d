"""What an optional package that cannot be imported becomes."""

import os
import subprocess

import pytest
from test_cli_export import COMMAND

from rsk_deploy.errors import MissingExtraError, RskError, interrupted, needing

BROKEN = {
    "a library is missing": ("raise ImportError('libgone.so.1: cannot open shared object file')", "ImportError: libgone.so.1: cannot open"),
    "a package that it needs is missing": ("import absent_package", "ModuleNotFoundError: No module named 'absent_package'"),
    "it is too old": ("import numpy\nnumpy.gone_since_2", "AttributeError: module 'numpy' has no attribute 'gone_since_2'"),
}
INTERRUPTED = {  # as extension modules, and modules that import them, tell of a Ctrl-C that arrives while they are initialised
    "cause": "try:\n  raise KeyboardInterrupt\nexcept KeyboardInterrupt as error:\n  raise ImportError('initialization failed') from error",
    "context": "try:\n  raise KeyboardInterrupt\nexcept KeyboardInterrupt:\n  raise ImportError('initialization failed')",
    "suppressed": "try:\n  raise KeyboardInterrupt\nexcept KeyboardInterrupt:\n  raise ImportError('initialization failed') from None",
    "twice": "try:\n  try:\n    raise KeyboardInterrupt\n  except KeyboardInterrupt:\n    1 / 0\nexcept ZeroDivisionError as error:\n  raise OSError",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Makes a package of a name and a content, and tells the folder that it lies in."""
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)

    def make(name, content):
        (folder / f"{name}.py").write_text(content)
        return folder

    return make


def test_a_package_that_is_not_there_is_said_with_how_to_install_it():
    with (
        pytest.raises(MissingExtraError, match=r'^reading x needs absent_package, which is not installed\. Run: pip install "rsk-deploy\[extra\]"$'),
        needing("absent_package", "extra", "reading x"),
    ):
        import absent_package  # noqa: F401  # its import is what fails


def test_a_package_that_is_not_there_is_no_interrupt_after_one_either():
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        with pytest.raises(MissingExtraError, match="absent_package, which is not installed"), needing("absent_package", "extra", "reading x"):
            import absent_package  # noqa: F401  # its import is what fails


@pytest.mark.parametrize("why", BROKEN)
def test_a_package_that_cannot_be_imported_is_not_called_missing(package, why):
    content, said = BROKEN[why]
    package("broken_package", content)
    with pytest.raises(MissingExtraError) as caught, needing("broken_package", "extra", "reading x"):
        import broken_package  # noqa: F401  # its import is what fails
    assert str(caught.value).startswith(f"reading x needs broken_package, which is installed and cannot be imported: {said}")
    assert str(caught.value).endswith('Run: pip install --force-reinstall "rsk-deploy[extra]"')


@pytest.mark.parametrize("how", INTERRUPTED)
def test_an_interrupt_that_an_import_takes_for_an_error_is_an_interrupt(package, how):
    package("interrupted_package", INTERRUPTED[how])
    with pytest.raises(KeyboardInterrupt), needing("interrupted_package", "extra", "reading x"):
        import interrupted_package  # noqa: F401  # its import is what fails


@pytest.mark.parametrize(("content", "code", "said"), [(INTERRUPTED["cause"], 130, "error: interrupted"), (BROKEN["it is too old"][0], 6, "gone_since_2")])
def test_the_command_tells_an_interrupted_import_from_a_broken_package(onnx_model, tmp_path, package, content, code, said):
    path = os.pathsep.join([str(package("onnxruntime", content)), os.environ.get("PYTHONPATH", "")])
    command = [*COMMAND, onnx_model, "--format", "onnx", "-o", tmp_path / "out"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path})
    assert result.returncode == code, result.stderr
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_errors_that_follow_each_other_in_a_circle_are_no_interrupt():
    first, second = RskError("first"), RskError("second")
    first.__cause__, second.__cause__ = second, first
    assert interrupted(first) is None
    second.__cause__ = request = KeyboardInterrupt()
    assert interrupted(first) is request
