"""torch modules: the graph computes what the module computes in eval mode, and the module stays as it was."""

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from rsk_deploy import reference, zoo
from rsk_deploy.errors import CorruptFileError, UnsupportedError, UsageError
from rsk_deploy.ir import Opaque
from rsk_deploy.nn import PSConv2d, RSKConv2d, SkeletonConv2d
from rsk_deploy.readers import ReadOptions, read

SHAPE = (1, 3, 8, 8)


def options(shape=SHAPE, **given):
    return ReadOptions(input_shape=shape, **given)


def sample(*shapes, batch=None):
    generator = np.random.default_rng(3)
    return [generator.standard_normal((batch or shape[0], *shape[1:])).astype(np.float32) for shape in shapes]


def flat(value):
    return [leaf.detach().numpy() for leaf in torch.utils._pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def check(model, source, *inputs):
    """The graph and ``source.run`` against the module itself, in fp64."""
    with torch.no_grad():
        model.eval()(*map(torch.from_numpy, inputs))  # leaves nothing that deepcopy refuses
        precise = copy.deepcopy(model).double()
        expected = flat(precise(*(torch.from_numpy(x).double() for x in inputs)))
    named = dict(zip([entry.name for entry in source.graph.inputs], inputs, strict=True))
    run, graph = source.run(named), reference.run(source.graph, named)
    assert list(run) == list(source.graph.outputs)
    for name, wanted in zip(source.graph.outputs, expected, strict=True):
        assert run[name].dtype == np.float64
        np.testing.assert_allclose(run[name], wanted, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(graph[name], wanted, rtol=1e-5, atol=1e-5 * max(1.0, np.abs(wanted).max()))


def conv_net(conv, *more):
    torch.manual_seed(0)
    return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU(), *more)


def test_the_module_stays_as_it_was():
    torch.manual_seed(0)
    model = nn.Sequential(RSKConv2d(3, 4, 3, p=0.5), nn.BatchNorm2d(4), PSConv2d(4, 8, 3), parametrizations.weight_norm(nn.Conv2d(8, 4, 1)), nn.Conv2d(4, 2, 1))
    prune.l1_unstructured(model[4], "weight", amount=0.5)
    model(torch.randn(2, *SHAPE[1:])).sum().backward()
    hooked = []
    model[1].register_forward_hook(lambda *_: hooked.append(1))
    kinds, state = [type(module) for module in model.modules()], {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.random.get_rng_state()
    for mode in ("mean", "topk"):
        read(model, options(rsk_mode=mode))
    assert torch.equal(torch.random.get_rng_state(), random)
    assert all(module.training for module in model.modules())
    assert [type(module) for module in model.modules()] == kinds
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert parametrize.is_parametrized(model[3])
    assert prune.is_pruned(model[4])
    assert all(parameter.requires_grad and parameter.grad is not None for parameter in model.parameters())


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(2, 4, 1)

    def forward(self, image, depth):
        both = self.left(image) + self.right(depth)
        return {"both": both, "mean": both.mean((2, 3))}


@pytest.mark.parametrize("dynamic", [False, True])
def test_inputs_and_outputs_keep_their_names(dynamic):
    shapes = {"image": SHAPE, "depth": (1, 2, 8, 8)}
    model = TwoInputs()
    source = read(model, options(shapes, dynamic_batch=dynamic))
    assert [entry.name for entry in source.graph.inputs] == ["image", "depth"]
    assert source.graph.outputs == ("both", "mean")
    assert source.graph.dynamic == dynamic
    check(model, source, *sample(*shapes.values(), batch=3 if dynamic else 1))


@pytest.mark.parametrize(("wrapped", "names"), [(lambda y: y, ("output",)), (lambda y: (y, [y + 1]), ("output_0", "output_1_0"))])
def test_outputs_without_names_are_numbered(wrapped, names):
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 1)

        def forward(self, x):
            return wrapped(self.conv(x))

    source = read(Wrapped(), options())
    assert source.graph.outputs == names


def test_layers_are_called_by_their_module_path():
    model = nn.Sequential()
    model.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    model.head = nn.Sequential(nn.Flatten(), nn.Linear(4 * 36, 5))
    source = read(model, options())
    assert [layer.name for layer in source.graph.weighted()] == ["stem.0", "head.1"]
    check(model, source, *sample(SHAPE))


def test_a_module_that_is_used_twice_is_read_twice_with_the_same_weights():
    conv = nn.Conv2d(3, 3, 3, padding=1)
    model = nn.Sequential(conv, nn.ReLU(), conv)
    first, second = read(model, options()).graph.weighted()
    assert np.array_equal(first.weight.values, second.weight.values)
    check(model, read(model, options()), *sample(SHAPE))


@pytest.mark.parametrize("pool", [nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d])
def test_adaptive_pooling_of_any_size(pool):
    class Pools(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 3, padding=1)
            self.pools = nn.ModuleList(map(pool, [1, 4, 3, (5, 2), (None, 3), 12]))

        def forward(self, x):
            return [pool(self.conv(x)) for pool in self.pools]

    model = Pools()
    source = read(model, options())
    assert not any(isinstance(layer, Opaque) for layer in source.graph.layers)
    check(model, source, *sample(SHAPE))


@pytest.mark.parametrize("make", [lambda: RSKConv2d(3, 4, 3, p=0.25), lambda: PSConv2d(3, 4, 3), lambda: SkeletonConv2d(3, 4, 3)])
def test_our_layers_compute_what_they_computed(make):
    model = conv_net(make())
    source = read(model, options())
    assert source.before_rsk is None
    check(model, source, *sample(SHAPE))


def test_a_random_kernel_is_folded_once_and_the_log_says_that_it_stays_dense():
    conv = RSKConv2d(3, 4, 3, p=0.5)
    graph = read(conv, options()).graph
    (layer,) = graph.weighted()
    assert np.array_equal(layer.weight.values, conv.weight.detach().numpy() * np.float32(0.5))
    (entry,) = [entry for entry in graph.log if entry.action == "rsk"]
    assert entry.detail.startswith("weight multiplied by p = 0.5; it stays dense, since evaluation uses every weight (--rsk topk")


class Described(nn.Conv2d):
    """Somebody's own random kernel: evaluation multiplies by a per-layer setting."""

    rsk_p = 0.25

    def forward(self, x):
        return self._conv_forward(x, self.weight * self.rsk_p, self.bias)


def test_a_described_layer_is_a_random_kernel():
    model = conv_net(Described(3, 4, 3))
    source = read(model, options(rsk_mode="topk"))
    assert [np.count_nonzero(layer.weight.values) for layer in source.graph.weighted()] == [3 * 4 * 2]
    np.testing.assert_allclose(
        source.before_rsk({"input": sample(SHAPE)[0]})["output"], flat(model.eval().double()(torch.from_numpy(sample(SHAPE)[0]).double()))[0]
    )


@pytest.mark.parametrize("describe", [lambda conv: setattr(conv, "rsk_p", 0.5), lambda conv: conv.register_buffer("rsk_p", torch.tensor(0.5))])
def test_a_description_on_a_plain_layer_multiplies_by_p(describe):
    conv = nn.Conv2d(3, 4, 3, bias=False)
    describe(conv)
    source = read(conv, options())
    (layer,) = source.graph.weighted()
    assert np.array_equal(layer.weight.values, conv.weight.detach().numpy() * np.float32(0.5))
    (x,) = sample(SHAPE)
    np.testing.assert_allclose(source.run({"input": x})["output"], source.before_rsk({"input": x})["output"] * 0.5, rtol=1e-6)


@pytest.mark.parametrize("make", [lambda: RSKConv2d(4, 6, 3, p=0.5, bias=False), lambda: RSKConv2d(4, 6, 1, p=0.5, bias=False)])
def test_topk_keeps_the_largest_of_each_kernel_and_their_absolute_sum(make):
    conv = make()
    source = read(conv, options((1, 4, 8, 8), rsk_mode="topk"))
    (layer,) = source.graph.weighted()
    kernels = conv.kernel_size[0] ** 2 if conv.kernel_size[0] > 1 else 4
    got, weight = layer.weight.values.reshape(-1, kernels), conv.weight.detach().numpy().reshape(-1, kernels)
    kept = got != 0
    assert (kept.sum(1) == round(0.5 * kernels)).all()
    assert (np.where(kept, np.abs(weight), np.inf).min(1) >= np.where(kept, 0, np.abs(weight)).max(1)).all()
    np.testing.assert_allclose(np.abs(got).sum(1), 0.5 * np.abs(weight).sum(1), rtol=1e-5)
    (x,) = sample((1, 4, 8, 8))
    changed, before = source.run({"input": x}), source.before_rsk({"input": x})
    np.testing.assert_allclose(reference.run(source.graph, {"input": x})["output"], changed["output"], atol=1e-5)
    np.testing.assert_allclose(before["output"], flat(conv.eval().double()(torch.from_numpy(x).double()))[0], rtol=1e-12)
    assert not np.allclose(changed["output"], before["output"], atol=1e-3)


@pytest.mark.parametrize("kernel", [3, 1])
def test_sample_draws_the_declared_mask(kernel):
    conv = RSKConv2d(16, 6, kernel, p=0.5, bias=False)
    sources = [read(conv, options((1, 16, 8, 8), rsk_mode="sample", rsk_seed=seed)) for seed in (0, 0, 1 << 40)]
    first, again, other = (next(source.graph.weighted()).weight for source in sources)
    assert first == again
    assert not np.array_equal(first.values != 0, other.values != 0)
    assert first.declared.family == "lfsr"
    assert 0.3 < np.count_nonzero(first.values) / first.values.size < 0.7
    kept = first.values != 0
    np.testing.assert_allclose(first.values[kept], conv.weight.detach().numpy()[kept] * 0.5 / kept.mean(), rtol=1e-5)


def test_an_unknown_mode_is_refused():
    with pytest.raises(UsageError, match="--rsk 'median' is unknown; it is mean, topk, sample"):
        read(RSKConv2d(3, 4, 3), options(rsk_mode="median"))


@pytest.mark.parametrize("p", [0.0, -0.5, 1.5])
def test_p_out_of_range_is_refused_by_layer(p):
    model = conv_net(RSKConv2d(3, 4, 3))
    model[0].keep_probability.fill_(p)
    with pytest.raises(CorruptFileError, match=rf"^0: p is {p}; the probability of keeping a weight is above 0 and at most 1"):
        read(model, options())


@pytest.mark.parametrize(("p", "said"), [(None, "None"), ("half", "half"), (torch.tensor([0.5, 0.25]), r"tensor\(\[0.5000, 0.2500\]\)"), (float("nan"), "nan")])
def test_a_described_p_that_is_no_probability_is_refused_by_layer(p, said):
    model = conv_net(nn.Conv2d(3, 4, 3))
    model[0].rsk_p = p
    with pytest.raises(CorruptFileError, match=rf"^0: p is {said}; the probability of keeping a weight is above 0 and at most 1"):
        read(model, options())


def test_layers_that_share_a_weight_are_each_folded_once():
    first, second, plain = RSKConv2d(3, 3, 3, p=0.5), RSKConv2d(3, 3, 3, p=0.25), nn.Conv2d(3, 3, 3)
    second.weight = plain.weight = first.weight
    model = nn.Sequential(first, second, plain)
    check(model, read(model, options()), *sample(SHAPE))


def test_a_fixed_mask_is_declared_and_kept():
    model = conv_net(PSConv2d(3, 4, 3, taps_per_kernel=4, seed=7))
    (layer,) = read(model, options()).graph.weighted()
    assert layer.weight.declared == model[0].declared
    assert np.array_equal(layer.weight.values != 0, model[0].mask.numpy())


def test_weights_outside_a_mask_are_dropped_and_counted():
    model = conv_net(PSConv2d(3, 4, 3, taps_per_kernel=4))
    with torch.no_grad():
        model[0].weight[~model[0].mask] = 0.5
    source = read(model, options())
    assert any(entry.detail.endswith("60 weights outside the mask were not zero, and are now, as the layer computes") for entry in source.graph.log)
    check(model, source, *sample(SHAPE))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.full((4, 3, 3, 3), 0.5), "0: mask holds 108 values that are neither 0 nor 1"),
        (torch.ones(4, 3, 1, 3, dtype=torch.bool), r"0: mask has shape \(4, 3, 1, 3\), its weight \(4, 3, 3, 3\)"),
    ],
)
def test_a_wrong_mask_is_refused(mask, message):
    model = conv_net(PSConv2d(3, 4, 3))
    model[0].mask = mask
    with pytest.raises(CorruptFileError, match=message):
        read(model, options())


def pruned():
    conv = nn.Conv2d(3, 4, 3)
    prune.random_unstructured(conv, "weight", amount=0.5)
    prune.l1_unstructured(conv, "bias", amount=0.5)
    return conv


def deprecated(function, *arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and in use
        return function(*arguments)


def old_norm(norm):
    return deprecated(norm, nn.Conv2d(3, 4, 3))


class Halved(nn.Module):
    def forward(self, weight):
        return weight / 2


TRAINED = {
    "pruning": (pruned, ["weight multiplied by its mask: 54 of 108 kept", "bias multiplied by its mask: 2 of 4 kept"]),
    "weight norm": (lambda: old_norm(torch.nn.utils.weight_norm), ["weight computed"]),
    "spectral norm": (lambda: old_norm(torch.nn.utils.spectral_norm), ["weight computed"]),
    "parametrised weight norm": (lambda: parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), ["weight computed from _WeightNorm"]),
    "parametrised spectral norm": (lambda: parametrizations.spectral_norm(nn.Conv2d(3, 4, 3)), ["weight computed from _SpectralNorm"]),
    "own parametrisation": (lambda: _parametrized(RSKConv2d(3, 4, 3, p=0.5)), ["weight computed from Halved", None]),
}


def _parametrized(conv):
    parametrize.register_parametrization(conv, "weight", Halved())
    return conv


@pytest.mark.parametrize("name", TRAINED)
def test_what_training_left_in_the_weights_is_computed(name):
    make, details = TRAINED[name]
    model = conv_net(make())
    source = read(model, options())
    assert [entry.layer for entry in source.graph.log][: len(details)] == ["0"] * len(details)
    assert all(wanted in (None, entry.detail) for entry, wanted in zip(source.graph.log, details, strict=False))
    (layer,) = source.graph.weighted()
    assert layer.name == "0"
    check(model, source, *sample(SHAPE))


def test_wrappers_are_taken_off():
    model = conv_net(nn.Conv2d(3, 4, 3))
    assert [layer.name for layer in read(nn.DataParallel(model), options()).graph.weighted()] == ["0"]


def test_weights_that_are_no_numbers_are_refused():
    model = conv_net(nn.Conv2d(3, 4, 3))
    with torch.no_grad():
        model[0].weight[0, 0, 0] = float("nan")
        model[0].weight[1, 0, 0, 0] = float("inf")
    with pytest.raises(CorruptFileError, match=r"0.weight holds 4 values of 108 that are NaN or infinite"):
        read(model, options())


class Undecided(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x * 2
        return x


class Untranslated(nn.Module):
    def forward(self, x):
        return torch.linalg.svd(x).S


UNKNOWN_SHAPE = r"input shape is not known; give it with --input-shape \(input_shape= in Python\), for example 1,5,224,224"


@pytest.mark.parametrize(
    ("model", "given", "error", "message"),
    [
        (nn.Conv2d(5, 4, 3), options(None), UsageError, UNKNOWN_SHAPE),
        (nn.Linear(7, 2), options(None), UsageError, "for example 1,7$"),
        (nn.Conv2d(5, 4, 3), options((1, 5, 1 << 30, 1 << 30)), UsageError, r"does not run on an input of shape input .*1073741824\): RuntimeError"),
        (nn.Conv2d(5, 4, 3), options(), UsageError, r"does not run on an input of shape input \(1, 3, 8, 8\): RuntimeError: .*to have 5 channels"),
        (nn.Conv2d(3, 4, 3), options({"input": ()}), UsageError, r"the shape of input is \(\); it has at least the batch"),
        (TwoInputs(), options({"image": SHAPE, "deep": SHAPE}), UsageError, "given for image, deep; forward takes image, depth, in this order"),
        (
            nn.Sequential(nn.ReLU(), Undecided()),
            options(),
            UnsupportedError,
            r"^1 \(.*py:\d+\): torch.export cannot follow the model: .*\.item\(\)",
        ),
        (
            nn.Sequential(nn.ReLU(), Untranslated()),
            options(),
            UnsupportedError,
            r"^aten._linalg_svd in 1 \(.*py:\d+\): torch.onnx has no translation: .*\.onnx file",
        ),
        (b"text", options(), UsageError, "cannot read a value of type bytes; pass a path, a torch.nn.Module"),
    ],
)
def test_what_cannot_be_read_is_said_with_what_to_do(model, given, error, message):
    with pytest.raises(error, match=message):
        read(model, given)


def test_torchscript_in_memory_is_refused():
    with pytest.raises(UnsupportedError, match=r"the model is TorchScript, which has lost its Python layers; pass the nn.Module"):
        read(deprecated(torch.jit.trace, nn.ReLU(), torch.ones(1)), options())


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.ARCHITECTURES)
def test_every_network_of_the_zoo_is_read(name):
    shape = (1, 3, 64, 64)
    torch.manual_seed(0)
    model = zoo.build(name, width=0.125).eval()
    for dynamic in (False, True):
        source = read(model, options(shape, dynamic_batch=dynamic))
        assert not any(isinstance(layer, Opaque) for layer in source.graph.layers)
        check(model, source, *sample(shape, batch=3 if dynamic else 1))
