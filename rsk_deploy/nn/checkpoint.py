"""Checkpoints that describe themselves: architecture, input shape, labels, pre-processing and weights in one safely loadable file."""

from __future__ import annotations

import difflib
import json
import os
import reprlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rsk_deploy.errors import CorruptFileError, UnsafeFileError, UsageError, about
from rsk_deploy.files import atomic
from rsk_deploy.ir import Json
from rsk_deploy.torchfiles import current_directory_importable, kind_of, load_pickled

VERSION = 1
MOST_ITEMS = 10_000
MASKED = ". A state dict with masks is of sparse layers: build the network with them (--arch-args conv=psconv and conv_args of rsk_deploy.zoo.build)"
UNMASKED = ". A state dict without masks is of dense layers: build the network without conv and conv_args"
MOST_SHARED = 8  # times that tied weights may use the same bytes, on average


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained network with all that is needed to build and feed it.

    ``architecture`` is a name of ``rsk_deploy.zoo.ARCHITECTURES`` or ``module:callable``, ``args`` its keyword arguments;
    ``input_shape`` (one, or by input name) includes the batch; ``labels`` name the classes; ``preprocessing`` is JSON of the user's own;
    ``--input-type image`` reads ``(pixel · scale - mean) / std`` and the ``order`` of the channels (rgb, bgr) from it.
    """

    architecture: str
    args: Mapping[str, Json]
    input_shape: tuple[int, ...] | Mapping[str, tuple[int, ...]]
    state: Mapping[str, torch.Tensor]
    labels: tuple[str, ...] | None = None
    preprocessing: Mapping[str, Json] = field(default_factory=dict)

    def model(self, *, trusted: bool = False) -> nn.Module:
        """The network with its weights, in evaluation mode. ``trusted`` as for ``network``."""
        model = self.network(trusted=trusted)
        load_state(model, self.state, assign=True)
        return model.eval()

    def network(self, *, trusted: bool = False) -> nn.Module:
        """The network without its weights; of a zoo network only their shapes: a hostile width costs no memory.

        A ``module:callable`` architecture runs that callable: the file alone must not decide it, so the caller says ``trusted``.
        """
        from rsk_deploy import zoo

        if ":" in self.architecture:
            if not trusted:
                raise UnsafeFileError(
                    f"the checkpoint is of {self.architecture!r}, which is code outside rsk-deploy; "
                    "name it yourself if you trust it: --arch module:callable, in Python arch=… or Checkpoint.model(trusted=True)"
                )
            with current_directory_importable():
                return zoo.construct(self.architecture, self.args)
        with torch.device("meta"):
            return zoo.build(self.architecture, **self.args)


def save_checkpoint(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    input_shape: Sequence[int] | Mapping[str, Sequence[int]],
    architecture: tuple[str, Mapping[str, Json]] | None = None,
    labels: Sequence[str] | None = None,
    preprocessing: Mapping[str, Json] | None = None,
) -> None:
    """Write a checkpoint that ``rsk-export`` needs no further flag for. A network of ``rsk_deploy.zoo`` knows its own architecture."""
    if architecture is None:
        described = getattr(model, "rsk_architecture", None)
        if described is None:
            raise UsageError(
                f"the {type(model).__name__} does not say how to build it; pass architecture=('module:callable', {{arguments}}), "
                "or build it with rsk_deploy.zoo.build, and swap its convolutions with one call of rsk_deploy.nn.sparsify"
            )
        architecture = (described["name"], described["args"])
    content = {
        "rsk_checkpoint": VERSION,
        "architecture": {"name": architecture[0], "args": _plain("architecture", dict(architecture[1]))},
        "input_shape": {name: _sizes(shape) for name, shape in input_shape.items()} if isinstance(input_shape, Mapping) else _sizes(input_shape),
        "labels": None if labels is None else [str(label) for label in labels],
        "preprocessing": _plain("preprocessing", dict(preprocessing or {})),
        "state": {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()},
    }
    _parsed(content)
    with atomic(Path(path), force=True) as temporary, temporary.open("wb") as file:
        torch.save(content, file)  # given a path, torch would write its name into the file


def load_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint. Nothing in the file is executed, and everything that it says is checked."""
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"{path}: {'is not a file' if path.exists() else 'no such file'}")
    with about(str(path)):
        return parse_checkpoint(load_pickled(path, kind_of(path), allow_pickle=False))


def parse_checkpoint(content: Any) -> Checkpoint:
    """The checkpoint that a file's content is, as ``torch.load(…, weights_only=True)`` gives it."""
    if not isinstance(content, dict) or "rsk_checkpoint" not in content:
        raise UsageError("is not a self-describing checkpoint: save it with rsk_deploy.nn.save_checkpoint, or say with --arch what network its weights are of")
    if (version := reprlib.repr(content["rsk_checkpoint"])) != str(VERSION):
        raise UsageError(f"is a checkpoint of version {version}; this rsk-deploy reads version {VERSION}")
    return _parsed(content)


def load_state(model: nn.Module, state: Mapping[str, torch.Tensor], *, assign: bool = False) -> None:
    """Give the model exactly the weights of ``state``; what does not fit is said with the nearest name and the shapes."""
    own = model.state_dict()
    for wanted, there, fault in ((own, state, "lacks"), (state, own, "has")):
        if odd := [name for name in wanted if name not in there]:
            near = difflib.get_close_matches(odd[0], [name for name in there if name not in wanted][:MOST_ITEMS], n=1)
            also = f" and {len(odd) - 1} more" if len(odd) > 1 else ""
            hint = f"; the nearest is {near[0]!r}" if near else ""
            if any(name.endswith(".mask") for name in odd):
                hint += MASKED if fault == "has" else UNMASKED
            raise UsageError(f"the state dict {fault} {odd[0]!r}{also}, which the {type(model).__name__} {'has' if fault == 'lacks' else 'lacks'}{hint}")
    for name, tensor in own.items():
        if not name.endswith("_extra_state") and _kind(state[name]) != _kind(tensor):
            forms = f"{_form(state[name])} in the state dict and {_form(tensor)} in the {type(model).__name__}"
            raise UsageError(f"{name} is {forms}; do the architecture's arguments agree?")
    try:
        model.load_state_dict(dict(state), assign=assign)
    except RuntimeError as error:
        raise UsageError(f"the state dict does not load into the {type(model).__name__}: {' '.join(str(error).split())[:300]}") from error


def _kind(value: Any) -> tuple[tuple[int, ...], bool] | None:
    return (tuple(value.shape), value.is_floating_point()) if isinstance(value, torch.Tensor) else None


def _form(value: Any) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}" if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"


def _plain(what: str, value: Json) -> Json:
    """``value`` as the JSON types that a file may hold."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise UsageError(f"{what} is {value!r}, which JSON does not hold: {error}") from error


def _parsed(content: Mapping[str, Any]) -> Checkpoint:
    architecture: Any = content.get("architecture")
    rest: list[Any] = [content.get(name) for name in ("input_shape", "labels", "preprocessing", "state")]
    shape, labels, preprocessing, state = rest
    described = isinstance(architecture, dict) and isinstance(architecture.get("name"), str) and isinstance(architecture.get("args"), dict)
    for name, form, right in (
        ("architecture", "a name and arguments", described and _is_json(architecture)),
        ("input_shape", "a list of positive sizes, the batch first, or one such list by input name", _are_shapes(shape)),
        ("labels", "a list of names", labels is None or _is_list(labels, str)),
        ("preprocessing", "a JSON object", isinstance(preprocessing, dict) and _is_json(preprocessing)),
        ("state", "tensors by name, each stored whole", isinstance(state, dict) and _is_list(list(state), str) and _are_sound(state.values())),
    ):
        if not right:
            raise CorruptFileError(f"the checkpoint's {name} is {reprlib.repr(content.get(name))}; it should be {form}")
    shapes = {name: tuple(sizes) for name, sizes in shape.items()} if isinstance(shape, dict) else tuple(shape)
    return Checkpoint(architecture["name"], architecture["args"], shapes, state, None if labels is None else tuple(labels), preprocessing)


def _sizes(shape: Sequence[int]) -> list[int]:
    return [int(size) for size in shape]


def _are_shapes(value: Any) -> bool:
    shapes = list(value.values()) if isinstance(value, dict) and _is_list(list(value), str) else [value]
    return bool(shapes) and all(_is_list(shape, int) and shape and min(shape) > 0 for shape in shapes)


def _is_list(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(type(item) is kind for item in value)


def _is_json(value: Any) -> bool:
    """Whether it is JSON of a sensible size. What a pickle nests or shares can be deeper than the stack, or endless."""
    rest = [value]
    for _ in range(MOST_ITEMS):
        if not rest or len(rest) > MOST_ITEMS:
            break
        item = rest.pop()
        if isinstance(item, dict) and all(isinstance(key, str) for key in item):
            rest += item.values()
        elif isinstance(item, list):
            rest += item
        elif not (item is None or type(item) in (bool, int, str) or (type(item) is float and isfinite(item))):
            return False
    return not rest


def _are_sound(tensors: Collection[Any]) -> bool:
    """Whether they are dense tensors in memory that take not much more than their storages: a few bytes can claim to be terabytes."""
    if not all(isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided and tensor.device.type == "cpu" for tensor in tensors):
        return False
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    each_fits = all(tensor.nbytes <= tensor.untyped_storage().nbytes() for tensor in tensors)
    return each_fits and sum(tensor.nbytes for tensor in tensors) <= MOST_SHARED * sum(storages.values())
