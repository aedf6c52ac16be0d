"""The C export against itself with dense weights: flash, memory, instructions, latency on one pinned thread, in turns, medians. Prints markdown.

``python benchmarks/c_export.py [NETWORK…] [--dtype int8] [--emit-asm] [--flags "-O3 -march=native"] [--rounds N] [--again] [--no-instructions]``. Instructions
are counted by valgrind's callgrind. Flash is constants, tables and code, as the export reports it. ``--emit-asm`` adds builds with generated code, all with
AVX2. ``--again`` times the last of four calls in a row, which finds its weights where the others left them. ``--target cortex-m4`` (or another that QEMU shows
as a board) builds for that and counts instructions there, where each takes a nanosecond.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch

import rsk_deploy as rsk
from rsk_deploy import zoo
from rsk_deploy.converters import c
from rsk_deploy.converters.c.built import built, flash_of
from rsk_deploy.converters.c.compiled import read_signature
from rsk_deploy.converters.c.elsewhere import linked
from rsk_deploy.registry import Footprint

NETWORKS: dict[str, tuple[str, tuple[int, ...], dict[str, Any], dict[str, str]]] = {
    "digits CNN": ("resnet18", (1, 16, 16), {"width": 0.125, "in_channels": 1}, {"where": "layer*.conv?"}),
    "6-layer CNN": ("cnn6", (3, 32, 32), {}, {}),
    "ResNet18-CIFAR": ("resnet18", (3, 32, 32), {}, {}),
}
TAPS = {"dense": 9, "4 of 9": 4, "2 of 9": 2}
FLAGS = "-O3 -ffp-contract=fast"
CODE = ", --emit-asm"
COUNTER = Path(__file__).with_name("c_board.c")
MAIN = """#include "net.h"
static float in[NET_IN_SIZE], out[NET_OUT_SIZE], scratch[NET_SCRATCH_BYTES / 4];
int main(void) { net_run(in, out, scratch); return 0; }
"""


def exported(network: str, mask: str, folder: Path, dtype: str, target: str, *, emit_asm: bool = False) -> Footprint:
    """Write one network with one mask."""
    kind, shape, args, where = NETWORKS[network]
    torch.manual_seed(0)
    sparse = {"conv": "psconv", "conv_args": {"taps_per_kernel": TAPS[mask], **where}} if TAPS[mask] < 9 else {}
    model = zoo.build(kind, **args, **sparse).eval()
    graph, rng = rsk.pack(rsk.read(model, input_shape=(1, *shape))), np.random.default_rng(5)
    sample = {graph.inputs[0].name: rng.standard_normal((32, *shape)).astype(np.float32)} if dtype == "int8" else None
    return c.write(graph, folder, target=target, dtype=dtype, sample=sample, emit_asm=emit_asm)


class Build:
    """One network with one mask, exported and compiled for this machine."""

    def __init__(self, network: str, mask: str, folder: Path, flags: list[str], dtype: str) -> None:
        shape, code = NETWORKS[network][1], mask.endswith(CODE)
        mask = mask.removesuffix(CODE)
        self.folder = folder / f"{network}-{mask}-{code}"
        self.footprint = exported(network, mask, self.folder, dtype, "x86-64" if code else "generic", emit_asm=code)
        self.sources = ["net.c", "net.S"] if code else ["net.c"]
        self.flags = ["-std=c99", *flags]
        self.x = np.random.default_rng(0).standard_normal((1, *shape)).astype(np.float32)
        self.compile("-shared", "-fPIC", *self.sources, "-o", "net.so", "-lm")
        self.compile("-r", "-nostdlib", *self.sources, "-o", "net.o")
        self.library = ctypes.CDLL(str(self.folder / "net.so"))
        self.scratch, self.out = np.empty(read_signature(self.folder).scratch // 4 + 16, np.float32), np.empty(10, np.float32)

    def compile(self, *arguments: str) -> None:
        """Run the host's gcc in the folder."""
        subprocess.run(["gcc", *self.flags, *arguments], cwd=self.folder, check=True)

    def flash(self) -> int:
        """Bytes of code and constants."""
        return flash_of(self.folder / "net.o", "gcc")

    def instructions(self) -> int:
        """Instructions of one inference."""
        (self.folder / "main.c").write_text(MAIN)
        self.compile("main.c", *self.sources, "-o", "main", "-lm")
        command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=net_run", "./main"]
        told = subprocess.run(command, cwd=self.folder, check=True, capture_output=True, text=True).stderr
        return int(told.split("Collected : ")[1].split()[0])

    def run(self, calls: int) -> float:
        """Seconds of the last of these inferences."""
        pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in (self.x, self.out, self.scratch)]
        for _ in range(calls):
            start = perf_counter()
            self.library.net_run(*pointers)
        return perf_counter() - start


def on_board(network: str, target: str, dtype: str) -> None:
    """Print what a network takes on an emulated board."""
    aim, dense = c.TARGETS[target], (0, 0)
    for mask in TAPS:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "net"
            figures = exported(network, mask, folder, dtype, target).figures
            board = replace(aim.emulator, link=(*aim.emulator.link, "-I."), sources=(str(COUNTER), "cortex_m.c"))
            (folder / "program").write_bytes(linked(folder, aim, board, read_signature(folder), built(folder, "net", aim)))
            command = [*board.commands, "-icount", "shift=0", *board.arguments, "program"]
            counted = int(subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout)
        dense = dense if any(dense) else (figures["flash"], counted)
        sizes = f"{figures['flash'] / 1e3:.1f} | {figures['flash'] / dense[0]:.2f} | {figures['ram'] / 1e3:.1f}"
        print(f"| {network} | {mask} | {sizes} | {counted / 1e6:.2f} | {counted / dense[1]:.2f} |", flush=True)


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--flags")
    parser.add_argument("--dtype", default="fp32", choices=list(c.DTYPES))
    parser.add_argument("--target", choices=[name for name, aim in c.TARGETS.items() if aim.memory])
    parser.add_argument("--emit-asm", action="store_true")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--no-instructions", action="store_true")
    options = parser.parse_args()
    flags = (options.flags or FLAGS + " -march=x86-64-v3" * options.emit_asm).split()
    masks = [*TAPS, *(mask + CODE for mask in list(TAPS)[1:] if options.emit_asm)]
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    head = "| network | mask | flash kB | of dense | RAM kB | M instructions | of dense |"
    if options.target:
        print(f"{head}\n|---|---|--:|--:|--:|--:|--:|")
        for network in options.networks:
            on_board(network, options.target, options.dtype)
        return
    print(f"{head} ms | dense ÷ this |\n|---|---|--:|--:|--:|--:|--:|--:|--:|")
    for network in options.networks:
        with tempfile.TemporaryDirectory() as folder:
            builds = {mask: Build(network, mask, Path(folder), flags, options.dtype) for mask in masks}
            times = [[build.run(1 + 3 * options.again) for build in builds.values()] for _ in range(options.rounds)]
            taken = dict(zip(builds, map(median, zip(*times[options.rounds // 5 :], strict=True)), strict=True))
            flash = {mask: build.flash() for mask, build in builds.items()}
            counted = {mask: 0 if options.no_instructions else build.instructions() for mask, build in builds.items()}
            for mask, build in builds.items():
                sizes = f"{flash[mask] / 1e3:.1f} | {flash[mask] / flash['dense']:.2f} | {build.footprint.figures['ram'] / 1e3:.1f}"
                work = f"{counted[mask] / 1e6:.1f} | {counted[mask] / max(counted['dense'], 1):.2f}"
                print(f"| {network} | {mask} | {sizes} | {work} | {1e3 * taken[mask]:.3f} | {taken['dense'] / taken[mask]:.2f}× |", flush=True)


if __name__ == "__main__":
    main()
