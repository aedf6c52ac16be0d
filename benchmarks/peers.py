"""The CPU runtime against every rival that installs: whole networks, one pinned thread, fp32, in turns, medians. Prints markdown.

``python benchmarks/peers.py --install`` makes an environment for each rival under --home (about 6 GB), once. Then
``python benchmarks/peers.py [NETWORK:MASK…] [--batch N] [--rivals a,b]``; names as in networks.py. Every rival runs the same weights,
zeros included, and its output is compared with torch's in double precision: a figure is given only where it is right.
"""

from __future__ import annotations

import argparse
import configparser
import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from statistics import median
from typing import Any

import networks
import numpy as np
import torch

import rsk_deploy as rsk

RIVALS = Path(__file__).parent / "rivals"
ENVIRONMENTS = {"mnn_dense": "mnn"}
"""Rivals that share the environment of another."""

NAMES = ["onnxruntime", "openvino", "ncnn", "mnn", "mnn_dense", "litert", "executorch", "deepsparse"]
DEFAULT = [f"{network}:{mask}" for network in ("resnet18-cifar", "resnet18-cifar-half", "resnet18-224") for mask in ("dense", "cross", "4of9", "2of9", "90%")]
DEFAULT += ["vgg16-cifar:4of9", "alexnet:dense", "alexnet:4of9", "cnn6:4of9"]
SLICE = 0.04
"""Seconds that a rival runs before it is another's turn."""

WRONG = 2e-3
"""Relative to the largest output: what computes in less than fp32 is further off."""


def install(home: Path) -> None:
    """Make the environment of every rival."""
    wanted = configparser.ConfigParser()
    wanted.read(RIVALS / "requirements.ini")
    for name in wanted.sections():
        venv.create(home / name, with_pip=True)
        for packages in wanted[name]["packages"].splitlines():
            subprocess.run([home / name / "bin/pip", "install", "-q", *packages.split()], check=False)


def prepared(home: Path, entry: str, batch: int) -> Path:
    """The files of a network, made where they are missing: .onnx, .pt2, .tflite, and .npz with an input and torch's output."""
    name, _, mask = entry.partition(":")
    stem = home / "networks" / f"{name}-{mask or 'dense'}-{batch}"
    if not stem.with_suffix(".npz").exists():
        stem.parent.mkdir(parents=True, exist_ok=True)
        model, shape = networks.built(name, mask or "dense")
        model = networks.plain(model)
        x = np.random.default_rng(0).standard_normal((batch, *shape)).astype(np.float32)
        rsk.export(model, stem.with_suffix(".onnx"), input_shape=x.shape, weights="dense", verify=False, force=True)
        with torch.no_grad():
            torch.export.save(torch.export.export(model, (torch.from_numpy(x),)), stem.with_suffix(".pt2"))
        converter = home / "litert_convert" / "bin/python"
        if converter.exists():
            subprocess.run([converter, RIVALS / "litert_convert.py", stem], check=False, capture_output=True)
        with torch.no_grad():
            np.savez(stem.with_suffix(".npz"), x=x, y=model.double()(torch.from_numpy(x).double()).numpy())
    return stem


class Rival:
    """One rival in its process, pinned to one core."""

    def __init__(self, name: str, python: Path, core: int) -> None:
        self.name = name
        one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")} | one
        command = ["taskset", "-c", str(core), str(python), str(RIVALS / "worker.py"), name]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)

    def ask(self, do: str, **what: Any) -> dict[str, Any]:
        """Ask it something; one that died says so."""
        try:
            print(json.dumps({"do": do, **what}), file=self.process.stdin, flush=True)
            answer = self.process.stdout.readline() if self.process.stdout else ""
        except BrokenPipeError:
            answer = ""
        found: dict[str, Any] = json.loads(answer) if answer else {"error": "its process died"}
        return found


def measured(rivals: list[Rival], stem: Path, rounds: int) -> dict[str, float | str]:
    """Median milliseconds of each rival, or why there is none."""
    found: dict[str, float | str] = {}
    for rival in rivals:
        answer = rival.ask("load", stem=str(stem))
        if "error" in answer or answer["difference"] > WRONG:
            found[rival.name] = answer.get("error") or f"wrong by {answer['difference']:.0e}"
    times: dict[str, list[float]] = {rival.name: [] for rival in rivals if rival.name not in found}
    for turn in range(rounds):
        for index in np.random.default_rng(turn).permutation(len(rivals)):
            if (rival := rivals[index]).name in times:
                answer = rival.ask("run", stem=str(stem), seconds=SLICE)
                times[rival.name] += answer.get("ms", [])
                found |= {rival.name: answer["error"]} if "error" in answer else {}
    return {name: median(each) for name, each in times.items() if each} | found


def row(entry: str, names: list[str], found: dict[str, float | str], batch: int) -> str:
    """A line of the table: milliseconds an image, the fastest rival in bold, and how much faster we are than it."""
    theirs = {name: value for name, value in found.items() if name != "rsk" and not isinstance(value, str)}
    fastest = min(theirs, key=lambda name: theirs[name], default=None)
    cells = [f"{'**' * (name == fastest)}{theirs[name] / batch:.2f}{'**' * (name == fastest)}" if name in theirs else "–" for name in names]
    ours = found["rsk"]
    if isinstance(ours, str):
        return f"| {entry} | {' | '.join(cells)} | {ours} | |"
    return f"| {entry} | {' | '.join(cells)} | {ours / batch:.2f} | {f'{theirs[fastest] / ours:.2f} ×' if fastest else ''} |"


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("entries", nargs="*", default=DEFAULT)
    parser.add_argument("--install", action="store_true")
    parser.add_argument("--home", type=Path, default=Path.home() / ".cache/rsk-peers")
    parser.add_argument("--rivals", default=",".join(NAMES))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--batch", type=int, default=1)
    options = parser.parse_args()
    if options.install:
        return install(options.home)
    core = max(os.sched_getaffinity(0))
    pythons = {name: options.home / ENVIRONMENTS.get(name, name) / "bin/python" for name in options.rivals.split(",")}
    rivals = [Rival("rsk", Path(sys.executable), core), *(Rival(name, python, core) for name, python in pythons.items() if python.exists())]
    versions = {rival.name: rival.ask("version") for rival in rivals}
    rivals = [rival for rival in rivals if "error" not in versions[rival.name]]
    names = [rival.name for rival in rivals if rival.name != "rsk"]
    print(", ".join(versions[rival.name]["version"] for rival in rivals), "— ms an image, batch", options.batch)
    for name, python in pythons.items():
        if name not in names:
            print(f"{name} was not measured: {versions[name]['error'] if name in versions else f'no {python}; --install makes it'}")
    print(f"\n| network | {' | '.join(names)} | rsk | × fastest |\n|---|{'--:|' * (len(names) + 2)}")
    for entry in options.entries:
        found = measured(rivals, prepared(options.home, entry, options.batch), options.rounds)
        print(row(entry, names, found, options.batch), flush=True)
        for name, reason in found.items():
            if isinstance(reason, str):
                print(f"  {name}: {reason}", file=sys.stderr)
    return None


if __name__ == "__main__":
    main()
