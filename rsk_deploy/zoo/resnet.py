"""Residual networks: ResNet18/34 (basic blocks), ResNet50 (bottlenecks), and the wide ResNet40 of pre-activation blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from rsk_deploy.errors import UsageError
from rsk_deploy.zoo.blocks import Block, classify, conv_norm, scaled

STEMS = ("cifar", "imagenet")


def _shortcut(channels: int, out: int, stride: int) -> nn.Module | None:
    return conv_norm(channels, out, 1, stride, act=None) if stride != 1 or channels != out else None


class BasicBlock(Block):
    """Two 3x3 convolutions beside a shortcut."""

    expansion = 1

    def __init__(self, channels: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, planes, 3, stride, 1, bias=False), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False), nn.BatchNorm2d(planes)
        self.relu = nn.ReLU()
        self.downsample = _shortcut(channels, planes, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add the convolutions to the shortcut."""
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + (self.downsample(x) if self.downsample else x))


class Bottleneck(Block):
    """1x1, 3x3 (which has the stride) and 1x1 convolutions beside a shortcut."""

    expansion = 4

    def __init__(self, channels: int, planes: int, stride: int) -> None:
        super().__init__()
        out = planes * self.expansion
        self.conv1, self.bn1 = nn.Conv2d(channels, planes, 1, bias=False), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False), nn.BatchNorm2d(planes)
        self.conv3, self.bn3 = nn.Conv2d(planes, out, 1, bias=False), nn.BatchNorm2d(out)
        self.relu = nn.ReLU()
        self.downsample = _shortcut(channels, out, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add the convolutions to the shortcut."""
        y = self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))
        return self.relu(self.bn3(self.conv3(y)) + (self.downsample(x) if self.downsample else x))


class ResNet(Block):
    """Stem, four stages, classifier."""

    def __init__(
        self, block: type[BasicBlock] | type[Bottleneck], blocks: Sequence[int], classes: int, in_channels: int, width: float, stem: str, pooled: int
    ) -> None:
        super().__init__()
        if stem not in STEMS:
            raise UsageError(f"unknown stem {stem!r}; a ResNet has one of {', '.join(STEMS)}")
        channels = scaled(64, width)
        kernel, stride = (3, 1) if stem == "cifar" else (7, 2)
        self.conv1, self.bn1 = nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.maxpool = nn.Identity() if stem == "cifar" else nn.MaxPool2d(3, 2, 1)
        stages = []
        for stage, count in enumerate(blocks):
            planes, steps = scaled(64 << stage, width), [2 if stage else 1] + [1] * (count - 1)
            layers = []
            for step in steps:
                layers.append(block(channels, planes, step))
                channels = planes * block.expansion
            stages.append(nn.Sequential(*layers))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(pooled)
        self.fc = nn.Linear(channels * pooled * pooled, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Class scores."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.fc(torch.flatten(self.avgpool(self.layer4(self.layer3(self.layer2(self.layer1(x))))), 1))


def resnet18(classes: int = 10, in_channels: int = 3, width: float = 1, stem: str = "cifar", pooled: int = 1) -> nn.Module:
    """ResNet18; the half-channel variant of the pSConv paper has ``width=0.5``, and ``pooled=2`` on 64 x 64 images."""
    return ResNet(BasicBlock, (2, 2, 2, 2), classes, in_channels, width, stem, pooled)


def resnet34(classes: int = 10, in_channels: int = 3, width: float = 1, stem: str = "cifar", pooled: int = 1) -> nn.Module:
    """ResNet34."""
    return ResNet(BasicBlock, (3, 4, 6, 3), classes, in_channels, width, stem, pooled)


def resnet50(classes: int = 10, in_channels: int = 3, width: float = 1, stem: str = "cifar", pooled: int = 1) -> nn.Module:
    """ResNet50."""
    return ResNet(Bottleneck, (3, 4, 6, 3), classes, in_channels, width, stem, pooled)


class PreactivationBlock(Block):
    """Batch norm and ReLU before each of two 3x3 convolutions, the second of which has the stride; a 1x1 shortcut where channels change."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(channels), nn.Conv2d(channels, out, 3, 1, 1)
        self.bn2, self.conv2 = nn.BatchNorm2d(out), nn.Conv2d(out, out, 3, stride, 1)
        self.relu = nn.ReLU()
        self.shortcut = nn.Conv2d(channels, out, 1, stride) if channels != out else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add the convolutions to the shortcut."""
        y = self.conv2(self.relu(self.bn2(self.conv1(self.relu(self.bn1(x))))))
        return y + (self.shortcut(x) if self.shortcut else x)


class WideResNet(Block):
    """Three stages of pre-activation blocks with 16, 32 and 64 channels times ``factor``."""

    def __init__(self, blocks: int, factor: float, classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, 1, 1)
        channels, stages = 16, []
        for stage in range(3):
            out = scaled(16 << stage, factor)
            first = PreactivationBlock(channels, out, 2 if stage else 1)
            stages.append(nn.Sequential(first, *(PreactivationBlock(out, out, 1) for _ in range(blocks - 1))))
            channels = out
        self.layer1, self.layer2, self.layer3 = stages
        self.bn, self.relu, self.fc = nn.BatchNorm2d(channels), nn.ReLU(), nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Class scores."""
        return classify(self.relu(self.bn(self.layer3(self.layer2(self.layer1(self.conv1(x)))))), self.fc)


def wide_resnet40(classes: int = 10, in_channels: int = 3, width: float = 2) -> nn.Module:
    """A wide ResNet of 40 layers; the Skeleton paper has it twice as wide as the plain one."""
    return WideResNet(6, width, classes, in_channels)
