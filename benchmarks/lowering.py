"""What lowering to stock operators gains: the dense export of masked networks against the lowered one, in stock runtimes.

    python benchmarks/lowering.py [NETWORK:MASK…] [--runtimes onnxruntime,openvino] [--rounds N] [--how auto|always] [--form onnx]
    python benchmarks/lowering.py --layers [MASK…]

One pinned thread, batch 1, fp32, both files of a network in turns, medians. Outputs are compared first.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch

import rsk_deploy as rsk
from rsk_deploy import rewrite, zoo
from rsk_deploy.ir import Activation, Binary, Conv, Dense, Input, Layer, Reduce
from rsk_deploy.masks.periodic import published_taps
from rsk_deploy.registry import mask_named

NETWORKS: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "resnet18-cifar": ("resnet18", (3, 32, 32), {}),
    "resnet18-224": ("resnet18", (3, 224, 224), {"stem": "imagenet", "classes": 1000}),
    "vgg16-cifar": ("vgg16", (3, 32, 32), {}),
}
SHAPES = [(64, 56), (64, 32), (128, 28), (128, 16), (256, 14), (256, 8), (512, 7), (512, 4)]
BODY = {"resnet18": "layer*.conv?", "vgg16": "features.*[1-9]"}
MASKS: dict[str, dict[str, Any]] = {
    "input-class": {"support": "input-class"},
    "lowerable": {"support": "lowerable"},
    "latin": {"support": "lowerable", "mixing": 4},
    "lowerable-2of9": {"support": "lowerable", "taps_per_kernel": 2, "classes": 8},
    "lowerable-6of9": {"support": "lowerable", "taps_per_kernel": 6},
    "published-8": {"support": "periodic", "taps": published_taps(4, 8)},
    "cross": {"support": "one-pattern", "taps": [1, 3, 4, 5, 7]},
}
Run = Callable[[], Any]


def in_onnxruntime(path: Path, x: np.ndarray[Any, Any]) -> Run:
    """Run a file in onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: x})[0]


def in_openvino(path: Path, x: np.ndarray[Any, Any]) -> Run:
    """Run a file in OpenVINO, which would take bfloat16 where the processor has it."""
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(core.read_model(path), "CPU", settings).create_infer_request()
    return lambda: next(iter(request.infer([x]).values()))


def in_ncnn(path: Path, x: np.ndarray[Any, Any]) -> Run:
    """Convert a file with pnnx and run it in ncnn."""
    import ncnn

    package = importlib.util.find_spec("pnnx")  # found, not imported: that would import torch for its program's sake
    if package is None or package.origin is None:
        raise RuntimeError("ncnn reads what pnnx makes: pip install pnnx")
    converter = Path(package.origin).parent / "pnnx"
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(path, f"{folder}/net.onnx")
        shape = ",".join(map(str, x.shape))
        subprocess.run([converter, "net.onnx", f"inputshape=[{shape}]", "fp16=0"], cwd=folder, check=True, capture_output=True)
        net = ncnn.Net()
        net.opt.num_threads = 1
        net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = net.opt.use_bf16_storage = False
        if net.load_param(f"{folder}/net.ncnn.param") or net.load_model(f"{folder}/net.ncnn.bin"):
            raise RuntimeError(f"ncnn does not load what pnnx made of {path}")
    image = ncnn.Mat(x[0]).clone()

    def run() -> Any:
        extractor = net.create_extractor()
        extractor.input("in0", image)
        return np.array(extractor.extract("out0")[1])[None]

    return run


RUNTIMES: dict[str, Callable[[Path, np.ndarray[Any, Any]], Run]] = {"onnxruntime": in_onnxruntime, "openvino": in_openvino, "ncnn": in_ncnn}


def built(name: str, mask: str) -> tuple[rsk.Graph[Any], tuple[int, ...]]:
    """The folded graph of a network whose 3x3 layers but the stem have that mask."""
    kind, shape, args = NETWORKS[name]
    torch.manual_seed(0)
    model = zoo.build(kind, **args, conv="psconv", conv_args={"where": BODY[kind], **MASKS[mask]})
    model.train()
    with torch.no_grad():
        model(torch.randn(4, *shape))
    return rsk.read(model.eval(), input_shape=(1, *shape)), (1, *shape)


def in_turns(runs: list[Run], rounds: int) -> list[float]:
    """The median milliseconds of each. A round visits each for one run to fill the caches and three timed ones, as in repeated inference."""
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for run, found in zip(runs, times, strict=True):
            run()
            for _ in range(3):
                start = perf_counter()
                run()
                found.append(perf_counter() - start)
    return [1e3 * median(found) for found in times]


def measured(entry: str, runtimes: list[str], how: str, form: str, rounds: int, folder: Path) -> None:
    """A line for each runtime, which runs the file lowered for it, or for ``form``."""
    name, _, mask = entry.partition(":")
    graph, shape = built(name, mask)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    dense = rsk.export(rsk.pack(graph, "dense"), folder / "dense.onnx", verify=False, force=True)
    for runtime in runtimes:
        lowered = rewrite.lower(graph, form or runtime, how)
        count = sum(entry.action == "lowered" for entry in lowered.log)
        file = rsk.export(rsk.pack(lowered), folder / f"{runtime}.onnx", verify=False, force=True)
        runs = [RUNTIMES[runtime](path, x) for path in (dense.path, file.path)]
        expected, found = (run() for run in runs)
        error = np.abs(found - expected).max() / np.abs(expected).max()
        before, after = in_turns(runs, rounds)
        size = file.nbytes / dense.nbytes
        print(f"| {name} | {mask} | {runtime} | {count} | {before:.2f} | {after:.2f} | {before / after:.2f} × | {size:.2f} | {error:.0e} |", flush=True)


def layers(mask: str, runtimes: list[str], rounds: int, folder: Path) -> None:
    """For four layers of one shape in two residual blocks: what lowering all of them gains, and what the costs say."""
    for channels, size in SHAPES:
        graph = stack(mask, channels, size)
        x = np.random.default_rng(0).standard_normal((1, channels, size, size)).astype(np.float32)
        dense = rsk.export(rsk.pack(graph, "dense"), folder / "dense.onnx", verify=False, force=True)
        cells = []
        for runtime in runtimes:
            costs = rewrite.TARGETS[runtime]
            lowered = rewrite.lower(graph, runtime, "always")
            file = rsk.export(rsk.pack(lowered, "dense"), folder / f"{runtime}.onnx", verify=False, force=True)
            before, after = in_turns([RUNTIMES[runtime](path, x) for path in (dense.path, file.path)], rounds)
            estimate = costs.of(graph.layers, graph.shapes()) / costs.of(lowered.layers, lowered.shapes())
            cells.append(f"{before / 4:.3f} → {after / 4:.3f} | {before / after:.2f} × | {estimate:.2f} ×")
        print(f"| {mask} | {channels}@{size}² | {' | '.join(cells)} |", flush=True)


def stack(mask: str, channels: int, size: int) -> rsk.Graph[Any]:
    """A 1x1 convolution and two residual blocks of masked 3x3 convolutions."""
    rng = np.random.default_rng(0)

    def conv(name: str, value: str, support: np.ndarray[Any, Any]) -> list[Layer]:
        weight = np.where(support, rng.standard_normal(support.shape) / np.sqrt(channels), 0).astype(np.float32)
        pads = (support.shape[2] // 2,) * 4
        made = Conv(
            name=name, inputs=(value,), outputs=(f"{name}.y",), weight=Dense(weight), bias=weight[:, 0, 0, 0], stride=(1, 1), pads=pads, dilation=(1, 1)
        )
        return [made]

    def relu(name: str, value: str) -> list[Layer]:
        return [Activation(name=name, inputs=(value,), outputs=(f"{name}.y",), kind="relu")]

    params = dict(MASKS[mask])
    support = mask_named(params.pop("support")).generate((channels, channels, 3, 3), **params).support
    parts = conv("first", "x", np.ones((channels, channels, 1, 1), bool))
    value = "first.y"
    for block in ("a", "b"):
        parts += conv(f"{block}1", value, support) + relu(f"{block}2", f"{block}1.y") + conv(f"{block}3", f"{block}2.y", support)
        parts.append(Binary(name=f"{block}4", inputs=(f"{block}3.y", value), outputs=(f"{block}4.y",), kind="add"))
        parts += relu(f"{block}5", f"{block}4.y")
        value = f"{block}5.y"
    parts.append(Reduce(name="mean", inputs=(value,), outputs=("mean.y",), kind="mean", axes=(2, 3)))
    parts += conv("last", "mean.y", np.ones((10, channels, 1, 1), bool))
    return rsk.Graph((Input("x", (1, channels, size, size)),), ("last.y",), tuple(parts))


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=[f"{network}:{mask}" for network in ("resnet18-cifar", "resnet18-224") for mask in MASKS])
    parser.add_argument("--runtimes", default="onnxruntime,openvino", help=f"of {', '.join(RUNTIMES)}; ncnn needs ncnn and pnnx")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--layers", nargs="*", choices=list(MASKS), help="measure single layers with these masks instead")
    parser.add_argument("--how", choices=["auto", "always"], default="auto")
    parser.add_argument("--form", default="", choices=list(rewrite.TARGETS), help="lower for this instead of the runtime that executes the file")
    options = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    if options.layers is not None:
        runtimes = options.runtimes.split(",")
        print(f"| masks | layer | {' | '.join(f'{runtime} ms | faster | estimated' for runtime in runtimes)} |")
        print(f"|---|---|{'--:|--:|--:|' * len(runtimes)}")
        with tempfile.TemporaryDirectory() as folder:
            for mask in options.layers or MASKS:
                layers(mask, runtimes, options.rounds, Path(folder))
        return
    print("| network | masks | runtime | layers lowered | dense ms | lowered ms | faster | file, of dense | difference |")
    print("|---|---|---|--:|--:|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        for entry in options.networks:
            measured(entry, options.runtimes.split(","), options.how, options.form, options.rounds, Path(folder))


if __name__ == "__main__":
    main()
