"""The papers' networks and the families that people deploy, by name. Needs torch."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rsk_deploy.errors import RskError, UsageError, needing
from rsk_deploy.ir import Json
from rsk_deploy.ir.weights import EMPTY
from rsk_deploy.registry import check_arguments, known

with needing("torch", "torch", "rsk_deploy.zoo"):
    from torch import nn

ARCHITECTURES = {
    "cnn6": "rsk_deploy.zoo.plain:cnn6",
    "alexnet": "rsk_deploy.zoo.plain:alexnet",
    "vgg16": "rsk_deploy.zoo.plain:vgg16",
    "resnet18": "rsk_deploy.zoo.resnet:resnet18",
    "resnet34": "rsk_deploy.zoo.resnet:resnet34",
    "resnet50": "rsk_deploy.zoo.resnet:resnet50",
    "wide-resnet40": "rsk_deploy.zoo.resnet:wide_resnet40",
    "densenet201": "rsk_deploy.zoo.densenet:densenet201",
    "googlenet": "rsk_deploy.zoo.inception:googlenet",
    "inceptionv3": "rsk_deploy.zoo.inception:inceptionv3",
    "mobilenetv2": "rsk_deploy.zoo.mobilenet:mobilenetv2",
    "mobilenetv3": "rsk_deploy.zoo.mobilenet:mobilenetv3",
    "efficientnet-b0": "rsk_deploy.zoo.mobilenet:efficientnet_b0",
    "shufflenet": "rsk_deploy.zoo.shufflenet:shufflenet",
    "shufflenetv2": "rsk_deploy.zoo.shufflenet:shufflenetv2",
    "regnet": "rsk_deploy.zoo.regnet:regnet_x_400mf",
    "convnext-tiny": "rsk_deploy.zoo.convnext:convnext_tiny",
    "unet": "rsk_deploy.zoo.unet:unet",
}
"""Where each network is built. Every builder takes ``classes``, ``in_channels`` and ``width``, a factor on the channels."""


def build(name: str, /, *, conv: str = "dense", conv_args: dict[str, Json] | None = None, **args: Json) -> nn.Module:
    """The network of that name, freshly initialised, with ``conv`` in place of its dense convolutions.

    ``conv`` is dense, rsk, psconv or skeleton; ``conv_args`` are those of ``rsk_deploy.nn.sparsify`` (``where``, ``taps_per_kernel``…).
    The network remembers how it was built (``rsk_architecture``), so that its checkpoint can say so.
    """
    from rsk_deploy.nn.sparsify import sparsify

    model = construct(ARCHITECTURES[known(ARCHITECTURES, name, "architecture")], args, also=("conv", "conv_args"))
    model.rsk_architecture = {"name": name, "args": args}
    if conv == "dense" and conv_args:
        raise UsageError(f"conv_args {conv_args} go with conv='rsk', 'psconv' or 'skeleton'; conv is 'dense'")
    if conv == "dense":
        return model
    with _told(f"{name} with conv={conv!r} and {conv_args or {}}"):
        return sparsify(model, conv, **conv_args or {})


def construct(where: str, args: Mapping[str, Json] = EMPTY, *, also: Sequence[str] = ()) -> nn.Module:
    """What the callable at ``module:callable`` returns for these arguments, if it is a module. This runs that callable.

    ``also``: arguments beside them that the caller takes itself, for messages.
    """
    module, _, attribute = where.partition(":")
    try:
        builder = getattr(importlib.import_module(module), attribute)
        inspect.signature(builder)
    except Exception as error:  # importing runs the module's own code
        raise UsageError(f"{where!r} does not name a callable as module:callable: {error}") from error
    check_arguments(attribute, builder, args, also=also)
    with _told(f"{attribute} with {args}"):
        model = builder(**args)
    if not isinstance(model, nn.Module):
        raise UsageError(f"{where!r} gave a value of type {type(model).__name__}, not a torch.nn.Module")
    return model


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Say of any exception what was being built: the arguments may come from a file, and the code from the user."""
    try:
        yield
    except RskError:
        raise
    except Exception as error:
        raise UsageError(f"{what} raised {type(error).__name__}: {error}") from error
