"""RegNet: residual stages of grouped 3x3 convolutions."""

from __future__ import annotations

import torch
from torch import nn

from rsk_deploy.zoo.blocks import Block, classify, conv_norm, scaled


class GroupedBottleneck(Block):
    """1x1, grouped 3x3 (which has the stride) and 1x1 beside a shortcut."""

    def __init__(self, channels: int, out: int, stride: int, group_width: int) -> None:
        super().__init__()
        self.proj = conv_norm(channels, out, 1, stride, act=None) if stride != 1 or channels != out else nn.Identity()
        self.f = nn.Sequential(conv_norm(channels, out), conv_norm(out, out, 3, stride, groups=out // group_width), conv_norm(out, out, act=None))
        self.activation = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add the convolutions to the shortcut."""
        return self.activation(self.proj(x) + self.f(x))


class RegNet(Block):
    """Stem, four stages, classifier."""

    def __init__(self, sizes: list[int], group_width: int, classes: int, in_channels: int) -> None:
        super().__init__()
        self.stem = conv_norm(in_channels, 32, 3, 2)
        channels = 32
        self.trunk_output = nn.Sequential()
        for out, count in zip(sizes, (1, 2, 7, 12), strict=True):
            first = GroupedBottleneck(channels, out, 2, group_width)
            self.trunk_output.append(nn.Sequential(first, *(GroupedBottleneck(out, out, 1, group_width) for _ in range(count - 1))))
            channels = out
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Class scores."""
        return classify(self.trunk_output(self.stem(x)), self.fc)


def regnet_x_400mf(classes: int = 1000, in_channels: int = 3, width: float = 1) -> nn.Module:
    """RegNetX-400MF."""
    return RegNet([scaled(out, width, 16) for out in (32, 64, 160, 400)], 16, classes, in_channels)
