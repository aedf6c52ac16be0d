import pytest
import torch
from torch import nn

from rsk_deploy import zoo
from rsk_deploy.errors import UsageError
from rsk_deploy.nn import PSConv2d, RSKConv2d, SkeletonConv2d, sparsify


def swapped(model, kind):
    return [name for name, module in model.named_modules() if isinstance(module, kind)]


def resnet():
    torch.manual_seed(0)
    return zoo.build("resnet18", width=0.125)


def test_fixed_masks_go_into_every_3x3_convolution_and_no_other():
    model = sparsify(resnet(), "psconv", taps_per_kernel=4)
    expected = [name for name, module in resnet().named_modules() if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)]
    assert swapped(model, PSConv2d) == expected
    assert len(expected) == 17
    assert "conv1" in expected


def test_a_random_kernel_goes_into_the_last_convolution_before_the_classifier():
    assert swapped(sparsify(resnet(), "rsk", p=0.7), RSKConv2d) == ["layer4.1.conv2"]
    assert swapped(sparsify(zoo.build("resnet50", width=0.125), "rsk"), RSKConv2d) == ["layer4.2.conv2"]
    assert swapped(sparsify(zoo.build("vgg16", width=0.125), "rsk"), RSKConv2d) == ["features.40"]


@pytest.mark.parametrize(
    ("where", "names"),
    [
        ("layer4.*.conv2", ["layer4.0.conv2", "layer4.1.conv2"]),
        ("layer2.0.downsample.0", ["layer2.0.downsample.0"]),
        ("last", ["layer4.1.conv2"]),
    ],
)
def test_where_chooses_layers(where, names):
    assert swapped(sparsify(resnet(), "rsk", where=where), RSKConv2d) == names


def test_spatial_takes_every_kernel_larger_than_1x1():
    model = sparsify(zoo.build("alexnet", width=0.0625, classes=5), "skeleton", where="spatial")
    assert [model.get_submodule(name).kernel_size[0] for name in swapped(model, SkeletonConv2d)] == [11, 5, 3, 3, 3]


@pytest.mark.parametrize("conv", [{}, {"bias": False, "stride": 2, "groups": 2, "padding": 1}, {"padding_mode": "circular", "padding": 2}])
def test_a_swapped_layer_computes_what_the_masked_weights_do(conv):
    model = nn.Sequential(nn.Conv2d(8, 6, 3, **conv)).eval()
    x = torch.randn(1, 8, 8, 8)
    random = sparsify(model, "rsk", p=0.25)
    masked = sparsify(model, "psconv")
    with torch.no_grad():
        mask = masked[0].mask
        bias = 0 if model[0].bias is None else model[0].bias[:, None, None]
        torch.testing.assert_close(random(x), 0.25 * (model(x) - bias) + bias)
        torch.testing.assert_close(masked[0].weight, model[0].weight * mask * 1.5)  # sqrt(9 / 4)
        model[0].weight.mul_(mask * 1.5)
        torch.testing.assert_close(masked(x), model(x))


def test_the_given_model_stays_as_it_was():
    model = resnet()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    sparse = sparsify(model, "psconv")
    with torch.no_grad():
        for parameter in sparse.parameters():
            parameter.zero_()
    assert not swapped(model, PSConv2d)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.rsk_architecture["args"] == {"width": 0.125}


def test_layers_of_one_network_have_different_masks_and_the_seed_repeats_them():
    one, two, other = (sparsify(resnet(), "psconv", seed=seed) for seed in (3, 3, 300))
    masks = [module.mask for module in one.layer1.modules() if isinstance(module, PSConv2d)]
    assert not any(torch.equal(masks[0], mask) for mask in masks[1:])
    assert torch.equal(one.layer4[1].conv2.mask, two.layer4[1].conv2.mask)
    assert not torch.equal(one.layer4[1].conv2.mask, other.layer4[1].conv2.mask)


def test_a_swap_keeps_the_mode_and_the_precision():
    model = sparsify(resnet().double().eval(), "rsk", where="3x3", p=0.5)
    assert not any(module.training for module in model.modules())
    assert model(torch.randn(1, 3, 8, 8, dtype=torch.float64)).dtype == torch.float64


def test_a_zoo_network_is_described_as_zoo_build_would_make_it():
    model = sparsify(resnet(), "psconv", support="periodic", period=8)
    described = model.rsk_architecture
    assert described == {"name": "resnet18", "args": {"width": 0.125, "conv": "psconv", "conv_args": {"where": "3x3", "support": "periodic", "period": 8}}}
    again = zoo.build(described["name"], **described["args"])
    assert torch.equal(again.layer3[0].conv1.mask, model.layer3[0].conv1.mask)
    assert not hasattr(sparsify(sparsify(resnet(), "rsk"), "psconv"), "rsk_architecture")


def test_what_cannot_be_swapped_is_refused():
    with pytest.raises(UsageError, match=r"unknown sparse layer 'sparse'; known are rsk, psconv, skeleton"):
        sparsify(resnet(), "sparse")
    with pytest.raises(UsageError, match=r"no plain Conv2d of the ResNet is 'head.\*'; its convolutions are conv1, layer1.0.conv1"):
        sparsify(resnet(), "rsk", where="head.*")
    with pytest.raises(UsageError, match=r"unknown argument of RSKConv2d 'generators'; known are p, generator. Did you mean 'generator'"):
        sparsify(resnet(), "rsk", generators=None)
    with pytest.raises(UsageError, match=r"unknown argument of SkeletonConv2d 'p'; known are none"):
        sparsify(resnet(), "skeleton", p=0.5)
    with pytest.raises(UsageError, match=r"PSConv2d with support='regular' takes no argument 'suport'; it takes taps_per_kernel=4, .*Did you mean 'support'"):
        sparsify(resnet(), "psconv", suport="periodic")
    with pytest.raises(UsageError, match=r"conv1: taps_per_kernel is 10"):
        sparsify(resnet(), "psconv", taps_per_kernel=10)
