"""The CPU runtime against onnxruntime: networks and their layers, batch 1, one pinned thread, in turns, medians. Prints markdown.

``python benchmarks/runtime.py [NETWORK…] [--rounds N] [--batch N] [--layers]``. A network is NAME or NAME:MASK, as in networks.py.
onnxruntime runs the same weights, zeros included.
"""

from __future__ import annotations

import argparse
import os
import sys
from statistics import median
from typing import Any

import networks
import numpy as np
import torch
from turns import in_turns, peer

import rsk_deploy as rsk

DEFAULT = [f"{network}:{mask}" for network in ("resnet18-cifar", "resnet18-224") for mask in ("dense", "4of9", "2of9", "90%")]


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
        model, shape = networks.built(name, mask or "dense")
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
