"""What a .pt, .pth or .safetensors file holds. Only tensors and plain data are loaded; anything else needs ``allow_pickle``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rsk_deploy.errors import CorruptFileError, UnsafeFileError, needing
from rsk_deploy.torchfiles.pickles import names_called

SAVE_SAFELY = (
    "Save it as rsk_deploy.nn.save_checkpoint(model, path, input_shape=…), as torch.save(model.state_dict(), path), "
    "or with torch.export; or, if you trust the file as you trust a program, pass --allow-pickle."
)


def load_pickled(path: Path, kind: str, allow_pickle: bool) -> Any:
    """The content of a file of this ``kind`` that ``torch.save`` wrote."""
    import torch

    # mapped, a storage that claims more than its record reads the file's next bytes, never memory behind them
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=kind == "checkpoint")
    except Exception as error:  # the unpickler raises whatever the bytes lead it to
        found = names_called(path)
        if not found:
            raise CorruptFileError(f"cannot be read ({path.stat().st_size} bytes): {_first_line(error)}") from error
        if not allow_pickle:
            raise UnsafeFileError(f"would run code when opened: its pickle calls {_listed(found)}. {SAVE_SAFELY}") from error
    try:
        with current_directory_importable():
            return torch.load(path, map_location="cpu", weights_only=False)  # asked for with allow_pickle
    except Exception as error:  # the user's own code runs here
        reason = f"{type(error).__name__}: {_first_line(error)}"
        raise CorruptFileError(f"cannot be unpickled: {reason}; it calls {_listed(found)}, which must be importable") from error


def load_safetensors(path: Path) -> dict[str, Any]:
    """The tensors in the file, by name."""
    with needing("safetensors", "torch", "reading .safetensors"):
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise CorruptFileError(f"is no valid safetensors file ({path.stat().st_size} bytes): {_first_line(error)}") from error


def _listed(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    text = text.partition("WeightsUnpickler error: ")[2] or text  # before it torch advises to let the file run its code
    return text.splitlines()[0][:300] if text else type(error).__name__


@contextmanager
def current_directory_importable() -> Iterator[None]:
    """Find the user's own modules where Python itself would, for code that the user asked to run."""
    sys.path.insert(0, os.getcwd())
    try:
        yield
    finally:
        sys.path.pop(0)
