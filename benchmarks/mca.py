"""Estimates of the NEON inner loops by llvm-mca: fused multiply-adds (four floats each) a cycle, and their share of the core's peak. Prints markdown.

``python benchmarks/mca.py [--llvm-mca PROGRAM]``. Generated code comes from the runtime's own generator, the other loops from tiles_neon.cc.
A share below 100 % says that loads, decoding or latency bound the loop; caches are not modelled.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from rsk_deploy.runtime import _native

NATIVE = Path(__file__).parent.parent / "runtime" / "native"
COMPILER = ["aarch64-linux-gnu-g++", "-std=c++20", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fno-schedule-insns", "-S", "-o", "-"]
CORES = ("cortex-a76", "neoverse-n1", "neoverse-v1", "apple-m1")
ROUNDS = 50
SHAPES = ((14, 2), (12, 2), (6, 4), (28, 1))
DENSITIES = {"4 of 9": 4 / 9, "2 of 9": 2 / 9, "90 %": 0.1}
CHANNELS, SIDE = 64, 32
SAMPLE = 400
"""Instructions of generated code: enough for the mix of loads, too few for the simulated time to matter."""


def generated(taps: int) -> list[str]:
    """The middle of generated code for random kernels of ``taps`` of 9 taps, 64 channels at 32²."""
    rng = np.random.default_rng(0)
    mask = rng.random((CHANNELS * CHANNELS, 9)).argsort(axis=1) < taps
    filters, columns = np.nonzero(mask.reshape(CHANNELS, -1))
    start = np.searchsorted(filters, np.arange(CHANNELS + 1))
    pitch = SIDE + 1
    channel, row, column = np.unravel_index(np.arange(9 * CHANNELS), (CHANNELS, 3, 3))
    offsets = channel * pitch * (SIDE + 2) + row * pitch + column
    csr = start.astype(np.uint32), columns.astype(np.uint32), np.ones(len(columns), np.float32), offsets.astype(np.int32)
    code, *_, blocks = _native.unrolled("neon", *csr, 1)
    (first, _), (end, _) = blocks[0][1][:2]
    with tempfile.NamedTemporaryFile(suffix=".bin") as file:
        file.write(code[first:end])
        file.flush()
        listing = output(["aarch64-linux-gnu-objdump", "-D", "-b", "binary", "-m", "aarch64", file.name])
    lines = [line.split("\t", 2)[2].split("//")[0] for line in listing.splitlines() if line.count("\t") >= 2]
    middle = len(lines) // 2
    return lines[middle - SAMPLE // 2 : middle + SAMPLE // 2]


def shaped(filters: int, quads: int, density: float) -> list[str]:
    """What generated code would be with other register tiles: ``filters`` with ``quads`` registers of four positions each."""
    rng = np.random.default_rng(0)
    lines, weights, inputs = [], 0, filters * quads
    for row, used in enumerate(rng.random((60, filters)) < density):
        reach = -256 + 4 * (row % 3) + 132 * (row // 3 % 3)
        lines += ["add x5, x5, #1000"] * (row % 9 == 0) + [f"ldur q{inputs + quad}, [x5, #{reach + 16 * quad}]" for quad in range(quads) if used.any()]
        for filter in np.flatnonzero(used):
            register = inputs + quads + weights // 4 % 2
            lines += [f"ldr q{register}, [x0, #{4 * weights}]"] * (weights % 4 == 0)
            lines += [f"fmla v{filter * quads + quad}.4s, v{inputs + quad}.4s, v{register}.s[{weights % 4}]" for quad in range(quads)]
            weights += 1
    return lines


def compiled(assembly: str, function: str) -> list[str]:
    """The loop of a function with the most multiply-adds."""
    body = re.search(rf"^\w*{function}\w*:\n(.*?)^\s*\.size", assembly, re.DOTALL | re.MULTILINE)
    assert body is not None, function
    lines = [line.strip() for line in body[1].splitlines() if not line.strip().startswith((".cfi", ".p2align"))]
    at = {line[:-1]: number for number, line in enumerate(lines) if line.endswith(":")}
    jumps = [(at[line.split()[-1]], number) for number, line in enumerate(lines) if line and line.split()[-1] in at]
    loops = [lines[first + 1 : last] for first, last in jumps if first < last]
    return max((loop for loop in loops if not any(line.endswith(":") for line in loop)), key=count)


def count(lines: list[str]) -> int:
    """Multiply-adds."""
    return sum(line.startswith("fmla") for line in lines)


def output(command: list[str], text: str | None = None) -> str:
    """What a program prints."""
    return subprocess.run(command, input=text, text=True, capture_output=True, check=True).stdout


def rate(mca: str, core: str, lines: list[str]) -> float:
    """Multiply-adds a cycle."""
    report = output([mca, "-mtriple=aarch64", f"-mcpu={core}", f"-iterations={ROUNDS}"], "\n".join(lines) + "\n")
    cycles = re.search(r"Total Cycles: +(\d+)", report)
    assert cycles is not None
    return ROUNDS * count(lines) / int(cycles[1])


def loops() -> dict[str, list[str]]:
    """Every loop by name."""
    assembly = output([*COMPILER, f"-I{NATIVE}", str(NATIVE / "kernels" / "tiles_neon.cc")])
    rows = {f"unrolled, {taps} of 9, 14 filters × 8 positions": generated(taps) for taps in (4, 2)}
    rows["shared taps, 12 filters × 8 positions"] = compiled(assembly, "shared_tileILj12ELj1E")
    for filters, quads in SHAPES:
        rows |= {f"{filters} × {4 * quads} as unrolled, {name}": shaped(filters, quads, density) for name, density in DENSITIES.items()}
    return rows | {f"table, 1 filter × {16 * vectors} positions": compiled(assembly, f"table_tileILj{vectors}ELj{vectors}E") for vectors in range(1, 5)}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--llvm-mca", default="llvm-mca")
    mca = parser.parse_args().llvm_mca
    alone = [f"fmla v{number}.4s, v31.4s, v30.s[0]" for number in range(24)]
    peaks = {core: rate(mca, core, alone * 4) for core in CORES}
    print(f"| loop | loads per FMA | {' | '.join(CORES)} |\n|{'---|' * (len(CORES) + 2)}")
    print(f"| multiply-adds alone | 0 | {' | '.join(f'{peak:.2f}' for peak in peaks.values())} |")
    for name, lines in loops().items():
        loads = sum(1 + line.startswith("ldp") for line in lines if line.startswith("ld")) / count(lines)
        cells = [f"{found:.2f} ({found / peaks[core]:.0%})" for core, found in ((core, rate(mca, core, lines)) for core in CORES)]
        print(f"| {name} | {loads:.2f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
