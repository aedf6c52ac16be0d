"""What the benchmarks measure against, and how: onnxruntime with one thread, in turns."""

from __future__ import annotations

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
