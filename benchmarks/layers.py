"""Single convolutions against onnxruntime with cold weights: a chain of equal layers that exceeds the caches. Prints markdown.

``python benchmarks/layers.py [CHANNELS@SIZE…] [--masks 4of9 2of9] [--rounds N]``. One pinned thread, batch 1, in turns, medians of a layer.
The last column is the share of ``--peak``, in 10⁹ multiply-adds a second: what ``benchmarks/native``'s ``kernels`` prints first.
"""

from __future__ import annotations

import argparse
import os

import numpy as np
import torch
from turns import in_turns, peer

import rsk_deploy as rsk

SHAPES = ["64@32", "128@16", "64@56", "128@28", "256@14", "256@8", "512@7", "512@4"]
BYTES = 96 << 20
"""Of dense weights in a chain: three times the third-level cache."""


def masked(weight: torch.Tensor, mask: str) -> None:
    """Zero what the mask leaves out: ``4of9`` keeps four random taps of each kernel, ``90%`` one weight of ten, ``dense`` all."""
    with torch.no_grad():
        if mask == "90%":
            weight[torch.rand_like(weight) < 0.9] = 0
        elif mask == "cross":
            weight[:, :, [0, 0, 2, 2], [0, 2, 0, 2]] = 0
        elif mask != "dense":
            order = torch.rand_like(weight).flatten(2).argsort(-1).argsort(-1).view_as(weight)
            weight[order >= int(mask.split("of")[0])] = 0


def chain(channels: int, mask: str) -> torch.nn.Sequential:
    """Equal layers, each with its own weights."""
    torch.manual_seed(0)
    count = min(32, max(4, BYTES // (channels * channels * 9 * 4)))
    model = torch.nn.Sequential(*(torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(count)))
    for layer in model:
        masked(layer.weight, mask)
    return model.eval()


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shapes", nargs="*", default=SHAPES)
    parser.add_argument("--masks", nargs="+", default=["4of9", "2of9"])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--peak", type=float, default=125.0)
    options = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    print("| layer | mask | kernel | onnxruntime µs | rsk µs | speed-up | GMAC/s on nonzeros | of the peak |\n|---|---|---|---|---|---|---|---|")
    for shape in options.shapes:
        channels, size = map(int, shape.split("@"))
        for mask in options.masks:
            model = chain(channels, mask)
            x = np.random.default_rng(0).standard_normal((1, channels, size, size)).astype(np.float32)
            session = rsk.Session(rsk.read(model, input_shape=x.shape), threads=1)
            times = in_turns([peer(model, x), lambda session=session, x=x: session(x)], options.rounds)
            theirs, ours = (1e3 * each / len(model) for each in times)
            kernels = ", ".join(sorted({row.kernel for row in session.profile(x) if row.operation == "conv"}))
            rate = sum(int(layer.weight.count_nonzero()) for layer in model) / len(model) * size * size / ours / 1e3
            figures = f"{theirs:.0f} | {ours:.0f} | {theirs / ours:.2f}× | {rate:.0f} | {rate / options.peak:.0%}"
            print(f"| {shape}² | {mask} | {kernels} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
