"""Networks without branches: the 6-layer CNN of the RSK paper, AlexNet, VGG16."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from rsk_deploy.zoo.blocks import Block, scaled


class Plain(Block):
    """Convolutions, then (after pooling to ``pooled`` x ``pooled``) fully connected layers."""

    def __init__(self, features: Sequence[nn.Module], channels: int, hidden: Sequence[int], classes: int, *, pooled: int, dropout: float) -> None:
        super().__init__()
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(pooled)
        sizes = [channels * pooled * pooled, *hidden]
        layers: list[Any] = []
        for size, out in zip(sizes, hidden, strict=False):
            layers += [nn.Dropout(dropout), nn.Linear(size, out), nn.ReLU()]
        self.classifier = nn.Sequential(*layers, nn.Linear(sizes[-1], classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Class scores."""
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


def _vgg_features(channels: int, plan: Sequence[int | str]) -> list[nn.Module]:
    layers: list[Any] = []
    for out in plan:
        if isinstance(out, str):
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(channels, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU()]
            channels = out
    return layers


def cnn6(classes: int = 10, in_channels: int = 3, width: float = 1, pooled: int = 4) -> nn.Module:
    """Three convolutions, each halving the size, and three fully connected layers, as the RSK paper trains on 32 x 32 images."""
    channels = [scaled(out, width) for out in (64, 128, 256)]
    plan: list[int | str] = [step for out in channels for step in (out, "pool")]
    return Plain(_vgg_features(in_channels, plan), channels[-1], [scaled(512, width), scaled(256, width)], classes, pooled=pooled, dropout=0.0)


def alexnet(classes: int = 1000, in_channels: int = 3, width: float = 1) -> nn.Module:
    """AlexNet in one tower, for 224 x 224 images."""
    a, b, c, d = (scaled(out, width) for out in (64, 192, 384, 256))
    features = [nn.Conv2d(in_channels, a, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(a, b, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    for channels, out in ((b, c), (c, d), (d, d)):
        features += [nn.Conv2d(channels, out, 3, padding=1), nn.ReLU()]
    return Plain([*features, nn.MaxPool2d(3, 2)], d, [scaled(4096, width)] * 2, classes, pooled=6, dropout=0.5)


def vgg16(classes: int = 10, in_channels: int = 3, width: float = 1, hidden: Sequence[int] = (), pooled: int = 1) -> nn.Module:
    """VGG16 with batch norm for small images. The pSConv paper has ``hidden=[4096, 4096]``, and ``pooled=2`` on 64 x 64 images."""
    plan: list[int | str] = [64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool", 512, 512, 512, "pool"]
    steps = [step if isinstance(step, str) else scaled(step, width) for step in plan]
    return Plain(_vgg_features(in_channels, steps), scaled(512, width), [scaled(size, width) for size in hidden], classes, pooled=pooled, dropout=0.5)
