"""Maps of few positions, where a kernel may have the filters in its lanes, and linear layers of one row."""

from itertools import product

import numpy as np
import pytest
from runtime_cases import check_layer

from rsk_deploy.ir import Conv, Graph, Input, Linear, Mask
from rsk_deploy.registry import format_named
from rsk_deploy.runtime import _native
from rsk_deploy.runtime.choose import choose
from rsk_deploy.runtime.cost import Window, Work, reached
from rsk_deploy.runtime.phases import ABSENT
from rsk_deploy.runtime.session import Session

KERNELS = _native.kernels()
AVX512 = [f"avx512/{family}" for family in ("shared", "unrolled", "table", "bitmask", "winograd")]


def sparse(rng, shape, density):
    """Weights of which so many are kept, and a filter in eight keeps none."""
    weight = rng.standard_normal(shape).astype(np.float32)
    weight *= (rng.random(shape) < density) & (rng.random((shape[0], *[1] * (len(shape) - 1))) < 7 / 8)
    return format_named("csr").encode(weight, Mask("unstructured", weight != 0))


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("kernel", [name for name in KERNELS if name.split("/")[-1] in ("bitmask", "table", "unrolled")])
def test_small_maps_are_those_of_the_reference(monkeypatch, kernel, seed):
    isa, family = kernel.split("/")
    monkeypatch.setenv("RSK_FORCE_ISA", isa)
    monkeypatch.setenv("RSK_FORCE_KERNEL", family)
    rng = np.random.default_rng(seed)
    groups, stride, dilation, pad = (int(rng.choice(choices)) for choices in ((1, 1, 2, 3), (1, 1, 2), (1, 1, 2), (0, 1, 1, 2)))
    side = int(rng.choice([1, 3]))
    size = tuple(int(rng.integers(max(1, dilation * (side - 1) + 1 - 2 * pad), 6)) for _ in range(2))
    filters, channels = groups * int(rng.choice([1, 5, 15, 16, 17, 31, 63, 64, 65, 130])), groups * int(rng.integers(1, 20))
    weight = sparse(rng, (filters, channels // groups, side, side), rng.choice([0, 0.1, 0.45, 1]))
    bias = rng.standard_normal(filters).astype(np.float32)
    layer = Conv(
        name="c", inputs=("x",), outputs=("y",), weight=weight, bias=bias, stride=(stride,) * 2, pads=(pad,) * 4, dilation=(dilation,) * 2, groups=groups
    )
    check_layer(layer, rng.standard_normal((1 + seed % 17, channels, *size)).astype(np.float32))


@pytest.mark.parametrize("inputs", [1, 40, 700])
@pytest.mark.parametrize("outputs", [1, 16, 63, 64, 65, 200])
@pytest.mark.parametrize("density", [0, 0.05, 0.3, 0.6, 1])
def test_one_row_of_a_sparse_linear_layer_is_that_of_the_reference(inputs, outputs, density):
    rng = np.random.default_rng(inputs + outputs)
    bias = rng.standard_normal(outputs).astype(np.float32)
    layer = Linear(name="l", inputs=("x",), outputs=("y",), weight=sparse(rng, (outputs, inputs), density), bias=bias)
    check_layer(layer, rng.standard_normal((1, inputs)).astype(np.float32))


@pytest.mark.parametrize(("density", "packed"), [(0.02, False), (0.4, True), (0.95, False)])
@pytest.mark.skipif("avx512/bitmask" not in KERNELS, reason="this machine has no AVX-512")
def test_one_row_takes_packed_weights_where_that_is_faster(density, packed):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((256, 512)).astype(np.float32) * (rng.random((256, 512)) < density)
    encoded = format_named("csr").encode(weight, Mask("unstructured", weight != 0))
    graph = Graph((Input("x", (1, 512)),), ("y",), (Linear(name="l", inputs=("x",), outputs=("y",), weight=encoded, bias=None),))
    with Session(graph, threads=1) as session:
        (step,) = session.profile(np.ones((1, 512), np.float32))
        assert (step.operation, step.kernel) == (("conv", "avx512/bitmask") if packed else ("linear", "portable"))
        if packed:
            assert step.reason.endswith("the input packed to a panel, 16 filters in the lanes, for there is 1 position")
            assert session.memory().weights < 0.6 * weight.nbytes


def square(channels, size, share, batch=1):
    """A 3×3 layer that keeps its size."""
    axes = (ABSENT, *(Window(3, 1, 1, 1, 1, size, size) for _ in range(2)))
    return Work(batch, channels, channels, 1, int(share * 9 * channels**2), channels, axes)


@pytest.mark.parametrize(
    ("work", "family"),
    [
        (square(512, 1, 4 / 9), "bitmask"), (square(512, 2, 4 / 9), "bitmask"), (square(512, 2, 2 / 9), "bitmask"), (square(512, 3, 4 / 9), "bitmask"),
        (square(512, 2, 4 / 9, batch=2), "bitmask"), (square(512, 2, 1 / 10), "table"), (square(512, 3, 2 / 9), "table"), (square(512, 4, 4 / 9), "table"),
    ],
)  # fmt: skip
def test_filters_are_in_the_lanes_where_few_positions_would_leave_them_empty(work, family):
    plan = choose(work, AVX512, exact=False)
    assert plan.kernel == f"avx512/{family}"
    assert choose(work, ["portable/shared", "portable/table", "portable/bitmask"], exact=False).kernel != "portable/bitmask"


@pytest.mark.parametrize(("kernel", "stride", "pad", "dilation", "size"), list(product((1, 3), (1, 2), (0, 1, 2), (1, 2), (5, 6))))
def test_the_model_knows_how_many_outputs_a_tap_reaches(kernel, stride, pad, dilation, size):
    out = (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
    padded = np.pad(np.ones(size), pad)
    for tap in range(kernel):
        assert reached(Window(kernel, stride, pad, pad, dilation, size, out), tap) == padded[tap * dilation :][: stride * (out - 1) + 1 : stride].sum()


def test_an_infinite_input_reaches_only_the_filters_that_keep_its_weight(monkeypatch):
    monkeypatch.setenv("RSK_FORCE_KERNEL", "bitmask")
    weight = np.zeros((70, 8, 3, 3), np.float32)
    weight[::3, 2, 1, 1] = 1
    weight[1::3, 3] = 1
    layer = Conv(
        name="c",
        inputs=("x",),
        outputs=("y",),
        weight=format_named("csr").encode(weight, Mask("unstructured", weight != 0)),
        bias=None,
        stride=(1, 1),
        pads=(1,) * 4,
        dilation=(1, 1),
    )
    x = np.ones((1, 8, 2, 2), np.float32)
    x[0, 2] = np.inf
    with Session(Graph((Input("x", x.shape),), ("y",), (layer,)), threads=1) as session:
        y = session(x)
    assert np.isinf(y[:, ::3]).all()
    assert (y[:, 1::3] == 4).all()
    assert (y[:, 2::3] == 0).all()
