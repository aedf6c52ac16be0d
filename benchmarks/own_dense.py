"""Single convolutions with more and more zeros against the same layer without any, as the model of cost or autotune plans them. Prints markdown.

``python benchmarks/own_dense.py [CHANNELS@SIZE…] [--keep FRACTION…] [--rounds N] [--autotune]``. One pinned thread, batch 1, one layer in a
loop, in turns, medians. The ratio is to stay at 1 or above: no layer is slower than our own dense one.
"""

from __future__ import annotations

import argparse
import os

import numpy as np
import torch
from turns import in_turns

import rsk_deploy as rsk

SHAPES = ["16@32", "64@32", "128@16", "64@56", "256@14", "256@8", "512@4"]


def session_of(channels: int, size: int, keep: float, kernel: int, autotune: bool) -> rsk.Session:
    """One layer that keeps so much of its weights, at random."""
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False).eval()
    with torch.no_grad():
        layer.weight[torch.rand_like(layer.weight) >= keep] = 0
    return rsk.Session(rsk.read(layer, input_shape=(1, channels, size, size)), threads=1, autotune=autotune)


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shapes", nargs="*", default=SHAPES)
    parser.add_argument("--keep", nargs="+", type=float, default=[0.9, 0.7, 0.5, 0.3, 0.1])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--autotune", action="store_true")
    options = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    print("| layer | dense µs |" + "".join(f" keeps {keep:.0%} |" for keep in options.keep))
    print("|---|--:|" + "--:|" * len(options.keep))
    for shape in options.shapes:
        channels, size = map(int, shape.split("@"))
        for kernel in (3, 1):
            x = np.random.default_rng(0).standard_normal((1, channels, size, size)).astype(np.float32)
            sessions = [session_of(channels, size, keep, kernel, options.autotune) for keep in (1.0, *options.keep)]
            dense, *sparse = in_turns([lambda session=session, x=x: session(x) for session in sessions], options.rounds)
            print(f"| {kernel}×{kernel}, {shape}² | {1e3 * dense:.0f} |" + "".join(f" {dense / time:.2f}× |" for time in sparse), flush=True)


if __name__ == "__main__":
    main()
