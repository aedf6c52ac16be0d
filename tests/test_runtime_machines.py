"""The runtime for other machines than this one, against the reference: 64-bit ARM under emulation, and parts of this machine alone."""

import ctypes
import os
import platform
import re
import shutil
import subprocess
import sys
from fcntl import LOCK_EX, flock
from functools import cache
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, PROT_EXEC, PROT_READ, PROT_WRITE, mmap
from pathlib import Path

import numpy as np
import pytest
import torch
from native.plans import NEON
from runtime_cases import EPSILON, inputs_of, magnitude
from test_convert_onnx_layers import CASES, PAIRS, POSITIVE, single
from test_runtime_special import assert_alike, ending, wanted_of
from test_runtime_winograd import conv

import rsk_deploy as rsk
from rsk_deploy import reference, zoo
from rsk_deploy.ir import Conv, ConvTranspose, Graph, Input
from rsk_deploy.runtime import _native
from rsk_deploy.runtime.choose import candidates
from rsk_deploy.runtime.fuse import CONV_ACTIVATIONS
from rsk_deploy.runtime.plan import planned
from rsk_deploy.runtime.records import encode

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build" / "aarch64"
PATH = os.pathsep.join([os.environ["PATH"], str(Path(sys.executable).parent)])
PACKAGES = {
    "cmake": "cmake", "aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu", "aarch64-linux-gnu-objdump": "binutils-aarch64-linux-gnu",
    "qemu-aarch64-static": "qemu-user-static",
}  # fmt: skip
pytestmark = pytest.mark.timeout(900)  # the first test compiles the runtime
MNEMONICS = {
    *("ldr", "ldur", "ldp", "stp", "fmla", "movi", "dup", "fadd", "fmax", "fmin", "and", "cmtst"),
    *("add", "sub", "lsr", "mov", "movk", "cbnz", "ret", "prfm", "udf"),
}


def run(*command):
    """A program's output; what it printed is in the failure."""
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, env=os.environ | {"PATH": PATH})
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    return result.stdout


@pytest.fixture(scope="module")
def emulated():
    """Runs one of the cross-compiled test programs."""
    missing = [package for tool, package in PACKAGES.items() if shutil.which(tool, path=PATH) is None]
    if missing:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"64-bit ARM is not tested without: apt-get install {' '.join(missing)}")
    native = ROOT / "runtime" / "native"
    toolchain = f"-DCMAKE_TOOLCHAIN_FILE={native / 'cmake' / 'aarch64-linux-gnu.cmake'}"
    BUILD.mkdir(parents=True, exist_ok=True)
    with open(BUILD / "lock", "w") as lock:
        flock(lock, LOCK_EX)
        run("cmake", "-S", native, "-B", BUILD, toolchain, "-DRSK_PYTHON=OFF", "-DRSK_TESTS=ON", "-DRSK_STRICT=ON", "-DCMAKE_BUILD_TYPE=Release")
        run("cmake", "--build", BUILD, "-j2")
    return lambda program, *arguments: run("qemu-aarch64-static", BUILD / program, *arguments)


@pytest.mark.parametrize("layers", [60, pytest.param(1000, marks=(pytest.mark.slow, pytest.mark.timeout(1800)))])
def test_every_arm_kernel_computes_what_the_obvious_loop_does(emulated, layers):
    printed = emulated("native_tests/kernels_test", layers)
    assert "0 failures" in printed
    assert set(re.findall(r"^(\S+/\S+) +[1-9]\d* layers", printed, re.MULTILINE)) == {
        name for name in NEON if name.endswith(("/shared", "/unrolled", "/table", "/bitmask"))
    }
    assert emulated("native_tests/winograd_test", layers // 5).endswith("\n0 failures\n")
    assert emulated("native_tests/pool_test") == "2 instruction sets\n"


def test_the_arm_encoder_writes_what_the_assembler_does(emulated):
    assert " forms" in emulated("native_tests/aarch64_test", "aarch64-linux-gnu-as", "aarch64-linux-gnu-objcopy")


class Unrolled:
    """A random sparse matrix over a padded input with or without an epilogue that code finishes, and its code for a machine."""

    def __init__(self, isa, seed):
        rng = np.random.default_rng(seed)
        channels, pitch, filters, self.vectors = rng.integers(1, 90), rng.integers(5, 95), rng.integers(1, 60), int(rng.integers(1, 5))
        plane = 3 * pitch + rng.integers(70000 if seed % 4 == 0 else 300)
        channel, row, column = np.unravel_index(np.arange(9 * channels), (channels, 3, 3))
        offsets = channel * plane + row * pitch + column
        self.origin = int(rng.choice(offsets))
        self.x = rng.standard_normal(offsets[-1] + 16 * self.vectors).astype(np.float32)
        weights = rng.standard_normal((filters, 9 * channels)).astype(np.float32) * (rng.random((filters, 9 * channels)) < rng.random())
        self.rows = self.x[offsets[:, None] + np.arange(16 * self.vectors)].astype(np.float64)
        self.weights = weights.astype(np.float64)
        self.bias, self.residual = rng.standard_normal(filters).astype(np.float32), rng.standard_normal((filters, 16 * self.vectors)).astype(np.float32)
        self.activation, self.keep = seed % 3, int(rng.integers(1 << 64, dtype=np.uint64))
        numbers, columns = np.nonzero(weights)
        start = np.searchsorted(numbers, np.arange(filters + 1)).astype(np.uint32)
        arguments = start, columns.astype(np.uint32), weights[numbers, columns], (offsets - self.origin).astype(np.int32), self.vectors
        epilogue = self.bias, self.activation, -0.5, 1.5, True
        self.code, self.stream, self.width, self.finishes, self.blocks = _native.unrolled(isa, *arguments, *epilogue)

    def check(self, out):
        """Within the error that float32 sums may have."""
        wanted, size = self.weights @ self.rows, np.abs(self.weights) @ np.abs(self.rows)
        if self.finishes:
            wanted, size = wanted + self.bias[:, None] + self.residual, size + np.abs(self.bias[:, None]) + np.abs(self.residual)
            wanted = [wanted, np.maximum(wanted, 0), np.clip(wanted, -0.5, 1.5)][self.activation]
            wanted = np.where(self.keep >> np.arange(16 * self.vectors, dtype=np.uint64) & 1, wanted, 0)
        assert (np.abs(out.reshape(wanted.shape) - wanted) <= 4 * EPSILON * size).all()


def test_code_for_arm_from_another_machine_runs_there(emulated, tmp_path):
    cases = {tmp_path / str(seed): Unrolled("neon", seed) for seed in range(24)}
    for folder, case in cases.items():
        folder.mkdir()
        (folder / "code").write_bytes(case.code)
        (folder / "weights").write_bytes(case.stream)
        case.x.tofile(folder / "x")
        case.residual.tofile(folder / "residual")
        index = [case.width, case.vectors, case.origin, len(case.weights), case.finishes, case.keep]
        for filters, pieces in case.blocks:
            index += [len(filters), len(pieces), *filters, *np.ravel(pieces)]
        np.array([int(number) for number in index], np.uint64).tofile(folder / "index")
    emulated("native_tests/run_code", *cases)
    assert all(case.finishes for case in cases.values())
    for folder, case in cases.items():
        case.check(np.fromfile(folder / "out", np.float32))


@pytest.mark.usefixtures("emulated")
def test_code_for_arm_has_no_instruction_but_those_of_the_encoder(tmp_path):
    (tmp_path / "code").write_bytes(Unrolled("neon", 2).code)
    listing = run("aarch64-linux-gnu-objdump", "-D", "-b", "binary", "-m", "aarch64", tmp_path / "code")
    assert set(re.findall(r"^ +[0-9a-f]+:\t[0-9a-f]{8} \t(\S+)", listing, re.MULTILINE)) <= MNEMONICS


class Call(ctypes.Structure):
    """codegen/unrolled.h: UnrolledCall."""

    _fields_ = (
        ("code_ahead", ctypes.c_void_p), ("weights_ahead", ctypes.c_void_p), ("out", ctypes.c_void_p), ("stride", ctypes.c_size_t),
        ("residual", ctypes.c_void_p), ("residual_stride", ctypes.c_size_t), ("keep", ctypes.c_uint64),
    )  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="maps pages as Linux does")
@pytest.mark.parametrize("isa", [name.split("/")[0] for name in _native.kernels() if name.endswith("/unrolled")])
def test_code_for_this_machine_runs_from_wherever_it_lies(isa):
    for case in (Unrolled(isa, seed) for seed in range(12)):
        pages = mmap(-1, len(case.code) + 64, MAP_PRIVATE | MAP_ANONYMOUS, PROT_READ | PROT_WRITE | PROT_EXEC)
        pages[64:] = case.code
        where = ctypes.addressof(ctypes.c_char.from_buffer(pages)) + 64
        stream = np.frombuffer(case.stream, np.float32)
        out, width, row = np.empty_like(case.residual), 16 * case.width, 64 * case.vectors
        room = np.empty(1024 + 16, np.float32)
        sums = room[-room.ctypes.data // 4 % 16 :][:1024]
        for first in range(0, 16 * case.vectors, width):
            for filters, pieces in case.blocks:
                call = Call(None, None, out[filters[0], first:].ctypes.data, row, case.residual[filters[0], first:].ctypes.data, row, case.keep >> first)
                for entry, weight in pieces:
                    piece = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4)(where + entry)
                    piece(stream.ctypes.data + 4 * weight, case.x.ctypes.data + 4 * (case.origin + first), sums.ctypes.data, ctypes.addressof(call))
                if not case.finishes:
                    out[filters, first : first + width] = sums[: len(filters) * width].reshape(len(filters), -1)
        case.check(out)


CSR = [0, 1, 2], [0, 1], [1, 2], [0, 5]
TYPES = np.uint32, np.uint32, np.float32, np.int32


@pytest.mark.parametrize(
    ("isa", "csr", "vectors", "message"),
    [
        ("sse", CSR, 1, "code is generated for avx512, avx2 and neon, not for sse"),
        ("neon", CSR, 5, "tiles have 1 to 4 vectors"),
        ("neon", ([0, 3], *CSR[1:]), 1, "the counts of a matrix differ"),
        ("neon", ([0, 3, 2], *CSR[1:]), 1, "a row of the matrix ends before it starts"),
        ("neon", ([0, 2], [1, 0], *CSR[2:]), 1, "do not ascend below its size"),
        ("neon", ([0, 2], [0, 2], *CSR[2:]), 1, "do not ascend below its size"),
        ("neon", (*CSR[:3], [0, 1 << 29]), 1, "an offset is beyond what code addresses"),
    ],
)
def test_no_code_is_generated_from_what_is_no_matrix(isa, csr, vectors, message):
    with pytest.raises(ValueError, match=message):
        _native.unrolled(isa, *(np.array(part, kind) for part, kind in zip(csr, TYPES, strict=True)), vectors)


@pytest.mark.parametrize(
    ("epilogue", "message"),
    [({"bias": np.zeros(3, np.float32)}, "the bias has another length than the matrix"), ({"activation": 7}, "an activation is unknown")],
)
def test_no_code_is_generated_for_an_epilogue_that_does_not_fit(epilogue, message):
    with pytest.raises(ValueError, match=message):
        _native.unrolled("neon", *(np.array(part, kind) for part, kind in zip(CSR, TYPES, strict=True)), 1, **epilogue)


def answers(emulated, folder, plans, exact=False):
    """The outputs and the kernels of plans for ARM: name → (graph, batch, kernels)."""
    for name, (graph, inputs, kernels) in plans.items():
        batch = next(iter(inputs.values())).shape[0]
        np.asarray(encode(planned(graph, batch, kernels, exact))).tofile(folder / name)
        np.concatenate([inputs[entry.name].ravel() for entry in graph.inputs]).tofile(folder / f"{name}.in")
    printed = emulated("run_plan", *(folder / name for name in plans), "--answers").splitlines()
    found = {}
    for (name, (graph, inputs, _)), line in zip(plans.items(), printed, strict=False):
        if (folder / f"{name}.out").exists():
            shapes = [graph.shapes(next(iter(inputs.values())).shape[0])[output] for output in graph.outputs]
            flat = np.split(np.fromfile(folder / f"{name}.out", np.float32), np.cumsum([np.prod(shape) for shape in shapes])[:-1])
            found[name] = dict(zip(graph.outputs, map(np.reshape, flat, shapes), strict=True)), line.split()
        else:
            assert "cannot do this layer" in line
    return found


def allowed(kernel):
    """What a session may use that forces a kernel."""
    return candidates(NEON, kernel.split("/")[-1], kernel.split("/")[0]) if kernel else candidates(NEON, None, None)


@pytest.mark.parametrize("kernel", [None, *NEON])
def test_every_layer_computes_what_the_reference_does_on_arm(emulated, tmp_path, kernel):
    plans = {}
    for number, (case, (*shapes, kind, fields)) in enumerate((CASES | PAIRS).items()):
        if kernel is None or kind in (Conv, ConvTranspose):
            graph = single(kind, fields, *shapes)
            plans[f"{number}.plan"] = graph, inputs_of(graph, 1 + number % 3, positive=case in POSITIVE), allowed(kernel)
    found = answers(emulated, tmp_path, plans, exact=kernel is not None)
    assert len(found) == len(plans) or "shared" in kernel
    for name, (outputs, kernels) in found.items():
        assert kernel is None or kernel in kernels or kernel.endswith("/winograd")
        for output, wanted in reference.run(*plans[name][:2]).items():
            np.testing.assert_allclose(outputs[output], wanted, rtol=3e-6, atol=3e-6 * max(1.0, float(np.abs(wanted).max())))


@pytest.mark.parametrize("kernel", NEON)
def test_the_activation_of_a_convolution_is_that_of_the_reference_on_arm(emulated, tmp_path, kernel):
    plans = {f"{kind}.plan": (*ending(kernel.split("/")[-1], kind), allowed(kernel)) for kind in CONV_ACTIVATIONS}
    found = answers(emulated, tmp_path, plans, exact=True)
    for name, (graph, inputs, _) in plans.items():
        outputs, kernels = found[name]
        assert kernel in kernels
        assert_alike(outputs["y"], wanted_of(graph, inputs)["y"])


@pytest.mark.parametrize("kernel", [name for name in NEON if name.endswith("/winograd")])
def test_transformed_layers_are_within_their_error_on_arm(emulated, tmp_path, kernel):
    plans, rng = {}, np.random.default_rng(0)
    for number in range(12):
        layer, _ = conv(int(rng.integers(16, 40)), int(rng.integers(1, 40)), number, pads=tuple(map(int, rng.integers(0, 2, 4))))
        graph = Graph((Input("x", ("batch", layer.weight.shape[1], *map(int, rng.integers(3, 24, 2)))),), ("y",), (layer,))
        plans[f"{number}.plan"] = graph, inputs_of(graph, 1 + number % 3), allowed(kernel)
    found = answers(emulated, tmp_path, plans, exact=True)
    for name, (graph, inputs, _) in plans.items():
        outputs, kernels = found[name]
        assert kernels == [kernel]
        error = np.abs(outputs["y"] - reference.run(graph, inputs)["y"])
        assert (error <= 32 * EPSILON * magnitude(graph.layers[0], inputs["x"])).all()


@cache
def resnet(**args):
    """ResNet18-CIFAR with 4 of 9 taps."""
    torch.manual_seed(0)
    model = zoo.build("resnet18", conv="psconv", conv_args={"taps_per_kernel": 4}, **args).eval()
    return rsk.pack(rsk.read(model, input_shape=(1, 3, 32, 32)))


def check_network(graph, inputs, outputs):
    """Against the reference; errors of single layers add up."""
    for name, wanted in reference.run(graph, inputs).items():
        np.testing.assert_allclose(outputs[name], wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_a_whole_network_computes_what_the_reference_does_on_arm(emulated, tmp_path):
    graph = resnet()
    inputs = inputs_of(graph, 1)
    outputs, kernels = answers(emulated, tmp_path, {"net.plan": (graph, inputs, allowed(None))})["net.plan"]
    check_network(graph, inputs, outputs)
    assert {"neon/unrolled", "neon/table", "neon/shared"} <= set(kernels)


@pytest.mark.parametrize("isa", sorted({name.split("/")[0] for name in _native.kernels()}))
def test_a_forced_instruction_set_computes_a_whole_network_alone(monkeypatch, isa):
    monkeypatch.setenv("RSK_FORCE_ISA", isa)
    graph = resnet(width=0.25)
    inputs = inputs_of(graph, 1)
    with rsk.Session(graph, threads=1) as session:
        outputs, steps = session.run(inputs), session.profile(*inputs.values())
    assert {step.kernel.split("/")[0] for step in steps if step.operation == "conv"} == {isa}
    check_network(graph, inputs, outputs)


OTHER_CPU = """if True:
    import sys, numpy as np
    from rsk_deploy.runtime import _native
    from rsk_deploy.runtime.records import aligned
    print({name.split("/")[0] for name in _native.kernels()} == {"avx2", "portable"})
    file = np.fromfile(sys.argv[1], np.uint8)
    plan = aligned(file.size)
    plan[:] = file
    try:
        _native.Engine(plan, 1)
    except NotImplementedError as error:  # the refusal that is tested, for the parent to read
        print(error)
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="emulates an older x86 on this one")
def test_a_plan_for_a_newer_cpu_is_refused_by_an_older_one(tmp_path):
    if shutil.which("qemu-x86_64-static") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("an older CPU is not emulated without: apt-get install qemu-user-static")
    graph = single(Conv, CASES["conv"][-1], *CASES["conv"][:-2])
    np.asarray(encode(planned(graph, 1, ["avx512/table"]))).tofile(tmp_path / "plan")
    printed = run("qemu-x86_64-static", "-cpu", "Haswell", sys.executable, "-c", OTHER_CPU, tmp_path / "plan")
    assert printed == "True\nthe plan is for another machine: the kernel 'avx512/table' needs avx512\n"
