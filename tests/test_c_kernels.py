"""The innermost loops of the C runtime compute what they mean on every instruction set that they have a form for, and use its instructions."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import networks
import numpy as np
import pytest
from c_cases import agrees, fixed, weight
from c_targets import needs

import rsk_deploy as rsk
from rsk_deploy.converters import c as converter
from rsk_deploy.converters.c import assembly, summing
from rsk_deploy.converters.c.call import OPTIONAL
from rsk_deploy.converters.c.source import command
from rsk_deploy.converters.c.targets import TARGETS
from rsk_deploy.ir import Activation, Binary, Conv, Dense, Graph, Input
from rsk_deploy.masks.kernels import pattern_table

HERE = Path(__file__).parent / "c"
CONVERTERS = HERE.parent.parent / "converters"
RUNTIME, MACHINES = CONVERTERS / "c_runtime", CONVERTERS / "c_machines"
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-O3", "-ffp-contract=fast")
PACKAGES = "gcc gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm"


@dataclass(frozen=True)
class Build:
    """How the kernels are compiled and run, and instructions that are in them."""

    tools: str
    flags: tuple[str, ...]
    emulator: tuple[str, ...]
    instructions: tuple[str, ...]


def board(name, *instructions, flags=()):
    """A microcontroller under emulation."""
    target = TARGETS[name]
    arguments = (*target.flags.split(), *flags, *target.emulator.link, f"-L{MACHINES}", str(MACHINES / "cortex_m.c"))
    return Build("arm-none-eabi-", arguments, (*target.emulator.commands, *target.emulator.arguments), instructions)


BUILDS = {
    "one lane": Build("", ("-DRSK_LANES=1", "-DRSK_SHARED_TILE=4"), (), ()),
    "SSE2": Build("", (), (), ()),
    "NEON": Build("aarch64-linux-gnu-", ("-static",), ("qemu-aarch64-static",), (r"fmla\s+v\d+.4s, v\d+.4s, v\d+.s\[", r"smlal2?\s+v\d+.4s")),
    "NEON dot products": Build("aarch64-linux-gnu-", ("-static", "-march=armv8.2-a+dotprod"), ("qemu-aarch64-static", "-cpu", "max"), (r"sdot\s+v\d+.4s",)),
    "DSP": board("cortex-m4", r"smlad\s", r"sxtb16\s"),
    "DSP, Cortex-M7": board("cortex-m7", r"smlad\s"),
    "Helium": board("cortex-m55", r"vfma.f32\s+q", r"vmla.s32\s+q", r"vmladava.s8", r"vldrw.u32\s+q\d+, \[\w+, q"),
    "Helium of integers": board("cortex-m55", r"vmla.s32\s+q", r"vmladava.s16", flags=("-mcpu=cortex-m55+nomve.fp",)),
}


@pytest.mark.parametrize("name", BUILDS)
def test_the_kernels_compute_what_they_mean_with_the_instructions_of(name, tmp_path):
    build = BUILDS[name]
    needs(f"{build.tools}gcc", *build.emulator[:1], packages=PACKAGES)
    arguments = [f"{build.tools}gcc", *STRICT, *build.flags, f"-I{RUNTIME}", str(HERE / "kernels.c"), "-save-temps", "-o", "kernels", "-lm"]
    subprocess.run(arguments, cwd=tmp_path, check=True, timeout=200)
    done = subprocess.run([*build.emulator, "./kernels"], cwd=tmp_path, check=False, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stdout) == (0, "0 failures\n")
    text = "".join(file.read_text() for file in tmp_path.glob("*.s"))
    for instruction in build.instructions:
        assert re.search(instruction, text), instruction


@pytest.mark.parametrize(("target", "machine"), [("aarch64", "arm64-apple-macos11"), ("x86-64", "x86_64-apple-macos11")])
def test_generated_assembly_is_mach_o_too(target, machine, tmp_path, monkeypatch):
    needs("clang", packages="clang")
    monkeypatch.setattr(assembly, "HOT", 16)
    folder = tmp_path / "net"
    converter.write(fixed(networks.packed("psconv-regular")), folder, target=target, emit_asm=True)
    subprocess.run([shutil.which("clang"), "-target", machine, "-c", "net.S", "-o", "net.o"], cwd=folder, check=True)
    content = (folder / "net.o").read_bytes()
    assert content[:4] == b"\xcf\xfa\xed\xfe"
    assert b"\0_net_code_1\0" in content


@pytest.mark.parametrize(
    ("format", "filters", "groups", "half", "parts"),
    [
        ("dense", 8, 1, False, ""),
        ("dense", 8, 1, True, "HALVES"),
        ("dense", 7, 1, False, "SINGLES"),
        ("dense", 12, 2, False, "SINGLES"),
        ("dense", 8, 2, False, ""),
        ("periodic", 12, 1, False, ""),
        ("periodic", 16, 1, False, "SINGLES"),
        ("csr", 8, 1, False, "SINGLES"),
        ("pattern", 8, 1, False, "STRAIGHT"),
    ],
)
def test_of_the_runtime_only_what_the_network_runs_is_code(format, filters, groups, half, parts, tmp_path):
    needs("gcc", packages="gcc")
    path = tmp_path / "net.csource"
    rng = np.random.default_rng(0)
    values = weight(format, (filters, 4, 3, 3), rng)
    if format == "pattern":
        values = Dense(np.where(pattern_table(9, 4)[rng.integers(126, size=(filters, 4))].reshape(filters, 4, 3, 3), values.values + 1, 0).astype(np.float32))
    layer = Conv(name="c", inputs=("x",), outputs=("y",), weight=values, stride=(1, 1), pads=(1,) * 4, dilation=(1, 1), groups=groups)
    graph = rsk.pack(Graph[Dense]((Input("x", (1, 4 * groups, 6, 6)),), ("y",), (layer,)), {"c": format}, half=half)
    converter.write(graph, path)
    text = (path / "net.c").read_text()
    assert [part for part in OPTIONAL if f"#define RSK_{part} 1\n" in text] == parts.split()
    assert agrees(converter.runner(path), graph, rtol=1e-5).passed
    subprocess.run(command(TARGETS["generic"], "net").split(), cwd=path, check=True)
    code = (path / "net.o").read_bytes()
    assert (b"rsk_tile_1" in code) == ("SINGLES" in parts)
    assert (b"rsk_strip_straight" in code) == ("STRAIGHT" in parts)


@pytest.mark.parametrize(("taps", "channels", "groups", "block"), [(2, 10, 1, 4), (2, 10, 2, 4), (4, 10, 1, 4), (4, 10, 2, 4), (2, 5, 2, 5), (2, 3, 1, 3)])
def test_blocks_of_channels_add_up_to_the_whole_sum(taps, channels, groups, block, tmp_path, monkeypatch):
    needs("gcc", packages="gcc")
    monkeypatch.setattr(summing, "CACHED", 0)
    monkeypatch.setattr(summing, "BLOCK", 4)
    rng = np.random.default_rng(taps)
    kept = pattern_table(9, taps)[rng.integers(36, size=(16, channels))].reshape(16, channels, 3, 3)
    values = Dense(np.where(kept, rng.standard_normal(kept.shape), 0).astype(np.float32))
    bias = rng.standard_normal(16).astype(np.float32)
    layer = Conv(name="c", inputs=("x",), outputs=("c",), weight=values, bias=bias, stride=(1, 1), pads=(1,) * 4, dilation=(1, 1), groups=groups)
    add = Binary(name="a", inputs=("c", "r"), outputs=("a",), kind="add")
    relu = Activation(name="y", inputs=("a",), outputs=("y",), kind="relu")
    graph = rsk.pack(Graph[Dense]((Input("x", (2, channels * groups, 8, 8)), Input("r", (2, 16, 8, 8))), ("y",), (layer, add, relu)), {"c": "pattern"})
    converter.write(graph, tmp_path / "net.csource")
    odd = "_odd" if channels % 2 else ""
    assert f".sum = rsk_sum_kernels_{taps}{odd}, .block = {block}," in (tmp_path / "net.csource" / "net.c").read_text()
    assert agrees(converter.runner(tmp_path / "net.csource"), graph, rtol=1e-5).passed
