"""A session takes what fits its network, says what it does, and runs from any thread."""

import gc
import re
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest
from networks import NETWORKS, packed
from runtime_cases import inputs_of, sized_conv
from test_convert_onnx_layers import dense, floats

import rsk_deploy as rsk
from rsk_deploy import reference
from rsk_deploy.errors import UnsupportedError, UsageError
from rsk_deploy.ir import Activation, Binary, Constant, Graph, Input, Linear, Opaque, Reshape, Slice
from rsk_deploy.runtime import session as session_module
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
    "empty batch": (np.zeros((0, 4), np.float32), "input 'x' has shape (0, 4); the network reads (batch, 4) with a batch of 1 or more"),
    "layout": (np.zeros((4, 4), np.float32).T[:, ::1], "input 'x' has strides (4, 16) for shape (4, 4); the network reads C order: numpy.ascontiguousarray(x)"),
    "backwards": (
        np.zeros((2, 4), np.float32)[:, ::-1],
        "input 'x' has strides (16, -4) for shape (2, 4); the network reads C order: numpy.ascontiguousarray(x)",
    ),
    "bytes the other way round": (np.zeros((2, 4), ">f4"), "input 'x' holds >f4; the network reads float32. Convert it: x.astype(numpy.float32)"),
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
        (None, "run takes arrays by name, not a NoneType; the network reads x (batch, 4)"),
        ([np.zeros((1, 4), np.float32)], "run takes arrays by name, not a list; the network reads x (batch, 4)"),
        ({}, "input 'x' is missing; the network reads x (batch, 4)"),
        ({"x": np.zeros((1, 4), np.float32), "z": 0}, "unknown input 'z'; the network reads x (batch, 4)"),
        ({"input": np.zeros((1, 4), np.float32)}, "unknown input 'input'; the network reads x (batch, 4)"),
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


@pytest.mark.parametrize("outputs", [("y", "z"), ("z", "y"), ("z",), ("z", "w", "y")])
def test_an_output_that_is_another_reshaped_is_handed_out_too(outputs):
    layers = (
        Activation(name="a", inputs=("x",), outputs=("y",), kind="relu"),
        Reshape(name="r", inputs=("y",), outputs=("z",), target=(-1, 2)),
        Slice(name="s", inputs=("y",), outputs=("w",), axis=1, start=1, stop=3),
    )
    x = floats(3, 4)
    y = np.maximum(x, 0)
    with Session(Graph((Input("x", (3, 4)),), outputs, layers)) as session:
        found = session.run({"x": x})
    for name, want in (("y", y), ("z", y.reshape(-1, 2)), ("w", y[:, 1:3])):
        assert name not in outputs or np.array_equal(found[name], want)


def test_arrays_and_tensors_go_in_without_a_copy():
    import torch

    entry, x, tensor = fixed().inputs[0], floats(2, 4), torch.ones(2, 4)
    assert session_module.checked(entry, x) is x
    assert session_module.checked(entry, tensor).ctypes.data == tensor.data_ptr()
    with Session(fixed()) as session:
        assert np.array_equal(session(tensor), session(tensor.numpy()))


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


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_another_batch_than_the_fixed_one_is_refused_with_what_to_do(rows):
    graph = Graph((Input("x", (2, 4)),), ("y",), (Activation(name="act", inputs=("x",), outputs=("y",), kind="relu"),))
    said = f"input 'x' has shape ({rows}, 4); the network reads (2, 4). Its batch is fixed: run 2 at a time, or read or export the model with an open one"
    with Session(graph) as session, pytest.raises(UsageError, match=re.escape(said)):
        session(np.zeros((rows, 4), np.float32))


@pytest.mark.parametrize("text", ["no", "false", "off", "2", " 0"])
def test_a_switch_of_code_that_means_nothing_is_refused(monkeypatch, text):
    monkeypatch.setenv("RSK_JIT", text)
    with pytest.raises(UsageError, match=f"RSK_JIT={text} means nothing: 0 is for no generated code, 1 for generated code"):
        Session(fixed())


@pytest.mark.parametrize(("jit", "may", "why"), [("0", True, "RSK_JIT=0 forbids generated code"), ("1", False, "this system lets no page become executable")])
@pytest.mark.filterwarnings("ignore:this system lets no page become executable")
def test_a_forced_kernel_that_needs_code_names_what_forbids_it(monkeypatch, jit, may, why):
    monkeypatch.setattr(session_module._native, "may_generate_code", lambda: may)
    monkeypatch.setenv("RSK_JIT", jit)
    monkeypatch.setenv("RSK_FORCE_KERNEL", "unrolled")
    with pytest.raises(UsageError, match=f"RSK_FORCE_KERNEL=unrolled asks for generated code, and {why}"):
        Session(fixed())


def test_every_batch_size_has_its_plan():
    layers = (
        sized_conv("one", "x", "a", 5, 3, 3, 1, stride=(2, 2)),
        sized_conv("two", "a", "b", 6, 5, 3, 2),
        Activation(name="act", inputs=("b",), outputs=("y",), kind="relu"),
    )
    graph = Graph((Input("x", ("batch", 3, 9, 9)),), ("y",), layers)
    with Session(graph, threads=1) as session:
        for batch in [*range(1, 18), 3, 1]:
            x = inputs_of(graph, batch, seed=batch)
            np.testing.assert_allclose(session.run(x)["y"], reference.run(graph, x)["y"], rtol=0, atol=1e-5)


def test_inputs_that_are_not_aligned_or_read_only_are_read_as_they_are():
    x = np.frombuffer(b"." + floats(2, 4).tobytes(), np.uint8)[1:].view(np.float32).reshape(2, 4)
    assert not x.flags.aligned
    assert not x.flags.writeable
    with Session(fixed()) as session:
        assert np.array_equal(session(x), session(x.copy()))


def test_a_tensor_that_cannot_be_shared_is_refused_in_a_sentence():
    import torch

    with (
        Session(fixed()) as session,
        pytest.raises(UsageError, match=r"input 'x': a Tensor that numpy cannot share \(.*grad.*\); the network reads a float32 array"),
    ):
        session(torch.ones(2, 4, requires_grad=True))


def test_an_ordinary_onnx_file_is_packed_on_the_way(tmp_path):
    import onnx

    graph = packed("cnn6")
    rsk.export(graph, tmp_path / "net.onnx", verify=False)
    model = onnx.load(tmp_path / "net.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    rsk.export(rsk.read(NETWORKS["cnn6"][0](), input_shape=NETWORKS["cnn6"][1]), tmp_path / "fixed.onnx", verify=False)
    fixed_batch = onnx.load(tmp_path / "fixed.onnx")
    del fixed_batch.metadata_props[:]
    onnx.save(fixed_batch, tmp_path / "bare-fixed.onnx")
    x = inputs_of(graph, 1)
    wanted = reference.run(graph, x)
    for name in ("bare", "bare-fixed"):
        with Session(tmp_path / f"{name}.onnx") as session:
            (found,) = session.run(x).values()
        np.testing.assert_allclose(found, next(iter(wanted.values())), rtol=0, atol=1e-5)


def test_memory_tells_what_each_kernel_takes(graph):
    with Session(graph, threads=1) as session:
        session.run(inputs_of(graph, 1))
        memory = session.memory()
        kernels = {step.kernel for step in session.profile(*inputs_of(graph, 1).values())}
    assert set(memory.by_kernel) == kernels
    assert 0 < sum(memory.by_kernel.values()) <= memory.weights + memory.code


def test_plans_of_several_batch_sizes_share_weights_and_code():
    layer = sized_conv("one", "x", "y", 48, 32, 3, 1)
    graph = Graph((Input("x", ("batch", 32, 40, 40)),), ("y",), (layer,))
    with Session(graph, threads=1) as session:
        first = 0
        for batch in (1, 3, 5):
            x = inputs_of(graph, batch)
            np.testing.assert_allclose(session.run(x)["y"], reference.run(graph, x)["y"], rtol=0, atol=1e-5)
            memory = session.memory()
            held = memory.weights + memory.code + memory.transformed
            assert sum(memory.by_kernel.values()) == held
            first = first or held
            assert 4 * layer.weight.arrays["values"].size < held < 1.01 * first + 4096


@pytest.mark.parametrize("size", ["batch", 1])
def test_only_a_session_that_may_plan_more_keeps_the_packed_network(size):
    graph = Graph((Input("x", (size, 8, 12, 12)),), ("y",), (sized_conv("one", "x", "y", 8, 8, 3, 1),))
    values = weakref.ref(graph.layers[0].weight)
    with Session(graph, threads=1) as session:
        session.run(inputs_of(graph, 1))
        del graph
        gc.collect()
        assert (values() is not None) == (size == "batch")


LITTLE_MEMORY = """if True:
    import resource, numpy as np, rsk_deploy as rsk
    from rsk_deploy.ir import Activation, Graph, Input
    layers = (Activation(name="one", inputs=("x",), outputs=("a",), kind="relu"), Activation(name="two", inputs=("a",), outputs=("y",), kind="tanh"))
    session = rsk.Session(Graph((Input("x", ("batch", 1 << 20)),), ("y",), layers), threads=1)
    small, large = np.ones((1, 1 << 20), np.float32), np.ones((64, 1 << 20), np.float32)
    pages = int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + (64 << 20),) * 2)
    try:
        session(large)
    except rsk.RskError as error:
        print(type(error).__name__, error)
    print(session(small).shape)
"""


def test_a_lack_of_memory_is_a_sentence_and_smaller_batches_still_run():
    result = subprocess.run([sys.executable, "-c", LITTLE_MEMORY], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout == "UsageError there is not enough memory for a run of batch 64; give smaller batches or fewer threads, or free some\n(1, 1048576)\n"


FORBIDDEN = """if True:
    import ctypes, sys, warnings
    PR_SET_MDWE, REFUSE_EXEC_GAIN = 65, 1
    import numpy as np, rsk_deploy as rsk
    if ctypes.CDLL(None).prctl(PR_SET_MDWE, REFUSE_EXEC_GAIN, 0, 0, 0) != 0:
        sys.exit("this kernel has no PR_SET_MDWE")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sessions = [rsk.Session(sys.argv[1], threads=1) for _ in range(2)]
    print(*(f"{warning.category.__name__}: {warning.message}" for warning in caught), sep="|")
    x = np.ones(eval(sys.argv[2]), np.float32)
    print({step.kernel.split("/")[-1] for step in sessions[1].profile(x)} & {"unrolled"}, np.isfinite(sessions[0](x)).all())
"""


def test_where_pages_cannot_become_executable_other_kernels_run_and_it_is_told_once(shared_work, tmp_path):
    rsk.save(shared_work, tmp_path / "net.rsk")
    result = subprocess.run([sys.executable, "-c", FORBIDDEN, str(tmp_path / "net.rsk"), "(1, 32, 40, 40)"], capture_output=True, text=True, check=False)
    if "PR_SET_MDWE" in result.stderr:
        pytest.skip("this kernel cannot forbid executable pages to a process")
    assert result.returncode == 0, result.stderr
    told, ran = result.stdout.splitlines()
    assert told.startswith("RuntimeWarning: this system lets no page become executable: sparse layers run without generated code")
    assert "|" not in told
    assert ran == "set() True"


def test_code_that_may_not_be_generated_is_not_planned(monkeypatch):
    session_module.tell_that_code_is_forbidden.cache_clear()
    monkeypatch.setattr(session_module._native, "may_generate_code", lambda: False)
    with pytest.warns(RuntimeWarning, match="lets no page become executable") as caught:
        sessions = [Session(fixed(), threads=1) for _ in range(2)]
    assert len(caught) == 1
    assert not any(kernel.endswith("/unrolled") for kernel in sessions[0]._kernels)
    monkeypatch.setenv("RSK_JIT", "0")
    session_module.tell_that_code_is_forbidden.cache_clear()
    Session(fixed(), threads=1).close()  # silent: it was asked for
    session_module.tell_that_code_is_forbidden.cache_clear()
