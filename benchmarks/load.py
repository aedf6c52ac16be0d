"""From a file to the first result: ``taskset -c 1 python benchmarks/load.py [NETWORK:MASK…]``; names as in networks.py. Prints markdown.

Medians in ms of a process that has loaded a network before; the first one also imports numpy's and our own modules.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import networks
import numpy as np

import rsk_deploy as rsk
from rsk_deploy.runtime import _native
from rsk_deploy.runtime.plan import planned
from rsk_deploy.runtime.records import encode

ROUNDS = 9


def parts(path: Path, x: np.ndarray[Any, Any]) -> Iterator[Callable[[], Any]]:
    """What loading does, one after the other."""
    made: list[Any] = []
    yield lambda: made.append(rsk.load(path))
    yield lambda: made.append(planned(made[0], 1, _native.kernels()))
    yield lambda: made.append(encode(made[1]))
    yield lambda: made.append(_native.Engine(made[2], 1))
    yield lambda: rsk.Session(path, threads=1)(x)


def timed(call: Callable[[], Any]) -> float:
    """Milliseconds of a call."""
    start = perf_counter()
    call()
    return 1e3 * (perf_counter() - start)


@contextmanager
def saved(entry: str) -> Iterator[tuple[Path, np.ndarray[Any, Any]]]:
    """A network in a file, and an input."""
    name, _, mask = entry.partition(":")
    model, shape = networks.built(name, mask or "dense")
    x = np.zeros((1, *shape), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.rsk"
        rsk.save(rsk.pack(rsk.read(model, input_shape=x.shape)), path)
        yield path, x


print("| network | read | plan | encode | make kernels | all, with the first run |\n|---|--:|--:|--:|--:|--:|")
for entry in sys.argv[1:] or ["resnet18-224:4of9", "resnet18-cifar:4of9"]:
    with saved(entry) as (path, x):
        rounds = [[timed(part) for part in parts(path, x)] for _ in range(ROUNDS)]
        print(f"| {entry} | {' | '.join(f'{median(times):.0f}' for times in zip(*rounds, strict=True))} |", flush=True)
