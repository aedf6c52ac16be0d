"""Inverted residuals: MobileNetV2, MobileNetV3-Large and EfficientNet-B0."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from rsk_deploy.errors import UsageError
from rsk_deploy.zoo.blocks import Block, SqueezeExcite, classify, conv_norm, scaled


class InvertedResidual(Block):
    """1x1 to more channels, depthwise, perhaps squeeze-and-excite, 1x1 to fewer; a shortcut where the shape stays."""

    def __init__(
        self,
        channels: int,
        hidden: int,
        out: int,
        kernel: int,
        stride: int,
        *,
        act: Callable[[], nn.Module],
        squeeze: nn.Module | None = None,
        expand: bool | None = None,
        shortcut: nn.Module | None = None,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        layers = [conv_norm(channels, hidden, act=act, eps=eps)] if expand or hidden != channels else []
        layers.append(conv_norm(hidden, hidden, kernel, stride, groups=hidden, act=act, eps=eps))
        layers += [squeeze] if squeeze else []
        self.block = nn.Sequential(*layers, conv_norm(hidden, out, act=None, eps=eps))
        self.shortcut = nn.Identity() if stride == 1 and channels == out else shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add the block to the shortcut, if it has one."""
        return self.shortcut(x) + self.block(x) if self.shortcut else self.block(x)


class MobileNet(Block):
    """Features, classifier."""

    def __init__(self, features: Sequence[nn.Module], classifier: nn.Sequential) -> None:
        super().__init__()
        self.features, self.classifier = nn.Sequential(*features), classifier

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Class scores."""
        return classify(self.features(x), self.classifier)


def mobilenetv2(classes: int = 10, in_channels: int = 3, width: float = 1, stem: str = "cifar") -> nn.Module:
    """MobileNetV2. The CIFAR variant is the one that the Skeleton paper counts: two strides fewer, and 1x1 shortcuts where channels change."""
    if stem not in ("cifar", "imagenet"):
        raise UsageError(f"unknown stem {stem!r}; a MobileNetV2 has one of cifar, imagenet")
    small = stem == "cifar"
    plan = [(1, 16, 1, 1), (6, 24, 2, 1 if small else 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    act = nn.ReLU if small else nn.ReLU6
    channels = scaled(32, width, 8)
    features: list[nn.Module] = [conv_norm(in_channels, channels, 3, 1 if small else 2, act=act)]
    for factor, out, count, first in plan:
        out = scaled(out, width, 8)
        for stride in [first] + [1] * (count - 1):
            shortcut = conv_norm(channels, out, act=None) if small and stride == 1 and channels != out else None
            features.append(InvertedResidual(channels, channels * factor, out, 3, stride, act=act, expand=small, shortcut=shortcut))
            channels = out
    last = scaled(1280, max(width, 1.0) if not small else width, 8)
    dropout = nn.Dropout(0.0 if small else 0.2)
    return MobileNet([*features, conv_norm(channels, last, act=act)], nn.Sequential(dropout, nn.Linear(last, classes)))


def mobilenetv3(classes: int = 1000, in_channels: int = 3, width: float = 1) -> nn.Module:
    """MobileNetV3-Large."""
    plan = [  # kernel, hidden, out, squeezed, activation, stride
        *((3, 16, 16, False, nn.ReLU, 1), (3, 64, 24, False, nn.ReLU, 2), (3, 72, 24, False, nn.ReLU, 1)),
        *((5, 72, 40, True, nn.ReLU, 2), (5, 120, 40, True, nn.ReLU, 1), (5, 120, 40, True, nn.ReLU, 1)),
        *((3, 240, 80, False, nn.Hardswish, 2), (3, 200, 80, False, nn.Hardswish, 1), (3, 184, 80, False, nn.Hardswish, 1)),
        *((3, 184, 80, False, nn.Hardswish, 1), (3, 480, 112, True, nn.Hardswish, 1), (3, 672, 112, True, nn.Hardswish, 1)),
        *((5, 672, 160, True, nn.Hardswish, 2), (5, 960, 160, True, nn.Hardswish, 1), (5, 960, 160, True, nn.Hardswish, 1)),
    ]
    norm = partial(conv_norm, eps=1e-3)
    channels = scaled(16, width, 8)
    features: list[nn.Module] = [norm(in_channels, channels, 3, 2, act=nn.Hardswish)]
    for kernel, hidden, out, squeezed, act, stride in plan:
        hidden, out = scaled(hidden, width, 8), scaled(out, width, 8)
        squeeze = SqueezeExcite(hidden, scaled(hidden, 0.25, 8), nn.ReLU, nn.Hardsigmoid) if squeezed else None
        features.append(InvertedResidual(channels, hidden, out, kernel, stride, act=act, squeeze=squeeze, eps=1e-3))
        channels = out
    last, hidden = 6 * channels, scaled(1280, width, 8)
    head = nn.Sequential(nn.Linear(last, hidden), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(hidden, classes))
    return MobileNet([*features, norm(channels, last, act=nn.Hardswish)], head)


def efficientnet_b0(classes: int = 1000, in_channels: int = 3, width: float = 1) -> nn.Module:
    """EfficientNet-B0."""
    plan = [(1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5), (6, 320, 1, 1, 3)]
    channels = scaled(32, width, 8)
    features: list[nn.Module] = [conv_norm(in_channels, channels, 3, 2, act=nn.SiLU)]
    for factor, out, count, first, kernel in plan:
        out = scaled(out, width, 8)
        for stride in [first] + [1] * (count - 1):
            hidden = channels * factor
            squeeze = SqueezeExcite(hidden, max(1, channels // 4), nn.SiLU, nn.Sigmoid)
            features.append(InvertedResidual(channels, hidden, out, kernel, stride, act=nn.SiLU, squeeze=squeeze))
            channels = out
    last = scaled(1280, width, 8)
    return MobileNet([*features, conv_norm(channels, last, act=nn.SiLU)], nn.Sequential(nn.Dropout(0.2), nn.Linear(last, classes)))
