"""A session among threads and processes: runs let others go on, closing and forking leave nothing half done."""

import subprocess
import sys
import threading

import numpy as np
import pytest
from runtime_cases import inputs_of, sized_conv
from test_runtime_session import fixed

import rsk_deploy as rsk
from rsk_deploy.ir import Binary, Conv, Graph, Input, Mask
from rsk_deploy.registry import format_named
from rsk_deploy.runtime import session as session_module
from rsk_deploy.runtime.session import Session


@pytest.fixture(scope="module")
def one_layer():
    return Graph((Input("x", ("batch", 32, 40, 40)),), ("y",), (sized_conv("one", "x", "y", 48, 32, 3, 1),))


def test_a_run_lets_other_threads_go_on(one_layer):
    x, gate, gone_on, before = np.ones((1, 32, 40, 40), np.float32), threading.Lock(), [], sys.getswitchinterval()

    def wait():
        with gate:
            gone_on.append(True)

    with Session(one_layer, threads=1) as session:
        session(x)
        gate.acquire()
        thread = threading.Thread(target=wait)
        thread.start()
        try:
            sys.setswitchinterval(1000)  # seconds: until then no other thread runs unless this one lets it
            gate.release()
            for _ in range(5000):
                session(x)
                if gone_on:
                    break
            released = bool(gone_on)
        finally:
            sys.setswitchinterval(before)
            thread.join()
    assert released


LAYERS = {  # channels, filters, size of the map, kernel, stride
    "own panels": (16, 16, 80, 3, 2),
    "one panel": (24, 200, 9, 3, 2),
    "phases": (3, 32, 62, 7, 2),
    "planes": (32, 40, 37, 3, 1),
    "few tiles": (64, 96, 7, 3, 1),
}
CASES = [(family, layer) for family in ("table", "unrolled", "shared") for layer in LAYERS] + [("winograd", "planes"), ("winograd", "few tiles")]


def graph_of(family, layer):
    """One convolution of ``LAYERS`` that a value is added to."""
    channels, filters, size, kernel, stride = LAYERS[layer]
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((filters, channels, kernel, kernel)).astype(np.float32)
    weight[rng.random(weight.shape) < 0.5 * (family in ("table", "unrolled"))] = 0
    packed = format_named("bitmask").encode(weight, Mask("unstructured", weight != 0))
    out = (size - 1) // stride + 1
    conv = Conv(name="c", inputs=("x",), outputs=("c",), weight=packed, stride=(stride, stride), pads=(kernel // 2,) * 4, dilation=(1, 1), bias=None)
    return Graph(
        (Input("x", ("batch", channels, size, size)), Input("other", ("batch", filters, out, out))),
        ("y",),
        (conv, Binary(name="y", inputs=("c", "other"), outputs=("y",), kind="add")),
    )


@pytest.mark.parametrize(("family", "layer"), CASES)
def test_any_number_of_threads_computes_what_one_does_to_the_bit(family, layer, monkeypatch):
    monkeypatch.setenv("RSK_FORCE_KERNEL", family)
    graph = graph_of(family, layer)
    for batch in (1, 3):
        inputs = inputs_of(graph, batch)
        with Session(graph, threads=1) as session:
            wanted = session.run(inputs)["y"]
            assert {step.kernel.rpartition("/")[2] for step in session.profile(*inputs.values()) if "c" in step.layers} == {family}
        for threads in (2, 3, 5):
            with Session(graph, threads=threads) as session:
                for _ in range(3):
                    np.testing.assert_array_equal(session.run(inputs)["y"], wanted)


def test_threads_with_tiles_of_their_own_take_scratch_for_these_alone(monkeypatch):
    monkeypatch.setenv("RSK_FORCE_KERNEL", "table")
    graph, scratch = graph_of("table", "own panels"), []
    for threads in (1, 4, 16):
        with Session(graph, threads=threads) as session:
            session.run(inputs_of(graph, 1))
            scratch.append(session.memory().scratch)
    alone, few, many = scratch
    assert alone < few < many < 1.4 * alone  # 25 tiles: 7 for each of 4 threads, 2 for each of 16


def test_a_session_tells_its_memory_while_others_plan():
    errors, done, before = [], threading.Event(), sys.getswitchinterval()

    def ask():
        try:
            while not done.is_set():
                session.memory()
        except RuntimeError as error:
            errors.append(error)

    sys.setswitchinterval(1e-5)
    try:
        for _ in range(3):
            done.clear()
            with Session(fixed(), threads=1) as session:
                threads = [threading.Thread(target=ask) for _ in range(2)]
                for thread in threads:
                    thread.start()
                for batch in range(1, 100):
                    session(np.ones((batch, 4), np.float32))
                done.set()
                for thread in threads:
                    thread.join()
    finally:
        sys.setswitchinterval(before)
    assert not errors


def test_a_session_closed_while_a_thread_plans_keeps_no_plan(monkeypatch):
    planning, go_on, planned = threading.Event(), threading.Event(), session_module.planned

    def slowly(*arguments):
        planning.set()
        go_on.wait()
        return planned(*arguments)

    monkeypatch.setattr(session_module, "planned", slowly)
    session = Session(fixed(), threads=1)
    runs, closes = threading.Thread(target=session, args=(np.ones((1, 4), np.float32),)), threading.Thread(target=session.close)
    runs.start()
    planning.wait()
    closes.start()
    closes.join(0.1)
    go_on.set()
    runs.join()
    closes.join()
    assert session._plans == {}


def test_a_session_that_the_planning_thread_closes_keeps_no_plan(monkeypatch):
    session = Session(fixed(), threads=1)
    prepare = session._prepare

    def closing(batch):
        prepared = prepare(batch)
        session.close()
        return prepared

    monkeypatch.setattr(session, "_prepare", closing)
    session(np.ones((1, 4), np.float32))
    assert not session._plans


FORK = """if True:
    import os, sys, numpy as np, rsk_deploy as rsk
    one, four = np.ones((1, 32, 40, 40), np.float32), np.ones((4, 32, 40, 40), np.float32)
    session, wanted = rsk.Session(sys.argv[1], threads=3), rsk.Session(sys.argv[1], threads=1)(four)
    session(one)
    with session._lock():  # as a thread has it that plans
        child = os.fork()
    if child == 0:
        same = np.array_equal(session(four), wanted)  # with new threads, which may have the names of those that a fork does not have
        session.close()
        os._exit(0 if same else 3)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_fork_plans_with_threads_of_its_own_while_a_thread_of_its_parent_plans(one_layer, tmp_path):
    rsk.save(one_layer, tmp_path / "net.rsk")
    result = subprocess.run([sys.executable, "-c", FORK, str(tmp_path / "net.rsk")], capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 0, result.stderr


def test_a_fork_plans_though_another_thread_was_planning(one_layer, tmp_path):
    rsk.save(one_layer, tmp_path / "net.rsk")
    script = """if True:
        import os, signal, sys, threading, time, numpy as np, rsk_deploy as rsk
        session = rsk.Session(sys.argv[1], threads=2)
        prepare, begun, go_on = session._prepare, threading.Event(), threading.Event()
        session._prepare = lambda batch: (begun.set(), go_on.wait(), prepare(batch))[-1]
        planning = threading.Thread(target=lambda: session(np.ones((1, 32, 40, 40), np.float32)))
        planning.start()
        begun.wait()
        child = os.fork()
        go_on.set()
        if child == 0:
            signal.alarm(30)
            os._exit(session(np.ones((2, 32, 40, 40), np.float32)).shape[0] != 2)
        planning.join()
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    result = subprocess.run([sys.executable, "-c", script, str(tmp_path / "net.rsk")], capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 0, result.stderr


FEW_THREADS = """if True:
    import resource, numpy as np, rsk_deploy as rsk
    from rsk_deploy.ir import Activation, Graph, Input
    layer = Activation(name="one", inputs=("x",), outputs=("y",), kind="relu")
    graph, x = Graph((Input("x", ("batch", 64)),), ("y",), (layer,)), np.ones((1, 64), np.float32)
    pages = int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + (300 << 20),) * 2)  # room for some stacks
    try:
        rsk.Session(graph, threads=1000)(x)
    except rsk.RskError as error:
        print(type(error).__name__, error)
    print(rsk.Session(graph, threads=2)(x).shape)
"""


def test_more_threads_than_the_system_has_are_a_sentence():
    result = subprocess.run([sys.executable, "-c", FEW_THREADS], capture_output=True, text=True, check=False, timeout=60)
    message = "there is not enough memory for a run of batch 1; give smaller batches or fewer threads, or free some"
    assert result.stdout == f"UsageError {message}\n(1, 64)\n", result.stderr
