"""The CPU runtime against onnxruntime: networks and their layers, batch 1, one pinned thread, in turns, medians. Prints markdown.

``python benchmarks/runtime.py [NETWORK…] [--rounds N] [--batch N] [--layers]``. A network is NAME or NAME:MASK; see NETWORKS and MASKS.
onnxruntime runs the same weights, zeros included.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import onnxruntime
import torch

import rsk_deploy as rsk
from rsk_deploy import zoo

NETWORKS: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "resnet18-cifar": ("resnet18", (3, 32, 32), {}),
    "resnet18-cifar-half": ("resnet18", (3, 32, 32), {"width": 0.5}),
    "resnet18-224": ("resnet18", (3, 224, 224), {"stem": "imagenet", "classes": 1000}),
    "vgg16-cifar": ("vgg16", (3, 32, 32), {}),
    "alexnet": ("alexnet", (3, 224, 224), {}),
    "cnn6": ("cnn6", (3, 32, 32), {}),
}
MASKS: dict[str, dict[str, Any]] = {
    "dense": {},
    "cross": {"conv": "skeleton"},
    "4of9": {"conv": "psconv", "conv_args": {"taps_per_kernel": 4}},
    "2of9": {"conv": "psconv", "conv_args": {"taps_per_kernel": 2}},
    "psc4-p8": {"conv": "psconv", "conv_args": {"support": "periodic", "period": 8}},
    "90%": {},
}
DEFAULT = [f"{network}:{mask}" for network in ("resnet18-cifar", "resnet18-224") for mask in ("dense", "4of9", "2of9", "90%")]


def built(name: str, mask: str) -> tuple[torch.nn.Module, tuple[int, ...]]:
    """A network with a mask, as training would leave it."""
    kind, shape, args = NETWORKS[name]
    torch.manual_seed(0)
    model = zoo.build(kind, **args, **MASKS[mask]).eval()
    if mask == "90%":
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d) and module.kernel_size == (3, 3) and module.in_channels > 3:
                with torch.no_grad():
                    module.weight[torch.rand_like(module.weight) < 0.9] = 0
    return model, shape


def peer(model: torch.nn.Module, x: np.ndarray[Any, Any]) -> Callable[[], Any]:
    """Run the exported model in onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        rsk.export(model, path, input_shape=x.shape, weights="dense", verify=False)
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    inputs = {session.get_inputs()[0].name: x}
    return lambda: session.run(None, inputs)


def in_turns(runs: list[Callable[[], Any]], rounds: int) -> list[float]:
    """The median milliseconds of each, measured one after the other in every round."""
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for run, found in zip(runs, times, strict=True):
            start = perf_counter()
            run()
            found.append(perf_counter() - start)
    return [1e3 * median(found[rounds // 5 :]) for found in times]


def layers(session: rsk.Session, x: np.ndarray[Any, Any], rounds: int) -> None:
    """A row a step: median time, rate, kernel, reason."""
    profiles = [session.profile(x) for _ in range(rounds)]
    print("\n| step | layers | kernel | µs | why |\n|---|---|---|---|---|")
    for rows in zip(*profiles, strict=True):
        row = rows[0]
        print(f"| {row.step} {row.operation} | {', '.join(row.layers)} | {row.kernel} | {median(r.microseconds for r in rows):.1f} | {row.reason} |")


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=DEFAULT)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--layers", action="store_true")
    options = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    print("| network | onnxruntime ms | rsk ms | speed-up | largest difference |\n|---|---|---|---|---|")
    for entry in options.networks:
        name, _, mask = entry.partition(":")
        model, shape = built(name, mask or "dense")
        x = np.random.default_rng(0).standard_normal((options.batch, *shape)).astype(np.float32)
        session = rsk.Session(rsk.read(model, input_shape=x.shape), threads=1)
        other = peer(model, x)
        difference = np.abs(session(x) - other()[0]).max()
        theirs, ours = in_turns([other, lambda session=session, x=x: session(x)], options.rounds)
        print(f"| {entry} | {theirs:.2f} | {ours:.2f} | {theirs / ours:.2f}× | {difference:.1e} |", flush=True)
        if options.layers:
            layers(session, x, options.rounds)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
