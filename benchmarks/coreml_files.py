"""What Core ML packages save and take to write: ResNet18 for CIFAR (11.17 M weights), its 3x3 convolutions masked, against the dense package.

    python benchmarks/coreml_files.py [--repeats 5]

Prints a markdown table: bytes of the whole package, computing in fp16 unless said otherwise, and medians in seconds of
processor time on one thread (which other programs disturb less): writing it from the packed graph, reading it back and
running one image in the interpreter, and the largest difference of the scores from the fp64 reference, relative to the largest score.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

import rsk_deploy as rsk
from rsk_deploy import reference, zoo
from rsk_deploy.comparing import seeded_inputs
from rsk_deploy.converters import coreml
from rsk_deploy.files import size_of
from rsk_deploy.ir import Graph, Packed

NETWORKS: Mapping[str, Mapping[str, Any]] = {
    "dense": {},
    "4 of 9": {"conv": "psconv", "conv_args": {"taps_per_kernel": 4}},
    "2 of 9": {"conv": "psconv", "conv_args": {"taps_per_kernel": 2}},
    "1 of 10, unstructured": {"conv": "psconv", "conv_args": {"support": "unstructured", "density": 0.1}},
}
OPTIONS: Mapping[str, Mapping[str, str]] = {
    "fp16": {},
    "fp16, ios18": {"target": "ios18"},
    "int8": {"compress": "int8"},
    "palettised": {"compress": "palettised"},
    "fp32": {"precision": "fp32"},
}
SHAPE = (1, 3, 32, 32)
HEAD = ("weights", "stored as", "package", "of dense fp16", "write", "read and run", "max rel. difference")


def network(variant: str) -> Graph[Packed]:
    """ResNet18 with random weights, every 3x3 convolution under a mask of its own, 1x1 and classifier dense."""
    torch.manual_seed(18)
    return rsk.pack(rsk.read(zoo.build("resnet18", **NETWORKS[variant]).eval(), input_shape=SHAPE))


def seconds(repeats: int, run: Callable[[Path], Any], paths: Sequence[Path]) -> float:
    """The median of a few runs, each for a path of its own."""
    times = []
    for path in paths[:repeats]:
        start = time.process_time()
        run(path)
        times.append(time.process_time() - start)
    return median(times)


def row(graph: Graph[Packed], options: Mapping[str, str], folder: Path, repeats: int) -> tuple[int, list[str]]:
    """One package's bytes, and its cells from ``write`` on."""
    paths = [folder / f"{number}.mlpackage" for number in range(repeats)]
    feed = seeded_inputs(graph)
    write = seconds(repeats, lambda path: coreml.write(graph, path, **options), paths)
    run = seconds(repeats, lambda path: coreml.runner(path)(feed), paths)
    (name,) = graph.outputs
    expected = (coreml.write(graph, folder / "again.mlpackage", **options).meaning or partial(reference.run, graph))(feed)[name]
    difference = np.abs(coreml.runner(paths[0])(feed)[name] - expected).max() / np.abs(expected).max()
    return size_of(paths[0]), [f"{write:.2f} s", f"{run:.2f} s", f"{difference:.0e}"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="packages written for a median")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with coreml.coremltools():
        pass  # importing it takes seconds
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}")
    dense = 0
    for variant in NETWORKS:
        graph = network(variant)
        for stored, options in OPTIONS.items():
            with TemporaryDirectory() as name:
                size, cells = row(graph, options, Path(name), arguments.repeats)
            dense = dense or size
            print(f"| {variant} | {stored} | {size / 1e6:.2f} MB | {size / dense:.3f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
