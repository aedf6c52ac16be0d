"""ConvNeXt: depthwise 7x7, then a perceptron on each position."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from rsk_deploy.zoo.blocks import Block, depths, scaled


class LayerNorm2d(nn.LayerNorm):  # type: ignore[misc]  # torch is not type-checked here
    """Layer norm over the channels of each position."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(Block):
    """Depthwise 7x7, layer norm, four times the channels, GELU, and back; scaled, and added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.pwconv1, self.act, self.pwconv2 = nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels)
        self.layer_scale = nn.Parameter(torch.full((channels, 1, 1), 1e-6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add the block to its input."""
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        return x + self.layer_scale * self.pwconv2(self.act(self.pwconv1(y))).permute(0, 3, 1, 2)


class ConvNeXt(Block):
    """A 4x4 stem, four stages with 2x2 reductions between them, classifier."""

    def __init__(self, sizes: Sequence[int], blocks: Sequence[int], classes: int, in_channels: int) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(in_channels, sizes[0], 4, 4), LayerNorm2d(sizes[0], eps=1e-6))
        for stage, (size, count) in enumerate(zip(sizes, depths(blocks), strict=True)):
            if stage:
                self.features.extend([LayerNorm2d(sizes[stage - 1], eps=1e-6), nn.Conv2d(sizes[stage - 1], size, 2, 2)])
            self.features.append(nn.Sequential(*(ConvNeXtBlock(size) for _ in range(count))))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(LayerNorm2d(sizes[-1], eps=1e-6), nn.Flatten(1), nn.Linear(sizes[-1], classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Class scores."""
        return self.classifier(self.avgpool(self.features(x)))


def convnext_tiny(classes: int = 1000, in_channels: int = 3, width: float = 1, blocks: Sequence[int] = (3, 3, 9, 3)) -> nn.Module:
    """ConvNeXt-Tiny; fewer ``blocks`` in its four stages make a smaller one."""
    return ConvNeXt([scaled(size, width) for size in (96, 192, 384, 768)], blocks, classes, in_channels)
