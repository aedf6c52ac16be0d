"""Two threads against one: whole networks, batch 1, fp32, every thread pinned, in turns, medians. Prints markdown.

``python benchmarks/threads.py [NETWORK:MASK…] [--rounds N]``, names as in networks.py. A virtual machine does not always give two
threads two whole cores: its processors may be one core's hyperthreads or have busy neighbours. So before and after every run a
product of two small matrices, which stay in a core's own cache, is timed on each processor, together for two threads and alone
for one. A run counts as undisturbed where these went as fast as the fastest tenth of those that were alone: where the machine
gave two independent threads 1.9 times what one has at best. The runs themselves have no say in that.

What two threads share moves between them, so it matters where the machine has put them: ``--handover build/bench/handover`` (see
native/CMakeLists.txt) also says how long a cache line takes from one to the other, the median of the rounds. AMD Zen 5: 55 to 60 ns
within a third-level cache, 250 to 270 between two.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import threading
from dataclasses import dataclass, field
from statistics import median, quantiles
from time import perf_counter
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"

import networks
import numpy as np
import torch

import rsk_deploy as rsk

DEFAULT = [f"resnet18-224:{mask}" for mask in ("dense", "4of9", "2of9", "90%")] + ["resnet18-cifar:dense", "resnet18-cifar:4of9"]
WHOLE = 0.95
"""The share of the best speed from which on a processor counts as undisturbed."""


class Probe:
    """What the machine gives independent threads, one on each of two processors."""

    def __init__(self, processors: list[int]) -> None:
        self.processors = processors
        self.took = dict.fromkeys(processors, 0.0)
        self.gates = threading.Barrier(3), threading.Barrier(3)
        for processor in processors:
            threading.Thread(target=self._loop, args=(processor,), daemon=True).start()

    def together(self) -> list[float]:
        """The seconds that the product takes on each while the other has its own."""
        for gate in self.gates:
            gate.wait()
        return list(self.took.values())

    @staticmethod
    def alone() -> list[float]:
        """The seconds that it takes here."""
        left, right, out = np.ones((3, 192, 192), np.float32)
        starts = []
        for _ in range(6):
            np.matmul(left, right, out=out)
            starts.append(perf_counter())
        return [starts[-1] - starts[1]]  # by then they are in the cache

    def _loop(self, processor: int) -> None:
        os.sched_setaffinity(0, {processor})
        while True:
            self.gates[0].wait()
            [self.took[processor]] = self.alone()
            self.gates[1].wait()


@dataclass
class Runs:
    """Of one session: the seconds of each, and of the probes around it the slowest."""

    seconds: list[float] = field(default_factory=list)
    probes: list[float] = field(default_factory=list)

    def undisturbed(self, best: float) -> list[float]:
        """The seconds of those whose probes were as fast as the best."""
        return [second for second, probe in zip(self.seconds, self.probes, strict=True) if probe <= best / WHOLE]


class Pinned:
    """A session whose threads stay where they are put."""

    def __init__(self, graph: rsk.Graph, x: np.ndarray[Any, Any], threads: int) -> None:
        before = set(os.listdir("/proc/self/task"))
        self.session, self.x = rsk.Session(graph, threads=threads), x
        self.session(x)
        self.workers = [int(name) for name in set(os.listdir("/proc/self/task")) - before]

    def time(self, processors: list[int]) -> float:
        """The seconds of a run, the caller on the first processor."""
        for thread, processor in zip([0, *self.workers], processors, strict=False):
            os.sched_setaffinity(thread, {processor})
        self.session(self.x)
        start = perf_counter()
        self.session(self.x)
        return perf_counter() - start


@dataclass
class Measured:
    """One network's rounds."""

    one: Runs = field(default_factory=Runs)
    two: Runs = field(default_factory=Runs)
    alone: list[float] = field(default_factory=list)
    handovers: list[float] = field(default_factory=list)

    def row(self, entry: str) -> str:
        """A line of the table: all rounds, then the undisturbed ones."""
        best = quantiles(self.alone, n=10)[0]
        one, two = self.one.undisturbed(best), self.two.undisturbed(best)
        handover = f"{median(self.handovers):.0f}" if self.handovers else "–"
        counts = f"{len(one)} and {len(two)} of {len(self.alone) // 2}"
        return f"| {entry} | {cells(self.one.seconds, self.two.seconds)} | {counts} | {cells(one, two)} | {handover} |"


def cells(one: list[float], two: list[float]) -> str:
    """Median milliseconds of both, and how much faster two threads are."""
    if not one or not two:
        return "– | – | –"
    return f"{1e3 * median(one):.2f} | {1e3 * median(two):.2f} | {median(one) / median(two):.2f}"


def measured(graph: rsk.Graph, x: np.ndarray[Any, Any], probe: Probe, rounds: int, handover: str | None) -> Measured:
    """Run one thread and two in turns."""
    found = Measured()
    single, double = Pinned(graph, x, 1), Pinned(graph, x, 2)
    for turn in range(rounds):
        processors = probe.processors[:: 1 if turn % 2 else -1]
        if handover is not None:
            answer = subprocess.run([handover, *map(str, processors)], capture_output=True, text=True, check=True)
            found.handovers.append(float(answer.stdout))
        for runs, pinned, around in ((found.two, double, probe.together), (found.one, single, probe.alone)):
            os.sched_setaffinity(0, {processors[0]})
            before = around()
            runs.seconds.append(pinned.time(processors))
            after = around()
            runs.probes.append(max(*before, *after))
            found.alone += before + after if pinned is single else []
    return found


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=DEFAULT)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--handover")
    options = parser.parse_args()
    torch.set_num_threads(1)
    probe = Probe(sorted(os.sched_getaffinity(0))[:2])
    print("| network | one thread, ms | two | ratio | undisturbed | one | two | ratio | a line crosses, ns |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    for entry in options.networks:
        name, _, mask = entry.partition(":")
        model, shape = networks.built(name, mask or "dense")
        x = np.random.default_rng(0).standard_normal((1, *shape)).astype(np.float32)
        graph = rsk.pack(rsk.read(model, input_shape=x.shape))
        print(measured(graph, x, probe, options.rounds, options.handover).row(entry), flush=True)


if __name__ == "__main__":
    main()
