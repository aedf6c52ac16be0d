"""The C export for other machines: run as they run it, measured as their compiler makes it, held against their memory."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from c_cases import agrees, conv_net, export
from c_targets import needs, needs_machine

import rsk_deploy as rsk
from rsk_deploy import doctor, reference
from rsk_deploy.converters import c as converter
from rsk_deploy.converters.c import elsewhere, tools
from rsk_deploy.converters.c.built import built, compiler_of
from rsk_deploy.converters.c.footprint import LONGEST, shortened
from rsk_deploy.converters.c.targets import TARGETS, Memory
from rsk_deploy.errors import UsageError, VerificationError
from rsk_deploy.ir import Dense, Graph, Input, Linear
from rsk_deploy.registry import Elsewhere
from rsk_deploy.rewrite import lower_for
from rsk_deploy.verify import Written, verify_file

OTHERS = [name for name, target in TARGETS.items() if target.emulator]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.csource"


@pytest.fixture
def model(tmp_path):
    """A file of one small network, to export."""
    rsk.save(conv_net("pattern", ["3x3"]), tmp_path / "net.rsk")
    return tmp_path / "net.rsk"


@pytest.fixture
def without(monkeypatch):
    """Hide a program."""

    def hide(*names):
        which = shutil.which
        monkeypatch.setattr(shutil, "which", lambda name, **options: None if os.path.basename(name) in names else which(name, **options))

    return hide


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Where temporary files go."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.mark.parametrize("target", OTHERS)
def test_each_target_computes_what_the_reference_computes(target, path):
    needs_machine(target)
    graph = conv_net("pattern")
    machine = converter.write(graph, path, target=target).elsewhere
    found = agrees(machine.runner(path), graph, rtol=1e-5)
    assert found.passed, found
    assert len(found.outputs) == 8


def test_the_export_says_that_it_ran_on_the_emulated_machine(model, tmp_path, places):
    needs_machine("cortex-m4")
    result = export(model, "--format", "c", "-o", tmp_path / "out", "--target", "cortex-m4")
    assert result.exit_code == 0, result.stderr
    assert "    an emulated cortex-m4 against the model, 3 batches\n    y 3x3: max |Δ| " in result.stdout
    assert " (arm-none-eabi-gcc -O3)\n" in result.stdout
    assert list(places.iterdir()) == []


@pytest.mark.parametrize(
    ("missing", "reason", "code"),
    [
        ("qemu-system-arm", "qemu-system-arm is not installed (Debian: apt install qemu-system-arm)", True),
        ("arm-none-eabi-gcc", "arm-none-eabi-gcc is not installed (Debian: apt install gcc-arm-none-eabi)", False),
        ("arm-none-eabi-size", "arm-none-eabi-gcc comes without its program size, which measures code", False),
    ],
)
def test_what_was_not_run_is_said_with_the_reason(missing, reason, code, model, tmp_path, without):
    needs_machine("cortex-m4")
    without(missing)
    arguments = [model, "--format", "c", "--target", "cortex-m4"]
    result = export(*arguments, "-o", tmp_path / "text")
    assert result.exit_code == 0, result.stderr
    assert f"not run on an emulated cortex-m4: {reason}\n" in result.stdout
    assert ("code of unknown size: " + reason in result.stdout) is not code
    (file,) = json.loads(export(*arguments, "-o", tmp_path / "json", "--json").stdout)["files"]
    assert file["verification"]["elsewhere"] is None
    assert file["verification"]["not_elsewhere"] == reason
    assert file["verification"]["machine"] == "an emulated cortex-m4"
    assert (file["footprint"]["code"] is not None) is code
    assert file["footprint"]["code_unknown"] == ("" if code else reason)


@pytest.mark.parametrize("target", ["generic", "cortex-m4"])
def test_the_most_flash_holds_for_constants_and_code(target, model, tmp_path, without):
    if target == "cortex-m4":
        needs_machine(target)
    arguments = [model, "--format", "c", "--target", target, "--no-verify", "--json", "-o"]
    (file,) = json.loads(export(*arguments, tmp_path / "all", "--max-flash", "1M").stdout)["files"]
    constants, code = file["footprint"]["constants"], file["footprint"]["code"]
    assert file["footprint"]["flash"] == constants + code
    assert code > 1000
    assert export(*arguments, tmp_path / "just", "--max-flash", constants + code).exit_code == 0
    allowed = constants + code - 1
    result = export(*arguments, tmp_path / "less", "--max-flash", allowed)
    assert result.exit_code == 2
    assert f"the constants take {constants:,} bytes of flash and the code {code:,}; --max-flash {allowed} allows {allowed:,} bytes" in result.stderr
    without(TARGETS[target].compiler)
    (file,) = json.loads(export(*arguments, tmp_path / "constants", "--max-flash", constants).stdout)["files"]
    assert file["footprint"]["code"] is None
    assert f"{TARGETS[target].compiler} is not installed" in file["footprint"]["code_unknown"]
    assert file["footprint"]["code_unknown"].endswith(f"; --max-flash {constants} allows the constants alone")
    assert export(*arguments, tmp_path / "fewer", "--max-flash", constants - 1).exit_code == 2


def test_code_without_a_target_is_counted_where_flash_is_limited(model, tmp_path):
    result = export(model, "--format", "c", "--no-verify", "-o", tmp_path / "free")
    assert "code of unknown size: given --target or --max-flash, it is counted\n" in result.stdout
    assert " (cc -O3)\n" in export(model, "--format", "c", "--no-verify", "-o", tmp_path / "limited", "--max-flash", "1M").stdout


def test_a_size_program_without_sections_is_said(model, tmp_path, monkeypatch):
    program(tmp_path, "cc", f'exec {shutil.which("cc")} "$@"')
    monkeypatch.setenv("PATH", program(tmp_path, "size", "exit 1"))
    result = export(model, "--format", "c", "--no-verify", "-o", tmp_path / "out", "--max-flash", "1M")
    assert "/size does not tell the sizes of sections, which measure code; --max-flash 1M allows the constants alone\n" in result.stdout


def program(folder, name, text):
    """A program of that name, first in the path."""
    file = folder / name
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def test_a_compiler_without_its_c_library_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", program(tmp_path, "arm-none-eabi-gcc", 'echo "${1#-print-file-name=}"'))
    with pytest.raises(UsageError, match=r"^arm-none-eabi-gcc has no C library \(Debian: apt install libnewlib-arm-none-eabi\)$"):
        compiler_of(TARGETS["cortex-m4"])


def test_an_emulator_that_hangs_is_stopped_and_said(tmp_path, monkeypatch, places, model):
    needs_machine("cortex-m4")
    monkeypatch.setenv("PATH", program(tmp_path, "qemu-system-arm", "sleep 60"))
    monkeypatch.setattr(elsewhere, "SECONDS", 0.0)
    result = export(model, "--format", "c", "-o", tmp_path / "out", "--target", "cortex-m4")
    assert result.exit_code == 0, result.stderr
    assert "not run on an emulated cortex-m4: qemu-system-arm takes longer than 1 s" in result.stdout
    assert list(places.iterdir()) == []


@pytest.mark.parametrize("reason", ["interrupted", "too long"])
def test_what_a_program_started_is_gone_with_it(reason, tmp_path, places):
    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.5 if reason == "interrupted" else 60)
    try:
        with pytest.raises(KeyboardInterrupt if reason == "interrupted" else UsageError):
            tools.run(["sh", "-c", 'touch "$TMPDIR/left"; sleep 60 & echo $! > pid; wait'], tmp_path, 60 if reason == "interrupted" else 0.5)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert list(places.iterdir()) == []
    child = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if not alive(child):
            break
        time.sleep(0.05)
    assert not alive(child)


def alive(process):
    """Whether a process runs; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_a_program_that_crashes_there_is_a_verification_error(path):
    needs_machine("cortex-m4")
    converter.write(conv_net("pattern", ["3x3"]), path, target="cortex-m4")
    text = (path / "net.c").read_text()
    (path / "net.c").write_text(text.replace("  (void)s;", '  (void)s;\n  __asm__ volatile("udf #0");'))
    run = elsewhere.runner(path, "cortex-m4", built(path, "net", TARGETS["cortex-m4"]))
    with pytest.raises(VerificationError, match="the program stops with code 1 on the machine that it is for: fault"):
        run({"x 3x3": np.zeros((2, 5, 9, 6), np.float32)})


def test_wrong_values_there_are_a_verification_error(tmp_path):
    graph = conv_net("pattern", ["3x3"])
    machine = Elsewhere("an emulated thing", lambda path: lambda inputs: {name: y + 1 for name, y in reference.run(graph, inputs).items()}, 2)
    footprint = dataclasses.replace(converter.write(graph, tmp_path / "net.csource"), elsewhere=machine)
    source = rsk.exporting._graph_source(graph)
    with pytest.raises(VerificationError, match="the file computes something else than the model in an emulated thing"):
        verify_file(Written(tmp_path / "net.csource", converter, graph, footprint), source)


def test_assembly_for_another_machine_is_verified_by_emulation(tmp_path, model, monkeypatch):
    needs_machine("aarch64")
    if elsewhere.native(TARGETS["aarch64"]):
        pytest.skip("this machine is AArch64: it runs the assembly itself, so no emulator takes part")
    arguments = [model, "--format", "c", "--target", "aarch64", "--emit-asm"]
    monkeypatch.setattr("rsk_deploy.converters.c.assembly.HOT", 16)
    result = export(*arguments, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert "the compiled C code on an emulated aarch64 against the model" in result.stdout
    assert "not run" not in result.stdout


def test_assembly_for_another_machine_without_an_emulator_is_refused(tmp_path, model, without):
    if elsewhere.native(TARGETS["aarch64"]):
        pytest.skip("this machine is AArch64: it runs the assembly itself, so no emulator takes part")
    needs(TARGETS["aarch64"].compiler, packages="gcc-aarch64-linux-gnu")
    without("qemu-aarch64-static", "qemu-aarch64")
    arguments = [model, "--format", "c", "--target", "aarch64", "--emit-asm", "-o", tmp_path / "out"]
    result = export(*arguments)
    assert result.exit_code == 2
    assert "this machine cannot run machine code for aarch64; verifying it takes an emulator, or give --no-verify: qemu-aarch64 is not" in result.stderr
    assert export(*arguments, "--no-verify").exit_code == 0


def test_a_network_larger_than_the_emulated_board_is_said(path):
    needs_machine("cortex-m4")
    values = np.ones((2100, 2100), np.float32)
    layer = Linear(name="fc", inputs=("x",), outputs=("y",), weight=Dense(values))
    graph = rsk.pack(Graph[Dense]((Input("x", (1, 2100)),), ("y",), (layer,)), "dense")
    machine = converter.write(graph, path, target="cortex-m4", max_flash="32M").elsewhere
    with pytest.raises(UsageError, match="the network is larger than the emulated board, which has 16 MB for constants and 4 MB for values"):
        machine.runner(path)


@pytest.mark.parametrize(
    ("memory", "sentence"),
    [
        (Memory("a part", 1000, 1 << 20), r"unless --max-flash says that there is more\. Most take 3x3"),
        (Memory("a part", 1 << 20, 1000), r"unless --max-ram says that there is more\. It is fullest at 3x3"),
    ],
)
def test_a_network_larger_than_the_target_is_refused_before_anything_is_written(memory, sentence, path, monkeypatch):
    monkeypatch.setitem(TARGETS, "cortex-m4", dataclasses.replace(TARGETS["cortex-m4"], memory=memory))
    graph = conv_net("dense", ["3x3"])
    with pytest.raises(UsageError, match=r"bytes.*; --target cortex-m4 allows 1,000, as much as a part has, " + sentence):
        converter.write(graph, path, target="cortex-m4")
    assert not path.exists()
    converter.write(graph, path, target="cortex-m4", max_flash="1M", max_ram="1M")


def test_every_microcontroller_has_a_limit_that_names_a_part():
    assert {name for name, target in TARGETS.items() if target.memory} == {name for name in TARGETS if name.startswith("cortex-m")}


def test_flash_counts_the_code_and_the_limit_too(tmp_path):
    needs_machine("cortex-m4")
    graph = conv_net("pattern", ["3x3"])
    figures = converter.write(graph, tmp_path / "one", target="cortex-m4").figures
    assert figures["flash"] == figures["constants"] + figures["code"]
    assert 1000 < figures["code"] < 20_000
    allowed = figures["flash"] - 1
    taken = f"the constants take {figures['constants']:,} bytes of flash and the code {figures['code']:,}"
    with pytest.raises(UsageError, match=f"{taken}; --max-flash {allowed} allows {allowed:,} bytes"):
        converter.write(graph, tmp_path / "two", target="cortex-m4", max_flash=allowed)


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_nothing_lies_in_memory_that_is_written(dtype, path):
    needs_machine("cortex-m4")
    graph = conv_net("periodic")
    sample = {entry.name: np.ones(entry.shape, np.float32) for entry in graph.inputs} if dtype == "int8" else None
    converter.write(graph, path, target="cortex-m4", dtype=dtype, sample=sample)
    (content,) = built(path, "net", TARGETS["cortex-m4"]).objects.values()
    (path / "net.o").write_bytes(content)
    rows = subprocess.run([shutil.which("arm-none-eabi-size"), "-A", "net.o"], cwd=path, check=True, capture_output=True, text=True).stdout.splitlines()
    found = {row.split()[0]: int(row.split()[1]) for row in rows if row.startswith(".")}
    assert found[".data"] == found[".bss"] == 0
    assert found[".rodata"] > 1000


def test_the_report_has_a_row_for_every_step_and_fits_a_terminal(path):
    graph = conv_net("bitmask")
    found = converter.write(graph, path)
    table = found.lines[: len(graph.layers) + 2]
    assert table[0].split() == ["layer", "flash", "of", "dense", "RAM", "MACs", "of", "dense"]
    assert max(map(len, table)) <= 76
    rows = found.figures["layers"]
    assert [row["layer"] for row in rows] == [layer.name for layer in graph.layers]
    assert sum(row["flash"] for row in rows) == found.figures["constants"]
    assert max(row["ram"] for row in rows) == found.figures["ram"]
    assert all(row["macs"] < row["dense_macs"] for row in rows)
    assert json.loads(json.dumps(found.figures)) == found.figures


def test_long_names_keep_their_ends():
    assert shortened("layer4.0.downsample.0") == "layer4.0.downsample.0"
    assert shortened("backbone.encoder.layers.11.conv2") == "backbo….layers.11.conv2"
    assert len(shortened("x" * 99)) <= LONGEST


def test_a_lowered_network_is_compared_with_the_dense_one_that_it_was(tmp_path):
    rng = np.random.default_rng(0)
    support = rsk.registry.mask_named("input-class").generate((16, 16, 3, 3), taps_per_kernel=4).support
    layer = conv_net("dense", ["3x3"]).layers[0]
    plain = dataclasses.replace(
        layer, name="conv", inputs=("x",), outputs=("y",), bias=None, weight=Dense(np.where(support, rng.standard_normal(support.shape), 0).astype(np.float32))
    )
    graph = Graph[Dense]((Input("x", (2, 16, 12, 12)),), ("y",), (plain,))
    whole, parts = (converter.write(rsk.pack(lower_for(graph, "c", how)), tmp_path / how).figures for how in ("none", "always"))
    assert len(parts["layers"]) > len(whole["layers"])
    assert parts["dense_macs"] == whole["dense_macs"]
    assert parts["macs"] < 0.6 * parts["dense_macs"]
    assert parts["flash"] < 0.7 * parts["dense_flash"]


def test_the_doctor_knows_every_program_that_the_targets_need(without):
    known = {name for names, _, _ in doctor.TOOLS for name in names} | {"qemu-x86_64-static", "qemu-x86_64"}
    assert known >= {target.compiler for target in TARGETS.values()} | {name for target in OTHERS for name in TARGETS[target].emulator.commands}
    without("qemu-system-arm")
    (finding,) = [finding for finding in doctor.doctor() if finding.package == "qemu-system-arm"]
    assert finding.version is None
    assert "apt install qemu-system-arm" in finding.remedy


@pytest.mark.parametrize(
    ("compiler", "code", "sentence"),
    [
        ("no-such-cc", 2, "verifying C code needs a C compiler, and CC asks for no-such-cc, which is not there. Install one"),
        ("false", 3, "the C compiler refuses the written code ("),
        ("true", 2, "true makes does not run on this machine ("),
        ('"gcc', 2, "CC is no command: No closing quotation"),
    ],
)
def test_a_wrong_compiler_in_cc_is_a_sentence_and_nothing_is_written(compiler, code, sentence, model, tmp_path, monkeypatch):
    monkeypatch.setenv("CC", compiler)
    result = export(model, "--format", "c", "-o", tmp_path / "out")
    assert result.exit_code == code, result.output
    assert sentence in result.stderr
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


def test_cc_may_have_arguments(model, tmp_path, monkeypatch):
    needs("gcc", packages="gcc")
    monkeypatch.setenv("CC", "env gcc -O0")
    assert export(model, "--format", "c", "-o", tmp_path / "out").exit_code == 0


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_clang_has_nothing_to_say_of_pedantic_c99(dtype, path):
    needs("clang", packages="clang")
    graphs = [conv_net(format, half=format == "pattern") for format in ("pattern", "lfsr", "periodic", "csr", "bitmask")]
    layers = [
        dataclasses.replace(layer, name=f"{number} {layer.name}", outputs=(f"{number} {layer.name}",))
        for number, graph in enumerate(graphs)
        for layer in graph.layers[:3]
    ]
    graph = Graph(graphs[0].inputs[:3], tuple(layer.outputs[0] for layer in layers), tuple(layers))
    sample = {entry.name: np.ones(entry.shape, np.float32) for entry in graph.inputs} if dtype == "int8" else None
    converter.write(graph, path, dtype=dtype, sample=sample)
    words = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-fsyntax-only", "net.c"]
    subprocess.run([shutil.which("clang"), *words], cwd=path, check=True)


@pytest.mark.parametrize("names", [("a", "a_"), ("a", "A"), ("é", "è"), ("1", "n_1")])
def test_names_of_inputs_that_c_cannot_tell_apart_are_refused(names, path):
    from rsk_deploy.errors import UnsupportedError
    from rsk_deploy.ir import Binary, Packed

    add = Binary(name="add", inputs=names, outputs=("y",), kind="add")
    with pytest.raises(UnsupportedError, match="would both be the C parameter"):
        converter.write(Graph[Packed](tuple(Input(name, (1, 4)) for name in names), ("y",), (add,)), path)


def test_layers_and_values_of_any_name_compile(path):
    names = ["é", "rsk_conv", "while", "__attribute__", "NET_IN_SIZE", "名前", "9", "net", "", "sin", "in", "s"]
    conv = conv_net("pattern", ["3x3"])
    layers = tuple(
        dataclasses.replace(conv.layers[0], name=name, inputs=(f"{name}{index}",), outputs=(f"{name}{index} out",)) for index, name in enumerate(names)
    )
    graph = Graph(tuple(Input(layer.inputs[0], conv.inputs[0].shape) for layer in layers), tuple(layer.outputs[0] for layer in layers), layers)
    converter.write(graph, path)
    assert agrees(converter.runner(path), graph, rtol=1e-5).passed
