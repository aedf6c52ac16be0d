"""Networks of parallel branches for 32 x 32 images: GoogLeNet and Inception v3, as the Skeleton paper counts them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from rsk_deploy.zoo.blocks import Block, Branches, classify, conv_norm, scaled


class Inception(Block):
    """Features, dropout, classifier."""

    def __init__(self, features: nn.Sequential, channels: int, classes: int) -> None:
        super().__init__()
        self.features, self.dropout, self.fc = features, nn.Dropout(), nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Class scores."""
        return classify(self.dropout(self.features(x)), self.fc)


def _path(channels: int, *steps: tuple[int, int | tuple[int, int]], stride: int = 1, bias: bool = False) -> nn.Sequential:
    """Convolutions of (outputs, kernel), the last of which has the stride; strided ones are not padded."""
    layers = []
    for position, (out, kernel) in enumerate(steps):
        last = stride if position == len(steps) - 1 else 1
        layers.append(conv_norm(channels, out, kernel, last, padding=0 if last > 1 else None, bias=bias))
        channels = out
    return nn.Sequential(*layers)


def googlenet(classes: int = 10, in_channels: int = 3, width: float = 1) -> nn.Module:
    """GoogLeNet with batch norm, two 3x3 in place of each 5x5, and no auxiliary classifiers."""
    stages = {
        "a3": (64, 96, 128, 16, 32, 32),
        "b3": (128, 128, 192, 32, 96, 64),
        "pool3": None,
        "a4": (192, 96, 208, 16, 48, 64),
        "b4": (160, 112, 224, 24, 64, 64),
        "c4": (128, 128, 256, 24, 64, 64),
        "d4": (112, 144, 288, 32, 64, 64),
        "e4": (256, 160, 320, 32, 128, 128),
        "pool4": None,
        "a5": (256, 160, 320, 32, 128, 128),
        "b5": (384, 192, 384, 48, 128, 128),
    }
    channels = scaled(192, width)
    features = nn.Sequential()
    features.add_module("stem", _path(in_channels, (channels, 3), bias=True))
    for name, sizes in stages.items():
        if sizes is None:
            features.add_module(name, nn.MaxPool2d(3, 2, 1))
            continue
        one, reduce3, three, reduce5, five, pooled = (scaled(size, width) for size in sizes)
        paths = [((one, 1),), ((reduce3, 1), (three, 3)), ((reduce5, 1), (five, 3), (five, 3))]
        pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), _path(channels, (pooled, 1), bias=True))
        features.add_module(name, Branches(*(_path(channels, *steps, bias=True) for steps in paths), pool))
        channels = one + three + five + pooled
    return Inception(features, channels, classes)


class _Mixed:
    """The modules of Inception v3 at one width. Each gives itself and its number of channels."""

    def __init__(self, width: float) -> None:
        self.width = width

    def _path(self, channels: int, *steps: tuple[int, int | tuple[int, int]], stride: int = 1) -> nn.Sequential:
        return _path(channels, *((scaled(out, self.width), kernel) for out, kernel in steps), stride=stride)

    def _pooled(self, channels: int, out: int, kernel: int = 1) -> nn.Sequential:
        return nn.Sequential(nn.AvgPool2d(3, 1, 1), self._path(channels, (out, kernel)))

    def _joined(self, *outs: int) -> int:
        return sum(scaled(out, self.width) for out in outs)

    def a(self, channels: int, pooled: int) -> tuple[nn.Module, int]:
        paths = [self._path(channels, *steps) for steps in ([(64, 1)], [(48, 1), (64, 5)], [(64, 1), (96, 3), (96, 3)])]
        return Branches(*paths, self._pooled(channels, pooled, 3)), self._joined(64, 64, 96, pooled)

    def b(self, channels: int) -> tuple[nn.Module, int]:
        paths = [self._path(channels, *steps, stride=2) for steps in ([(384, 3)], [(64, 1), (96, 3), (96, 3)])]
        return Branches(*paths, nn.MaxPool2d(3, 2)), self._joined(384, 96) + channels

    def c(self, channels: int, inner: int) -> tuple[nn.Module, int]:
        row, column = (1, 7), (7, 1)
        seven = [(inner, 1), (inner, row), (192, column)]
        twice = [(inner, 1), (inner, column), (inner, row), (inner, column), (192, row)]
        paths = [self._path(channels, *steps) for steps in ([(192, 1)], seven, twice)]
        return Branches(*paths, self._pooled(channels, 192)), self._joined(192, 192, 192, 192)

    def d(self, channels: int) -> tuple[nn.Module, int]:
        paths = [self._path(channels, *steps, stride=2) for steps in ([(192, 1), (320, 3)], [(192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3)])]
        return Branches(*paths, nn.MaxPool2d(3, 2)), self._joined(320, 192) + channels

    def e(self, channels: int) -> tuple[nn.Module, int]:
        def fork() -> nn.Module:
            return Branches(self._path(inner, (384, (1, 3))), self._path(inner, (384, (3, 1))))

        inner = scaled(384, self.width)
        three = nn.Sequential(self._path(channels, (384, 1)), fork())
        twice = nn.Sequential(self._path(channels, (448, 1), (384, 3)), fork())
        return Branches(self._path(channels, (320, 1)), three, twice, self._pooled(channels, 192)), self._joined(320, 384, 384, 384, 384, 192)


def inceptionv3(classes: int = 10, in_channels: int = 3, width: float = 1) -> nn.Module:
    """Inception v3 whose stem keeps the resolution; 3x3 after the pools of its first modules, and no auxiliary classifier."""
    mixed = _Mixed(width)
    stem = [scaled(out, width) for out in (32, 32, 64, 80, 192)]
    features = nn.Sequential(_path(in_channels, *zip(stem[:4], (3, 3, 3, 1), strict=True)), conv_norm(stem[3], stem[4], 3, padding=0))
    channels = stem[4]
    makers: list[Callable[[int], tuple[nn.Module, int]]] = [partial(mixed.a, pooled=pooled) for pooled in (32, 64, 64)]
    makers += [mixed.b, *(partial(mixed.c, inner=inner) for inner in (128, 160, 160, 192)), mixed.d, mixed.e, mixed.e]
    for make in makers:
        module, channels = make(channels)
        features.append(module)
    return Inception(features, channels, classes)
