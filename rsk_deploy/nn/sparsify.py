"""A network with sparse kernels, from one without."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from rsk_deploy.errors import UsageError, about
from rsk_deploy.nn.psconv import PSConv2d, SkeletonConv2d
from rsk_deploy.nn.rsk import RSKConv2d
from rsk_deploy.registry import known

LAYERS: Mapping[str, type[nn.Conv2d]] = {"rsk": RSKConv2d, "psconv": PSConv2d, "skeleton": SkeletonConv2d}
PLACES = {"rsk": "last", "psconv": "3x3", "skeleton": "3x3"}
"""Where a paper has its layer: random sparse kernels in the last convolution before the classifier, the fixed ones in all of 3x3."""

ARGUMENTS: Mapping[str, Mapping[str, str]] = {"rsk": {"p": "probability", "generator": "of the random masks"}, "skeleton": {}}
"""What a layer takes beside a convolution's arguments. A pSConv layer takes those of its mask, and checks them itself."""


def sparsify(model: nn.Module, layer: str = "psconv", *, where: str | None = None, **layer_args: Any) -> nn.Module:
    """A copy of the model with plain ``nn.Conv2d`` layers swapped for ``layer``: rsk, psconv or skeleton.

    ``where`` chooses them: ``3x3`` (the stem too), ``spatial`` (every kernel larger than 1x1), ``last`` (the last of these), or a
    pattern of module paths such as ``layer?.*.conv2`` (inside residual blocks). Weights are taken over, those of a fixed mask scaled
    so that the variance of the outputs stays. Each pSConv layer has its own seed: the one given plus its position.
    """
    if layer not in LAYERS:
        raise UsageError(f"unknown sparse layer {layer!r}; known are {', '.join(LAYERS)}")
    for name in layer_args if layer in ARGUMENTS else ():
        known(ARGUMENTS[layer], name, f"argument of {LAYERS[layer].__name__}")
    where = where or PLACES[layer]
    model = copy.deepcopy(model)
    chosen = _chosen(model, where)
    for position, (name, conv) in enumerate(chosen.items()):
        seeded = {"seed": layer_args.get("seed", 1) + position} if layer == "psconv" and "taps" not in layer_args else {}
        parent, _, attribute = name.rpartition(".")
        with about(name):
            setattr(model.get_submodule(parent), attribute, _swapped(conv, LAYERS[layer], layer_args | seeded))
    _describe(model, layer, {"where": where, **layer_args})
    return model


def _chosen(model: nn.Module, where: str) -> dict[str, nn.Conv2d]:
    convs = {name: conv for name, conv in model.named_modules() if name and type(conv) is nn.Conv2d}
    spatial = [name for name, conv in convs.items() if conv.kernel_size != (1, 1)]
    if where == "3x3":
        names = [name for name in spatial if convs[name].kernel_size == (3, 3)]
    else:
        names = spatial if where == "spatial" else spatial[-1:] if where == "last" else [name for name in convs if fnmatchcase(name, where)]
    if not names:
        raise UsageError(f"no plain Conv2d of the {type(model).__name__} is {where!r}; its convolutions are {', '.join(convs) or 'none'}")
    return {name: convs[name] for name in names}


def _swapped(conv: nn.Conv2d, layer: type[nn.Conv2d], layer_args: Mapping[str, Any]) -> nn.Conv2d:
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    like = {name: getattr(conv, name) for name in names}
    sparse = layer(**like, bias=conv.bias is not None, device=conv.weight.device, dtype=conv.weight.dtype, **layer_args).train(conv.training)
    with torch.no_grad():
        sparse.weight.copy_(conv.weight)
        if conv.bias is not None:
            sparse.bias.copy_(conv.bias)
    if isinstance(sparse, PSConv2d):
        sparse.fit_to_mask_()
    return sparse


def _describe(model: nn.Module, layer: str, layer_args: dict[str, Any]) -> None:
    """Keep the description of a zoo network true: what one swap did can be told, a second one cannot."""
    described = model.__dict__.pop("rsk_architecture", None)
    if described and "conv" not in described["args"]:
        model.rsk_architecture = {"name": described["name"], "args": {**described["args"], "conv": layer, "conv_args": layer_args}}
