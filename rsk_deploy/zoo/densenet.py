"""DenseNet: every layer reads all earlier ones of its block."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from rsk_deploy.errors import UsageError
from rsk_deploy.zoo.blocks import Block, classify, depths, scaled

STEMS = ("cifar", "imagenet")


class DenseLayer(Block):
    """Adds ``growth`` channels to what it is given."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(channels), nn.Conv2d(channels, 4 * growth, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(4 * growth), nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Join the input and the new channels."""
        return torch.cat([x, self.conv2(self.relu(self.norm2(self.conv1(self.relu(self.norm1(x))))))], 1)


def _transition(channels: int) -> nn.Sequential:
    """Half the channels, half the size."""
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2))


class DenseNet(Block):
    """Stem, dense blocks with transitions between them, classifier."""

    def __init__(self, blocks: Sequence[int], growth: int, classes: int, in_channels: int, stem: str) -> None:
        super().__init__()
        if stem not in STEMS:
            raise UsageError(f"unknown stem {stem!r}; a DenseNet has one of {', '.join(STEMS)}")
        channels = 2 * growth
        if stem == "cifar":
            self.features = nn.Sequential(nn.Conv2d(in_channels, channels, 3, padding=1, bias=False))
        else:
            conv = nn.Conv2d(in_channels, channels, 7, 2, 3, bias=False)
            self.features = nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        for position, count in enumerate(depths(blocks)):
            self.features.append(nn.Sequential(*(DenseLayer(channels + done * growth, growth) for done in range(count))))
            channels += count * growth
            if position < len(blocks) - 1:
                self.features.append(_transition(channels))
                channels //= 2
        self.features.extend([nn.BatchNorm2d(channels), nn.ReLU()])
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Class scores."""
        return classify(self.features(x), self.classifier)


def densenet201(classes: int = 10, in_channels: int = 3, width: float = 1, stem: str = "cifar", blocks: Sequence[int] = (6, 12, 48, 32)) -> nn.Module:
    """DenseNet201; fewer ``blocks`` make a smaller one."""
    return DenseNet(blocks, scaled(32, width), classes, in_channels, stem)
