"""A state dict, through the architecture that it belongs to, to a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rsk_deploy.errors import CorruptFileError, UsageError
from rsk_deploy.ir import Json, LogEntry
from rsk_deploy.readers import ReadOptions
from rsk_deploy.readers.torch.sparse import check_mask, widened
from rsk_deploy.torchfiles import current_directory_importable

if TYPE_CHECKING:
    import torch
    from torch import nn

NESTS = ("state_dict", "model_state_dict", "model_state", "model", "state", "net", "weights")
PREFIXES = ("module.", "model.", "_orig_mod.", "net.")


def architecture(options: ReadOptions) -> nn.Module:
    """The model that ``--arch`` names, a zoo name or ``module:callable``, with ``--arch-args``."""
    from rsk_deploy import zoo

    if options.arch is None:
        raise UsageError(
            f"holds weights and not the network; name it with --arch: one of {', '.join(zoo.ARCHITECTURES)}, or module:callable. "
            "A file of rsk_deploy.nn.save_checkpoint needs no --arch."
        )
    if ":" in options.arch:
        with current_directory_importable():
            return zoo.construct(options.arch, options.arch_args)
    return zoo.build(options.arch, **options.arch_args)


def state_of(content: Any) -> tuple[dict[str, torch.Tensor], list[LogEntry]]:
    """The tensors by name in what a file holds, out of a training checkpoint's nest and without a wrapper's prefix."""
    import torch

    log = []
    while isinstance(content, Mapping) and not any(isinstance(value, torch.Tensor) for value in content.values()):
        nest = next((name for name in NESTS if isinstance(content.get(name), Mapping)), None)
        if nest is None:
            break
        content = content[nest]
        log.append(LogEntry("", "state dict", f"taken from {nest!r}"))
    named = isinstance(content, Mapping) and all(isinstance(name, str) for name in content)
    if not named or not any(isinstance(value, torch.Tensor) for value in content.values()):
        held = f"a dict with {', '.join(map(repr, list(content)[:6])) or 'nothing'}" if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise UsageError(
            f"holds {held}; expected a state dict (tensors by name, perhaps under {', '.join(map(repr, NESTS))}) or a file of rsk_deploy.nn.save_checkpoint"
        )
    return dict(content), log


def load_into(model: nn.Module, state: dict[str, torch.Tensor]) -> list[LogEntry]:
    """Give the model its weights; what was renamed or multiplied on the way is logged."""
    import torch

    from rsk_deploy.nn import load_state

    for name, value in state.items():
        plain = isinstance(value, torch.Tensor) and value.layout is torch.strided and value.device.type == "cpu" and not value.is_quantized
        if not plain and not name.endswith("_extra_state"):
            what = f"{value.layout} tensor of {value.dtype}" if isinstance(value, torch.Tensor) else type(value).__name__
            raise UsageError(f"{name} is a {what}; the weights of a state dict are plain dense tensors")
    log = widened(value for value in state.values() if isinstance(value, torch.Tensor))
    own = model.state_dict()
    while not own.keys() & state.keys() and (prefix := next((prefix for prefix in PREFIXES if all(name.startswith(prefix) for name in state)), None)):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
        log.append(LogEntry("", "state dict", f"prefix {prefix!r} taken off {len(state)} names"))
    state, pruned = _products(state, own)
    for name in own.keys() - state.keys():
        if name.endswith("num_batches_tracked"):  # counts training steps; older torch did not save it
            state[name] = torch.zeros_like(own[name], device="cpu")
    load_state(model, state, assign=any(value.is_meta for value in own.values() if isinstance(value, torch.Tensor)))
    return log + pruned


def _products(state: dict[str, torch.Tensor], own: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], list[LogEntry]]:
    """Multiply out ``torch.nn.utils.prune``'s pairs of ``…_orig`` and ``…_mask`` where the model has the plain tensor."""
    state, log = dict(state), []
    for masked in [name.removesuffix("_orig") for name in state if name.endswith("_orig") and name.removesuffix("_orig") in own]:
        if f"{masked}_mask" not in state:
            raise CorruptFileError(f"{masked}_orig has no {masked}_mask beside it")
        weight, mask = state.pop(f"{masked}_orig"), state.pop(f"{masked}_mask")
        check_mask(mask, weight, f"{masked}_mask")
        state[masked] = weight * mask
        layer, _, tensor = masked.rpartition(".")
        log.append(LogEntry(layer, "pruning", f"{tensor} multiplied by its mask: {int(mask.sum())} of {mask.numel()} kept"))
    return state, log


def metadata(**said: Json) -> dict[str, Json]:
    """What a checkpoint says beside its weights, as far as it says anything."""
    return {key: value for key, value in said.items() if value}
