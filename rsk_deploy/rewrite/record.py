"""What lowering did to a network as a whole; it travels with the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from rsk_deploy.ir import Json
from rsk_deploy.ir.graph import recorded


@dataclass(frozen=True, kw_only=True)
class Record:
    """How many of the network's convolutions were lowered for which runtime, and its multiplications and weights now and dense, zeros included."""

    runtime: str
    layers: int
    convolutions: int
    multiplications: int
    dense_multiplications: int
    weights: int
    dense_weights: int

    def __str__(self) -> str:
        done = f"{self.layers} of {self.convolutions} convolutions lowered for {self.runtime}"
        fewer = f"{self.dense_multiplications / 1e6:.4g} M multiplications become {self.multiplications / 1e6:.4g} M"
        return f"{done}: {fewer}, {self.multiplications / max(1, self.dense_multiplications):.2f} of dense"


def record_of(meta: Mapping[str, Json]) -> Record | None:
    """The record in a network's meta data; None where there is none, or what a file claims to be one is not."""
    found = recorded(meta).get("lower")
    if not isinstance(found, Mapping) or set(found) != {field.name for field in fields(Record)}:
        return None
    numbers = [value for name, value in found.items() if name != "runtime"]
    if not isinstance(found["runtime"], str) or any(type(number) is not int or not 0 <= number < 1 << 62 for number in numbers):
        return None
    return Record(**found)
