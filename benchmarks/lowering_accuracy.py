"""What masks made for lowering cost in accuracy: the same network with each kind of mask, trained alike on scikit-learn's digits.

    python benchmarks/lowering_accuracy.py [--seeds N] [--epochs N]

ResNet18 at an eighth (8 to 64 channels), every 3x3 convolution but the one-channel stem masked; 360 of 1797 images held out.
"""

from __future__ import annotations

import argparse
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from rsk_deploy import zoo

MASKS: dict[str, dict[str, Any]] = {
    "dense": {},
    "4 of 9, random": {"support": "regular"},
    "4 of 9, lowerable": {"support": "lowerable"},
    "4 of 9, lowerable, (output + input) mod 4": {"support": "lowerable", "mixing": 4},
    "4 of 9, input-class": {"support": "input-class"},
    "cross, 5 of 9": {"support": "one-pattern", "taps": [1, 3, 4, 5, 7]},
    "2 of 9, random": {"support": "regular", "taps_per_kernel": 2},
    "2 of 9, lowerable": {"support": "lowerable", "taps_per_kernel": 2, "classes": 8},
}
HELD_OUT, BATCH = 360, 32


def data() -> tuple[torch.Tensor, torch.Tensor]:
    """All images, 16 x 16 with values from 0 to 1, and their classes, in a fixed random order."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    repeated = np.kron(images[order].reshape(-1, 1, 8, 8) / 16, np.ones((2, 2))).astype(np.float32)
    return torch.from_numpy(repeated), torch.from_numpy(labels[order])


def accuracy(mask: dict[str, Any], seed: int, epochs: int) -> float:
    """The share of held-out digits that a freshly trained network gets right."""
    torch.manual_seed(seed)
    args = {"conv": "psconv", "conv_args": {"where": "layer*.conv?", "seed": 1 + 100 * seed, **mask}} if mask else {}
    if "taps" in mask:
        del args["conv_args"]["seed"]
    model: nn.Module = zoo.build("resnet18", width=0.125, in_channels=1, **args)
    images, labels = data()
    train, test = slice(HELD_OUT, None), slice(0, HELD_OUT)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(images[train])).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[train][batch]), labels[train][batch]).backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        return float((model(images[test]).argmax(1) == labels[test]).float().mean())


def main() -> None:
    """A row for each kind of mask."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"| masks | held-out accuracy, mean of {options.seeds} | standard deviation |\n|---|--:|--:|")
    for name, mask in MASKS.items():
        found = [100 * accuracy(mask, seed, options.epochs) for seed in range(options.seeds)]
        print(f"| {name} | {mean(found):.1f} % | {stdev(found):.1f} |", flush=True)


if __name__ == "__main__":
    main()
