"""What a mask can be: one file a family (``registry.MASKS``), each with ``detect``, ``generate`` and ``describe``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rsk_deploy.ir import FloatArray, Mask
from rsk_deploy.registry import MASKS, mask_named

if TYPE_CHECKING:
    from rsk_deploy.rewrite.advice import Advice

__all__ = ["advise", "find"]


def find(values: FloatArray) -> tuple[Mask, ...]:
    """Every family's mask that explains a bare weight, the most structured first. The last is always the unstructured one."""
    nonzero = values != 0
    families = ["unstructured"] if nonzero.all() else list(MASKS)
    return tuple(mask for family in families if (mask := mask_named(family).detect(values, nonzero)))


def advise(target: str, sparsity: float, *, channels: int = 128, size: int = 28) -> tuple[Advice, ...]:
    """Which masks to train for a runtime, the one that it is estimated to execute fastest first. See ``rsk_deploy.rewrite.advice``."""
    from rsk_deploy.rewrite.advice import advise  # which stands on this room

    return advise(target, sparsity, channels=channels, size=size)
