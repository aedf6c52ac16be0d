"""A session takes what fits its network, says what it does, and runs from any thread."""

import subprocess
import sys
import threading

import numpy as np
import pytest
from networks import NETWORKS, packed
from runtime_cases import inputs_of, sized_conv
from test_convert_onnx_layers import dense, floats

import rsk_deploy as rsk
from rsk_deploy import reference
from rsk_deploy.errors import UnsupportedError, UsageError
from rsk_deploy.ir import Activation, Binary, Constant, Graph, Input, Linear, Opaque, Slice
from rsk_deploy.runtime.session import Session


@pytest.fixture(scope="module")
def graph():
    return packed("cnn6")


@pytest.fixture(scope="module")
def shared_work():
    """Layers that are worth sharing among threads."""
    layers = (
        sized_conv("one", "x", "a", 48, 32, 3, 1),
        sized_conv("two", "a", "b", 32, 48, 3, 2, stride=(2, 2)),
        Activation(name="act", inputs=("b",), outputs=("y",), kind="sigmoid"),
    )
    return Graph((Input("x", ("batch", 32, 40, 40)),), ("y",), layers)


def test_threads_share_a_session(graph):
    xs = [inputs_of(graph, 1 + index % 3, seed=index) for index in range(12)]
    wanted = [reference.run(graph, x) for x in xs]
    wrong = []
    with Session(graph, threads=2) as session:

        def work(first):
            for _ in range(20):
                for x, want in zip(xs[first::2], wanted[first::2], strict=True):
                    found = session.run(x)
                    wrong.extend(name for name in want if np.abs(found[name] - want[name]).max() > 1e-5)

        threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_number_of_threads_gives_the_same_bits(shared_work, threads):
    x = inputs_of(shared_work, 2)
    with Session(shared_work, threads=1) as alone, Session(shared_work, threads=threads) as session:
        wanted = alone.run(x)["y"]
        assert all(np.array_equal(session.run(x)["y"], wanted) for _ in range(10))


def test_a_fork_runs_and_ends_without_the_threads(shared_work, tmp_path):
    rsk.save(shared_work, tmp_path / "net.rsk")
    script = """if True:
        import os, sys, numpy as np, rsk_deploy as rsk
        x = np.ones((1, 32, 40, 40), np.float32)
        session = rsk.Session(sys.argv[1], threads=3)
        wanted = session(x)
        child = os.fork()
        same = np.array_equal(session(x), wanted)
        session.close()
        if child == 0:
            os._exit(0 if same else 3)
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) or not same)
    """
    result = subprocess.run([sys.executable, "-c", script, str(tmp_path / "net.rsk")], capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 0, result.stderr


def test_a_packed_file_runs(graph, tmp_path):
    rsk.save(graph, tmp_path / "net.rsk")
    x = inputs_of(graph, 1)
    with Session(tmp_path / "net.rsk") as one, Session(graph) as two:
        assert np.array_equal(one(*x.values()), two(*x.values()))


def test_a_dense_graph_is_packed_on_the_way():
    build, shape = NETWORKS["cnn6"]
    dense_graph = rsk.read(build(), input_shape=shape)
    with Session(dense_graph) as session:
        assert session(np.zeros(shape, np.float32)).shape == (1, 10)


def test_a_profile_names_kernels_and_reasons(graph):
    with Session(graph, threads=1) as session:
        steps = session.profile(*inputs_of(graph, 1).values())
        memory = session.memory()
    convs = [step for step in steps if step.operation == "conv"]
    assert {layer for step in steps for layer in step.layers} >= {layer.name for layer in graph.weighted()}
    assert all(step.reason and step.kernel and step.microseconds > 0 for step in convs)
    assert [step.step for step in steps] == list(range(len(steps)))
    assert memory.weights > 0
    assert memory.activations > 0
    assert memory.contexts == 1


def fixed(dtype="float32", layers=()):
    layers = layers or (Linear(name="fc", inputs=("x",), outputs=("y",), weight=dense(3, 4)),)
    return Graph((Input("x", ("batch", 4), dtype),), tuple(layers[-1].outputs), tuple(layers))


BAD_INPUTS = {
    "float64": (np.zeros((2, 4)), "input 'x' holds float64; the network reads float32. Convert it: x.astype(numpy.float32)"),
    "shape": (np.zeros((2, 5), np.float32), "input 'x' has shape (2, 5); the network reads (batch, 4)"),
    "rank": (np.zeros(4, np.float32), "input 'x' has shape (4,); the network reads (batch, 4)"),
    "empty batch": (np.zeros((0, 4), np.float32), "input 'x' has shape (0, 4); the network reads (batch, 4)"),
    "layout": (np.zeros((4, 4), np.float32).T[:, ::1], "input 'x' has strides (4, 16) for shape (4, 4); the network reads C order: numpy.ascontiguousarray(x)"),
    "list": ([[0.0] * 4], "input 'x' is a list; the network reads a float32 array"),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_a_wrong_input_is_refused_in_a_sentence(case):
    x, message = BAD_INPUTS[case]
    with Session(fixed()) as session, pytest.raises(UsageError) as error:
        session(x)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "input 'x' is missing; the network reads x (batch, 4)"),
        ({"x": np.zeros((1, 4), np.float32), "z": 0}, "unknown input 'z'; the network reads x (batch, 4)"),
    ],
)
def test_wrong_names_are_refused(inputs, message):
    with Session(fixed()) as session, pytest.raises(UsageError) as error:
        session.run(inputs)
    assert str(error.value) == message


def test_a_wrong_number_of_inputs_is_refused():
    with Session(fixed()) as session, pytest.raises(UsageError, match=r"2 inputs are given; the network reads x \(batch, 4\)"):
        session(1, 2)


def test_different_batches_of_two_inputs_are_refused():
    layers = (Binary(name="add", inputs=("x", "z"), outputs=("y",), kind="add"),)
    both = Graph((Input("x", ("batch", 4)), Input("z", ("batch", 4))), ("y",), layers)
    with Session(both) as session, pytest.raises(UsageError, match="the inputs have different batch sizes: x 2, z 3"):
        session(np.zeros((2, 4), np.float32), np.zeros((3, 4), np.float32))


def test_several_outputs_come_as_a_tuple():
    layers = (Activation(name="a", inputs=("x",), outputs=("y",), kind="relu"), Slice(name="s", inputs=("x",), outputs=("z",), axis=1, start=0, stop=2))
    x = floats(2, 4)
    with Session(Graph((Input("x", ("batch", 4)),), ("y", "z", "x"), layers)) as session:
        y, z, same = session(x)
    assert np.array_equal(y, np.maximum(x, 0))
    assert np.array_equal(z, x[:, :2])
    assert np.array_equal(same, x)


def test_a_torch_tensor_goes_in_without_a_copy():
    import torch

    with Session(fixed()) as session:
        assert session(torch.ones(2, 4)).shape == (2, 3)


def test_a_closed_session_says_so():
    session = Session(fixed())
    session.close()
    for call in (lambda: session(np.zeros((1, 4), np.float32)), lambda: session.profile(np.zeros((1, 4), np.float32)), session.memory):
        with pytest.raises(UsageError, match="the session is closed; make a new one"):
            call()


def test_integer_inputs_are_refused():
    with pytest.raises(UnsupportedError, match="input 'x' is int64; the runtime computes in float32 and takes float32 inputs alone"):
        Session(fixed("int64"))


def test_an_opaque_layer_is_refused_by_name():
    layer = Opaque(
        name="det", inputs=("x",), outputs=("y",), origin="model.py:7", op="NonMaxSuppression", node=b"", domain="", opset=18, output_shapes=((1,),),
        output_dtypes=("float32",),
    )  # fmt: skip
    with pytest.raises(UnsupportedError, match=r"det: the runtime cannot execute the ONNX operation NonMaxSuppression \(from model.py:7\)"):
        Session(fixed(layers=(layer,)))


def test_an_integer_constant_is_refused():
    layers = (
        Constant(name="k", inputs=(), outputs=("k",), values=np.zeros(4, np.int64)),
        Binary(name="add", inputs=("x", "k"), outputs=("y",), kind="add"),
    )
    with pytest.raises(UnsupportedError, match="k: the runtime computes in float32; this constant holds int64"), Session(fixed(layers=layers)) as session:
        session(np.zeros((1, 4), np.float32))


@pytest.mark.parametrize("model", [3, None, object()])
def test_what_is_no_model_is_refused(model):
    with pytest.raises(UsageError, match="a session takes a path or a graph"):
        Session(model)


@pytest.mark.parametrize("threads", [0, -1, 2000, 1.5, True])
def test_a_wrong_number_of_threads_is_refused(threads):
    with pytest.raises(UsageError, match="a session runs on 1 to 1024 threads"):
        Session(fixed(), threads=threads)


@pytest.mark.parametrize(("variable", "text"), [("RSK_FORCE_KERNEL", "portable"), ("RSK_FORCE_ISA", "portable")])
def test_an_unknown_kernel_is_refused_with_the_names(monkeypatch, variable, text):
    monkeypatch.setenv(variable, "warp")
    with pytest.raises(UsageError, match=f"{variable}=warp: this machine has .*{text}"):
        Session(fixed())
