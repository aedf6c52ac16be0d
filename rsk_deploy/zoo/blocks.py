"""What the networks have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from rsk_deploy.errors import UsageError

LARGEST_WIDTH, MOST_STAGES, MOST_BLOCKS = 16, 8, 64


class Block(nn.Module):  # type: ignore[misc]  # torch is not type-checked here
    """A part of a network, or a whole one."""


def scaled(channels: int, width: float, multiple: int = 1) -> int:
    """``channels * width``, rounded to a positive multiple of ``multiple`` and not much below what was asked."""
    if not 0 < width <= LARGEST_WIDTH:
        raise UsageError(f"width is {width}; the factor on the channels is above 0 and at most {LARGEST_WIDTH}")
    rounded = max(multiple, int(channels * width + multiple / 2) // multiple * multiple)
    return rounded + multiple if rounded < 0.9 * channels * width else rounded


def depths(blocks: Sequence[int]) -> Sequence[int]:
    """``blocks`` if it can be the number of blocks of each stage."""
    if not 0 < len(blocks) <= MOST_STAGES or not all(type(count) is int and 0 < count <= MOST_BLOCKS for count in blocks):
        raise UsageError(f"blocks are {str(blocks)[:80]}; there are 1 to {MOST_STAGES} stages of 1 to {MOST_BLOCKS} blocks")
    return blocks


def conv_norm(
    channels: int,
    out: int,
    kernel: int | tuple[int, int] = 1,
    stride: int = 1,
    *,
    groups: int = 1,
    padding: int | tuple[int, int] | None = None,
    act: Callable[[], nn.Module] | None = nn.ReLU,
    eps: float = 1e-5,
    bias: bool = False,
) -> nn.Sequential:
    """Convolution (``same`` padding unless given), batch norm, activation."""
    if padding is None:
        padding = kernel // 2 if isinstance(kernel, int) else (kernel[0] // 2, kernel[1] // 2)
    layers: list[Any] = [nn.Conv2d(channels, out, kernel, stride, padding, groups=groups, bias=bias), nn.BatchNorm2d(out, eps=eps)]
    return nn.Sequential(*layers, *([act()] if act else []))


def classify(features: torch.Tensor, head: nn.Module) -> torch.Tensor:
    """The head on the mean over the map."""
    return head(torch.flatten(nn.functional.adaptive_avg_pool2d(features, 1), 1))


class Branches(Block):
    """Parallel paths, joined along the channels."""

    def __init__(self, *paths: nn.Module) -> None:
        super().__init__()
        self.paths = nn.ModuleList(paths)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Join what the paths give."""
        return torch.cat([path(x) for path in self.paths], 1)


def shuffle_channels(x: torch.Tensor, groups: int) -> torch.Tensor:
    """Deal the channels of each group out over all groups."""
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


class SqueezeExcite(Block):
    """Scales each channel by a function of all channels' means."""

    def __init__(self, channels: int, squeezed: int, act: Callable[[], nn.Module], gate: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1, self.activation = nn.Conv2d(channels, squeezed, 1), act()
        self.fc2, self.scale_activation = nn.Conv2d(squeezed, channels, 1), gate()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scale."""
        return x * self.scale_activation(self.fc2(self.activation(self.fc1(self.avgpool(x)))))
