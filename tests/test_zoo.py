import inspect

import pytest
import torch
from networks import DENSE, NETWORKS, SPARSE
from torch import nn

from rsk_deploy import zoo
from rsk_deploy.errors import UsageError
from rsk_deploy.nn import PSConv2d, RSKConv2d, SkeletonConv2d
from rsk_deploy.zoo.count import count

LIKE_TORCHVISION = {  # name: (arguments, parameters and 10⁹ multiply-accumulates at 224 (Inception at 299) that torchvision's model pages state)
    "alexnet": ({}, 61_100_840, 0.714),
    "resnet18": ({"stem": "imagenet"}, 11_689_512, 1.814),
    "resnet34": ({"stem": "imagenet"}, 21_797_672, 3.664),
    "resnet50": ({"stem": "imagenet"}, 25_557_032, 4.089),
    "densenet201": ({"stem": "imagenet"}, 20_013_928, 4.291),
    "mobilenetv2": ({"stem": "imagenet"}, 3_504_872, 0.301),
    "mobilenetv3": ({}, 5_483_032, 0.217),
    "efficientnet-b0": ({}, 5_288_548, 0.386),
    "shufflenetv2": ({}, 2_278_604, 0.145),
    "regnet": ({}, 5_495_976, 0.414),
    "convnext-tiny": ({}, 28_589_128, 4.456),
}


def arguments(name):
    return inspect.signature(getattr(__import__(zoo.ARCHITECTURES[name].split(":")[0], fromlist=["_"]), zoo.ARCHITECTURES[name].split(":")[1])).parameters


@pytest.mark.parametrize("name", LIKE_TORCHVISION)
def test_a_network_is_the_published_one(name):
    args, parameters, giga = LIKE_TORCHVISION[name]
    with torch.device("meta"):
        model = zoo.build(name, classes=1000, **args)
    counted, macs = count(model, (1, 3, 224, 224))
    assert counted == parameters
    assert round(macs / 1e9, 3) == giga


@pytest.mark.parametrize("name", zoo.ARCHITECTURES)
def test_every_builder_takes_classes_channels_and_width_and_is_described(name):
    assert list(arguments(name))[:3] == ["classes", "in_channels", "width"]
    args = {"classes": 7, "in_channels": 2, "width": 0.25}
    with torch.device("meta"):
        model = zoo.build(name, **args).eval()
        out = model(torch.empty(2, 2, 64, 64))
    assert out.shape[:2] == (2, 7)
    assert model.rsk_architecture == {"name": name, "args": args}
    assert model.get_parameter(next(iter(model.state_dict()))).shape[1] == 2


@pytest.mark.parametrize("name", zoo.ARCHITECTURES)
def test_the_width_scales_the_channels(name):
    with torch.device("meta"):
        counts = [sum(parameter.numel() for parameter in zoo.build(name, width=width).parameters()) for width in (0.5, 1, 2)]
    assert counts[0] < 0.7 * counts[1] < 0.5 * counts[2]


@pytest.mark.parametrize(("conv", "kind"), [("rsk", RSKConv2d), ("psconv", PSConv2d), ("skeleton", SkeletonConv2d)])
def test_conv_chooses_the_sparse_layer_and_the_description_keeps_it(conv, kind):
    model = zoo.build("resnet18", width=0.125, conv=conv)
    assert any(isinstance(module, kind) for module in model.modules())
    assert model.rsk_architecture["args"]["conv"] == conv


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: zoo.build("resnet81"), r"unknown architecture 'resnet81'; .*Did you mean 'resnet18'"),
        (lambda: zoo.build("resnet18", widths=2), r"resnet18 takes no argument 'widths'; it takes classes=10, .*, conv_args. Did you mean 'width'\?$"),
        (lambda: zoo.build("resnet18", cnv="rsk"), "resnet18 takes no argument 'cnv'; .*Did you mean 'conv'"),
        (lambda: zoo.construct("torch.nn:Linear", {"in_features": 3}), "Linear needs the argument 'out_features'; it takes in_features, out_features, bias"),
        (lambda: zoo.build("resnet18", width=0), r"width is 0; the factor on the channels is above 0 and at most 16"),
        (lambda: zoo.build("resnet18", width=float("nan")), "width is nan"),
        (lambda: zoo.build("resnet18", stem="tiny"), "unknown stem 'tiny'; .*cifar, imagenet"),
        (lambda: zoo.build("densenet201", stem="tiny"), "unknown stem 'tiny'; .*cifar, imagenet"),
        (lambda: zoo.build("mobilenetv2", stem="tiny"), "unknown stem 'tiny'; .*cifar, imagenet"),
        (lambda: zoo.build("unet", up="stairs"), "unknown way up 'stairs'; .*transposed, nearest, bilinear"),
        (lambda: zoo.build("densenet201", blocks=[]), "1 to 8 stages"),
        (lambda: zoo.build("convnext-tiny", blocks=[1, 2]), "convnext_tiny with .*raised ValueError"),
        (lambda: zoo.build("resnet18", conv="sparse"), "unknown sparse layer 'sparse'"),
        (lambda: zoo.build("resnet18", conv_args={"taps_per_kernel": 4}), "conv_args .* go with conv='rsk', 'psconv' or 'skeleton'"),
        (lambda: zoo.construct("no_such_module:net"), "'no_such_module:net' does not name a callable as module:callable"),
        (lambda: zoo.construct("torch.nn:Lineal"), "does not name a callable"),
        (lambda: zoo.construct("torch.nn"), "does not name a callable"),
        (lambda: zoo.construct("math:pi"), "does not name a callable"),
        (lambda: zoo.construct("os:getcwd"), "gave a value of type str, not a torch.nn.Module"),
    ],
)
def test_a_wrong_request_is_a_sentence(call, message):
    with pytest.raises(UsageError, match=message):
        call()


def test_a_module_outside_the_zoo_is_constructed_by_name():
    model = zoo.construct("torch.nn:Linear", {"in_features": 3, "out_features": 2})
    assert isinstance(model, nn.Linear)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_small_network_is_repeatable_and_computes_something(name):
    build, shape = NETWORKS[name]
    one, two = build(), build()
    assert not one.training
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        outputs = [model(x) for model in (one, two)]
    for first, second in zip(*((output,) if isinstance(output, torch.Tensor) else output for output in outputs), strict=True):
        assert torch.equal(first, second)
        assert 0.01 < first.std() < 100
        assert first.isfinite().all()


def test_the_small_networks_cover_the_zoo():
    named = {build().rsk_architecture["name"] for build, _ in DENSE.values() if hasattr(build(), "rsk_architecture")}
    assert named == set(zoo.ARCHITECTURES) - {"resnet34"}  # the deeper resnet18


def test_the_sparse_networks_have_zeros_where_they_say():
    for name, (build, _) in SPARSE.items():
        masked = [module for module in build().modules() if isinstance(module, PSConv2d)]
        assert all(not module.weight[~module.mask].any() for module in masked)
        assert bool(masked) == name.startswith(("psconv", "skeleton"))
