"""Random networks run, on every kernel and number of threads, as the reference does, whatever the run before left in memory."""

import numpy as np
import pytest
from networks import NETWORKS, packed
from random_networks import grown

from rsk_deploy import reference
from rsk_deploy.errors import UnsupportedError
from rsk_deploy.ir import Graph
from rsk_deploy.runtime import _native
from rsk_deploy.runtime.session import Session

KERNELS = _native.kernels()
SHORT = {"densenet", "odd-convs", "shapes"}
"""Networks that other tests read as well, of many kinds of layers."""


def ran(graph, batch, threads):
    """Inputs and what comes of them, in a run after one on NaN whose buffers it gets."""
    rng = np.random.default_rng(0)
    x = {entry.name: rng.standard_normal(entry.at(batch)).astype(np.float32) for entry in graph.inputs}
    with Session(graph, threads=threads) as session:
        session.run({name: np.full_like(array, np.nan) for name, array in x.items()})
        return x, session.run(x)


def assert_close(found, wanted, name):
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * max(1.0, np.abs(wanted).max()), err_msg=name)


def check(graph, batch, threads):
    x, found = ran(graph, batch, threads)
    for name, wanted in reference.run(graph, x).items():
        assert_close(found[name], wanted, name)


def force(monkeypatch, kernel):
    isa, _, family = kernel.rpartition("/")
    monkeypatch.setenv("RSK_FORCE_ISA", isa or family)
    monkeypatch.setenv("RSK_FORCE_KERNEL", family)


@pytest.mark.parametrize("seed", [*range(60), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(60, 600))])
def test_a_random_network_computes_what_the_reference_does(seed, monkeypatch):
    graph, batch, threads = grown(seed), 1 + seed * 7 % 17, 1 + seed % 3
    check(graph, batch, threads)
    force(monkeypatch, KERNELS[seed % len(KERNELS)])
    try:
        check(graph, batch, threads)
    except UnsupportedError as error:
        assert "cannot do this layer" in str(error)  # noqa: PT017 - a family may refuse a shape, nothing else


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in SHORT else pytest.mark.slow) for name in NETWORKS])
def test_every_inner_value_can_be_handed_out(name):
    """Each layer is held to the reference on the values that were handed out before it: the roundings of deep networks do not add up."""
    graph = packed(name)
    values = tuple(value for layer in graph.layers for value in layer.outputs)
    x, found = ran(Graph(graph.inputs, values, graph.layers), batch=3, threads=2)
    known = x | found
    for layer in graph.layers:
        assert_close(known[layer.outputs[0]], reference.execute(layer, *(known[name] for name in layer.inputs)), layer.name)
