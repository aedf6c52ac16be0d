"""U-Net: down to few, wide maps and up again, each step joined with its equal on the way down."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from rsk_deploy.errors import UsageError
from rsk_deploy.zoo.blocks import Block, conv_norm, scaled

WAYS_UP = ("transposed", "nearest", "bilinear")


def _twice(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(conv_norm(channels, out, 3), conv_norm(out, out, 3))


def _up(channels: int, out: int, way: str) -> nn.Module:
    """Twice the size: a transposed convolution, or resampling and a 1x1 convolution."""
    if way == "transposed":
        return nn.ConvTranspose2d(channels, out, 2, 2)
    corners = {"align_corners": False} if way == "bilinear" else {}
    return nn.Sequential(nn.Upsample(scale_factor=2, mode=way, **corners), nn.Conv2d(channels, out, 1))


class UNet(Block):
    """Scores of every class at every pixel."""

    def __init__(self, sizes: list[int], classes: int, in_channels: int, way: str) -> None:
        super().__init__()
        down = zip([in_channels, *sizes], sizes, strict=False)
        up = [(wide, narrow) for narrow, wide in pairwise(sizes)][::-1]
        self.encoder = nn.ModuleList(_twice(channels, out) for channels, out in down)
        self.maxpool = nn.MaxPool2d(2)
        self.upsample = nn.ModuleList(_up(channels, out, way) for channels, out in up)
        self.decoder = nn.ModuleList(_twice(2 * out, out) for _, out in up)
        self.head = nn.Conv2d(sizes[0], classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores by pixel; the sizes of the map divide by 16."""
        x, passed = self.encoder[0](x), []
        for step in self.encoder[1:]:
            passed.append(x)
            x = step(self.maxpool(x))
        for up, step in zip(self.upsample, self.decoder, strict=True):
            x = step(torch.cat([passed.pop(), up(x)], 1))
        return self.head(x)


def unet(classes: int = 2, in_channels: int = 3, width: float = 1, up: str = "transposed") -> nn.Module:
    """U-Net with same-size convolutions and batch norm; ``up`` is transposed, nearest or bilinear."""
    if up not in WAYS_UP:
        raise UsageError(f"unknown way up {up!r}; a U-Net has one of {', '.join(WAYS_UP)}")
    return UNet([scaled(size, width) for size in (64, 128, 256, 512, 1024)], classes, in_channels, up)
