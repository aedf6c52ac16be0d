"""rsk-inspect as its users meet it."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from rsk_deploy import store
from rsk_deploy.cli.export import main as export_main
from rsk_deploy.cli.inspect import main
from rsk_deploy.files import size_of
from rsk_deploy.ir import Dense, Graph, Input, Linear
from rsk_deploy.packing import pack


def inspect(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def files(checkpoints, tmp_path_factory):
    """The 4-of-9 net in every form."""
    folder = tmp_path_factory.mktemp("files")
    for weights, out in (("auto", folder), ("dense", folder / "dense")):
        arguments = [checkpoints["psconv"], "--format", "onnx,rsk", "--weights", weights, "-o", out]
        assert CliRunner().invoke(export_main, [str(argument) for argument in arguments]).exit_code == 0
    return {"checkpoint": checkpoints["psconv"], "rsk": folder / "psconv.rsk", "onnx": folder / "psconv.onnx", "dense onnx": folder / "dense" / "psconv.onnx"}


@pytest.mark.parametrize("kind", ["checkpoint", "rsk", "onnx", "dense onnx"])
def test_every_artefact_shows_its_masks(files, kind):
    result = inspect(files[kind], "--masks", "--layers")
    assert result.exit_code == 0, result.stderr
    assert "4 of 9" in result.stdout
    assert "features.4" in result.stdout


@pytest.fixture(scope="module")
def package(checkpoints, tmp_path_factory):
    """The 4-of-9 net as a Core ML package."""
    folder = tmp_path_factory.mktemp("coreml")
    assert CliRunner().invoke(export_main, [str(checkpoints["psconv"]), "--format", "coreml", "--no-verify", "-o", str(folder)]).exit_code == 0
    return folder / "psconv.mlpackage"


def test_a_core_ml_package_shows_its_operations_weights_and_provenance(package):
    result = inspect(package, "--layers")
    assert result.exit_code == 0, result.stderr
    assert "Core ML package (specification 7)" in result.stdout
    assert "x tensor 1×3×16×16 → classLabel string" in result.stdout
    assert "conv × 3" in result.stdout
    (line,) = (line for line in result.stdout.splitlines() if "features_4_weight" in line)
    assert line.split() == ["features_4_weight", "16×8×3×3", "1.18", "kB", "sparse", "to", "dense", "float16"]
    assert "formats: bitmask 3, dense 3" in result.stdout
    document = json.loads(inspect(package, "--json").stdout)
    assert {"path", "nbytes", "inputs", "outputs", "operations", "weights", "about", "said"} <= document.keys()


def test_a_core_ml_package_is_not_compared_as_a_network(package, files):
    for arguments, sentence in (
        ([package, "--diff", files["rsk"]], "is shown by itself; leave out --diff"),
        ([package, "--doctor"], "is shown by itself; leave out --doctor"),
        ([files["rsk"], "--diff", package], "holds a program, not a network"),
    ):
        result = inspect(*arguments)
        assert (result.exit_code, sentence in result.stderr) == (2, True)


def test_a_folder_of_c_shows_what_it_takes_and_its_provenance(checkpoints, tmp_path):
    arguments = [checkpoints["psconv"], "--format", "c", "--no-verify", "-o", tmp_path]
    assert CliRunner().invoke(export_main, [str(argument) for argument in arguments]).exit_code == 0
    folder = tmp_path / "psconv.csource"
    text = inspect(folder).stdout
    assert all(
        part in text
        for part in (f"{folder}: C source, ", "  A network exported by rsk-deploy.", "bytes of scratch", "  formats: bitmask 3, dense 3", "  weights_sha256: ")
    )
    document = json.loads(inspect(folder, "--json").stdout)
    assert document["nbytes"] == size_of(folder)
    assert document["provenance"]["tool"] == "rsk-deploy"
    result = inspect(folder, "--diff", folder)
    assert (result.exit_code, "a folder of C is shown by itself; leave out --diff" in result.stderr) == (2, True)
    (folder / "net.h").write_text((folder / "net.h").read_text().replace("rsk: {", "rsk: {{"))
    assert "its header says nothing that can be read of the network" in inspect(folder).stderr


def test_a_folder_of_anything_else_is_no_model(tmp_path):
    (tmp_path / "net.h").write_text("/* A network */\n")
    assert "is a folder" in inspect(tmp_path).stderr


def test_json_holds_everything(files):
    document = json.loads(inspect(files["rsk"], "--json").stdout)
    assert {"file", "kind", "bytes", "inputs", "outputs", "layers", "weights", "log", "provenance", "meta"} <= document.keys()
    assert document["meta"]["labels"] == [str(digit) for digit in range(10)]
    assert len(document["provenance"]["weights_sha256"]) == 64


def test_a_diff_of_the_same_network_is_empty(files):
    result = inspect(files["rsk"], "--diff", files["onnx"])
    assert "hold the same network" in result.stdout


def test_a_diff_names_the_layer_and_the_change(files, checkpoints):
    result = inspect(files["rsk"], "--diff", checkpoints["dense"])
    assert result.exit_code == 0, result.stderr
    assert "features.4: weight:" in result.stdout
    assert "places became zero or nonzero" in result.stdout


def test_a_diff_tells_half_precision_even_of_weights_that_it_does_not_change(tmp_path):
    graph = Graph((Input("x", (1, 4)),), ("y",), (Linear(name="fc", inputs=("x",), outputs=("y",), weight=Dense(np.eye(4, dtype=np.float32))),))
    for name, half in (("a", False), ("b", True)):
        store.save(pack(graph, half=half), tmp_path / f"{name}.rsk")
    assert "fc: weight: stored in float32 → float16" in inspect(tmp_path / "a.rsk", "--diff", tmp_path / "b.rsk").stdout


def test_the_doctor_says_what_is_there_and_what_is_missing(monkeypatch):
    from importlib.metadata import PackageNotFoundError

    from rsk_deploy import doctor

    known = doctor.version

    def version(package):
        if package == "onnxruntime":
            raise PackageNotFoundError(package)
        return known(package)

    monkeypatch.setattr(doctor, "version", version)
    result = inspect("--doctor")
    assert result.exit_code == 0
    assert 'missing      pip install "rsk-deploy[onnx]"' in result.stdout
    assert "numpy" in result.stdout


@pytest.mark.parametrize(("system", "said"), [("Linux", True), ("Darwin", False)])
def test_the_doctor_says_where_core_ml_runs(monkeypatch, system, said):
    monkeypatch.setattr("platform.system", lambda: system)
    assert ("what coremltools logs of libcoremlpython, torch and scikit-learn is silenced" in inspect("--doctor").stdout) is said


@pytest.mark.parametrize("kind", ["rsk", "onnx"])
def test_a_file_whose_weights_have_changed_is_refused(kind, files, tmp_path):
    (tmp_path / f"x.{kind}").write_bytes(changed_weight(files[kind]))
    result = inspect(tmp_path / f"x.{kind}")
    assert result.exit_code == 5
    assert f"x.{kind}: its weights have the SHA-256" in result.stderr


def changed_weight(path):
    """The bytes of the file with one bit of one weight flipped."""
    data = path.read_bytes()
    at = data.index(next(store.load(path).weighted()).weight.arrays["values"][:4].tobytes())
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_a_truncated_onnx_file_is_named(files, tmp_path):
    (tmp_path / "short.onnx").write_bytes(files["onnx"].read_bytes()[:3000])
    result = inspect(tmp_path / "short.onnx")
    assert result.exit_code == 5
    assert "short.onnx: is no ONNX model" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [(["absent.mlpackage"], 2, "absent.mlpackage: no such file"), (["absent.rsk"], 2, "no such file"), ([], 2, "which file?"), (["--json"], 2, "which file?")],
)
def test_a_wrong_request_is_a_sentence(arguments, code, sentence):
    result = inspect(*arguments)
    assert result.exit_code == code
    assert sentence in result.output or not arguments
