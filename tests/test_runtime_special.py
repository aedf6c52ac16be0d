"""What is not finite goes through every layer as it goes through the reference."""

import numpy as np
import pytest
from runtime_cases import inputs_of
from test_convert_onnx_layers import CASES, PAIRS, POSITIVE, single

from rsk_deploy import reference
from rsk_deploy.ir import ACTIVATIONS, Activation, Affine, Conv, Graph, Input, Linear, Packed
from rsk_deploy.runtime import _native
from rsk_deploy.runtime.fuse import CONV_ACTIVATIONS
from rsk_deploy.runtime.session import Session

SPECIAL = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38, 100, -100, 1e-40, -1e-40, 0, -0.0, 0.3, -0.3, 5.9, -5.9, 88.8, -88.8, -104], np.float32)


def assert_alike(found, wanted, rtol=2e-5):
    """Equal up to rounding, NaN where NaN is, infinite where infinite is (or beyond float32)."""
    with np.errstate(over="ignore"):
        wanted = wanted.astype(np.float32)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
    np.testing.assert_allclose(found, wanted, rtol=rtol, atol=1e-6, equal_nan=True)


def wanted_of(graph, inputs):
    with np.errstate(all="ignore"):
        return reference.run(graph, inputs)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("case", [*CASES, *PAIRS])
def test_every_layer_passes_on_what_is_not_finite(case, value):
    *shapes, kind, fields = (CASES | PAIRS)[case]
    graph = single(kind, fields, *shapes)
    inputs = inputs_of(graph, 2, positive=case in POSITIVE)
    rng = np.random.default_rng(1)
    for x in inputs.values():
        x.reshape(-1)[rng.integers(0, x.size, max(1, x.size // 9))] = value
    wanted = wanted_of(graph, inputs)
    with Session(graph, threads=1) as session:
        found = session.run(inputs)
    for name in wanted:
        for same in (np.isnan, np.isposinf, np.isneginf):
            np.testing.assert_array_equal(same(found[name]), same(wanted[name].astype(np.float32)))


def through(layer, kind, shape):
    """A layer that hands its input on, and an activation."""
    act = Activation(name="act", inputs=("a",), outputs=("y",), kind=kind, alpha=0.3, beta=0.7)
    return Graph((Input("x", shape),), ("y",), (layer, act))


def ending(family, kind):
    """A convolution that hands special values to its activation, and its input: as a 1×1 layer does, or (Winograd mixes pixels) in its bias."""
    if family == "winograd":
        x, shape, pads, bias = np.zeros((1, 16, 6, 21), np.float32), (len(SPECIAL), 16, 3, 3), (1,) * 4, SPECIAL
    else:
        x, shape, pads, bias = np.stack([np.roll(np.tile(SPECIAL, 3)[:48], shift) for shift in range(4)])[None, None], (8, 1, 1, 1), (0,) * 4, None
    weight = Packed("dense", shape, {"values": np.ones(int(np.prod(shape)), np.float32)})
    layer = Conv(name="c", inputs=("x",), outputs=("a",), weight=weight, bias=bias, stride=(1, 1), pads=pads, dilation=(1, 1))
    return through(layer, kind, x.shape), {"x": x}


@pytest.mark.parametrize("kernel", _native.kernels())
@pytest.mark.parametrize("kind", CONV_ACTIVATIONS)
def test_the_activation_of_a_convolution_is_that_of_the_reference(monkeypatch, kernel, kind):
    isa, _, family = kernel.rpartition("/")
    monkeypatch.setenv("RSK_FORCE_ISA", isa or family)
    monkeypatch.setenv("RSK_FORCE_KERNEL", family)
    graph, inputs = ending(family, kind)
    with Session(graph, threads=1) as session:
        assert [(step.kernel, step.layers) for step in session.profile(inputs["x"]) if step.operation == "conv"] == [(kernel, ("c", "act"))]
        assert_alike(session(inputs["x"]), wanted_of(graph, inputs)["y"])


@pytest.mark.parametrize("kind", ACTIVATIONS)
@pytest.mark.parametrize("before", ["linear", "affine", "nothing"])
def test_the_activation_of_other_steps_is_that_of_the_reference(before, kind):
    x = SPECIAL.reshape(-1, 1)
    layers = {
        "linear": Linear(name="c", inputs=("x",), outputs=("a",), weight=Packed("dense", (1, 1), {"values": np.ones(1, np.float32)})),
        "affine": Affine(name="c", inputs=("x",), outputs=("a",), scale=np.ones(1, np.float32), shift=np.zeros(1, np.float32)),
        "nothing": Activation(name="c", inputs=("x",), outputs=("a",), kind="identity"),
    }
    graph = through(layers[before], kind, ("batch", 1))
    with Session(graph, threads=1) as session:
        assert_alike(session(x), wanted_of(graph, {"x": x})["y"])
