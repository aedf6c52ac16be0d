"""A layer's weight, before (Dense) and after (Packed) its zeros are taken out, and the mask that says where they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

Shape: TypeAlias = tuple[int, ...]
FloatArray: TypeAlias = NDArray[np.floating[Any]]
BoolArray: TypeAlias = NDArray[np.bool_]
Json: TypeAlias = Any  # None, bool, int, float, str, and lists and string-keyed dicts of these
EMPTY: Mapping[str, Json] = MappingProxyType({})


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    """A read-only view in C order; the caller's array stays as it was."""
    view = np.ascontiguousarray(array).reshape(array.shape).view()
    view.flags.writeable = False
    return view


def same(a: Any, b: Any) -> bool:
    """Equality of fields, arrays bit for bit."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return bool(a == b)


class Comparable:
    """Field-wise equality for dataclasses that hold arrays (the generated one would ask an array for its truth)."""

    __hash__ = None  # type: ignore[assignment]  # holds arrays, like a list

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and all(same(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))  # type: ignore[arg-type]  # every subclass is a dataclass


@dataclass(frozen=True)
class Declared:
    """What the model itself says of a mask: enough for ``registry.regenerate``. A claim, checked against the weight before use."""

    family: str
    params: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Mask(Comparable):
    """Where a weight may be nonzero, and why we think so.

    ``support`` has the weight's shape. ``params`` are the family's own (period, block, seed …) and JSON;
    ``evidence`` is a sentence with the counts that the finding rests on.
    """

    family: str
    support: BoolArray
    params: Mapping[str, Json] = field(default_factory=dict)
    evidence: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "support", frozen(self.support))

    @property
    def kept(self) -> int:
        """How many places may be nonzero."""
        return int(np.count_nonzero(self.support))


@dataclass(frozen=True, eq=False)
class Dense(Comparable):
    """A weight as plain float32 values, with the mask that the model declares for it, if any."""

    values: FloatArray
    declared: Declared | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", frozen(self.values))

    @property
    def shape(self) -> Shape:
        """The weight's shape."""
        return self.values.shape


@dataclass(frozen=True)
class Choice:
    """Why a weight is stored as it is: the mask found, the evidence, and what every encoding would have taken."""

    mask: str
    description: str
    evidence: str
    sizes: Mapping[str, int]
    reason: str


@dataclass(frozen=True, eq=False)
class Packed(Comparable):
    """A weight as one encoding stores it: a few arrays, and JSON parameters that the decoder needs.

    ``arrays["values"]`` holds the kept values in float32 or float16; the other arrays are structure.
    """

    format: str
    shape: Shape
    arrays: Mapping[str, NDArray[Any]]
    params: Mapping[str, Json] = field(default_factory=dict)
    choice: Choice | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "arrays", MappingProxyType({key: frozen(self.arrays[key]) for key in sorted(self.arrays)}))

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self.arrays.values())


Weight = TypeVar("Weight", Dense, Packed)
