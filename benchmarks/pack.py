"""Processor seconds (on one core) and peak memory of packing a network.

``python benchmarks/pack.py [MILLIONS ...]`` measures each size in a fresh process and prints a table.
"""

import os

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

import subprocess
import sys
import time

import numpy as np

from rsk_deploy.ir import Conv, Dense, Graph, Input, Linear, Reshape
from rsk_deploy.packing import pack, unpack
from rsk_deploy.reporting import report

RNG = np.random.default_rng(0)
HEAD = ("Mweights", "dense MB", "packed MB", "pack s", "half s", "unpack s", "peak MB", "x dense", "formats")


def normal(*shape):
    """Random weights without -0.0."""
    values = RNG.standard_normal(shape, np.float32)
    values += 0
    return values


def conv(name, source, weight):
    """A convolution that keeps the size of its input."""
    pads = (weight.shape[2] // 2,) * 4
    return Conv(name=name, inputs=(source,), outputs=(name,), weight=Dense(weight), stride=(1, 1), pads=pads, dilation=(1, 1))


def network(millions):
    """VGG-like: half of the weights in eight convolutions that keep 4 of 9, a tenth in a dense 1x1, the rest in a matrix that keeps a tenth."""
    width = round((millions * 1e6 / 2 / 9 / 8) ** 0.5)
    last = max(1, round(millions * 1e5 / width))
    layers = []
    for index in range(8):
        weight = normal(width, width, 9)
        weight[np.arange(width)[:, None, None], np.arange(width)[:, None], RNG.random(weight.shape, np.float32).argpartition(4)[..., 4:]] = 0
        layers.append(conv(f"conv{index}", f"conv{index - 1}" if index else "x", weight.reshape(width, width, 3, 3)))
    layers.append(conv("reduce", "conv7", normal(last, width, 1, 1)))
    layers.append(Reshape(name="flat", inputs=("reduce",), outputs=("flat",), target=(1, last)))
    matrix = normal(round(millions * 4e5 / last), last)
    matrix[RNG.random(matrix.shape, np.float32) >= 0.1] = 0
    layers.append(Linear(name="head", inputs=("flat",), outputs=("head",), weight=Dense(matrix)))
    return Graph((Input("x", (1, width, 1, 1)),), ("head",), tuple(layers))


def peak():
    """Peak resident memory since ``reset``, in MB."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024 / 1e6


def reset():
    """Forget the peak that making the network needed."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def timed(function, *arguments, **options):
    """Processor seconds and result of a call."""
    start = time.process_time()
    result = function(*arguments, **options)
    return time.process_time() - start, result


def measure(millions):
    """Print one line of the table."""
    graph = network(millions)
    dense = sum(layer.weight.values.nbytes for layer in graph.weighted()) / 1e6
    reset()
    seconds, packed = timed(pack, graph)
    memory = peak()
    half_seconds, _ = timed(pack, graph, half=True)
    unpack_seconds, back = timed(unpack, packed)
    assert back == graph
    formats = " ".join(sorted({layer.weight.format for layer in packed.weighted()}))
    figures = (dense / 4, dense, report(packed).nbytes / 1e6, seconds, half_seconds, unpack_seconds, memory, memory / dense)
    print(*(f"{figure:9.2f}" for figure in figures), formats)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(float(sys.argv[2]))
    else:
        print(*(f"{name:>9}" for name in HEAD), flush=True)
        for millions in sys.argv[1:] or ["1", "11", "100"]:
            subprocess.run([sys.executable, __file__, "--measure", millions], check=True)
