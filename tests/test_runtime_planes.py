"""Where generated code reads its input: planes, whose rows may follow each other without room, and panels by columns."""

from dataclasses import replace

import numpy as np
import pytest
from runtime_cases import EPSILON, magnitude, sized_conv

from rsk_deploy import reference
from rsk_deploy.errors import UnsupportedError
from rsk_deploy.ir import Graph, Input
from rsk_deploy.runtime import _native
from rsk_deploy.runtime.choose import ways
from rsk_deploy.runtime.cost import by_columns
from rsk_deploy.runtime.plan import planned
from rsk_deploy.runtime.records import encode
from rsk_deploy.runtime.session import Session

KERNELS = _native.kernels()


@pytest.mark.parametrize("kernel", [name for name in KERNELS if name.endswith("/unrolled")])
@pytest.mark.parametrize("size", [(3, 3), (8, 8), (14, 14), (2, 17)])
@pytest.mark.parametrize(("dilation", "pads"), [((1, 1), (1, 1, 1, 1)), ((2, 1), (2, 0, 2, 0)), ((1, 2), (0, 3, 2, 1))])
def test_generated_code_reads_every_tap_from_a_panel_by_columns(kernel, size, dilation, pads):
    layer = sized_conv("c", "x", "y", 30, 5, 3, 0, dilation=dilation, pads=pads)
    x = np.random.default_rng(0).standard_normal((1, 5, *size)).astype(np.float32)
    graph = Graph((Input("x", x.shape),), ("y",), (layer,))
    works = []

    def packed_alone(work):
        works.append(work)
        return next(plan for _, plan in ways(work, [kernel], exact=True) if plan.packed)

    program = planned(graph, 1, [kernel], exact=True, choice=packed_alone)
    wanted = reference.run(graph, {"x": x})["y"]
    y = np.empty(wanted.size, np.float32)
    _native.Engine(encode(program), 1).run([x.reshape(-1)], [y], timed=False)
    assert (np.abs(y.reshape(wanted.shape) - wanted) <= 4 * EPSILON * magnitude(layer, x)).all()
    assert by_columns(works[0], kernel) or any(out > extent for out, extent in zip(wanted.shape[2:], size, strict=True))


@pytest.mark.skipif("avx512/unrolled" not in KERNELS, reason="no other kernel masks taps")
@pytest.mark.parametrize("size", [(2, 3), (3, 3), (8, 8), (14, 14), (2, 17), (5, 32)])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("other", ["avx512/unrolled", "avx512/shared"])
def test_generated_code_needs_no_room_between_rows_unless_another_kernel_does(monkeypatch, size, batch, other):
    monkeypatch.setattr("rsk_deploy.runtime.schedule.may_be_wide", lambda *_: False)
    layers = sized_conv("a", "x", "y", 30, 5, 3, 0), sized_conv("b", "y", "z", 7, 30, 3, 1), sized_conv("c", "y", "w", 8, 30, 3, 2)
    graph = Graph((Input("x", (batch, 5, *size)),), ("z", "w"), layers)

    def from_planes(work):
        kernel = other if work.filters == 8 else "avx512/unrolled"
        return next(plan for _, plan in ways(work, [kernel], exact=True) if not plan.packed)

    program = planned(graph, batch, KERNELS, exact=True, choice=from_planes)
    step = next(step for step in program.steps if step.op == "conv" and step.layers[0] == "b")
    assert (step.inputs[0].strides[-2] == size[1]) == (other == "avx512/unrolled")
    x = np.random.default_rng(0).standard_normal((batch, 5, *size)).astype(np.float32)
    wanted = reference.run(graph, {"x": x})
    found = [np.empty(wanted[name].size, np.float32) for name in graph.outputs]
    engine = _native.Engine(encode(program), 1)
    for _ in range(2):  # the second finds what the first left around the planes
        engine.run([x.reshape(-1)], found, timed=False)
    y = reference.run(replace(graph, outputs=("y",)), {"x": x})["y"]
    for layer, out in zip(layers[1:], found, strict=True):
        assert (np.abs(out.reshape(wanted[layer.outputs[0]].shape) - wanted[layer.outputs[0]]) <= 8 * EPSILON * magnitude(layer, np.abs(y) + 1)).all()


@pytest.mark.skipif("avx512/unrolled" not in KERNELS, reason="no other kernel masks taps")
def test_a_plan_whose_rows_have_no_room_for_padding_is_refused():
    graph = Graph((Input("x", (1, 5, 8, 8)),), ("y",), (sized_conv("c", "x", "y", 8, 5, 3, 0),))

    def from_planes(work):
        return next(plan for _, plan in ways(work, ["avx512/unrolled"], exact=True) if not plan.packed)

    program = planned(graph, 1, KERNELS, exact=True, choice=from_planes)
    steps = [replace(step, kernel="avx512/shared") if step.op == "conv" else step for step in program.steps]
    with pytest.raises(ValueError, match="a convolution without a panel has no room for its padding"):
        _native.Engine(encode(replace(program, steps=steps)), 1)


@pytest.mark.skipif(not any(name.endswith("/unrolled") for name in KERNELS), reason="this machine has no kernel that generates code")
def test_without_room_for_code_other_kernels_take_its_layers(monkeypatch):
    engine = _native.Engine

    def without_code(plan, *arguments):
        if b"/unrolled" in bytes(plan):
            raise NotImplementedError("pages cannot be made executable here")
        return engine(plan, *arguments)

    graph = Graph((Input("x", ("batch", 32, 32, 32)),), ("y",), (sized_conv("c", "x", "y", 32, 32, 3, 0),))
    x = np.random.default_rng(0).standard_normal((2, 32, 32, 32)).astype(np.float32)
    with Session(graph, threads=1) as session:
        session._kernels = [name for name in session._kernels if not name.endswith("/winograd")]
        assert any(step.kernel.endswith("/unrolled") for step in session.profile(x[:1]))
        monkeypatch.setattr(_native, "Engine", without_code)
        assert not any(step.kernel.endswith("/unrolled") for step in session.profile(x))
        np.testing.assert_allclose(session(x), reference.run(graph, {"x": x})["y"], rtol=0, atol=1e-5)
    monkeypatch.setenv("RSK_FORCE_KERNEL", "unrolled")
    with Session(graph, threads=1) as session, pytest.raises(UnsupportedError, match="pages cannot be made executable here"):
        session(x)
