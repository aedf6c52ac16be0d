"""What packed files save and cost: ResNet18 for CIFAR (11.17 M weights), its 3x3 convolutions masked, against the dense file of the same weights.

    python benchmarks/onnx_files.py [--repeats 9]

Prints two markdown tables. Times are medians of interleaved repeats on one thread: loading and running in milliseconds of
processor time (which other programs disturb less), exporting (read, fold, pack, write, verify) in seconds on the clock.
``unfolded`` is a run with graph optimisation off, which decodes every weight each time. The last three columns say whether
an engine computes the same bits from the packed file as from the dense one (OpenVINO in f32).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

import rsk_deploy as rsk
from rsk_deploy import zoo
from rsk_deploy.converters import onnx as converter
from rsk_deploy.ir import FloatArray, Graph, Packed
from rsk_deploy.packing import unpack

VARIANTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "4 of 9, random": ("auto", "psconv", {"taps_per_kernel": 4}),
    "2 of 9, random": ("auto", "psconv", {"taps_per_kernel": 2}),
    "4 of 9, periodic": ("auto", "psconv", {"support": "periodic", "taps_per_kernel": 4}),
    "cross": ("auto", "skeleton", {}),
    "4 of 9, LFSR": ("auto", "psconv", {"support": "lfsr", "taps_per_kernel": 4}),
    "4 of 9, random, as bits": ("bitmask", "psconv", {"taps_per_kernel": 4}),
    "1 of 10, unstructured": ("auto", "psconv", {"support": "unstructured", "density": 0.1}),
}
"""How the 3x3 convolutions are stored, the layer they were trained as, and its arguments."""

SHAPE = (1, 3, 32, 32)
Feed: TypeAlias = dict[str, NDArray[np.float32]]


def network(variant: str) -> nn.Module:
    """ResNet18 with random weights, every 3x3 convolution under a mask of its own, 1x1 and classifier dense."""
    _, conv, args = VARIANTS[variant]
    torch.manual_seed(18)
    return zoo.build("resnet18", conv=conv, conv_args=args).eval()


def packed(variant: str) -> Graph[Packed]:
    """The network folded and stored."""
    graph = rsk.read(network(variant), input_shape=SHAPE)
    format = VARIANTS[variant][0]
    return rsk.pack(graph, {layer.name: format for layer in graph.weighted() if layer.weight.shape[2:] == (3, 3)})


def dense_twin(graph: Graph[Packed]) -> Graph[Packed]:
    """The same network with every weight stored dense."""
    return rsk.pack(unpack(graph), "dense")


def session(path: Path, *, folded: bool = True) -> onnxruntime.InferenceSession:
    """The file, loaded for one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if folded else levels.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def interleaved(repeats: int, *actions: Callable[[], Any]) -> list[float]:
    """The median processor time of each action in milliseconds, after one run of each."""
    times: list[list[float]] = [[] for _ in actions]
    for _ in range(repeats + 1):
        for action, spent in zip(actions, times, strict=True):
            start = time.process_time()
            action()
            spent.append(1e3 * (time.process_time() - start))
    return [median(spent[1:]) for spent in times]


def in_onnxruntime(path: Path, feed: Feed) -> FloatArray:
    """The scores in onnxruntime."""
    return np.asarray(session(path).run(None, feed)[0])


def in_openvino(path: Path, feed: Feed) -> FloatArray:
    """The scores in OpenVINO, in full precision."""
    import openvino

    return np.asarray(openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(feed)[0])


def in_reference(path: Path, feed: Feed) -> FloatArray:
    """The scores in onnx's own evaluator."""
    from onnx.reference import ReferenceEvaluator

    return np.asarray(ReferenceEvaluator(str(path)).run(None, feed)[0])


def same_bits(a: FloatArray, b: FloatArray) -> str:
    """Whether two results are the same, or how far apart."""
    return "yes" if a.tobytes() == b.tobytes() else f"differs by {np.abs(a - b).max():.1e}"


def sizes(variant: str, graph: Graph[Packed], folder: Path) -> list[str]:
    """One row of the first table; leaves packed.onnx and dense.onnx."""
    converter.write(dense_twin(graph), folder / "dense.onnx")
    converter.write(graph, folder / "packed.onnx")
    dense = (folder / "dense.onnx").stat().st_size
    rsk.save(graph, folder / "packed.rsk", force=True)
    start = time.perf_counter()
    rsk.export(network(variant), folder / "verified.onnx", input_shape=SHAPE, lower="none", force=True)
    seconds = time.perf_counter() - start
    files = [(folder / name).stat().st_size for name in ("packed.onnx", "packed.rsk")]
    return [variant, f"{dense:,}", *(cell for size in files for cell in (f"{size:,}", f"{size / dense:.3f}")), f"{seconds:.1f}"]


def speeds(variant: str, graph: Graph[Packed], folder: Path, repeats: int) -> list[str]:
    """One row of the second table."""
    small, plain = folder / "packed.onnx", folder / "dense.onnx"
    feed = {graph.inputs[0].name: np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)}
    loads = interleaved(repeats, lambda: session(small), lambda: session(plain))
    sessions = session(small), session(plain), session(small, folded=False)
    runs = interleaved(5 * repeats, *(partial(each.run, None, feed) for each in sessions))
    agreement = [same_bits(execute(small, feed), execute(plain, feed)) for execute in (in_onnxruntime, in_openvino, in_reference)]
    return [variant, f"{loads[1]:.0f}", f"{loads[0]:.0f}", f"{loads[0] - loads[1]:+.0f}", *(f"{runs[index]:.1f}" for index in (1, 0, 2)), *agreement]


SIZES = ("weights", "dense ONNX", "ONNX", "of dense", ".rsk", "of dense", "export")
SPEEDS = ("weights", "load dense", "load", "more", "run dense", "run", "unfolded", "onnxruntime", "OpenVINO", "onnx.reference")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9, help="sessions loaded for a median; five times as many runs")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    first, second = [], []
    with TemporaryDirectory() as name:
        for variant in VARIANTS:
            graph = packed(variant)
            first.append(sizes(variant, graph, Path(name)))
            second.append(speeds(variant, graph, Path(name), arguments.repeats))
    print(f"{table(SIZES, first)}\n\n{table(SPEEDS, second)}")


if __name__ == "__main__":
    main()
