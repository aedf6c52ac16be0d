"""The networks and masks of the benchmarks, as training would leave them: deterministic random weights, batch norms that do something."""

from __future__ import annotations

from typing import Any

import torch

from rsk_deploy import zoo
from rsk_deploy.nn import PSConv2d

NETWORKS: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "resnet18-cifar": ("resnet18", (3, 32, 32), {}),
    "resnet18-cifar-half": ("resnet18", (3, 32, 32), {"width": 0.5}),
    "resnet18-224": ("resnet18", (3, 224, 224), {"stem": "imagenet", "classes": 1000}),
    "vgg16-cifar": ("vgg16", (3, 32, 32), {"hidden": (4096, 4096)}),
    "alexnet": ("alexnet", (3, 224, 224), {}),
    "cnn6": ("cnn6", (3, 32, 32), {}),
}
MASKS: dict[str, dict[str, Any]] = {
    "dense": {},
    "cross": {"conv": "skeleton"},
    "4of9": {"conv": "psconv", "conv_args": {"taps_per_kernel": 4}},
    "2of9": {"conv": "psconv", "conv_args": {"taps_per_kernel": 2}},
    "psc4-p8": {"conv": "psconv", "conv_args": {"support": "periodic", "period": 8}},
    "psc2-p8": {"conv": "psconv", "conv_args": {"support": "periodic", "period": 8, "taps_per_kernel": 2}},
    "90%": {},
}


def built(name: str, mask: str) -> tuple[torch.nn.Module, tuple[int, ...]]:
    """A network with a mask, and the shape of one input."""
    kind, shape, args = NETWORKS[name]
    torch.manual_seed(0)
    model = zoo.build(kind, **args, **MASKS[mask]).eval()
    with torch.no_grad():
        for module in model.modules():
            if mask == "90%" and isinstance(module, torch.nn.Conv2d) and module.kernel_size == (3, 3) and module.in_channels > 3:
                module.weight[torch.rand_like(module.weight) < 0.9] = 0
    return model, shape


def plain(model: torch.nn.Module) -> torch.nn.Module:
    """The same network with its masks multiplied into ordinary convolutions, as every other tool wants it."""
    for module in list(model.modules()):
        for name, conv in module.named_children():
            if isinstance(conv, PSConv2d):
                like = {key: getattr(conv, key) for key in ("kernel_size", "stride", "padding", "dilation", "groups")}
                other = torch.nn.Conv2d(conv.in_channels, conv.out_channels, bias=conv.bias is not None, **like)
                other.load_state_dict({"weight": conv.weight * conv.mask} | ({} if conv.bias is None else {"bias": conv.bias}))
                setattr(module, name, other)
    return model.eval()
