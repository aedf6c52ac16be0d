"""rsk-inspect as its users meet it."""

import json

import pytest
from typer.testing import CliRunner

from rsk_deploy.cli.export import main as export_main
from rsk_deploy.cli.inspect import main


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


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [(["absent.mlpackage"], 2, "absent.mlpackage: no such file"), (["absent.rsk"], 2, "no such file"), ([], 2, "which file?"), (["--json"], 2, "which file?")],
)
def test_a_wrong_request_is_a_sentence(arguments, code, sentence):
    result = inspect(*arguments)
    assert result.exit_code == code
    assert sentence in result.output or not arguments
