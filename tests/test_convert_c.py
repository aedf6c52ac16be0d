"""The C export: what is written, what it computes on this machine and on others, and what is refused."""

import json
import os
import shutil
import subprocess
import sys

import networks
import numpy as np
import pytest
from c_cases import agrees, conv_net, export, fixed, weight
from c_targets import MACHINES, needs, needs_machine

import rsk_deploy as rsk
from rsk_deploy import reference
from rsk_deploy.comparing import compare, seeded_inputs
from rsk_deploy.converters import c as converter
from rsk_deploy.converters.c import assembly, compiled, data
from rsk_deploy.converters.c.arena import Block, placed
from rsk_deploy.converters.c.source import command, interface
from rsk_deploy.converters.c.targets import TARGETS
from rsk_deploy.errors import UnsupportedError, VerificationError
from rsk_deploy.ir import Activation, Binary, Constant, Conv, Declared, Dense, Graph, Input, Linear, Opaque, Packed, Reshape
from rsk_deploy.registry import FORMATS, SUFFIXES, regenerate

pytestmark = pytest.mark.usefixtures("host")


@pytest.fixture
def host(monkeypatch):
    """A compiler, which takes half the time at -O1."""
    needs("gcc", packages="gcc")
    monkeypatch.setattr(compiled, "FLAGS", tuple("-O1" if flag == "-O2" else flag for flag in compiled.FLAGS))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.csource"


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_every_network_computes_what_the_reference_computes(name, path):
    graph = fixed(networks.packed(name), batch=2)
    converter.write(graph, path)
    found = agrees(converter.runner(path), graph)
    assert found.passed, found


@pytest.mark.parametrize("half", [False, True], ids=["single", "half"])
@pytest.mark.parametrize("format", FORMATS)
def test_every_encoding_of_every_kind_of_convolution(format, half, path):
    graph = conv_net(format, half=half)
    converter.write(graph, path)
    found = agrees(converter.runner(path), graph, rtol=1e-5)
    assert found.passed, found


@pytest.mark.parametrize("format", [name for name in FORMATS if name != "periodic"])
def test_every_encoding_of_a_matrix(format, path):
    rng = np.random.default_rng(0)
    values = weight("lfsr" if format == "lfsr" else "", (19, 37), rng)
    if format == "lfsr":
        declared = Declared("lfsr", {"kept": 200})
        values = Dense(np.where(regenerate(declared, (19, 37)).support, rng.standard_normal((19, 37)), 0).astype(np.float32), declared)
    layer = Linear(name="fc", inputs=("x",), outputs=("y",), weight=values, bias=rng.standard_normal(19).astype(np.float32))
    graph = rsk.pack(Graph[Dense]((Input("x", (3, 4, 37)),), ("y",), (layer,)), {"fc": format})
    converter.write(graph, path)
    assert agrees(converter.runner(path), graph, rtol=1e-5).passed


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
@pytest.mark.parametrize("format", ["csr", "bitmask", "pattern"])
def test_a_layer_that_lost_every_weight_is_its_bias(format, dtype, path):
    window = {"stride": (1, 1), "pads": (0,) * 4, "dilation": (1, 1)}
    conv = Conv(name="conv", inputs=("x",), outputs=("a",), weight=Dense(np.zeros((4, 3, 3, 3), np.float32)), bias=np.arange(4, dtype=np.float32), **window)
    fc = Linear(name="fc", inputs=("a",), outputs=("y",), weight=Dense(np.zeros((5, 6), np.float32)), bias=np.arange(5, dtype=np.float32))
    graph = rsk.pack(Graph[Dense]((Input("x", (1, 3, 8, 8)),), ("y",), (conv, fc)), {"conv": format, "fc": "csr"})
    converter.write(graph, path, dtype=dtype, sample=seeded_inputs(graph))
    assert agrees(converter.runner(path), graph).passed


@pytest.mark.parametrize("width", [8, 13, 32])
def test_shift_registers_of_every_width_draw_the_same_places(width, path):
    rng = np.random.default_rng(1)
    declared = Declared("lfsr", {"scheme": "pattern", "width": width, "seed": 200, "taps_per_kernel": 4})
    values = np.where(regenerate(declared, (9, 8, 3, 3)).support, rng.standard_normal((9, 8, 3, 3)), 0).astype(np.float32)
    window = {"stride": (1, 1), "pads": (1,) * 4, "dilation": (1, 1)}
    layer = Conv(name="conv", inputs=("x",), outputs=("y",), weight=Dense(values, declared), **window)
    graph = rsk.pack(Graph[Dense]((Input("x", (1, 8, 5, 5)),), ("y",), (layer,)), "lfsr")
    converter.write(graph, path)
    assert agrees(converter.runner(path), graph, rtol=1e-5).passed


@pytest.mark.parametrize("shape", [(900, 8, 30), (1, 3, 70000)], ids=["many channels", "a long row"])
def test_places_beyond_16_bits_are_stored_in_32(shape, path):
    rng = np.random.default_rng(2)
    window = {"stride": (1, 1), "pads": (1,) * 4, "dilation": (1, 1)}
    layer = Conv(name="conv", inputs=("x",), outputs=("y",), weight=weight("csr", (4, shape[0], 3, 3), rng), **window)
    graph = rsk.pack(Graph[Dense]((Input("x", (1, *shape)),), ("y",), (layer,)), "csr")
    converter.write(graph, path)
    assert "#define RSK_WIDE_PLACES" in (path / "net.c").read_text()
    assert agrees(converter.runner(path), graph).passed


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A file that is read without torch."""
    path = tmp_path_factory.mktemp("saved") / "psconv.rsk"
    rsk.save(fixed(networks.packed("psconv-regular")), path)
    return path


def small():
    """A convolution of 4-of-9 kernels, a residual and an activation."""
    return conv_net("pattern", ["3x3"])


@pytest.mark.parametrize(("target", "emit_asm"), [("generic", False), ("x86-64", False), ("x86-64", True)])
def test_the_command_of_the_header_compiles_the_folder_without_a_warning(target, emit_asm, path, monkeypatch):
    monkeypatch.setattr(assembly, "HOT", 16)
    needs(TARGETS[target].compiler, packages="gcc")
    converter.write(fixed(networks.packed("psconv-regular")), path, target=target, emit_asm=emit_asm)
    (line,) = [line for line in (path / "net.h").read_text().splitlines() if "In this folder:" in line]
    arguments = line.split("In this folder: ")[1].split()
    assert " ".join(arguments) == command(TARGETS[target], "net", assembly=emit_asm)
    subprocess.run([*arguments, "-Werror", "-O1"], cwd=path, check=True)
    (path / "main.c").write_text('#include "net.h"\nstatic float in[NET_IN_SIZE], out[NET_OUT_SIZE];\nint main(void) { return net_run(in, out, 0), 0; }\n')
    subprocess.run([TARGETS[target].compiler, "main.c", "net.o", "-o", "main", "-lm"], cwd=path, check=True)  # all of it is there


def test_the_header_serves_cplusplus_and_the_sizes_are_constants(path):
    needs("g++", packages="g++")
    converter.write(small(), path)
    (path / "use.cc").write_text('#include "net.h"\nstatic float in[NET_IN_SIZE], out[NET_OUT_SIZE];\nint main() { net_run(in, out, nullptr); }\n')
    subprocess.run([shutil.which("g++"), "-Wall", "-Werror", "-c", "use.cc"], cwd=path, check=True)


@pytest.mark.parametrize(
    ("name", "dtype"), [(name, "fp32") for name in ("psconv-regular", "odd-convs", "shapes", "unet-transposed", "psconv-lfsr")] + [("odd-convs", "int8")]
)
def test_no_undefined_behaviour(name, dtype, path):
    graph = fixed(networks.packed(name))
    converter.write(graph, path, dtype=dtype, sample=seeded_inputs(graph) if dtype == "int8" else None)
    face = interface(graph, "net")
    arrays = "\n".join(f"static float {p.name}[{int(np.prod(p.shape))}];" for p in (*face.inputs, *face.outputs))
    fill = "\n".join(f"for (int i = 0; i < {int(np.prod(p.shape))}; i++) {p.name}[i] = i ? (float)(i % 7) - 3 : NAN;" for p in face.inputs)
    arguments = ", ".join(p.name for p in (*face.inputs, *face.outputs))
    body = f"int main(void) {{ float *scratch = malloc(NET_SCRATCH_BYTES); {fill} net_run({arguments}, scratch); free(scratch); return 0; }}"
    (path / "main.c").write_text(f'#include <math.h>\n#include <stdlib.h>\n#include "net.h"\n{arrays}\n{body}\n')
    sanitize = ["-fsanitize=undefined,address,float-divide-by-zero,float-cast-overflow", "-fno-sanitize-recover=all"]
    subprocess.run([*compiled.compiler(), "-std=c99", "-O0", *sanitize, "main.c", "net.c", "-o", "main", "-lm"], cwd=path, check=True)
    subprocess.run(["./main"], cwd=path, check=True, env=os.environ | {"ASAN_OPTIONS": "detect_leaks=0"})


@pytest.mark.parametrize("target", MACHINES)
@pytest.mark.parametrize("name", ["psconv-regular", "psconv-periodic", "psconv-lfsr", "skeleton", "rsk"])
def test_other_machines_compute_what_the_reference_computes(target, name, path):
    needs_machine(target)
    graph = fixed(networks.packed(name))
    machine = converter.write(graph, path, target=target).elsewhere
    assert agrees(machine.runner(path), graph, rtol=1e-5).passed


@pytest.mark.parametrize("target", ["x86-64", "aarch64"])
@pytest.mark.parametrize("name", ["psconv-regular", "skeleton"])
def test_generated_assembly_computes_what_the_reference_computes(target, name, path, monkeypatch):
    monkeypatch.setattr(assembly, "HOT", 16)
    needs_machine(target)
    graph = fixed(networks.packed(name))
    machine = converter.write(graph, path, target=target, emit_asm=True).elsewhere
    assert (path / "net.code").stat().st_size > 1000
    assert machine.alone is not assembly.runs_here(TARGETS[target].isa)
    assert agrees(machine.runner(path), graph, rtol=1e-5).passed


def test_a_network_without_hot_layers_has_no_assembly(path, monkeypatch):
    monkeypatch.setattr(assembly, "HOT", 1 << 20)
    graph = fixed(networks.packed("psconv-regular"))
    converter.write(graph, path, target="x86-64", emit_asm=True)
    assert agrees(converter.runner(path), graph, rtol=1e-5).passed


def test_a_whole_resnet_runs_on_aarch64(path):
    needs_machine("aarch64")
    from rsk_deploy import zoo

    model = networks.trained(zoo.build("resnet18", conv="psconv", conv_args={"taps_per_kernel": 4}), (1, 3, 32, 32))
    graph = rsk.pack(rsk.read(model, input_shape=(1, 3, 32, 32)))
    machine = converter.write(graph, path, target="aarch64").elsewhere
    assert (path / "net.bin").stat().st_size > 20_000_000
    x = seeded_inputs(graph)
    found = compare(lambda _: machine.runner(path)(x), lambda _: reference.run(graph, x, dtype=np.float32), {}, rtol=1e-4)
    assert found.passed, found


def test_large_weights_lie_in_a_binary_which_may_also_be_text_or_linked(path, monkeypatch):
    monkeypatch.setattr(data, "BINARY_ABOVE", 1000)
    monkeypatch.setattr(data, "INLINE_BELOW", 300)
    graph = conv_net("dense")
    converter.write(graph, path)
    assert agrees(converter.runner(path), graph, rtol=1e-5).passed
    words = ",".join(map(str, (path / "net.bin").read_bytes()))
    (path / "net.bin").unlink()
    flags = compiled.FLAGS
    (path / "net.bin.inc").write_text(words)
    monkeypatch.setattr(compiled, "FLAGS", (*flags, "-DNET_WEIGHTS_AS_TEXT"))
    assert agrees(converter.runner(path), graph, rtol=1e-5).passed
    (path / "net.bin.inc").unlink()
    (path / "weights.c").write_text(f"const unsigned char net_weights[] __attribute__((aligned(64))) = {{{words}}};\n")
    monkeypatch.setattr(compiled, "FLAGS", (*flags, "-DNET_WEIGHTS_ELSEWHERE", "weights.c"))
    assert agrees(converter.runner(path), graph, rtol=1e-5).passed


@pytest.mark.parametrize("value", [0.1, -1.5, 1.0, 0.0, -0.0, 1e-45, 3.4028234e38, 2.0**-126, 123456.0, np.inf])
def test_literals_keep_every_bit(value):
    value = float(np.float32(value))
    text = data.floating(value)
    if text.endswith("INFINITY"):
        assert value == np.inf
    else:
        assert float.fromhex(text[:-1]) == value if "x" in text else float(text[:-1]) == value
        assert np.signbit(value) == text.startswith("-")


def test_values_that_live_together_never_overlap():
    rng = np.random.default_rng(0)
    for _ in range(200):
        blocks = [Block(int(size), int(first), int(first + length)) for size, first, length in rng.integers(1, 20, (12, 3))]
        starts, total = placed(blocks)
        assert total <= sum(-(-block.size // 4) * 4 for block in blocks)
        for a, first in zip(blocks, starts, strict=True):
            assert first + a.size <= total
            for b, second in zip(blocks, starts, strict=True):
                if a is not b and a.first <= b.last and b.first <= a.last:
                    assert first + a.size <= second or second + b.size <= first


def test_the_bytes_are_the_same_in_every_process(tmp_path, saved):
    for seed in ("1", "2"):
        arguments = [sys.executable, "-m", "rsk_deploy.cli.export", saved, "--format", "c", "-o", tmp_path / seed, "-q", "--no-verify"]
        subprocess.run(arguments, env=os.environ | {"PYTHONHASHSEED": seed}, check=True)
    first, second = ({file.name: file.read_bytes() for file in (tmp_path / seed / "psconv.csource").iterdir()} for seed in ("1", "2"))
    assert first == second


def test_inner_values_are_observed_where_they_exist(path):
    graph = fixed(networks.packed("resnet18"))
    converter.write(graph, path)
    x = seeded_inputs(graph)
    names = [name for layer in graph.layers for name in layer.outputs]
    found = converter.runner(path, names)(x)
    known = reference.run(graph, x, names)
    assert set(graph.outputs) < set(found) < set(names)
    for name, values in found.items():
        np.testing.assert_allclose(values, known[name], atol=1e-4 * np.abs(known[name]).max())


def test_outputs_that_are_inputs_constants_or_one_another_are_copied(path):
    constant = Constant(name="c", inputs=(), outputs=("c",), values=np.arange(3, dtype=np.float32))
    relu = Activation(name="r", inputs=("x",), outputs=("r",), kind="relu")
    flat = Reshape(name="f", inputs=("r",), outputs=("f",), target=(6,))
    same = Reshape(name="s", inputs=("x",), outputs=("s",), target=(3, 2))
    graph = Graph[Packed]((Input("x", (2, 3)),), ("r", "f", "s", "c"), (constant, relu, flat, same))
    converter.write(graph, path)
    assert agrees(converter.runner(path), graph).passed


def test_a_checkpoint_becomes_a_verified_folder(checkpoints, tmp_path):
    result = export(checkpoints["psconv"], "--format", "c", "-o", tmp_path)
    assert result.exit_code == 0, result.stderr
    assert "the compiled C code against the model" in result.stdout
    assert "flash" in result.stdout
    assert "MACs" in result.stdout
    folder = tmp_path / f"psconv.{SUFFIXES['c']}"
    assert {"net.c", "net.h", "rsk_conv.h"} <= {file.name for file in folder.iterdir()}
    assert [file.name for file in tmp_path.iterdir()] == [folder.name]


def test_the_report_is_in_the_json_document(saved, tmp_path):
    result = export(saved, "--format", "c", "-o", tmp_path, "--json")
    (file,) = json.loads(result.stdout)["files"]
    figures = file["footprint"]
    assert figures["macs"] < 0.6 * figures["dense_macs"]
    assert figures["flash"] < figures["dense_flash"]
    assert figures["ram"] > 0


def test_force_replaces_a_folder_and_never_files_of_others(saved, tmp_path):
    arguments = (saved, "--format", "c", "-o", tmp_path, "--no-verify")
    assert export(*arguments).exit_code == 0
    assert export(*arguments).exit_code == 2
    assert export(*arguments, "--force").exit_code == 0
    own = tmp_path / "psconv.csource" / "main.c"
    own.write_text("mine")
    result = export(*arguments, "--force")
    assert result.exit_code == 2
    assert "holds main.c, which the new folder does not have" in result.stderr
    assert own.read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1


REFUSED = [
    (["--target", "cortex-m5"], 2, "--target cortex-m5 is none of --format c; there are generic"),
    (["--dtype", "int4"], 2, "unknown dtype 'int4' of the C export; known are fp32, fp16-storage, int8"),
    (["--dtype", "int8"], 2, "--dtype int8 needs --sample x.npy"),
    *(
        (["--name", name], 2, f"{name!r} is no name for a C function and its files. Use letters, digits and single _ between them")
        for name in ("2net", "rsk_conv", "static", "int", "class", "Class", "math", "main", "_Foo", "__x", "my__net", "net_", "é", "a-b", "")
    ),
    (["--max-flash", "many"], 2, "--max-flash many: write a number of bytes, as in 65536, 64k or 1M"),
    (["--max-flash", "10k"], 2, "bytes of flash; --max-flash 10k allows 10,240 bytes. Most take"),
    (["--max-ram", "1k"], 2, "--max-ram 1k allows 1,024 bytes. It is fullest at"),
    (["--emit-asm"], 2, "--emit-asm writes machine code for --target x86-64, aarch64, cortex-a53; --target generic has none"),
    (["--emit-asm", "--target", "aarch64", "--dtype", "fp16-storage"], 2, "computes with fp32, not with --dtype fp16-storage"),
]


@pytest.mark.parametrize(("arguments", "code", "sentence"), REFUSED, ids=[" ".join(arguments) for arguments, _, _ in REFUSED])
def test_a_wrong_request_is_a_sentence_and_nothing_is_written(saved, tmp_path, arguments, code, sentence):
    result = export(saved, "--format", "c", "-o", tmp_path, *arguments)
    assert result.exit_code == code, result.output
    assert sentence in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_open_batch_is_refused(checkpoints, tmp_path):
    result = export(checkpoints["psconv"], "--format", "c", "-o", tmp_path, "--dynamic", "batch")
    assert result.exit_code == 4, result.output
    assert "the C export has no open batch" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_options_of_c_are_refused_for_other_formats(saved, tmp_path):
    result = export(saved, "--format", "rsk", "-o", tmp_path, "--max-ram", "64k")
    assert result.exit_code == 2
    assert "--max" in result.stderr
    assert "--format c" in result.stderr


def test_no_compiler_is_said_with_what_to_do(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    result = export(saved, "--format", "c", "-o", tmp_path)
    assert result.exit_code == 2
    assert "verifying C code needs a C compiler" in result.stderr
    assert "--no-verify" in result.stderr
    assert list(tmp_path.iterdir()) == []
    assert export(saved, "--format", "c", "-o", tmp_path, "--no-verify").exit_code == 0


def test_an_operation_that_c_does_not_have_is_named(path):
    layer = Opaque(
        name="mystery", inputs=("x",), outputs=("y",), op="Hardmax", node=b"", domain="", opset=13, output_shapes=((1, 4),), output_dtypes=("float32",)
    )
    with pytest.raises(UnsupportedError, match=r"^mystery: the C export has no Hardmax; only the ONNX export carries it"):
        converter.write(Graph[Packed]((Input("x", (1, 4)),), ("y",), (layer,)), path)
    assert not path.exists()


def test_a_convolution_over_three_axes_is_named(path):
    rng = np.random.default_rng(0)
    layer = Conv(name="volume", inputs=("x",), outputs=("y",), weight=weight("dense", (2, 2, 3, 3, 3), rng), stride=(1,) * 3, pads=(0,) * 6, dilation=(1,) * 3)
    graph = rsk.pack(Graph[Dense]((Input("x", (1, 2, 4, 4, 4)),), ("y",), (layer,)))
    with pytest.raises(UnsupportedError, match="volume: the C export has convolutions over 1 or 2 axes; this one has 3"):
        converter.write(graph, path)


def test_inputs_that_are_no_floats_are_refused(path):
    graph = Graph[Packed]((Input("tokens", (1, 4), "int64"),), ("y",), (Activation(name="a", inputs=("tokens",), outputs=("y",), kind="relu"),))
    with pytest.raises(UnsupportedError, match="input 'tokens' holds int64; the C export has inputs of float32 alone"):
        converter.write(graph, path)


def test_two_names_that_c_cannot_tell_apart_are_refused(path):
    add = Binary(name="add", inputs=("a.b", "a/b"), outputs=("y",), kind="add")
    graph = Graph[Packed]((Input("a.b", (1, 4)), Input("a/b", (1, 4))), ("y",), (add,))
    with pytest.raises(UnsupportedError, match=r"'a\.b' and 'a/b' would both be the C parameter a_b_; rename one in the model"):
        converter.write(graph, path)


def test_names_cannot_break_out_of_comments_and_strings(path):
    name = 'x*/ "\\ %s ??/ \n é'
    relu = Activation(name=name, inputs=("x",), outputs=(name,), kind="relu")
    graph = Graph[Packed]((Input("x", (1, 4)),), (name,), (relu,))
    converter.write(graph, path)
    assert agrees(converter.runner(path), graph).passed
    assert agrees(converter.runner(path, [name]), graph).passed


def test_layers_may_have_names_that_mean_something_in_c(path):
    names = ["in", "out", "s", "float", "rsk_activate", "memcpy", "1", "", "scratch"]
    layers = [Activation(name=name, inputs=(before,), outputs=(name,), kind="sigmoid") for before, name in zip(["x", *names[:-1]], names, strict=True)]
    graph = Graph[Packed]((Input("x", (1, 4)),), ("scratch", "in"), tuple(layers))
    converter.write(graph, path)
    assert agrees(converter.runner(path), graph).passed


def test_code_that_the_compiler_refuses_is_a_verification_error(path):
    converter.write(small(), path)
    (path / "net.c").write_text("int broken = ;\n")
    with pytest.raises(VerificationError, match="the C compiler refuses the written code"):
        converter.runner(path)
