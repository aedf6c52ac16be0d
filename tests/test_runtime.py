"""The CPU runtime computes what the reference does: every layer, every shape of convolution, every network."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import NETWORKS, packed
from runtime_cases import EPSILON, check_layer, inputs_of, sized_conv
from test_convert_onnx_layers import CASES, PAIRS, POSITIVE, dense, floats, single

import rsk_deploy as rsk
from rsk_deploy import reference
from rsk_deploy.errors import UnsupportedError
from rsk_deploy.ir import Activation, Binary, Concat, Constant, Conv, ConvTranspose, Graph, Input, Linear, Packed, Slice
from rsk_deploy.registry import format_named
from rsk_deploy.runtime import _native
from rsk_deploy.runtime.lower import LOWERINGS
from rsk_deploy.runtime.session import Session

KERNELS = _native.kernels()
TILED = [name for name in KERNELS if not name.endswith("/winograd")]  # tests/test_runtime_winograd.py has the others


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("case", [*CASES, *PAIRS])
def test_every_layer_computes_what_the_reference_does(case, batch):
    *shapes, kind, fields = (CASES | PAIRS)[case]
    graph = single(kind, fields, *shapes)
    inputs = inputs_of(graph, batch, positive=case in POSITIVE)
    with Session(graph, threads=2) as session:
        found = session.run(inputs)
    for name, wanted in reference.run(graph, inputs).items():
        assert found[name].shape == wanted.shape
        np.testing.assert_allclose(found[name], wanted, rtol=3e-6, atol=3e-6 * max(1.0, float(np.abs(wanted).max())))


def test_every_layer_class_has_a_step():
    tested = {kind for *_, kind, _ in [*CASES.values(), *PAIRS.values()]} | {Constant}
    assert set(LOWERINGS) == tested


@st.composite
def convolutions(draw):
    """A convolution with random shape and zeros, and an input that fits."""
    rank = draw(st.integers(1, 3))
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    channels, filters = (groups * draw(st.integers(1, 5)) for _ in range(2))
    kernel = tuple(draw(st.integers(1, 4)) for _ in range(rank))
    stride = tuple(draw(st.sampled_from([1, 1, 2, 3])) for _ in range(rank))
    dilation = tuple(draw(st.sampled_from([1, 1, 2])) for _ in range(rank))
    pads = tuple(draw(st.integers(0, 3)) for _ in range(2 * rank))
    size = tuple(max(1, draw(st.integers(1, 40 if rank < 3 else 9)), dilation[a] * (kernel[a] - 1) + 1 - pads[a] - pads[a + rank]) for a in range(rank))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    weight = rng.standard_normal((filters, channels // groups, *kernel)).astype(np.float32)
    masks = (1, *weight.shape[1:]) if draw(st.booleans()) else weight.shape  # filters alike, which every family takes, or each its own
    weight *= rng.random(masks) < draw(st.sampled_from([1.0, 0.5, 0.1, 0.0]))
    bias = floats(filters) if draw(st.booleans()) else None
    form = format_named("csr")
    mask = rsk.ir.Mask("unstructured", weight != 0)
    layer = Conv(
        name="c", inputs=("x",), outputs=("y",), weight=form.encode(weight, mask), bias=bias, stride=stride, pads=pads, dilation=dilation, groups=groups
    )
    return layer, rng.standard_normal((draw(st.integers(1, 17 if np.prod(size) < 400 else 2)), channels, *size)).astype(np.float32)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(convolutions())
def test_a_convolution_of_any_shape_computes_what_the_reference_does(case):
    check_layer(*case)


@pytest.mark.parametrize("kernel", TILED)
@pytest.mark.parametrize(
    ("size", "kernel_size", "stride", "pads", "dilation"),
    [
        ((64, 64), 7, (2, 2), 3, 1), ((33, 32), 5, (2, 2), 2, 1), ((67, 67), 11, (4, 4), 2, 1), ((40, 47), 7, (3, 3), 3, 1),
        ((40, 64), 7, (2, 2), 6, 2), ((40, 39), 9, (2, 2), 0, 1), ((16, 32), 9, (1, 2), 4, 1),
    ],
)  # fmt: skip
def test_a_strided_convolution_with_many_taps_computes_what_the_reference_does(monkeypatch, kernel, size, kernel_size, stride, pads, dilation):
    isa, _, family = kernel.rpartition("/")
    monkeypatch.setenv("RSK_FORCE_ISA", isa or family)
    monkeypatch.setenv("RSK_FORCE_KERNEL", family)
    check_layer(strided(size, kernel_size, stride, pads, dilation), floats(2, 3, *size))


def strided(size, kernel_size, stride, pads, dilation):
    weight = dense(6, 3, kernel_size, kernel_size)
    return Conv(name="c", inputs=("x",), outputs=("y",), weight=weight, bias=floats(6), stride=stride, pads=(pads,) * 4, dilation=(dilation,) * 2)


def test_a_strided_convolution_with_many_taps_copies_each_element_once():
    size = (224, 224)
    graph = Graph((Input("x", (1, 3, *size)),), ("y",), (strided(size, 7, (2, 2), 3, 1),))
    with Session(graph, threads=1) as session:
        session(floats(1, 3, *size))
        assert session.memory().scratch < 1.3 * 4 * 3 * size[0] * size[1]


@st.composite
def transposed_convolutions(draw):
    """A transposed convolution with random shape and zeros, and an input that fits. Strides beyond the kernel leave phases without taps."""
    rank = draw(st.integers(1, 3))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    channels, filters = (draw(st.integers(1, 5)) for _ in range(2))
    kernel, stride, dilation = (tuple(draw(st.integers(1, most)) for _ in range(rank)) for most in (4, 4, 3))
    output_pads = tuple(draw(st.integers(0, max(stride[a], dilation[a]) - 1)) for a in range(rank))
    size = tuple(draw(st.integers(1, 20 if rank < 3 else 5)) for _ in range(rank))
    whole = [(size[a] - 1) * stride[a] + dilation[a] * (kernel[a] - 1) + 1 + output_pads[a] for a in range(rank)]
    begins = [draw(st.integers(0, min(5, length - 1))) for length in whole]
    pads = (*begins, *(draw(st.integers(0, min(5, length - begin - 1))) for length, begin in zip(whole, begins, strict=True)))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    weight = rng.standard_normal((groups * channels, filters, *kernel)).astype(np.float32)
    weight[rng.random(weight.shape) >= draw(st.sampled_from([1.0, 0.5, 0.1, 0.0]))] = 0
    layer = ConvTranspose(
        name="c", inputs=("x",), outputs=("y",), weight=format_named("csr").encode(weight, rsk.ir.Mask("unstructured", weight != 0)),
        bias=floats(groups * filters) if draw(st.booleans()) else None, stride=stride, pads=pads, dilation=dilation, output_pads=output_pads, groups=groups,
    )  # fmt: skip
    return layer, rng.standard_normal((draw(st.sampled_from([1, 2, 7])), groups * channels, *size)).astype(np.float32)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(transposed_convolutions())
def test_a_transposed_convolution_of_any_shape_computes_what_the_reference_does(case):
    check_layer(*case)


@pytest.mark.parametrize(("side", "kernel", "stride", "pads"), [(16, 2, 2, 0), (16, 4, 2, 1), (9, 3, 2, 1), (1, 2, 2, 0), (5, 2, 3, 0), (16, 3, 1, 1)])
def test_a_transposed_convolution_ends_with_its_residual_and_activation(side, kernel, stride, pads):
    up = {"stride": (stride,) * 2, "pads": (pads,) * 4, "dilation": (1, 1), "output_pads": (0, 0)}
    out = (side - 1) * stride + kernel - 2 * pads
    layers = (
        ConvTranspose(name="up", inputs=("x",), outputs=("a",), weight=dense(4, 6, kernel, kernel), bias=floats(6), **up),
        Binary(name="add", inputs=("a", "z"), outputs=("b",), kind="add"),
        Activation(name="act", inputs=("b",), outputs=("c",), kind="relu"),
        sized_conv("next", "c", "y", 4, 6, 3, 1),
    )
    graph = Graph((Input("x", ("batch", 4, side, side)), Input("z", ("batch", 6, out, out))), ("y", "c"), layers)
    steps = [step for step in compare(graph, batch=3) if step.layers == ("up", "add", "act")]
    assert len(steps) == min(stride, out) ** 2
    assert all(step.operation == "conv" for step in steps)


@st.composite
def linear_layers(draw):
    """A linear layer, or a convolution that is one, over any number of rows."""
    rows = tuple(draw(st.lists(st.integers(1, 17), min_size=1, max_size=4)))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    weight = rng.standard_normal((draw(st.integers(1, 40)), draw(st.integers(1, 40)))).astype(np.float32)
    masks = (1, weight.shape[1]) if draw(st.booleans()) else weight.shape
    weight *= rng.random(masks) < draw(st.sampled_from([1.0, 0.5, 0.1, 0.0]))
    fields = {"name": "c", "inputs": ("x",), "outputs": ("y",), "bias": floats(len(weight)) if draw(st.booleans()) else None}
    if len(rows) == 1 and draw(st.booleans()):
        weight = weight[:, :, None, None]
        packed = format_named("csr").encode(weight, rsk.ir.Mask("unstructured", weight != 0))
        layer = Conv(weight=packed, stride=(1, 1), pads=(0,) * 4, dilation=(1, 1), **fields)
    else:
        layer = Linear(weight=format_named("csr").encode(weight, rsk.ir.Mask("unstructured", weight != 0)), **fields)
    return layer, rng.standard_normal((*rows, *weight.shape[1:])).astype(np.float32)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(linear_layers())
def test_a_linear_layer_over_any_rows_computes_what_the_reference_does(case):
    check_layer(*case)


@pytest.mark.parametrize(("density", "batch", "operation"), [(1.0, 1, "linear"), (1.0, 8, "conv"), (0.1, 1, "linear"), (0.1, 2, "conv")])
@pytest.mark.parametrize("kind", ["relu", "tanh"])
def test_a_linear_layer_of_many_rows_is_a_convolution_over_them_and_keeps_its_activation(density, batch, operation, kind):
    rng = np.random.default_rng(0)
    weight = (rng.standard_normal((20, 30)) * (rng.random((20, 30)) < density)).astype(np.float32)
    packed = format_named("csr").encode(weight, rsk.ir.Mask("unstructured", weight != 0))
    layers = (
        Linear(name="fc", inputs=("x",), outputs=("a",), weight=packed, bias=floats(20)),
        Activation(name="act", inputs=("a",), outputs=("y",), kind=kind),
    )
    (step,) = compare(Graph((Input("x", ("batch", 30)),), ("y",), layers), batch=batch)
    assert step.layers == ("fc", "act")
    assert step.operation == (operation if kind == "relu" else "linear")


@pytest.fixture(params=TILED)
def kernel(request, monkeypatch):
    """The one kernel that sessions may use."""
    isa, _, family = request.param.rpartition("/")
    monkeypatch.setenv("RSK_FORCE_ISA", isa or family)
    monkeypatch.setenv("RSK_FORCE_KERNEL", family)
    monkeypatch.delenv("RSK_JIT", raising=False)
    return request.param


@pytest.mark.usefixtures("kernel")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(case=convolutions() | linear_layers())
def test_every_kernel_computes_what_the_reference_does(case):
    try:
        check_layer(*case)
    except UnsupportedError as error:
        assert "cannot do this layer" in str(error)  # noqa: PT017 - a family may refuse a shape, nothing else


def compare(graph, batch=1, tolerance=3e-6, threads=1):
    inputs = inputs_of(graph, batch)
    with Session(graph, threads=threads) as session:
        found = session.run(inputs)
        steps = session.profile(*inputs.values())
    for name, wanted in reference.run(graph, inputs).items():
        np.testing.assert_allclose(found[name], wanted, rtol=0, atol=tolerance * np.abs(wanted).max())
    return steps


@pytest.mark.parametrize("side", [4, 7, 16, 33])
@pytest.mark.parametrize("kind", ["relu", "clip", "leaky-relu", "hard-swish", "silu", "sigmoid"])
def test_a_residual_and_an_activation_run_with_their_convolution(side, kind):
    layers = (
        sized_conv("one", "x", "a", 6, 6, 3, 1),
        sized_conv("two", "a", "b", 6, 6, 3, 2),
        Binary(name="add", inputs=("x", "b"), outputs=("c",), kind="add"),
        Activation(name="act", inputs=("c",), outputs=("y",), kind=kind, alpha=0.1, beta=0.7),
    )
    steps = compare(Graph((Input("x", ("batch", 6, side, side)),), ("y",), layers), batch=3)
    assert ("two", "add", "act") in [step.layers for step in steps]


def test_convolutions_write_straight_into_a_concatenation():
    layers = (
        sized_conv("one", "x", "a", 5, 4, 3, 1),
        sized_conv("two", "x", "b", 3, 4, 1, 2),
        Concat(name="join", inputs=("a", "b", "x"), outputs=("c",), axis=1),
        sized_conv("three", "c", "d", 4, 12, 3, 3),
        Concat(name="outer", inputs=("c", "d"), outputs=("e",), axis=1),
        sized_conv("four", "e", "y", 2, 16, 3, 4),
    )
    steps = compare(Graph((Input("x", ("batch", 4, 18, 19)),), ("y", "a"), layers), batch=2)
    assert sum(step.layers == ("join",) for step in steps) == 2  # `x`, and `a`, which is handed out as well
    assert sum(step.layers == ("outer",) for step in steps) == 0


def test_a_value_that_is_used_twice_is_not_swallowed():
    layers = (
        sized_conv("one", "x", "a", 4, 4, 3, 1),
        Activation(name="act", inputs=("a",), outputs=("b",), kind="relu"),
        Binary(name="add", inputs=("a", "b"), outputs=("y",), kind="add"),
    )
    compare(
        Graph((Input("x", ("batch", 4, 9, 9)),), ("y", "a", "y2"), (*layers, Slice(name="s", inputs=("b",), outputs=("y2",), axis=2, start=1, stop=8, step=3)))
    )


def test_both_sides_of_a_residual_can_be_convolutions():
    layers = (
        sized_conv("long", "x", "a", 8, 4, 3, 1, stride=(2, 2)),
        sized_conv("short", "x", "b", 8, 4, 1, 2, stride=(2, 2)),
        Binary(name="add", inputs=("b", "a"), outputs=("c",), kind="add"),
        Activation(name="act", inputs=("c",), outputs=("y",), kind="relu"),
    )
    steps = compare(Graph((Input("x", ("batch", 4, 12, 12)),), ("y",), layers), batch=2)
    assert len([step for step in steps if step.operation == "conv"]) == 2


LONG = {"resnet50", "wide-resnet40", "inceptionv3", "mobilenetv2", "efficientnet", "shufflenet", "regnet", "skeleton", "rsk-residual", "pruned"}
"""Networks that take long to read, of layers that others have as well."""


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in LONG else ()) for name in NETWORKS])
def test_every_network_computes_what_the_reference_does(name):
    graph = packed(name)
    inputs = inputs_of(graph, 2)
    single_precision = reference.run(graph, inputs, dtype=np.float32)
    with Session(graph, threads=2) as session:
        found = session.run(inputs)
    for value, wanted in reference.run(graph, inputs).items():
        rounding = np.abs(single_precision[value] - wanted).max()  # what float32 costs at all
        assert np.abs(found[value] - wanted).max() <= 4 * rounding + 8 * EPSILON * np.abs(wanted).max()


def test_what_is_not_finite_reaches_the_outputs_that_read_it_and_no_other(kernel):
    rng = np.random.default_rng(3)
    weight = rng.standard_normal((8, 7, 3, 3)).astype(np.float32)
    weight *= rng.random((1, 7, 3, 3)) < 0.5  # one list of taps, which every family takes
    kept = weight[0] != 0
    x = rng.standard_normal((1, 7, 20, 21)).astype(np.float32)
    for value in (np.inf, -np.inf, np.nan):
        x[0][tuple(rng.integers(0, x.shape[1:], (6, 3)).T)] = value
    wanted = np.zeros((1, 8, 20, 21))
    surround = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    with np.errstate(invalid="ignore"):
        for channel, row, column in zip(*np.nonzero(kept), strict=True):
            wanted += weight[:, channel, row, column, None, None] * surround[:, channel, None, row : row + 20, column : column + 21]
    packed = format_named("csr").encode(weight, rsk.ir.Mask("unstructured", weight != 0))
    layer = Conv(name="c", inputs=("x",), outputs=("y",), weight=packed, bias=None, stride=(1, 1), pads=(1, 1, 1, 1), dilation=(1, 1))
    with Session(Graph((Input("x", x.shape),), ("y",), (layer,)), threads=1) as session:
        assert kernel in [step.kernel for step in session.profile(x)]
        found = session(x)
    assert not np.isfinite(wanted).all()
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_nan_passes_through():
    graph = packed("cnn6")
    x = inputs_of(graph, 1)
    for array in x.values():
        array[:] = np.nan
    with Session(graph) as session:
        assert np.isnan(session(*x.values())).all()


def test_a_forced_kernel_runs(kernel):
    graph = packed("cnn6")
    x = inputs_of(graph, 1)
    with Session(graph) as session:
        ran = {step.kernel.split(" ")[0] for step in session.profile(*x.values()) if step.operation == "conv"}
        np.testing.assert_allclose(session(*x.values()), reference.run(graph, x)["output"], rtol=0, atol=1e-5)
    assert ran == {kernel}


def test_transposed_convolutions_of_any_stride_fold_their_activation():
    weight = dense(4, 3, 3, 3)
    layers = (
        ConvTranspose(
            name="up", inputs=("x",), outputs=("a",), weight=weight, bias=floats(3), stride=(2, 3), pads=(1, 0, 2, 1), dilation=(1, 2), output_pads=(1, 0)
        ),
        Activation(name="act", inputs=("a",), outputs=("y",), kind="relu"),
    )
    steps = compare(Graph((Input("x", ("batch", 4, 6, 5)),), ("y",), layers), batch=2)
    assert steps[-2].layers == ("up", "act")


def test_a_stride_along_an_axis_of_one_output_is_none():
    weight = Packed("dense", (1, 1, 1, 1, 2), {"values": np.array([0.5, -0.25], np.float32)})
    layer = Conv(name="c", inputs=("x",), outputs=("y",), weight=weight, bias=None, stride=(2, 1, 1), pads=(0,) * 6, dilation=(1, 1, 1))
    check_layer(layer, np.ones((1, 1, 1, 1, 3), np.float32))
