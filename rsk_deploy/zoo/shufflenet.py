"""ShuffleNet (grouped 1x1 convolutions, as the pSConv paper compares with) and ShuffleNetV2 (split channels)."""

from __future__ import annotations

import torch
from torch import nn

from rsk_deploy.zoo.blocks import Block, classify, conv_norm, scaled, shuffle_channels


class GroupedUnit(Block):
    """Grouped 1x1, shuffle, depthwise 3x3, grouped 1x1; added to the input, or joined to its means where the size halves."""

    def __init__(self, channels: int, out: int, groups: int, stride: int, first_groups: int) -> None:
        super().__init__()
        self.groups = groups
        added = out - channels if stride == 2 else out
        hidden = added // 4
        self.conv1 = conv_norm(channels, hidden, groups=first_groups)
        self.conv2 = conv_norm(hidden, hidden, 3, stride, groups=hidden, act=None)
        self.conv3 = conv_norm(hidden, added, groups=groups, act=None)
        self.relu = nn.ReLU()
        self.shortcut = nn.AvgPool2d(3, 2, 1) if stride == 2 else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Transform and shuffle."""
        y = self.conv3(self.conv2(shuffle_channels(self.conv1(x), self.groups)))
        return self.relu(torch.cat([y, self.shortcut(x)], 1) if self.shortcut else x + y)


class ShuffleNet(Block):
    """A 1x1 stem, three stages of grouped units, classifier."""

    def __init__(self, sizes: list[int], groups: int, classes: int, in_channels: int, pooled: int) -> None:
        super().__init__()
        channels = 24
        self.conv1 = conv_norm(in_channels, channels)
        self.stages = nn.Sequential()
        for out, count in zip(sizes, (4, 8, 4), strict=True):
            first = GroupedUnit(channels, out, groups, 2, 1 if channels == 24 else groups)
            self.stages.append(nn.Sequential(first, *(GroupedUnit(out, out, groups, 1, groups) for _ in range(count - 1))))
            channels = out
        self.avgpool = nn.AdaptiveAvgPool2d(pooled)
        self.fc = nn.Linear(channels * pooled * pooled, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Class scores."""
        return self.fc(torch.flatten(self.avgpool(self.stages(self.conv1(x))), 1))


def shufflenet(classes: int = 10, in_channels: int = 3, width: float = 1, pooled: int = 1) -> nn.Module:
    """ShuffleNet with 3 groups and 384, 768 and 1536 channels; the pSConv paper has ``pooled=2`` on 64 x 64 images."""
    return ShuffleNet([scaled(out, width, 12) for out in (384, 768, 1536)], 3, classes, in_channels, pooled)


class SplitUnit(Block):
    """Half of the channels pass (or, where the size halves, take a short path), the other half are transformed; then shuffle."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        half, given = out // 2, channels if stride == 2 else channels // 2
        self.branch1 = None
        if stride == 2:
            self.branch1 = nn.Sequential(conv_norm(given, given, 3, 2, groups=given, act=None), conv_norm(given, half))
        self.branch2 = nn.Sequential(conv_norm(given, half), conv_norm(half, half, 3, stride, groups=half, act=None), conv_norm(half, half))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Join and shuffle."""
        short, long = (self.branch1(x), x) if self.branch1 else x.chunk(2, 1)
        return shuffle_channels(torch.cat([short, self.branch2(long)], 1), 2)


class ShuffleNetV2(Block):
    """Stem, three stages of split units, 1x1, classifier."""

    def __init__(self, sizes: list[int], last: int, classes: int, in_channels: int) -> None:
        super().__init__()
        channels = sizes[0]
        self.conv1, self.maxpool = conv_norm(in_channels, channels, 3, 2), nn.MaxPool2d(3, 2, 1)
        self.stages = nn.Sequential()
        for out, count in zip(sizes[1:], (4, 8, 4), strict=True):
            self.stages.append(nn.Sequential(SplitUnit(channels, out, 2), *(SplitUnit(out, out, 1) for _ in range(count - 1))))
            channels = out
        self.conv5 = conv_norm(channels, last)
        self.fc = nn.Linear(last, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Class scores."""
        return classify(self.conv5(self.stages(self.maxpool(self.conv1(x)))), self.fc)


def shufflenetv2(classes: int = 1000, in_channels: int = 3, width: float = 1) -> nn.Module:
    """ShuffleNetV2."""
    return ShuffleNetV2([scaled(out, width, 2) for out in (24, 116, 232, 464)], scaled(1024, width), classes, in_channels)
