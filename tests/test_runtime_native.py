"""The native half: its stub, and its runs under sanitizers (``make native`` runs its own tests)."""

import ast
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from c_targets import needs
from native.plans import write

ROOT = Path(__file__).parent.parent
COMPILES = pytest.mark.skipif(not all(map(shutil.which, ("cmake", "c++"))), reason="cmake or the C++ compiler is not installed")


def test_the_stub_says_what_the_module_offers(tmp_path):
    pytest.importorskip("nanobind", reason="nanobind, which writes stubs, is not installed")
    command = [sys.executable, "-m", "nanobind.stubgen", "-q", "-D", "-m", "rsk_deploy.runtime._native", "-o", str(tmp_path / "_native.pyi")]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)  # it imports from where it runs, first
    written, generated = ROOT / "runtime" / "_native.pyi", tmp_path / "_native.pyi"
    assert ast.dump(ast.parse(written.read_text())) == ast.dump(ast.parse(generated.read_text())), "write it again: nanobind.stubgen -D, ruff format"


@pytest.mark.parametrize("machine", ["here", "aarch64"])
def test_clang_has_nothing_to_say_of_the_native_half(tmp_path, machine):
    needs("cmake", "clang++", packages="cmake clang")
    if machine == "aarch64":  # whose headers come with gcc for it
        needs("aarch64-linux-gnu-g++", packages="g++-aarch64-linux-gnu")
    configure = ["cmake", "-S", str(ROOT / "runtime" / "native"), "-B", "build", "-DRSK_PYTHON=OFF", "-DRSK_TESTS=ON"]
    configure += ["-DCMAKE_CXX_COMPILER=clang++", "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON"]
    if machine == "aarch64":
        configure += ["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", "-DCMAKE_CXX_COMPILER_TARGET=aarch64-linux-gnu"]
    subprocess.run(configure, check=True, capture_output=True, cwd=tmp_path)
    files = json.loads((tmp_path / "build" / "compile_commands.json").read_text())
    said = {}
    for file in files:
        command = [*shlex.split(file["command"]), "-fsyntax-only", "-Werror"]
        found = subprocess.run(command, cwd=file["directory"], capture_output=True, text=True, check=False)
        said |= {file["file"]: found.stderr} if found.returncode or found.stderr else {}
    assert len(files) > 20
    assert not said, "\n".join(said.values())


@pytest.mark.slow
@pytest.mark.timeout(1800)
@COMPILES
@pytest.mark.parametrize(("sanitizers", "mutations", "threads"), [("address,undefined", 1000, 1), ("address,undefined", 20, 3), ("thread", 0, 3)])
def test_the_native_runtime_is_clean_under_sanitizers(tmp_path, sanitizers, mutations, threads):
    write(tmp_path / "plans")
    plans = sorted(map(str, (tmp_path / "plans").glob("*.plan")))
    configure = ["cmake", "-S", str(ROOT / "runtime" / "native"), "-B", "build", "-DRSK_PYTHON=OFF", "-DRSK_TESTS=ON", f"-DRSK_SANITIZE={sanitizers}"]
    for step in (configure, ["cmake", "--build", "build", "-j2", "--target", "run_plan"]):
        subprocess.run(step, check=True, capture_output=True, cwd=tmp_path)
    command = [str(tmp_path / "build" / "run_plan"), *plans, "--mutations", str(mutations), "--threads", str(threads)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{len(plans)} plans" in result.stdout


@pytest.mark.slow
@pytest.mark.timeout(1800)
@COMPILES
@pytest.mark.parametrize(("sanitizers", "tests"), [("address,undefined", "_test"), ("thread", "threads_test")])
def test_the_native_tests_are_clean_under_sanitizers(tmp_path, sanitizers, tests):
    configure = ["cmake", "-S", str(ROOT / "tests" / "native"), "-B", "build", f"-DRSK_SANITIZE={sanitizers}"]
    for step in (configure, ["cmake", "--build", "build", "-j2"], ["ctest", "--test-dir", "build", "-R", tests, "--output-on-failure"]):
        result = subprocess.run(step, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert result.returncode == 0, result.stdout + result.stderr
