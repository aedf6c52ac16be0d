"""How torch modules are called, and what they give back: any inputs, any outputs, any precision, any pool."""

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rsk_deploy import reference
from rsk_deploy.errors import UnsupportedError, UsageError
from rsk_deploy.ir import Activation
from rsk_deploy.readers import ReadOptions, read

SHAPE = (1, 3, 8, 8)


class Calls(nn.Module):
    """A convolution, and what a function makes of it and of the inputs."""

    def __init__(self, compute: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.compute = nn.Conv2d(3, 3, 3, padding=1), compute

    def forward(self, *x):
        return self.compute(self.conv, *x)


def check(model, shapes=SHAPE, dynamic=False):
    source = read(model, ReadOptions(input_shape=shapes, dynamic_batch=dynamic))
    feeds = {entry.name: np.random.default_rng(0).standard_normal(entry.at(3)).astype(np.float32) for entry in source.graph.inputs}
    with torch.no_grad():
        given = model.eval().float()(*(torch.from_numpy(x) for x in feeds.values()))
    wanted = [leaf.detach().numpy() for leaf in torch.utils._pytree.tree_leaves(given)]
    run, found = source.run(feeds), reference.run(source.graph, feeds)
    assert list(run) == list(source.graph.outputs)
    for name, value in zip(source.graph.outputs, wanted, strict=True):
        np.testing.assert_allclose(run[name], value, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5)
    return source


def doubled(conv, x):
    y = conv(x)
    return y, y, y.relu()


OUTPUTS = {
    "an input": (lambda conv, x: (conv(x), x), ("output_0", "output_1"), 1),
    "an input twice": (lambda conv, x: (x, x), ("output_0", "output_1"), 2),
    "a value twice": (doubled, ("output_0", "output_1", "output_2"), 1),
    "a weight": (lambda conv, x: (conv(x), conv.weight), ("output_0", "output_1"), 0),
    "names of an input and a weight": (lambda conv, x: {"x_0": conv(x), "conv.bias": x + 1}, ("x_0_", "conv.bias_"), 0),
    "one name twice": (lambda conv, x: {"a": [conv(x)], "a_0": x + 1}, ("a_0", "a_0_"), 0),
    "names of inner values": (lambda conv, x: {"relu": conv(x).relu().exp(), "exp": x + 1}, ("relu", "exp"), 0),
}


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("dynamic", [False, True])
def test_a_module_gives_back_what_it_likes(name, dynamic):
    compute, names, copies = OUTPUTS[name]
    shape = SHAPE if dynamic else (3, *SHAPE[1:])
    source = check(Calls(compute), shape, dynamic)
    assert source.graph.outputs == names
    assert sum(isinstance(layer, Activation) and layer.kind == "identity" for layer in source.graph.layers) == copies


def test_a_module_that_does_nothing_is_read():
    source = check(nn.Identity(), (3, 4))
    assert [(layer.kind, layer.inputs, layer.outputs) for layer in source.graph.layers] == [("identity", ("input",), ("output",))]


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_module_takes_any_number_of_inputs(dynamic):
    shape = SHAPE if dynamic else (3, *SHAPE[1:])
    source = check(Calls(lambda conv, *x: conv(x[0]) + x[-1]), {"x_0": shape, "x_1": shape}, dynamic)
    assert [entry.name for entry in source.graph.inputs] == ["x_0", "x_1"]
    assert [entry.name for entry in check(Calls(lambda conv, *x: conv(x[0]) + x[-1]), shape, dynamic).graph.inputs] == ["x_0"]


POOLS = {
    "plain": nn.AvgPool2d(3, 2, 1),
    "ceil": nn.AvgPool2d(2, 3, ceil_mode=True),
    "divisor": nn.AvgPool2d(2, divisor_override=3),
    "divisor with pads": nn.AvgPool2d((2, 3), 1, padding=1, divisor_override=5, count_include_pad=False),
    "maximum in ceil mode": nn.MaxPool2d(2, 2, padding=1, ceil_mode=True),
}


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("size", [(10, 12), (5, 5)])
def test_pools_of_every_kind(name, size):
    check(POOLS[name], (3, 2, *size))


def test_a_divisor_in_three_dimensions():
    check(nn.AvgPool3d(2, divisor_override=3), (3, 2, 4, 4, 4))


def test_a_divisor_in_ceil_mode_is_refused_by_module():
    message = "aten.avg_pool2d in 1: average pooling with divisor_override=3 and ceil_mode=True is not read; leave one of them out"
    with pytest.raises(UnsupportedError, match=re.escape(message)):
        read(nn.Sequential(nn.ReLU(), nn.AvgPool2d(2, ceil_mode=True, divisor_override=3)), ReadOptions(input_shape=SHAPE))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float32])
def test_a_module_of_another_precision_is_read_in_float32_and_the_log_says_so(dtype):
    source = check(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Hardsigmoid()).to(dtype), (3, *SHAPE[1:]))
    details = [entry.detail for entry in source.graph.log if entry.action == "precision"]
    told = f"{str(dtype).removeprefix('torch.')} weights of the model are float32 in the graph, and in the model that it is compared with"
    assert details == ([] if dtype is torch.float32 else [told])
    assert not source.half


def test_a_half_precision_model_is_read_in_single():
    source = read(nn.Conv2d(3, 4, 3).half(), ReadOptions(input_shape=SHAPE))
    assert {layer.weight.values.dtype for layer in source.graph.weighted()} == {np.dtype(np.float32)}


def test_weights_of_a_state_dict_in_half_precision_are_told(tmp_path):
    torch.save({name: value.half() for name, value in nn.Conv2d(3, 4, 3).state_dict().items()}, tmp_path / "net.pt")
    options = ReadOptions(input_shape=SHAPE, arch="torch.nn:Conv2d", arch_args={"in_channels": 3, "out_channels": 4, "kernel_size": 3})
    assert [(entry.action, entry.detail[:7]) for entry in read(tmp_path / "net.pt", options).graph.log] == [("precision", "float16")]


def test_a_module_that_converts_to_half_precision_itself_computes_in_it():
    assert read(Calls(lambda conv, x: conv(x).half().float()), ReadOptions(input_shape=SHAPE)).half
    assert not read(Calls(lambda conv, x: conv(x)), ReadOptions(input_shape=SHAPE)).half


@pytest.mark.parametrize("mode", ["topk", "sample"])
def test_an_rsk_mode_for_a_model_without_random_kernels_is_refused(mode):
    with pytest.raises(UsageError, match=f"--rsk {mode}: the model has no random sparse layer"):
        read(nn.Conv2d(3, 4, 3), ReadOptions(input_shape=SHAPE, rsk_mode=mode))


class DependsOnData(nn.Module):
    """A branch on a value, of which torch prints the graph so far."""

    def forward(self, x):
        return x + 1 if x.sum() > 0 else -x


def test_reading_is_silent(capfd):
    read(Calls(lambda conv, x: conv(x)), ReadOptions(input_shape=SHAPE))
    with pytest.raises(UnsupportedError):
        read(DependsOnData(), ReadOptions(input_shape=SHAPE))
    assert capfd.readouterr() == ("", "")
