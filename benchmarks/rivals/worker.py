"""One rival in a process of its own: ``python worker.py RIVAL``, a JSON command a line in, a JSON answer a line out.

A rival is a module ``with_RIVAL.py`` beside this file: ``load(stem, x)`` makes the network of ``<stem>.onnx`` (or ``<stem>.pt2``)
ready on one thread in fp32 and returns a function that runs ``x``, and ``version()`` says what it is.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np


class Worker:
    """The networks that are loaded, and what can be asked of them."""

    def __init__(self, name: str) -> None:
        self.rival = importlib.import_module(f"with_{name}")
        self.runs: dict[str, Callable[[], Any]] = {}
        self.inputs: list[Any] = []  # some rivals keep a bare pointer

    def version(self) -> dict[str, Any]:
        """The rival's name and version."""
        return {"version": self.rival.version()}

    def load(self, stem: str) -> dict[str, Any]:
        """Load a network; how long until its first result, and how far that is from the expected one, relative to its largest value."""
        stored = np.load(f"{stem}.npz")
        self.inputs.append(np.ascontiguousarray(stored["x"]))
        start = perf_counter()
        self.runs[stem] = self.rival.load(Path(stem), self.inputs[-1])
        found = np.asarray(self.runs[stem]()).reshape(stored["y"].shape)
        seconds = perf_counter() - start
        return {"seconds": seconds, "difference": float(np.abs(found - stored["y"]).max() / np.abs(stored["y"]).max())}

    def run(self, stem: str, seconds: float) -> dict[str, Any]:
        """Milliseconds of each run for so long, half of that before it uncounted: the others have emptied the caches."""
        run, found = self.runs[stem], []
        until = perf_counter() + seconds / 2
        while run() is not None and perf_counter() < until:
            pass
        while not found or perf_counter() < until + seconds:
            start = perf_counter()
            run()
            found.append(1e3 * (perf_counter() - start))
        return {"ms": found}


def serve(name: str) -> None:
    """Answer until the input ends. What a rival prints goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = None
    for line in sys.stdin:
        command = json.loads(line)
        try:
            worker = worker or Worker(name)
            answer = getattr(worker, command.pop("do"))(**command)
        except Exception as error:  # a rival that cannot is a line in the report, not the end of it
            answer = {"error": f"{type(error).__name__}: {error}"[:300]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1])
