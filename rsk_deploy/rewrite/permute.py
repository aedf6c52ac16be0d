"""A layer's parameters in the order that its channels have now."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from rsk_deploy.ir import Affine, Conv, ConvTranspose, Dense, Layer, PRelu, Weighted
from rsk_deploy.rewrite.channels import Order, Orders


def permuted(layer: Layer, orders: Orders) -> Layer:
    """The layer for inputs and outputs in these orders; the layer itself where they are the original ones."""
    if not layer.inputs:
        return layer
    before, after = orders.of(layer.inputs[0]), orders.of(layer.outputs[0])
    if before is None and after is None:
        return layer
    if isinstance(layer, Weighted):
        return weighted(layer, before, after)
    if isinstance(layer, Affine) and after is not None:
        return replace(layer, scale=layer.scale[after], shift=layer.shift[after])
    if isinstance(layer, PRelu) and layer.slope.size > 1 and after is not None:
        return replace(layer, slope=layer.slope[after])
    return layer


Kind = TypeVar("Kind", bound=Weighted[Dense])


def weighted(layer: Kind, before: Order | None, after: Order | None) -> Kind:
    """The layer with rows for the new outputs and columns for the new inputs. A mask it declares does not outlive that."""
    if before is None and after is None:
        return layer
    values = layer.weight.values
    filters, channels = (1, 0) if isinstance(layer, ConvTranspose) else (0, 1)
    depthwise = isinstance(layer, Conv) and layer.groups > 1
    if after is not None:
        values = values.take(after, filters)
    if before is not None and not depthwise:
        values = values.take(before, channels)
    bias = layer.bias if layer.bias is None or after is None else layer.bias[after]
    return replace(layer, weight=Dense(values), bias=bias)
