import subprocess
import sys

import pytest
import torch
from networks import SPARSE
from torch import nn

from rsk_deploy import zoo
from rsk_deploy.errors import CorruptFileError, RskError, UnsafeFileError, UsageError
from rsk_deploy.nn import load_checkpoint, load_state, save_checkpoint, sparsify
from rsk_deploy.nn.checkpoint import parse_checkpoint

SHAPE = (1, 3, 16, 16)


def small(**args):
    return zoo.build("cnn6", width=0.125, **args).eval()


def outside(channels, bias=True):
    """An architecture outside the zoo."""
    return nn.Sequential(nn.Conv2d(3, channels, 3, bias=bias))


def content(**changes):
    """What a sound file holds, with changes."""
    sound = {
        "rsk_checkpoint": 1,
        "architecture": {"name": "cnn6", "args": {"width": 0.125}},
        "input_shape": [1, 3, 16, 16],
        "labels": None,
        "preprocessing": {},
        "state": dict(small().state_dict()),
    }
    return {**sound, **changes}


@pytest.mark.parametrize("name", ["psconv-regular", "psconv-periodic", "psconv-lfsr", "skeleton", "rsk-residual"])
def test_a_sparse_network_comes_back_whole(name, tmp_path):
    build, shape = SPARSE[name]
    model = build()
    save_checkpoint(model, tmp_path / "net.pt", input_shape=shape, labels=["cat", "dog"], preprocessing={"scale": 1 / 16, "mean": [0.5]})
    checkpoint = load_checkpoint(tmp_path / "net.pt")
    assert (checkpoint.input_shape, checkpoint.labels, checkpoint.preprocessing) == (shape, ("cat", "dog"), {"scale": 1 / 16, "mean": [0.5]})
    again = checkpoint.model()
    x = torch.randn(shape)
    assert not again.training
    assert torch.equal(again(x), model(x))
    assert [getattr(module, "declared", None) for module in again.modules()] == [getattr(module, "declared", None) for module in model.modules()]
    assert again.rsk_architecture == model.rsk_architecture


def test_the_file_loads_without_running_code_and_says_what_it_is(tmp_path):
    save_checkpoint(small(), tmp_path / "net.pt", input_shape=SHAPE)
    loaded = torch.load(tmp_path / "net.pt", weights_only=True)
    assert {name: value for name, value in loaded.items() if name != "state"} == {
        "rsk_checkpoint": 1,
        "architecture": {"name": "cnn6", "args": {"width": 0.125}},
        "input_shape": [1, 3, 16, 16],
        "labels": None,
        "preprocessing": {},
    }


def test_several_inputs_have_a_shape_each(tmp_path):
    shapes = {"image": (1, 3, 16, 16), "meta": (1, 5)}
    save_checkpoint(small(), tmp_path / "net.pt", input_shape=shapes)
    assert load_checkpoint(tmp_path / "net.pt").input_shape == shapes


def test_a_net_whose_stem_cannot_be_covered_loads_without_a_warning(tmp_path):
    with pytest.warns(UserWarning, match="reach at most 6 of the 9"):
        model = small(conv="psconv", conv_args={"taps_per_kernel": 2})
    save_checkpoint(model, tmp_path / "net.pt", input_shape=SHAPE)
    load_checkpoint(tmp_path / "net.pt").model()


def test_the_same_network_gives_the_same_bytes_under_any_name(tmp_path):
    model = small()
    for name in ("a.pt", "another.pth"):
        save_checkpoint(model, tmp_path / name, input_shape=SHAPE)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "another.pth").read_bytes()


def test_a_failed_save_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch):
    save_checkpoint(small(), tmp_path / "net.pt", input_shape=SHAPE)
    old = (tmp_path / "net.pt").read_bytes()

    def breaks(content, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", breaks)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(small(), tmp_path / "net.pt", input_shape=SHAPE)
    assert [path.name for path in tmp_path.iterdir()] == ["net.pt"]
    assert (tmp_path / "net.pt").read_bytes() == old


def test_a_model_that_cannot_say_how_it_is_built_is_refused_with_how_to_say_it(tmp_path):
    with pytest.raises(UsageError, match=r"the Sequential does not say how to build it; pass architecture=\('module:callable'"):
        save_checkpoint(outside(4), tmp_path / "net.pt", input_shape=SHAPE)
    twice = sparsify(small(conv="rsk"), "skeleton")
    with pytest.raises(UsageError, match=r"one call of rsk_deploy.nn.sparsify"):
        save_checkpoint(twice, tmp_path / "net.pt", input_shape=SHAPE)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"input_shape": (1, -3)}, "input_shape"),
        ({"input_shape": ()}, "input_shape"),
        ({"preprocessing": {"mean": float("nan")}}, "preprocessing is .*JSON"),
        ({"architecture": ("cnn6", {"width": object()})}, "architecture is .*JSON"),
    ],
)
def test_what_a_file_cannot_hold_is_refused_on_saving(wrong, message, tmp_path):
    with pytest.raises(RskError, match=message):
        save_checkpoint(small(), tmp_path / "net.pt", **{"input_shape": SHAPE, **wrong})
    assert not list(tmp_path.iterdir())


def test_an_architecture_outside_the_zoo_needs_the_callers_trust(tmp_path):
    model = outside(4, bias=False)
    save_checkpoint(model, tmp_path / "net.pt", input_shape=SHAPE, architecture=(f"{__name__}:outside", {"channels": 4, "bias": False}))
    checkpoint = load_checkpoint(tmp_path / "net.pt")
    with pytest.raises(UnsafeFileError, match=r"outside'.*code outside rsk-deploy; name it yourself if you trust it: --arch module:callable, .*trusted=True"):
        checkpoint.model()
    x = torch.randn(SHAPE)
    assert torch.equal(checkpoint.model(trusted=True)(x), model(x))


def test_a_file_cannot_have_a_callable_run(tmp_path):
    touched = tmp_path / "touched"
    checkpoint = parse_checkpoint(content(architecture={"name": "os:system", "args": {"command": f"touch {touched}"}}))
    with pytest.raises(UnsafeFileError):
        checkpoint.model()
    assert not touched.exists()


ENDLESS: list = []
ENDLESS.extend([ENDLESS, ENDLESS])
DEEP: list = []
for _ in range(100_000):
    DEEP = [DEEP]
HUGE = torch.zeros(1).expand(1 << 20, 1 << 20)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "cnn6"}, r"architecture is 'cnn6'; it should be a name and arguments"),
        ({"architecture": {"name": "cnn6", "args": {"width": ENDLESS}}}, "architecture is"),
        ({"architecture": {"name": "cnn6", "args": {"width": DEEP}}}, "architecture is"),
        ({"architecture": {"name": "cnn6", "args": {1: 2}}}, "architecture is"),
        ({"input_shape": [1, 3, "16"]}, "input_shape is .*positive sizes"),
        ({"input_shape": None}, "input_shape is None"),
        ({"labels": ["a", 3]}, "labels is .*a list of names"),
        ({"preprocessing": {"mean": float("inf")}}, "preprocessing is .*JSON"),
        ({"state": {"weight": [1, 2]}}, "state is .*stored whole"),
        ({"state": {"weight": HUGE}}, "state is .*stored whole"),
        ({"state": {str(name): HUGE[0, :1] for name in range(20)}}, "state is .*stored whole"),
        ({"state": {"weight": torch.zeros(2).to_sparse()}}, "state is"),
        ({"state": None}, "state is None"),
    ],
)
def test_a_file_that_contradicts_the_form_is_refused(changes, message):
    with pytest.raises(CorruptFileError, match=message):
        parse_checkpoint(content(**changes))


def test_other_content_is_refused_with_what_to_do():
    with pytest.raises(UsageError, match=r"not a self-describing checkpoint: save it with rsk_deploy.nn.save_checkpoint, or say with --arch"):
        parse_checkpoint(small().state_dict())
    for version in (2, "1", torch.ones(3)):
        with pytest.raises(UsageError, match=r"version .*; this rsk-deploy reads version 1"):
            parse_checkpoint(content(rsk_checkpoint=version))


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ({"name": "cnn7", "args": {}}, "unknown architecture 'cnn7'; .*Did you mean 'cnn6'"),
        ({"name": "cnn6", "args": {"widht": 1}}, "cnn6 takes no argument 'widht'; it takes .*width.*Did you mean 'width'"),
        ({"name": "cnn6", "args": {"width": 1e9}}, r"width is 1000000000.0; .*at most 16"),
        ({"name": "cnn6", "args": {"width": "much"}}, "cnn6 with .*raised TypeError"),
        ({"name": "cnn6", "args": {"classes": 10**30}}, "cnn6 with .*raised"),
        ({"name": "cnn6", "args": {"name": "resnet18"}}, "cnn6 takes no argument 'name'"),
        ({"name": "cnn6", "args": {"conv": ["rsk"]}}, r"cnn6 with conv=\['rsk'\] and {} raised TypeError"),
        ({"name": "cnn6", "args": {"conv": "rsk", "conv_args": {"layer": "psconv"}}}, "cnn6 with conv='rsk' and .*raised TypeError"),
        ({"name": "cnn6", "args": {"conv": "psconv", "conv_args": {"seed": "x"}}}, "cnn6 with conv='psconv' and .*raised TypeError"),
        ({"name": "cnn6", "args": {"conv": "rsk", "conv_args": {"p": 7}}}, "features.8: p is 7"),
        (
            {"name": "cnn6", "args": {"classes": 10**12, "width": 0.125}},
            r"classifier.6.weight is float32 \(10, 32\) in the state dict and float32 \(1000000000000, 32\)",
        ),
        ({"name": "resnet18", "args": {"width": 0.125}}, "the state dict lacks 'conv1.weight' and .* more"),
        ({"name": "densenet201", "args": {"blocks": [10**9]}}, "blocks are .*1 to 8 stages of 1 to 64 blocks"),
    ],
)
def test_an_architecture_that_does_not_fit_the_weights_is_refused_without_taking_its_memory(architecture, message):
    with pytest.raises(UsageError, match=message):
        parse_checkpoint(content(architecture=architecture)).model()


def test_a_renamed_weight_is_told_with_the_nearest_name():
    state = small().state_dict()
    state["features.0.wieght"] = state.pop("features.0.weight")
    with pytest.raises(UsageError, match=r"lacks 'features.0.weight', which the Plain has; the nearest is 'features.0.wieght'"):
        load_state(small(), state)
    state["features.0.weight"] = state["features.0.wieght"]
    with pytest.raises(UsageError, match=r"has 'features.0.wieght', which the Plain lacks$"):
        load_state(small(), state)


def test_masks_without_sparse_layers_say_how_to_build_them():
    state = small().state_dict()
    state["features.0.mask"] = state["features.0.weight"] != 0
    with pytest.raises(UsageError, match=r"has 'features.0.mask', which the Plain lacks\. .*--arch-args conv=psconv"):
        load_state(small(), state)


def test_a_value_that_is_no_tensor_is_told_by_name():
    with pytest.raises(UsageError, match=r"features.0.bias is a str in the state dict and float32 \(8,\) in the Plain"):
        load_state(small(), {**small().state_dict(), "features.0.bias": "zeros"})


@pytest.mark.parametrize(
    ("bytes_", "message"), [(b"", "is no torch file"), (b"PK\x03\x04 no zip", "starts like a zip archive and is none"), (b"\x80\x02}q\x00.", "cannot be read")]
)
def test_a_file_that_is_no_checkpoint_is_refused_by_name(bytes_, message, tmp_path):
    path = tmp_path / "net.pt"
    path.write_bytes(bytes_)
    with pytest.raises(RskError, match=rf"net.pt: .*{message}"):
        load_checkpoint(path)


def test_a_truncated_checkpoint_is_refused_at_every_length(tmp_path):
    path = tmp_path / "net.pt"
    save_checkpoint(small(), path, input_shape=SHAPE)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, len(whole) // 25):
        path.write_bytes(whole[:length])
        with pytest.raises(RskError, match=r"net\.pt"):
            load_checkpoint(path)


def test_a_pickled_module_is_refused(tmp_path):
    torch.save(small(), tmp_path / "net.pt")
    with pytest.raises(UnsafeFileError, match=r"net.pt: would run code when opened"):
        load_checkpoint(tmp_path / "net.pt")


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(UsageError, match=r"net.pt: no such file"):
        load_checkpoint(tmp_path / "net.pt")


@pytest.mark.parametrize("module", ["rsk_deploy.nn", "rsk_deploy.zoo"])
def test_without_torch_the_error_says_how_to_get_it(module):
    program = f"""
import sys
sys.modules["torch"] = None
from rsk_deploy.errors import MissingExtraError
try:
    import {module}
except MissingExtraError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said == f'{module} needs torch, which is not installed. Run: pip install "rsk-deploy[torch]"\n'
