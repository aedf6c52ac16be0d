"""Checkpoints and state dicts: read through their architecture, refused with a sentence, and never run."""

import re
import sys

import numpy as np
import pytest
import torch
from hostile import torch_files as hostile
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import prune

from rsk_deploy import reference, zoo
from rsk_deploy.errors import CorruptFileError, UnsafeFileError, UnsupportedError, UsageError
from rsk_deploy.nn import CoverageWarning, PSConv2d, save_checkpoint
from rsk_deploy.readers import ReadOptions, read
from rsk_deploy.readers.torch.sparse import evaluation_copy

SHAPE = (1, 3, 16, 16)
ARGS = {"width": 0.125}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return zoo.build("cnn6", **ARGS).eval()


def options(**given):
    return ReadOptions(**{"arch": "cnn6", "arch_args": ARGS, "input_shape": SHAPE, **given})


def saved(path, content):
    (save_file if path.suffix == ".safetensors" else torch.save)(content, path)
    return path


def check(model, source, tolerance=1e-5):
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(x)).numpy()
    named = {source.graph.inputs[0].name: x}
    for outputs in (source.run(named), reference.run(source.graph, named)):
        np.testing.assert_allclose(outputs["output"], expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_a_state_dict_is_read_through_its_architecture(model, suffix, tmp_path):
    source = read(saved(tmp_path / f"net{suffix}", model.state_dict()), options())
    assert source.graph.meta == {"architecture": {"name": "cnn6", "args": ARGS}}
    check(model, source)


def test_a_checkpoint_of_ours_needs_no_option(checkpoints):
    source = read(checkpoints["rsk"], ReadOptions())
    assert source.graph.meta["labels"] == [str(digit) for digit in range(10)]
    assert source.graph.meta["architecture"]["name"] == "cnn6"
    assert source.graph.inputs[0].shape == SHAPE
    assert [entry.action for entry in source.graph.log].count("rsk") == 1


def test_a_checkpoint_of_somebody_elses_code_is_built_only_when_named(tmp_path, monkeypatch):
    marker = tmp_path / "marker"
    (tmp_path / "my_net_module.py").write_text(f"import pathlib, torch\npathlib.Path({str(marker)!r}).touch()\ndef make(): return torch.nn.Conv2d(3, 4, 3)\n")
    save_checkpoint(nn.Conv2d(3, 4, 3), tmp_path / "net.pt", input_shape=SHAPE, architecture=("my_net_module:make", {}))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnsafeFileError, match=r"'my_net_module:make', which is code outside rsk-deploy; name it yourself if you trust it: --arch"):
        read(tmp_path / "net.pt", ReadOptions())
    assert not marker.exists()
    path = list(sys.path)
    assert read(tmp_path / "net.pt", ReadOptions(arch="my_net_module:make")).graph.outputs == ("output",)
    assert marker.exists()
    assert sys.path == path


def test_masks_that_the_file_replaces_are_drawn_without_a_warning(tmp_path, monkeypatch):
    (tmp_path / "my_thin_net.py").write_text("from rsk_deploy.nn import PSConv2d\ndef make(): return PSConv2d(1, 4, 3)\n")
    with pytest.warns(CoverageWarning):
        save_file(PSConv2d(1, 4, 3).state_dict(), tmp_path / "net.safetensors")
    monkeypatch.chdir(tmp_path)
    assert read(tmp_path / "net.safetensors", ReadOptions(arch="my_thin_net:make", input_shape=(1, 1, 8, 8))).graph.outputs == ("output",)


def test_a_network_that_was_made_from_a_file_is_not_held_twice(model):
    copy = evaluation_copy(model, ours=True)
    assert all(ours.data_ptr() == own.data_ptr() for ours, own in zip(copy.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize("given", [{"arch": "my_wide_net:make"}, {"allow_pickle": True}])
def test_a_checkpoint_of_somebody_elses_code_needs_its_name_and_not_its_arguments(given, tmp_path, monkeypatch):
    (tmp_path / "my_wide_net.py").write_text("import torch\ndef make(width=8): return torch.nn.Conv2d(3, width, 3)\n")
    save_checkpoint(nn.Conv2d(3, 5, 3), tmp_path / "net.pt", input_shape=SHAPE, architecture=("my_wide_net:make", {"width": 5}))
    monkeypatch.chdir(tmp_path)
    source = read(tmp_path / "net.pt", ReadOptions(**given))
    assert source.graph.shapes()["output"] == (1, 5, 14, 14)
    assert source.graph.meta["architecture"] == {"name": "my_wide_net:make", "args": {"width": 5}}


def test_an_argument_given_beside_a_checkpoint_is_heard(checkpoints):
    with pytest.raises(UsageError, match=r"cnn6 takes no argument 'widht'; .*Did you mean 'width'"):
        read(checkpoints["rsk"], ReadOptions(arch_args={"widht": 2}))
    with pytest.raises(UsageError, match=r"in the state dict and float32 .*do the architecture's arguments agree"):
        read(checkpoints["rsk"], ReadOptions(arch_args={"width": 2}))


def test_a_checkpoint_of_a_pruned_network_needs_no_option(tmp_path):
    torch.manual_seed(0)
    model = zoo.build("cnn6", **ARGS).eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            prune.l1_unstructured(module, "weight", amount=0.5)
    save_checkpoint(model, tmp_path / "net.pt", input_shape=SHAPE)
    source = read(tmp_path / "net.pt", ReadOptions())
    assert "pruning" in {entry.action for entry in source.graph.log}
    check(model, source)


NESTED = {
    "nested": (lambda state: {"epoch": 3, "model_state_dict": state}, ["taken from 'model_state_dict'"]),
    "nested twice": (lambda state: {"state": {"state_dict": state}}, ["taken from 'state'", "taken from 'state_dict'"]),
    "parallel": (lambda state: {f"module.{name}": value for name, value in state.items()}, ["prefix 'module.' taken off 32 names"]),
    "compiled in Lightning": (
        lambda state: {"state_dict": {f"model._orig_mod.{name}": value for name, value in state.items()}},
        ["taken from 'state_dict'", "prefix 'model.' taken off 32 names", "prefix '_orig_mod.' taken off 32 names"],
    ),
}


@pytest.mark.parametrize("name", NESTED)
def test_what_wraps_a_state_dict_is_taken_off_and_logged(model, name, tmp_path):
    wrap, said = NESTED[name]
    source = read(saved(tmp_path / "net.pt", wrap(model.state_dict())), options())
    details = [entry.detail for entry in source.graph.log if entry.action == "state dict"]
    assert [re.sub(r"\d+ names", "32 names", detail) for detail in details] == said
    check(model, source)


def test_pruned_weights_go_into_the_plain_architecture(tmp_path):
    torch.manual_seed(0)
    model = zoo.build("cnn6", **ARGS).eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            prune.random_unstructured(module, "weight", amount=0.5)
    source = read(saved(tmp_path / "net.pt", model.state_dict()), options())
    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    said = [entry.detail.partition(":")[0] for entry in source.graph.log if entry.action == "pruning"]
    assert said == ["weight multiplied by its mask"] * len(convs)
    check(model, source)


def test_a_whole_module_is_read_only_with_leave(model, tmp_path):
    path = saved(tmp_path / "net.pt", nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    with pytest.raises(UnsafeFileError, match=r"its pickle calls .*modules.conv.Conv2d.*save_checkpoint.*--allow-pickle"):
        read(path, ReadOptions(input_shape=SHAPE))
    assert [layer.name for layer in read(path, ReadOptions(input_shape=SHAPE, allow_pickle=True)).graph.weighted()] == ["0"]


@pytest.mark.parametrize("name", hostile.UNSAFE)
def test_a_file_with_code_in_it_is_refused_and_not_run(name, tmp_path):
    marker = tmp_path / "marker"
    (tmp_path / "bad.pt").write_bytes(hostile.UNSAFE[name](marker))
    with pytest.raises(UnsafeFileError, match=r"bad.pt: would run code when opened: its pickle calls .*(pathlib.Path|ReLU).*save_checkpoint"):
        read(tmp_path / "bad.pt", options())
    assert not marker.exists()


@pytest.mark.parametrize("name", hostile.CORRUPT)
def test_a_broken_file_is_refused(model, name, tmp_path):
    good = saved(tmp_path / "good.pt", {"weight": torch.arange(37.0), **model.state_dict()}).read_bytes()
    (tmp_path / "bad.pt").write_bytes(hostile.CORRUPT[name](good))
    with pytest.raises(CorruptFileError, match=r"bad.pt: (is|starts|claims|stores|cannot be read) .*(bytes|\d|torch.save)") as caught:
        read(tmp_path / "bad.pt", options())
    assert not isinstance(caught.value, UnsafeFileError)
    assert "weights_only" not in str(caught.value)  # torch's advice to open the file as code


@pytest.mark.parametrize("damage", [lambda data: data[:4], lambda data: data[:-5], lambda data: b"\xff" * 8 + data[8:], lambda data: b"{}" * 20])
def test_a_broken_safetensors_file_is_refused(model, damage, tmp_path):
    path = saved(tmp_path / "net.safetensors", model.state_dict())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CorruptFileError, match=r"net.safetensors: is no valid safetensors file \(\d+ bytes\): "):
        read(path, options())


def test_torchscript_is_refused_with_how_to_save(tmp_path):
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.save(torch.jit.trace(nn.ReLU(), torch.ones(1)), tmp_path / "net.pt")
    with pytest.raises(UnsupportedError, match=r"net.pt: is TorchScript .*torch.export.save\("):
        read(tmp_path / "net.pt", options())


def renamed(state, old, new):
    return {name.replace(old, new): value for name, value in state.items()}


def without(state, part):
    return {name: value for name, value in state.items() if part not in name}


def infinite(state):
    return {name: value / 0 if value.is_floating_point() else value for name, value in state.items()}


BAD_KERNEL = {"in_channels": 3, "out_channels": 4, "kernel_size": "x"}
REFUSED = {
    "no architecture": ({"arch": None}, None, UsageError, "holds weights and not the network; name it with --arch: one of cnn6, .* or module:callable"),
    "unknown architecture": ({"arch": "cnn7"}, None, UsageError, "unknown architecture 'cnn7'; .*Did you mean 'cnn6'"),
    "no such module": ({"arch": "no_such:net"}, None, UsageError, "'no_such:net' does not name a callable as module:callable: No module named"),
    "wrong argument": ({"arch_args": {"depth": 3}}, None, UsageError, "cnn6 .*'depth'"),
    "callable that raises": ({"arch": "torch.nn:Conv2d", "arch_args": BAD_KERNEL}, None, UsageError, "Conv2d with .*'kernel_size': 'x'.* raised TypeError"),
    "missing weight": ({}, lambda state: without(state, "1.weight"), UsageError, "the state dict lacks '.*weight'"),
    "another name": ({}, lambda state: renamed(state, "classifier", "clasifier"), UsageError, "lacks 'classifier.*; the nearest is 'clasifier"),
    "another width": ({"arch_args": {"width": 0.25}}, None, UsageError, r"is float32 \(.*\) in the state dict and float32 \(.*\) in the"),
    "not a number": ({}, infinite, CorruptFileError, r"weight holds \d+ values of \d+ that are NaN or infinite"),
    "no tensors": ({}, lambda state: {"epoch": 3}, UsageError, "holds a dict with 'epoch'; expected a state dict"),
    "sparse tensor": ({}, lambda state: {**state, "x": torch.eye(3).to_sparse()}, UsageError, "x is a torch.sparse_coo tensor of torch.float32; the weights"),
    "number for a tensor": ({}, lambda state: {**state, "x": 3}, UsageError, "x is a int; the weights of a state dict are plain dense tensors"),
    "a list": ({}, lambda state: [1, 2], UsageError, "holds a list; expected a state dict"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_state_dict_that_does_not_fit_is_refused(model, name, tmp_path):
    given, change, error, message = REFUSED[name]
    state = model.state_dict()
    path = saved(tmp_path / "net.pt", change(state) if change else state)
    with pytest.raises(error, match=f"net.pt: .*{message}"):
        read(path, options(**given))


SPARSE = {**ARGS, "conv": "psconv"}


@pytest.mark.parametrize(
    ("held", "built", "said"),
    [(SPARSE, ARGS, "has .* more, .* with masks is of sparse layers: .*conv=psconv"), (ARGS, SPARSE, "lacks .* more, .* without masks is of dense layers")],
)
def test_weights_of_sparse_and_of_dense_layers_are_told_apart(held, built, said, tmp_path):
    path = saved(tmp_path / "net.pt", zoo.build("cnn6", **held).state_dict())
    with pytest.raises(UsageError, match=said):
        read(path, options(arch_args=built))


def test_a_mask_without_its_weight_is_refused(model, tmp_path):
    state = model.state_dict()
    name = next(name for name in state if name.endswith("weight"))
    state[f"{name}_orig"] = state.pop(name)
    with pytest.raises(CorruptFileError, match=rf"{name}_orig has no {name}_mask beside it"):
        read(saved(tmp_path / "net.pt", state), options())
    state[f"{name}_mask"] = torch.ones(1)
    with pytest.raises(CorruptFileError, match=rf"{name}_mask has shape \(1,\), its weight "):
        read(saved(tmp_path / "net.pt", state), options())
    state[f"{name}_mask"] = torch.full_like(state[f"{name}_orig"], 0.5)
    with pytest.raises(CorruptFileError, match=rf"{name}_mask holds \d+ values that are neither 0 nor 1"):
        read(saved(tmp_path / "net.pt", state), options())


def test_a_program_is_recognised_by_its_content(tmp_path):
    torch.export.save(torch.export.export(nn.Conv2d(3, 4, 3), (torch.ones(SHAPE),)), tmp_path / "net.pt2")
    (tmp_path / "net.pt2").rename(tmp_path / "net.pt")
    assert read(tmp_path / "net.pt", ReadOptions()).graph.outputs == ("output",)
    with pytest.raises(UsageError, match=r"net.pt: --rsk changes nothing here: an exported program is a network without training-time layers"):
        read(tmp_path / "net.pt", ReadOptions(rsk_mode="topk"))


def test_an_architecture_beside_a_whole_module_is_refused(tmp_path):
    path = saved(tmp_path / "net.pt", nn.Sequential(nn.Conv2d(3, 4, 3)))
    with pytest.raises(UsageError, match=r"net.pt: --arch changes nothing here: the file holds a whole network"):
        read(path, options(allow_pickle=True))
