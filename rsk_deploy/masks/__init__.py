"""What a mask can be: one file a family (``registry.MASKS``), each with ``detect``, ``generate`` and ``describe``."""

from __future__ import annotations

from rsk_deploy.ir import FloatArray, Mask
from rsk_deploy.registry import MASKS, mask_named

__all__ = ["find"]


def find(values: FloatArray) -> tuple[Mask, ...]:
    """Every family's mask that explains a bare weight, the most structured first. The last is always the unstructured one."""
    nonzero = values != 0
    families = ["unstructured"] if nonzero.all() else list(MASKS)
    return tuple(mask for family in families if (mask := mask_named(family).detect(values, nonzero)))
