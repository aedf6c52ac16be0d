"""Measured choices: the fastest wins, is remembered, and a cache that is broken or cannot be written harms nobody."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from runtime_cases import inputs_of, sized_conv

from rsk_deploy import reference
from rsk_deploy.ir import Binary, ConvTranspose, Graph, Input, Mask
from rsk_deploy.registry import format_named
from rsk_deploy.runtime import _native, autotune, tuned
from rsk_deploy.runtime.autotune import FORMS, MOST, contending, fastest, works
from rsk_deploy.runtime.session import Session

KERNELS = _native.kernels()


def network():
    layers = (
        sized_conv("one", "x", "a", 12, 8, 3, 1),
        sized_conv("two", "a", "b", 12, 12, 3, 2),
        Binary(name="add", inputs=("a", "b"), outputs=("c",), kind="add"),
        ConvTranspose(name="up", inputs=("c",), outputs=("d",), weight=sized_conv("", "x", "y", 12, 4, 2, 3).weight, stride=(2, 2), pads=(0,) * 4,
                      dilation=(1, 1), output_pads=(0, 0)),
        sized_conv("last", "d", "y", 4, 4, 3, 4, stride=(2, 2)),
    )  # fmt: skip
    return Graph((Input("x", ("batch", 8, 12, 12)),), ("y",), layers)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty cache folder of this test's own."""
    monkeypatch.setenv("RSK_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(tuned, "told_once", set())
    return tmp_path / "cache"


def cache_of(folder):
    (path,) = folder.iterdir()
    return path


def test_a_tuned_session_computes_the_same_and_says_what_was_measured(folder):
    graph = network()
    x = inputs_of(graph, 2)
    with Session(graph, threads=1, autotune=True) as session:
        np.testing.assert_allclose(session.run(x)["y"], reference.run(graph, x)["y"], rtol=0, atol=1e-5)
        steps = [step for step in session.profile(*x.values()) if step.operation == "conv"]
    assert len(steps) == 7
    assert all("measured" in step.reason for step in steps)
    assert any("runner-up" in step.reason for step in steps)
    entries = json.loads(cache_of(folder).read_text())
    assert len(entries) == len(set(works(graph, 2, KERNELS, exact=False)))


def test_what_was_measured_once_is_not_measured_again(monkeypatch):
    graph = network()
    x = inputs_of(graph, 1)
    with Session(graph, threads=1, autotune=True) as first:
        wanted = [(step.kernel, step.reason) for step in first.profile(*x.values())]
    monkeypatch.setattr(autotune, "times", None)
    with Session(graph, threads=1, autotune=True) as second:
        assert [(step.kernel, step.reason) for step in second.profile(*x.values())] == wanted


def test_a_remembered_choice_is_obeyed_and_an_impossible_one_is_measured_anew(folder):
    graph = Graph((Input("x", (1, 8, 12, 12)),), ("y",), (sized_conv("one", "x", "y", 12, 8, 3, 1),))
    (work,) = works(graph, 1, KERNELS, exact=False)
    Session(graph, threads=1, autotune=True).close()
    path = cache_of(folder)
    (name,) = json.loads(path.read_text())
    for plan in contending(work, KERNELS, exact=False):
        chosen = {"kernel": plan.kernel, "filled": plan.filled, "packed": plan.packed, "vectors": plan.vectors, "microseconds": 1.0}
        path.write_text(json.dumps({name: chosen | {"runner_up": "", "runner_up_microseconds": 0.0}}))
        with Session(graph, threads=1, autotune=True) as session:
            reasons = [step.reason for step in session.profile(*inputs_of(graph, 1).values()) if step.operation == "conv"]
        assert reasons == [f"measured 1 µs; {plan.reason}"]
    path.write_text(json.dumps({name: chosen | {"kernel": "warp/drive", "runner_up": "", "runner_up_microseconds": 0.0}}))
    Session(graph, threads=1, autotune=True).close()
    assert json.loads(path.read_text())[name]["kernel"] in KERNELS


@pytest.mark.parametrize("form", FORMS)
def test_a_structured_network_runs_in_the_form_that_was_measured_to_be_faster(monkeypatch, form):
    cross = np.zeros((16, 16, 3, 3), np.float32)
    cross[..., [0, 1, 1, 1, 2], [1, 0, 1, 2, 1]] = np.random.default_rng(0).uniform(0.1, 0.2, (16, 16, 5))
    two = replace(sized_conv("two", "a", "b", 16, 16, 3, 1), weight=format_named("bitmask").encode(cross, Mask("unstructured", cross != 0)))
    layers = (sized_conv("one", "x", "a", 16, 8, 1, 1), two, sized_conv("three", "b", "y", 4, 16, 1, 2))
    graph = Graph((Input("x", ("batch", 8, 12, 12)),), ("y",), layers)
    is_lowered = lambda steps: any("two.part" in name for step in steps for name in step.layers)
    monkeypatch.setattr(autotune, "runner", lambda program, threads: lambda: [1.0 if is_lowered(program.steps) == (form == "lowered") else 2.0])
    monkeypatch.setattr(autotune, "times", lambda graph, batch, kernels, exact, choice, threads: dict.fromkeys(works(graph, batch, KERNELS, exact=False), 1.0))
    x = inputs_of(graph, 2)
    for _ in range(2):
        with Session(graph, threads=1, autotune=True) as session:
            np.testing.assert_allclose(session.run(x)["y"], reference.run(graph, x)["y"], rtol=0, atol=1e-5)
            assert is_lowered(session.profile(*x.values())) == (form == "lowered")
        monkeypatch.setattr(autotune, "runner", None)  # the second session remembers


def test_the_fastest_plan_wins_and_names_the_second():
    (work,) = works(Graph((Input("x", (1, 8, 12, 12)),), ("y",), (sized_conv("one", "x", "y", 12, 8, 3, 1),)), 1, KERNELS, exact=False)
    plans = contending(work, KERNELS, exact=False)
    speed = {plan: 10.0 + index for index, plan in enumerate(reversed(plans))}
    found = fastest({work: plans}, lambda trial: {work: speed[plan] for work, plan in trial.items()})[work]
    assert found.is_of(plans[-1])
    assert (found.microseconds, found.runner_up_microseconds) == (10.0, 11.0)
    assert found.runner_up.startswith(plans[-2].kernel)


def test_a_dense_way_is_always_tried():
    for size, seed in ((3, 1), (5, 2), (1, 3)):
        graph = Graph((Input("x", (1, 16, 9, 9)),), ("y",), (sized_conv("one", "x", "y", 32, 16, size, seed),))
        (work,) = works(graph, 1, KERNELS, exact=False)
        plans = contending(work, KERNELS, exact=False)
        assert any(plan.filled for plan in plans)
        assert len(set(plans)) == len(plans) <= MOST


@pytest.mark.parametrize("content", [b"", b"[]", b'{"a": 3}', b'{"a": {"kernel": 1}}', b"\xff\xfe", b"[" * 100_000, b'{"a": [1, 2]}'])
def test_a_corrupt_cache_is_ignored_with_one_warning(folder, content):
    path = tuned.cache_file()
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    graph = Graph((Input("x", (1, 4, 6, 6)),), ("y",), (sized_conv("one", "x", "y", 4, 4, 3, 1),))
    with pytest.warns(RuntimeWarning, match="the cache of measured kernels is ignored .*RSK_CACHE_DIR names another folder") as caught:
        Session(graph, threads=1, autotune=True).close()
    assert len(caught) == 1
    assert len(tuned.recall()) == 1  # written anew


@pytest.mark.parametrize("place", ["file/below", "/proc/nowhere"])
def test_a_cache_that_cannot_be_written_is_told_of_once(tmp_path, monkeypatch, place):
    (tmp_path / "file").touch()
    monkeypatch.setenv("RSK_CACHE_DIR", str(tmp_path / place))
    graph = Graph((Input("x", (1, 4, 6, 6)),), ("y",), (sized_conv("one", "x", "y", 4, 4, 3, 1),))
    with pytest.warns(RuntimeWarning, match="is ignored") as caught:
        Session(graph, threads=1, autotune=True).close()
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Session(graph, threads=1, autotune=True).close()


def test_the_cache_lies_where_the_platform_has_caches(monkeypatch):
    monkeypatch.delenv("RSK_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert tuned.cache_folder() == Path("/somewhere/rsk-deploy")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert tuned.cache_folder() == Path("/home/me/.cache/rsk-deploy")
    monkeypatch.setattr("sys.platform", "darwin")
    assert tuned.cache_folder() == Path("/home/me/Library/Caches/rsk-deploy")
