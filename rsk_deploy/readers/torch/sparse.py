"""What training leaves in a module (random kernels, fixed masks, pruning, parametrisations), folded into plain layers.

A folded layer is a plain ``nn.Conv2d`` or ``nn.Linear`` that remembers nothing: it cannot be folded twice. Somebody's own layer
is read as a random sparse kernel if it has ``rsk_p`` (an attribute, a property or a buffer): the probability of keeping a weight.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rsk_deploy.errors import CorruptFileError, UnsupportedError, UsageError, about
from rsk_deploy.ir import Declared, Dense, FloatArray, Graph, Layer, LogEntry, Weighted
from rsk_deploy.registry import regenerate

if TYPE_CHECKING:
    import torch
    from torch import nn

RSK_MODES = ("mean", "topk", "sample")


@dataclass(frozen=True)
class Folding:
    """What was done to which layer, the masks that layers declare, and whether the result computes something else than the model does."""

    log: tuple[LogEntry, ...] = ()
    declared: Mapping[str, Declared] = field(default_factory=dict)
    changed: bool = False


def evaluation_copy(model: nn.Module, *, ours: bool = False) -> nn.Module:
    """A copy in eval mode, on the CPU, in float32. The model stays as it is, and shares nothing with the copy that can change.

    If it is ``ours``, the copy takes its parameters: large ones would be held twice.
    """
    import torch

    inner = {"module": torch.nn.parallel.DistributedDataParallel | torch.nn.DataParallel, "_orig_mod": torch._dynamo.OptimizedModule}
    for attribute, wrapper in inner.items():
        if isinstance(model, wrapper):
            return evaluation_copy(getattr(model, attribute), ours=ours)
    if isinstance(model, torch.jit.ScriptModule):
        raise UnsupportedError("the model is TorchScript, which has lost its Python layers; pass the nn.Module it was made from, or torch.export.export of it")
    # pruning and the older weight_norm leave computed tensors as attributes, which deepcopy refuses
    attributes = [value for module in model.modules() for value in vars(module).values()]
    computed = {id(value): value.detach().clone() for value in attributes if isinstance(value, torch.Tensor) and not value.is_leaf}
    shared = {id(parameter): parameter for parameter in model.parameters()} if ours else {}
    return copy.deepcopy(model, {**shared, **computed}).eval().cpu().float()


def widened(tensors: Iterable[torch.Tensor]) -> list[LogEntry]:
    """What the log says of weights in another precision than float32, which they become."""
    kinds = {str(tensor.dtype).removeprefix("torch.") for tensor in tensors if tensor.is_floating_point()} - {"float32"}
    detail = f"{', '.join(sorted(kinds))} weights of the model are float32 in the graph, and in the model that it is compared with"
    return [LogEntry("", "precision", detail)] if kinds else []


def fold_training(model: nn.Module, mode: str, seed: int) -> Folding:
    """Make the model's layers plain, in place. ``mode`` is what becomes of a random sparse kernel."""
    import torch

    from rsk_deploy.nn import PSConv2d, RSKConv2d

    if mode not in RSK_MODES:
        raise UsageError(f"--rsk {mode!r} is unknown; it is {', '.join(RSK_MODES)}")
    log, declared, changed = [], {}, False
    for name, module in model.named_modules():
        with about(name or type(module).__name__), torch.no_grad():
            log += [LogEntry(name, action, detail) for action, detail in _collapse(module)]
            if isinstance(module, PSConv2d):
                log.append(LogEntry(name, "fixed mask", _fold_mask(module)))
                declared[name] = module.declared
                _make_plain(module)
            elif isinstance(module, RSKConv2d) or hasattr(module, "rsk_p"):
                # a plain layer with a description does not multiply by p itself
                changed |= mode != "mean" or type(module) is _plain_type(module)
                detail, mask = _fold_rsk(module, mode, seed + len(declared))
                log.append(LogEntry(name, "rsk", detail))
                declared.update({name: mask} if mask else {})
                _make_plain(module)
    if mode != "mean" and not any(entry.action == "rsk" for entry in log):
        raise UsageError(f"--rsk {mode}: the model has no random sparse layer (RSKConv2d, or a layer with the attribute rsk_p)")
    return Folding(tuple(log), declared, changed)


def _collapse(module: nn.Module) -> list[tuple[str, str]]:
    """Compute what pruning, parametrisations, weight norm and spectral norm recompute at every forward, and keep the result."""
    from torch import nn
    from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
    from torch.nn.utils.spectral_norm import SpectralNorm
    from torch.nn.utils.weight_norm import WeightNorm

    done = []
    for hook in list(module._forward_pre_hooks.values()):
        if isinstance(hook, prune.BasePruningMethod):
            tensor = hook._tensor_name
            mask = getattr(module, f"{tensor}_mask")
            check_mask(mask, getattr(module, f"{tensor}_orig"), f"{tensor}_mask")
            prune.remove(module, tensor)
            done.append(("pruning", f"{tensor} multiplied by its mask: {int(mask.sum())} of {mask.numel()} kept"))
        elif isinstance(hook, WeightNorm):
            remove_weight_norm(module, hook.name)
            done.append(("weight norm", f"{hook.name} computed"))
        elif isinstance(hook, SpectralNorm):
            remove_spectral_norm(module, hook.name)
            done.append(("spectral norm", f"{hook.name} computed"))
    if parametrize.is_parametrized(module):
        chains = {tensor: ", ".join(type(step).__name__ for step in chain) for tensor, chain in module.parametrizations.items()}
        computed = {tensor: getattr(module, tensor).detach().clone() for tensor in chains}
        # not remove_parametrizations: it takes the tensors off the class, which the user's own module shares
        module.__class__ = parametrize.type_before_parametrizations(module)
        del module.parametrizations
        for tensor, value in computed.items():
            module.register_parameter(tensor, nn.Parameter(value, requires_grad=False))
            done.append(("parametrisation", f"{tensor} computed from {chains[tensor]}"))
    return done


def check_mask(mask: torch.Tensor, weight: torch.Tensor, what: str = "mask") -> None:
    """Refuse a mask that is not 0 or 1 for every weight."""
    if mask.shape != weight.shape:
        raise CorruptFileError(f"{what} has shape {tuple(mask.shape)}, its weight {tuple(weight.shape)}")
    if odd := int(((mask != 0) & (mask != 1)).sum()):
        raise CorruptFileError(f"{what} holds {odd} values that are neither 0 nor 1")


def _fold_mask(module: Any) -> str:
    """Weight × mask, which is what the layer's forward computes."""
    from torch import nn

    check_mask(module.mask, module.weight)
    outside = int(((module.weight != 0) & (module.mask == 0)).sum())
    module.weight = nn.Parameter(module.weight * module.mask, requires_grad=False)  # another layer may share the old one
    kept = f"{module.declared.family}: {int(module.mask.sum())} of {module.mask.numel()} kept"
    return kept + (f"; {outside} weights outside the mask were not zero, and are now, as the layer computes" if outside else "")


def _fold_rsk(module: Any, mode: str, seed: int) -> tuple[str, Declared | None]:
    """Make the weight what evaluation uses: its mean over the masks, or a part of it with the same expectation."""
    import torch

    from rsk_deploy.nn.rsk import probability

    try:
        p = probability(module.p if hasattr(module, "keep_probability") else module.rsk_p)
    except UsageError as error:
        raise CorruptFileError(str(error)) from error
    weight = module.weight.detach().clone()
    # a new parameter, since another layer may share the old one with a p of its own
    module.weight = torch.nn.Parameter(weight, requires_grad=False)
    if mode == "mean":
        weight.mul_(p)
        smaller = "--rsk topk or --rsk sample make a smaller file, and change the function"
        return f"weight multiplied by p = {p:g}; it stays dense, since evaluation uses every weight ({smaller})", None
    if mode == "topk":
        kept, positions = _keep_largest(weight, p)
        return f"kept the {kept} of {positions} weights of each kernel that are largest, scaled to the absolute sum that p = {p:g} leaves", None
    declared = _sampled(weight, p, seed)
    mask = torch.tensor(regenerate(declared, tuple(weight.shape)).support)
    weight.mul_(mask * (p * mask.numel() / float(mask.sum())))
    return f"kept {int(mask.sum())} of {mask.numel()} weights by an LFSR of seed {declared.params['seed']}, scaled to the mean that p = {p:g} leaves", declared


def _windowed(weight: torch.Tensor) -> bool:
    """Whether the weight has kernels of more than one position; of a matrix, a row counts as a kernel."""
    return bool(weight[0, 0].numel() > 1)


def _sampled(weight: torch.Tensor, p: float, seed: int) -> Declared:
    """The mask that ``--rsk sample`` draws."""
    window = weight[0, 0].numel() if _windowed(weight) else weight.numel()
    kept = max(1, round(p * window))
    size = {"taps_per_kernel": kept} if _windowed(weight) else {"scheme": "position", "kept": kept}
    # a register has at least 8 bits, and for positions as many states as there are weights; none may start at 0
    return Declared("lfsr", {**size, "seed": 1 + seed % max(255, weight.numel())})


def _keep_largest(weight: torch.Tensor, p: float) -> tuple[int, int]:
    """Zero all but the largest of each kernel, in place, and say how many of how many are kept."""
    import torch

    kernels = weight.view(-1, weight[0, 0].numel()) if _windowed(weight) else weight.view(len(weight), -1)
    positions = kernels.shape[1]
    kept = max(1, round(p * positions))
    mask = torch.zeros_like(kernels).scatter_(1, kernels.abs().topk(kept, dim=1).indices, 1.0)
    mass = (kernels.abs() * mask).sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    kernels.mul_(mask * p * kernels.abs().sum(1, keepdim=True) / mass)
    return kept, positions


def _plain_type(module: nn.Module) -> type[nn.Module]:
    from torch import nn

    kinds = [nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear]
    plain: type[nn.Module] | None = next((kind for kind in kinds if isinstance(module, kind)), None)
    if plain is None:
        raise UnsupportedError(f"rsk_p describes a {type(module).__name__}; it can describe {', '.join(kind.__name__ for kind in kinds)} and their subclasses")
    return plain


def _make_plain(module: nn.Module) -> None:
    """Forget the training-time class with its buffers; module identity, hooks and shared use stay."""
    module.__class__ = _plain_type(module)
    module._buffers.clear()
    vars(module).pop("rsk_p", None)


def with_declared(graph: Graph[Dense], model: nn.Module, declared: Mapping[str, Declared]) -> Graph[Dense]:
    """The masks that layers of ``model`` declare, at every layer of the graph with the same weight: a module can be used twice."""
    masks = {_digest(model.get_submodule(name).weight.detach().numpy()): mask for name, mask in declared.items()}

    def told(layer: Layer) -> Layer:
        mask = masks.get(_digest(layer.weight.values)) if isinstance(layer, Weighted) and masks else None
        return replace(layer, weight=replace(layer.weight, declared=mask)) if isinstance(layer, Weighted) and mask else layer

    return replace(graph, layers=tuple(map(told, graph.layers)))


def _digest(values: FloatArray) -> bytes:
    return hashlib.sha256(repr(values.shape).encode() + (values + np.float32(0)).tobytes()).digest()


def check_finite(tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse weights that are not numbers."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            bad = int((~tensor.isfinite()).sum())
            raise CorruptFileError(f"{name} holds {bad} values of {tensor.numel()} that are NaN or infinite")
