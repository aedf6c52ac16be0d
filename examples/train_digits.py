"""Train a tiny RSK network and a tiny pSConv network on scikit-learn's digits, and save checkpoints that describe themselves.

    python examples/train_digits.py FOLDER

writes digits-rsk.pt, digits-psconv.pt and digits-sample.npz (some held-out images and their labels, for ``rsk-export --sample``).
"""

import sys
from pathlib import Path

try:
    import numpy as np
    import torch
    from sklearn.datasets import load_digits
    from torch import nn

    from rsk_deploy import zoo
    from rsk_deploy.nn import PSchedule, save_checkpoint
except ModuleNotFoundError as error:
    sys.exit(f'{error}. `make demo` sets up what this example needs, or: pip install scikit-learn "rsk-deploy[torch,onnx]"')

EPOCHS, BATCH, HELD_OUT, SAMPLE = 8, 32, 360, 100
PREPROCESSING = {"scale": 1 / 16, "repeat_pixels": 2}
NETWORKS = {
    "digits-rsk": ("cnn6", {"width": 0.5, "pooled": 2, "conv": "rsk", "conv_args": {"p": 0.7}}),
    # the kernels of the one-channel stem cannot cover the window, and stay whole
    "digits-psconv": ("resnet18", {"width": 0.125, "conv": "psconv", "conv_args": {"taps_per_kernel": 4, "where": "layer*.conv?"}}),
}


def data() -> tuple[torch.Tensor, torch.Tensor]:
    """All images, 16 x 16 with values from 0 to 1, and their classes, in a fixed random order."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    pixels = images[order].reshape(-1, 1, 8, 8) * PREPROCESSING["scale"]
    repeated = np.kron(pixels, np.ones((PREPROCESSING["repeat_pixels"],) * 2)).astype(np.float32)
    return torch.from_numpy(repeated), torch.from_numpy(labels[order])


def train(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    """A few epochs of Adam. Where the network has random sparse kernels, p falls from 1 to its target in the first half."""
    target = model.rsk_architecture["args"]["conv_args"].get("p")
    schedule = PSchedule(model, target, EPOCHS // 2) if target else None
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    model.train()
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images)).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
        if schedule:
            schedule.step()
    model.eval()


def main(folder: Path) -> None:
    """Train both networks and write the files."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = data()
    for name, (architecture, args) in NETWORKS.items():
        torch.manual_seed(0)
        model = zoo.build(architecture, in_channels=1, **args)
        train(model, images[HELD_OUT:], labels[HELD_OUT:])
        with torch.no_grad():
            right = int((model(images[:HELD_OUT]).argmax(1) == labels[:HELD_OUT]).sum())
        path = folder / f"{name}.pt"
        save_checkpoint(model, path, input_shape=(1, *images.shape[1:]), labels=[str(digit) for digit in range(10)], preprocessing=PREPROCESSING)
        print(f"{path}: {right} of {HELD_OUT} held-out digits right ({100 * right / HELD_OUT:.1f} %)")
    np.savez(folder / "digits-sample.npz", images=images[:SAMPLE].numpy(), labels=labels[:SAMPLE].numpy())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} FOLDER")
    main(Path(sys.argv[1]))
