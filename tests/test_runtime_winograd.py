"""Winograd layers: what they compute, where they run, and what a profile says of them."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runtime_cases import EPSILON, inputs_of, sized_conv

from rsk_deploy import reference
from rsk_deploy.ir import Activation, Binary, Conv, Graph, Input, Mask
from rsk_deploy.registry import format_named
from rsk_deploy.runtime import _native
from rsk_deploy.runtime.cost import WINOGRAD_NONZEROS
from rsk_deploy.runtime.session import Session

KERNELS = [name for name in _native.kernels() if name.endswith("/winograd")]


def conv(channels, filters, seed=0, density=1.0, kept=None, **fields):
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((filters, channels, 3, 3)).astype(np.float32)
    weight[rng.random(weight.shape) >= density if kept is None else ~kept] = 0
    packed = format_named("bitmask").encode(weight, Mask("unstructured", weight != 0))
    defaults = {"stride": (1, 1), "pads": (1, 1, 1, 1), "dilation": (1, 1), "bias": rng.standard_normal(filters).astype(np.float32)}
    return Conv(name="c", inputs=("x",), outputs=("y",), weight=packed, **(defaults | fields)), weight


def graph_of(layer, shape):
    return Graph((Input("x", ("batch", *shape)),), ("y",), (layer,))


@pytest.fixture(params=KERNELS)
def forced(request, monkeypatch):
    isa, family = request.param.split("/")
    monkeypatch.setenv("RSK_FORCE_ISA", isa)
    monkeypatch.setenv("RSK_FORCE_KERNEL", family)
    return request.param


def ran(session, x):
    return {name: step for step in session.profile(x) for name in step.layers}


@st.composite
def layers(draw):
    channels, filters = draw(st.integers(16, 40)), draw(st.integers(1, 40))
    pads = tuple(draw(st.integers(0, 1)) for _ in range(4))
    high, wide = (max(draw(st.integers(1, 40)), 3 - pads[axis] - pads[axis + 2]) for axis in range(2))
    layer, weight = conv(channels, filters, draw(st.integers(0, 99)), draw(st.sampled_from([1.0, 15 / channels])), pads=pads)
    x = np.random.default_rng(draw(st.integers(0, 99))).standard_normal((draw(st.integers(1, 17 if high * wide < 200 else 2)), channels, high, wide))
    return layer, weight, x.astype(np.float32)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(case=layers(), threads=st.sampled_from([1, 3]))
def test_a_layer_of_any_shape_is_computed_within_the_error_of_the_transform(forced, case, threads):
    layer, weight, x = case
    with Session(graph_of(layer, x.shape[1:]), threads=threads) as session:
        assert ran(session, x)["c"].kernel == forced
        assert_within_its_error(layer, weight, x, session(x))


def assert_within_its_error(layer, weight, x, y):
    """Of the transform: 32·2⁻²³ of the sum of the products' magnitudes."""
    top, left, bottom, right = layer.pads
    around = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (top, bottom), (left, right)))
    windows = np.lib.stride_tricks.sliding_window_view(around, (3, 3), (2, 3))
    wanted = np.einsum("nchwyx,fcyx->nfhw", windows, weight.astype(np.float64), optimize=True) + layer.bias[:, None, None]
    magnitude = np.einsum("nchwyx,fcyx->nfhw", np.abs(windows), np.abs(weight), optimize=True) + np.abs(layer.bias)[:, None, None]
    assert y.shape == wanted.shape
    assert (np.abs(y - wanted) <= 32 * EPSILON * magnitude).all()


@pytest.mark.parametrize("channels", [16, 40, 160])
def test_filters_of_as_few_weights_as_the_transform_takes_are_within_its_error(forced, channels):
    rng = np.random.default_rng(channels)
    kept = rng.random((21, channels * 9)).argsort(1).argsort(1) < WINOGRAD_NONZEROS
    kept[7] = False
    layer, weight = conv(channels, 21, kept=kept.reshape(21, channels, 3, 3), bias=np.zeros(21, np.float32))
    x = rng.standard_normal((3, channels, 16, 13)).astype(np.float32)
    with Session(graph_of(layer, x.shape[1:]), threads=1) as session:
        assert ran(session, x)["c"].kernel == forced
        assert_within_its_error(layer, weight, x, session(x))
        assert_within_its_error(layer, weight, np.maximum(x, 0), session(np.maximum(x, 0)))


@pytest.mark.parametrize("kind", ["relu", "clip", "leaky-relu", "hard-swish", "silu", "sigmoid"])
def test_a_residual_and_an_activation_run_with_the_layer(forced, kind):
    layers = (
        sized_conv("one", "x", "a", 34, 34, 3, 1),
        sized_conv("two", "a", "b", 34, 34, 3, 2),
        Binary(name="add", inputs=("x", "b"), outputs=("c",), kind="add"),
        Activation(name="act", inputs=("c",), outputs=("y",), kind=kind, alpha=0.1, beta=0.7),
    )
    graph = Graph((Input("x", ("batch", 34, 13, 30)),), ("y",), layers)
    x = inputs_of(graph, 2)
    with Session(graph, threads=1) as session:
        step = ran(session, x["x"])["act"]
        found = session.run(x)["y"]
    assert (step.kernel, step.layers) == (forced, ("two", "add", "act"))
    np.testing.assert_allclose(found, reference.run(graph, x)["y"], rtol=0, atol=1e-5)


UNSUITED = {
    "too few channels": (15, {}),
    "stride": (16, {"stride": (1, 2)}),
    "dilation": (16, {"dilation": (2, 2)}),
    "wide pads": (16, {"pads": (2, 1, 1, 1)}),
    "few nonzeros": (16, {"density": 0.5}),
    "few nonzeros in one filter": (40, {"density": np.array([0.01, 1, 1, 1, 1, 1]).reshape(6, 1, 1, 1)}),
}


@pytest.mark.parametrize("case", UNSUITED)
def test_a_layer_that_the_transform_cannot_do_falls_back_and_says_so(forced, case):
    channels, fields = UNSUITED[case]
    layer, _ = conv(channels, 6, **fields)
    graph = graph_of(layer, (channels, 12, 12))
    x = inputs_of(graph, 1)
    with Session(graph, threads=1) as session:
        step = ran(session, x["x"])["c"]
        np.testing.assert_allclose(session.run(x)["y"], reference.run(graph, x)["y"], rtol=0, atol=1e-4)
    assert step.kernel != forced
    assert step.kernel.split("/")[0] == forced.split("/")[0]
    assert step.reason.startswith(
        "Winograd takes 3×3 layers of stride 1, with at least 16 input channels, 96 nonzeros in each filter and no pad above 1, alone; "
    )


def test_what_is_not_finite_stays_within_the_tiles_that_read_it(forced):
    layer, _ = conv(16, 5)
    graph = graph_of(layer, (16, 20, 21))
    x = inputs_of(graph, 1)
    wanted = reference.run(graph, x)["y"]
    x["x"][0, 3, 9, 6], x["x"][0, 4, 9, 6] = np.nan, np.inf
    with Session(graph, threads=1) as session:
        assert ran(session, x["x"])["c"].kernel == forced
        finite = np.isfinite(session.run(x)["y"])
    assert not finite[0, :, 8:11, 5:8].any()
    outside = np.ones((20, 21), np.bool_)
    outside[8:12, 4:8] = False  # rows 7 to 12 and columns 3 to 8 make this tile
    assert finite[0, :, outside].all()
    assert np.isfinite(wanted).all()


@pytest.mark.parametrize("density", [1.0, 0.44])
def test_a_large_layer_runs_so_by_itself_and_its_memory_is_listed_apart(density, monkeypatch):
    for name in ("RSK_FORCE_KERNEL", "RSK_FORCE_ISA", "RSK_JIT"):
        monkeypatch.delenv(name, raising=False)
    layer, weight = conv(64, 64, density=density)
    graph = graph_of(layer, (64, 56, 56))
    x = inputs_of(graph, 1)
    with Session(graph, threads=1) as session:
        step, memory = ran(session, x["x"])["c"], session.memory()
    assert step.kernel.endswith("/winograd")
    assert ("zeros written out" in step.reason) == (density < 1)
    assert memory.transformed == weight.nbytes * 4
    assert memory.weights == 0
