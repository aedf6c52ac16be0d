"""What a network costs: parameters that are not structurally zero, and multiply-accumulates."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from rsk_deploy.nn.psconv import PSConv2d
from rsk_deploy.registry import regenerate


def count(model: nn.Module, input_shape: Sequence[int]) -> tuple[int, int]:
    """Parameters outside no mask, and multiply-accumulates of convolutions and linear layers for one input, masked weights left out.

    Nothing is computed: the model may be on the meta device, and is taken there if not.
    """
    zeros = {layer: layer.mask.numel() - _kept(layer) for layer in model.modules() if isinstance(layer, PSConv2d)}
    parameters = sum(parameter.numel() for parameter in model.parameters()) - sum(zeros.values())
    density = {name: 1 - zeros[layer] / layer.mask.numel() for name, layer in model.named_modules() if layer in zeros}
    return parameters, _multiply_accumulates(copy.deepcopy(model).to("meta").eval(), density, input_shape)


def _kept(layer: PSConv2d) -> int:
    return regenerate(layer.declared, tuple(layer.weight.shape)).kept if layer.mask.is_meta else int(layer.mask.sum())


def _multiply_accumulates(model: nn.Module, density: dict[str, float], input_shape: Sequence[int]) -> int:
    total = 0.0

    def hook(name: str, layer: Any, given: Any, out: torch.Tensor) -> None:
        nonlocal total
        transposed = isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d)
        positions = given[0] if transposed else out
        total += positions.numel() * layer.weight[0].numel() * density.get(name, 1.0)

    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.Linear):
            layer.register_forward_hook(lambda layer, given, out, name=name: hook(name, layer, given, out))
    with torch.no_grad():
        model(torch.empty(tuple(input_shape), device="meta"))
    return round(total)
