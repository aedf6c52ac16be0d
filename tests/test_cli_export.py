"""rsk-export as its users meet it: a process, its output, its exit code, and what lies on disk afterwards."""

import errno
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

import rsk_deploy as rsk
from rsk_deploy import mlprogram, store
from rsk_deploy.cli.console import size
from rsk_deploy.cli.export import main
from rsk_deploy.converters import coreml_windows
from rsk_deploy.converters import onnx as onnx_converter
from rsk_deploy.converters.onnx_opset import HIGHEST, LOWEST
from rsk_deploy.diff import diff
from rsk_deploy.files import size_of
from rsk_deploy.packing import unpack

COMMAND = [sys.executable, "-m", "rsk_deploy.cli.export"]


def export(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def left_in(folder):
    return sorted(path.name for path in folder.rglob("*"))


def test_a_checkpoint_needs_no_flag(checkpoints, tmp_path):
    result = export(checkpoints["psconv"], "--format", "onnx,rsk", "-o", tmp_path)
    assert result.exit_code == 0, result.stderr
    assert left_in(tmp_path) == ["psconv.onnx", "psconv.rsk"]
    assert "4 of 9" in result.stdout
    assert result.stdout.count("✔") == 2
    assert result.stdout.count("rsk-deploy's runtime against the model\n    output: max |Δ|") == 2
    assert rsk.load(tmp_path / "psconv.onnx") == rsk.load(tmp_path / "psconv.rsk")


def test_a_core_ml_package_is_written_verified_and_replaced_by_force(checkpoints, tmp_path):
    arguments = [checkpoints["psconv"], "--format", "coreml", "-o", tmp_path]
    result = export(*arguments)
    assert result.exit_code == 0, result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["psconv.mlpackage"]
    assert "an interpreter of ML programs against the model" in result.stdout
    assert f"{size(size_of(tmp_path / 'psconv.mlpackage'))}, " in result.stdout
    assert export(*arguments).exit_code == 2
    result = export(*arguments, "--force", "--compress", "int8", "--precision", "fp32", "--author", "A. Author", "--license", "MIT", "--description", "digits")
    assert result.exit_code == 0, result.stderr
    assert "drift from the mean" not in result.stdout
    assert "output: drift from the model: max |Δ|" in result.stdout
    assert mlprogram.summary(tmp_path / "psconv.mlpackage").about == {"author": "A. Author", "license": "MIT", "shortDescription": "digits"}


def test_a_wrong_core_ml_package_is_not_handed_out(checkpoints, tmp_path, monkeypatch):
    right = coreml_windows.bias
    monkeypatch.setattr(coreml_windows, "bias", lambda scope, layer: right(scope, layer) + (np.float16(0.5) if layer.name == "features.4" else 0))
    result = export(checkpoints["psconv"], "--format", "coreml", "-o", tmp_path)
    assert result.exit_code == 3
    assert "--precision fp32 may agree where this network magnifies their rounding" in result.stderr
    assert "The first layer that differs is features.4" in result.stderr
    assert left_in(tmp_path) == []


def test_rsk_mean_says_that_it_is_dense_and_why(checkpoints, tmp_path):
    result = export(checkpoints["rsk"], "--format", "rsk", "-o", tmp_path, "-v")
    assert result.exit_code == 0, result.stderr
    assert "dense" in result.stdout
    assert "topk" in result.stdout


@pytest.mark.parametrize("mode", ["topk", "sample"])
def test_rsk_modes_that_change_the_function_say_by_how_much(checkpoints, tmp_path, mode):
    result = export(checkpoints["rsk"], "--format", "rsk", "-o", tmp_path, "--rsk", mode)
    assert result.exit_code == 0, result.stderr
    assert "drift from the mean" in result.stdout


def test_json_is_one_document(checkpoints, tmp_path):
    result = export(checkpoints["psconv"], "--format", "onnx,rsk", "-o", tmp_path, "--json")
    document = json.loads(result.stdout)
    assert [file["format"] for file in document["files"]] == ["onnx", "rsk"]
    assert all(file["verification"][which]["outputs"] for file in document["files"] for which in ("comparison", "runtime"))


def test_a_dry_run_writes_nothing_and_tells_the_same(checkpoints, tmp_path):
    arguments = [checkpoints["psconv"], "--format", "onnx,c", "-o", tmp_path / "new", "--dry-run"]
    result = export(*arguments)
    assert result.exit_code == 0
    assert f"would write {tmp_path / 'new' / 'psconv.onnx'}" in result.stdout
    assert result.stdout.count("against the model") == 3
    assert "✔" not in result.stdout
    assert "Next" not in result.stdout
    document = json.loads(export(*arguments, "--json").stdout)
    assert (document["files"], [file["format"] for file in document["planned"]]) == ([], ["onnx", "c"])
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("run", [[], ["--dry-run"]], ids=["real", "dry"])
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--max-flash", "1q"], "--max-flash 1q: write a number of bytes, as in 65536, 64k or 1M"),
        (["--max-flash", "3k"], "--max-flash 3k allows 3,072 bytes"),
        (["--name", "class"], "'class' is no name for a C function"),
        (["--dtype", "int8"], "--dtype int8 needs --sample"),
        (["--name", "other", "--force"], "holds an export named net"),
        ([], "exists already and is kept. Give --force"),
    ],
)
def test_a_dry_run_refuses_what_the_real_one_does(checkpoints, tmp_path, run, arguments, sentence):
    old = tmp_path / "psconv.csource"
    if not arguments or "--force" in arguments:
        old.mkdir()
        for name in ("net.c", "net.h", "rsk_conv.h"):
            (old / name).touch()
    before = left_in(tmp_path)
    result = export(checkpoints["psconv"], "--format", "c", "-o", tmp_path, "--no-verify", *arguments, *run)
    assert result.exit_code == 2, result.output
    assert sentence in result.stderr
    assert left_in(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--format", "onxx"], 2, "unknown export format 'onxx'"),
        (["--format", "rsk", "--nonsense"], 2, "No such option: --nonsense"),
        (["--format", "rsk", "--opset", "many"], 2, "--opset"),
        (["--format", "rsk", "--arch", "absent:net", "--input-shape", "1,3,16,16"], 2, "absent"),
        (["--format", "c", "--max-flash", "1"], 2, "bytes of flash"),
    ],
)
def test_a_refusal_is_a_document_where_one_was_asked_for(checkpoints, tmp_path, arguments, code, sentence):
    result = export(checkpoints["psconv"], "-o", tmp_path, "--json", *arguments)
    document = json.loads(result.stdout)
    assert (result.exit_code, document["exit"]) == (code, code)
    assert sentence in document["error"]
    assert result.stderr
    assert left_in(tmp_path) == []


def test_quiet_prints_nothing(checkpoints, tmp_path):
    result = export(checkpoints["psconv"], "--format", "rsk", "-o", tmp_path, "-q")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")


def test_a_sample_with_labels_gives_accuracy(checkpoints, tmp_path):
    np.savez(tmp_path / "sample.npz", input=np.random.default_rng(0).normal(size=(5, 3, 16, 16)), labels=np.arange(5))
    result = export(checkpoints["psconv"], "--format", "rsk", "-o", tmp_path / "out", "--sample", tmp_path / "sample.npz")
    assert result.exit_code == 0, result.stderr
    assert "accuracy" in result.stdout


@pytest.fixture
def wrong_converter(monkeypatch):
    """A converter that gets one weight wrong."""
    right = onnx_converter.write

    def write(graph, path, **options):
        import onnx

        right(graph, path, **options)
        model = onnx.load(path)
        bias = next(tensor for tensor in model.graph.initializer if tensor.name == "features.4.bias")
        bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(0.5), bias.name))
        onnx.save(model, path)

    monkeypatch.setattr(onnx_converter, "write", write)


@pytest.mark.usefixtures("wrong_converter")
def test_a_wrong_file_is_not_handed_out(checkpoints, tmp_path):
    result = export(checkpoints["psconv"], "--format", "onnx", "-o", tmp_path)
    assert result.exit_code == 3
    assert "The first layer that differs is features.4" in result.stderr
    assert left_in(tmp_path) == []


@pytest.mark.usefixtures("wrong_converter")
@pytest.mark.parametrize("formats", ["rsk,onnx", "onnx,rsk"])
def test_a_refusal_of_one_file_leaves_none_of_them(checkpoints, tmp_path, formats):
    out = tmp_path / "new" / "out"
    result = export(checkpoints["psconv"], "--format", formats, "-o", out)
    assert result.exit_code == 3
    assert f"Since {out / 'psconv.onnx'} is refused, {out / 'psconv.rsk'} is not written either" in result.stderr
    assert "✔" not in result.stdout
    assert left_in(tmp_path) == []


def test_a_refusal_of_one_file_replaces_none_of_them(checkpoints, tmp_path):
    (tmp_path / "psconv.rsk").write_text("the old one")
    (tmp_path / "psconv.csource").mkdir()
    (tmp_path / "psconv.csource" / "mine.c").write_text("mine")
    result = export(checkpoints["psconv"], "--format", "rsk,c", "-o", tmp_path, "--force")
    assert result.exit_code == 2
    assert "holds mine.c, which the new folder does not have" in result.stderr
    assert left_in(tmp_path) == ["mine.c", "psconv.csource", "psconv.rsk"]
    assert (tmp_path / "psconv.rsk").read_text() == "the old one"


def test_a_move_that_the_system_refuses_is_said_with_what_is_there(checkpoints, tmp_path, monkeypatch):
    replace = os.replace

    def refuse(source, target):
        if str(target).endswith(".onnx"):
            raise OSError(errno.EBUSY, "Device or resource busy", str(source), None, str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    result = export(checkpoints["psconv"], "--format", "onnx,rsk", "-o", tmp_path)
    assert result.exit_code == 2
    assert f"Written: {tmp_path / 'psconv.rsk'}; not written: {tmp_path / 'psconv.onnx'}" in result.stderr
    assert left_in(tmp_path) == ["psconv.rsk"]


def test_a_folder_that_was_there_stays(checkpoints, tmp_path):
    (tmp_path / "out").mkdir()
    assert export(checkpoints["psconv"], "--format", "c", "-o", tmp_path / "out" / "new", "--max-flash", "1k").exit_code != 0
    assert left_in(tmp_path) == ["out"]


@pytest.mark.usefixtures("wrong_converter")
def test_a_wrong_file_does_not_replace_a_good_one(checkpoints, tmp_path):
    (tmp_path / "psconv.onnx").write_text("the old one")
    result = export(checkpoints["psconv"], "--format", "onnx", "-o", tmp_path, "--force")
    assert result.exit_code == 3
    assert left_in(tmp_path) == ["psconv.onnx"]
    assert (tmp_path / "psconv.onnx").read_text() == "the old one"


def test_a_file_that_our_own_runtime_gets_wrong_is_not_handed_out(checkpoints, tmp_path, monkeypatch):
    right = rsk.Session.run
    monkeypatch.setattr(rsk.Session, "run", lambda session, inputs: {name: 1.01 * value for name, value in right(session, inputs).items()})
    result = export(checkpoints["psconv"], "--format", "rsk", "-o", tmp_path)
    assert result.exit_code == 3
    assert "something else than the model in rsk-deploy's runtime" in result.stderr
    assert left_in(tmp_path) == []


def test_a_file_that_our_own_runtime_cannot_run_is_handed_out_and_told(tmp_path):
    from onnx import TensorProto, helper, save

    shapes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("x", "y")]
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Hardmax", ["a"], ["y"], "hard")]
    opset = helper.make_opsetid("", 18)
    save(helper.make_model(helper.make_graph(nodes, "net", shapes[:1], shapes[1:]), opset_imports=[opset], ir_version=9), tmp_path / "net.onnx")
    result = export(tmp_path / "net.onnx", "--format", "onnx", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    reason = "hard: the runtime cannot execute the ONNX operation Hardmax"
    assert f"not run in rsk-deploy's runtime: {reason}" in result.stdout
    document = json.loads(export(tmp_path / "net.onnx", "--format", "onnx", "-o", tmp_path / "again", "--json").stdout)
    assert reason in document["files"][0]["verification"]["not_in_runtime"]


def test_an_existing_file_is_replaced_only_by_force(checkpoints, tmp_path):
    (tmp_path / "psconv.rsk").write_text("the old one")
    result = export(checkpoints["psconv"], "--format", "rsk", "-o", tmp_path)
    assert result.exit_code == 2
    assert "--force" in result.stderr
    assert (tmp_path / "psconv.rsk").read_text() == "the old one"
    assert export(checkpoints["psconv"], "--format", "rsk", "-o", tmp_path, "--force").exit_code == 0
    assert rsk.load(tmp_path / "psconv.rsk")


def test_the_model_itself_is_never_overwritten(checkpoints, tmp_path):
    assert export(checkpoints["psconv"], "--format", "onnx", "-o", tmp_path).exit_code == 0
    result = export(tmp_path / "psconv.onnx", "--format", "onnx", "-o", tmp_path, "--force")
    assert result.exit_code == 2
    assert "is the model itself" in result.stderr


USAGE = [
    (["--format", "onxx"], "Did you mean 'onnx'?"),
    (["--format", "ONNX"], "Did you mean 'onnx'?"),
    (["--format", "onnx", "--opset", "99"], f"to {HIGHEST}"),
    (["--format", "onnx", "--opset", "12"], f"to {LOWEST}"),
    (["--format", "rsk", "--opset", "18"], "--opset is an option of --format onnx"),
    (["--format", "rsk", "--input-type", "image"], "--input-type is an option of --format coreml"),
    (["--format", "coreml", "--target", "ios15"], "--target ios15 is none of --format coreml; there are"),
    (["--format", "coreml", "--input-type", "image"], "how pixels become inputs, and the model does not say"),
    (["--format", "rsk", "--weights", "patern"], "Did you mean 'pattern'?"),
    (["--format", "rsk", "--input-shape", "1,three"], "write positive numbers as in 1,3,32,32"),
    (["--format", "rsk", "--arch-args", "classes"], "write KEY=VALUE"),
    (["--format", "rsk", "--sample", "absent.npy"], "no such file"),
    (["--format", "rsk", "--input-shape", "1,4,16,16"], "4"),
    (["--format", "rsk", "--weights", "periodic"], "periodic"),
    (["--format", "rsk", "--rsk", "largest"], "topk"),
]


@pytest.mark.parametrize(("arguments", "sentence"), USAGE, ids=[" ".join(arguments) for arguments, _ in USAGE])
def test_a_wrong_request_is_a_sentence(checkpoints, tmp_path, arguments, sentence):
    result = export(checkpoints["psconv"], "-o", tmp_path, *arguments)
    assert result.exit_code == 2, result.output
    assert sentence in result.stderr
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "content", "code", "sentence"),
    [
        ("absent.pt", None, 2, "no such file"),
        ("empty.pt", b"", 5, "empty"),
        ("empty.onnx", b"", 5, "empty"),
        ("folder.pt/", None, 2, "is a folder"),
        ("model.xyz", b"x", 2, "no reader for '.xyz'"),
        ("noise.pt", b"noise" * 99, 5, "noise.pt"),
        ("noise.onnx", b"noise" * 99, 5, "noise.onnx"),
        ("noise.pt2", b"noise" * 99, 5, "noise.pt2"),
        ("noise.safetensors", b"noise" * 99, 5, "noise.safetensors"),
    ],
)
def test_a_file_that_is_no_model_is_a_sentence(tmp_path, name, content, code, sentence):
    if name.endswith("/"):
        (tmp_path / name).mkdir()
    elif content is not None:
        (tmp_path / name).write_bytes(content)
    result = export(tmp_path / name, "--format", "rsk", "-o", tmp_path / "out", "--arch", "cnn6", "--input-shape", "1,3,16,16")
    assert result.exit_code == code, result.output
    assert sentence in result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def test_a_truncated_checkpoint_is_a_sentence(checkpoints, tmp_path):
    path = tmp_path / "cut.pt"
    path.write_bytes(checkpoints["psconv"].read_bytes()[:-1000])
    result = export(path, "--format", "rsk", "-o", tmp_path / "out")
    assert result.exit_code == 5, result.output
    assert "cut.pt" in result.stderr


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("file", "/file is a file; choose another folder"),
        ("file/out", "/file/out: {}/file is a file; choose another folder"),
        ("/proc/out", "cannot make this folder"),
        ("a" * 300, "too long"),
    ],
)
def test_a_folder_that_cannot_be_made_is_a_sentence(onnx_model, tmp_path, place, sentence):
    (tmp_path / "file").touch()
    result = export(onnx_model, "--format", "rsk", "-o", tmp_path / place)
    assert result.exit_code == 2
    assert sentence.format(tmp_path) in result.stderr
    assert result.stderr.count("is a file") < 2


@pytest.mark.parametrize(("format", "name", "there"), [("rsk", "net.rsk", "a folder"), ("c", "net.csource", "a file")])
@pytest.mark.parametrize("force", [[], ["--force"]], ids=["kept", "forced"])
def test_a_folder_in_the_place_of_a_file_is_refused_before_the_model_is_read(onnx_model, tmp_path, format, name, there, force, monkeypatch):
    (tmp_path / name).mkdir() if there == "a folder" else (tmp_path / name).touch()
    monkeypatch.setattr("rsk_deploy.cli.export.read", None)
    result = export(onnx_model, "--format", format, "-o", tmp_path, *force)
    assert result.exit_code == 2
    assert f"{name}: is {there}, and " in result.stderr


def test_the_work_goes_on_when_the_reader_of_a_pipe_has_gone(onnx_model, tmp_path):
    read, write = os.pipe()
    os.close(read)
    result = subprocess.run([*COMMAND, onnx_model, "--format", "rsk", "-o", tmp_path], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (result.returncode, result.stderr) == (0, "")
    assert left_in(tmp_path) == ["net.rsk"]


@pytest.mark.parametrize("close", [{"stdout": 1}, {"stderr": 2}, {"stdin": 0, "stdout": 1, "stderr": 2}], ids=", ".join)
def test_a_command_works_without_standard_streams(onnx_model, tmp_path, close):
    arguments = [*COMMAND, onnx_model, "--format", "onnx", "-o", tmp_path]
    result = subprocess.run(arguments, preexec_fn=lambda: [os.close(number) for number in close.values()], check=False)
    assert result.returncode == 0
    assert left_in(tmp_path) == ["net.onnx"]


@pytest.mark.parametrize("arguments", [["--help"], []], ids=["help", "export"])
def test_what_an_encoding_lacks_is_a_question_mark(onnx_model, tmp_path, arguments):
    command = [*COMMAND, onnx_model, "--format", "rsk", "-o", tmp_path, *arguments]
    result = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "latin-1"}, check=False)
    assert result.returncode == 0, result.stderr
    assert b"?" in result.stdout


def test_output_that_cannot_be_printed_is_a_sentence(onnx_model, tmp_path):
    with open("/dev/full", "w") as full:
        arguments = [*COMMAND, onnx_model, "--format", "rsk", "-o", tmp_path]
        result = subprocess.run(arguments, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert result.returncode == 2
    assert "No space left" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_packed_file_is_a_model_too(checkpoints, tmp_path):
    assert export(checkpoints["psconv"], "--format", "rsk", "-o", tmp_path).exit_code == 0
    result = export(tmp_path / "psconv.rsk", "--format", "onnx", "-o", tmp_path)
    assert result.exit_code == 0, result.stderr
    assert not diff(rsk.load(tmp_path / "psconv.onnx"), rsk.load(tmp_path / "psconv.rsk"))


def test_one_encoding_for_all_leaves_weights_without_zeros_dense(onnx_model, tmp_path):
    result = export(onnx_model, "--format", "rsk", "-o", tmp_path, "--weights", "csr")
    assert result.exit_code == 0, result.stderr
    assert {layer.name: layer.weight.format for layer in rsk.load(tmp_path / "net.rsk").weighted()} == {
        **{f"features.{index}": "csr" for index in (0, 4, 8)},
        **{f"classifier.{index}": "dense" for index in (1, 4, 6)},
    }


def test_the_version_is_told():
    assert export("--version").stdout.startswith("rsk-deploy 0.")


def test_two_processes_write_the_same_bytes(checkpoints, tmp_path):
    for seed in ("1", "2"):
        arguments = [*COMMAND, checkpoints["psconv"], "--format", "onnx,rsk", "-o", tmp_path / seed, "-q"]
        subprocess.run(arguments, env=os.environ | {"PYTHONHASHSEED": seed}, check=True)
    for name in ("psconv.onnx", "psconv.rsk"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_the_batch_can_stay_open(checkpoints, tmp_path):
    result = export(checkpoints["psconv"], "--format", "onnx,rsk", "-o", tmp_path, "--dynamic", "batch")
    assert result.exit_code == 0, result.stderr
    x = {"x": np.random.default_rng(0).normal(size=(5, 3, 16, 16)).astype(np.float32)}
    graph = rsk.load(tmp_path / "psconv.rsk")
    assert graph.dynamic
    assert onnx_converter.runner(tmp_path / "psconv.onnx")({graph.inputs[0].name: x["x"]})[graph.outputs[0]].shape == (5, 10)


def test_half_is_smaller_and_still_verified(checkpoints, tmp_path):
    sizes = {}
    for flag in ("--half", "-q"):
        result = export(checkpoints["psconv"], "--format", "rsk,onnx", "-o", tmp_path / flag, flag)
        assert result.exit_code == 0, result.stderr
        sizes[flag] = (tmp_path / flag / "psconv.rsk").stat().st_size
    assert sizes["--half"] < 0.65 * sizes["-q"]


def test_the_options_that_shape_the_content_are_in_every_file(checkpoints, tmp_path):
    result = export(checkpoints["rsk"], "--format", "onnx,rsk", "-o", tmp_path, "--rsk", "sample", "--rsk-seed", 3, "--half", "--weights", "bitmask")
    assert result.exit_code == 0, result.stderr
    shaped = {"half": True, "rsk": "sample", "rsk_seed": 3, "weights": "bitmask"}
    assert store.read(tmp_path / "rsk.rsk").provenance["options"] == shaped
    assert store.read(tmp_path / "rsk.onnx").provenance["options"] == shaped
    again = rsk.pack(unpack(rsk.load(tmp_path / "rsk.rsk")))
    assert again.meta["options"] == {"rsk": "sample", "rsk_seed": 3}  # packed anew, with defaults


def test_defaults_are_not_recorded_as_options(onnx_model, tmp_path):
    assert export(onnx_model, "--format", "rsk", "-o", tmp_path).exit_code == 0
    assert store.read(tmp_path / "net.rsk").provenance["options"] == {}
