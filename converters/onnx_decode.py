"""Packed weights as a few standard ONNX nodes that rebuild them bit for bit: gathers and integers only, no arithmetic on values.

Runtimes fold these nodes when they load the file. All rest on one idea: a zero stands before the kept values, so that a weight
is a gather by the place of each tap among what is kept, counted from 1, and 0 for what is not. Indices are int32: int64 takes
onnxruntime twice the time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import TypeAlias

import numpy as np

from rsk_deploy.converters.onnx_body import BITS, FLOAT, INT32, INT64, Array, Scope, Sparse
from rsk_deploy.converters.onnx_lfsr import write_remainders, write_states
from rsk_deploy.errors import UnsupportedError
from rsk_deploy.ir import Packed
from rsk_deploy.masks.kernels import pattern_table
from rsk_deploy.registry import format_named

Decode: TypeAlias = Callable[[Scope, Packed, Mapping[str, str]], str]


def decode(scope: Scope, packed: Packed) -> str:
    """Append the nodes that rebuild a weight, and give the name of its value, ``layer.weight``."""
    if packed.format not in TABLE:
        raise UnsupportedError(f"{scope.name}: weights in format {packed.format!r} have no ONNX form; those in {', '.join(TABLE)} have")
    values = packed.arrays["values"]
    if packed.format == "dense" and values.dtype == np.float32:
        return scope.tensor("weight", values.reshape(packed.shape))
    if scope.body.as_sparse and packed.format == "csr":
        return _sparse(scope, packed)
    names = {what: scope.tensor(f"weight.{what}", array) for what, array in packed.arrays.items()}
    if values.size == 0:
        return scope.step("weight/zeros", "ConstantOfShape", scope.ints(packed.shape), output=f"{scope.name}.weight")
    if values.dtype != np.float32:
        names["values"] = scope.step("weight/float", "Cast", names["values"], to=FLOAT)
    flat = TABLE[packed.format](scope, packed, names)
    return scope.step("weight/shaped", "Reshape", flat, scope.ints(packed.shape), output=f"{scope.name}.weight")


def _sparse(scope: Scope, packed: Packed) -> str:
    """The weight as a sparse initializer: a value and an int64 place for each that is kept."""
    values, places = packed.arrays["values"], format_named(packed.format).support(packed).reshape(-1).nonzero()[0]
    tensor = Sparse(values, places.astype(np.int64, copy=False), packed.shape)
    if values.dtype == np.float32:
        return scope.body.sparse_initializer(f"{scope.name}.weight", tensor)
    stored = scope.body.sparse_initializer(f"{scope.name}.weight.values", tensor)
    return scope.step("weight/float", "Cast", stored, output=f"{scope.name}.weight", to=FLOAT)


def _dense(scope: Scope, packed: Packed, names: Mapping[str, str]) -> str:
    return names["values"]


def _bitmask(scope: Scope, packed: Packed, names: Mapping[str, str]) -> str:
    octets = scope.step("weight/bytes", "Cast", names["bits"], to=INT32)
    mask = _flat(scope, "mask", _of_kernels(scope, scope.body.constant(BITS), octets))
    if prod(packed.shape) % 8:
        mask = scope.step("weight/all", "Slice", mask, scope.ints([0]), scope.ints([prod(packed.shape)]))
    return _by_mask(scope, names["values"], mask)


def _pattern(scope: Scope, packed: Packed, names: Mapping[str, str]) -> str:
    ids = scope.step("weight/integers", "Cast", names["ids"], to=INT32)
    block = packed.shape[0] // len(packed.arrays["ids"])
    if block > 1:
        rows = scope.step("weight/rows", "Unsqueeze", ids, scope.ints([1]))
        ids = scope.step("weight/repeated", "Expand", rows, scope.ints([1, block, 1]))
    ids = _flat(scope, "kernels", ids)
    return _by_pattern(scope, names["values"], names["patterns"], ids, packed.arrays["patterns"].sum(axis=1, dtype=np.int64), prod(packed.shape[:2]))


def _periodic(scope: Scope, packed: Packed, names: Mapping[str, str]) -> str:
    """Every P filters keep their values at the same places: one index for all such blocks, the last filled up with zeros.

    Without an index of kernels in the file, ResNet18 loads 50 ms later than its dense file.
    """
    filters, channels = packed.shape[:2]
    period, taps = packed.arrays["patterns"].shape
    rows = min(period, filters)
    blocks = -(-filters // rows)
    residues = np.add.outer(np.arange(rows), np.arange(channels)) % period
    kept = int(packed.arrays["patterns"].sum(axis=1, dtype=np.int64)[residues].sum())
    zero, one = scope.scalar(0, np.int32), scope.scalar(1, np.int32)
    of_filter = scope.step("weight/filter", "Range", zero, scope.scalar(rows, np.int32), one)
    of_channel = scope.step("weight/channel", "Range", zero, scope.scalar(channels, np.int32), one)
    sums = scope.step("weight/sums", "Add", scope.step("weight/column", "Unsqueeze", of_filter, scope.ints([1])), of_channel)
    ids = scope.step("weight/residues", "Mod", sums, scope.scalar(period, np.int32))
    index = _places(scope, _flat(scope, "mask", _of_kernels(scope, names["patterns"], ids)))
    values = names["values"]
    if missing := blocks * kept - packed.arrays["values"].size:
        values = scope.step("weight/filled", "Pad", values, scope.ints([0, missing]))
    padded = scope.step("weight/padded", "Pad", scope.step("weight/blocks", "Reshape", values, scope.ints([blocks, kept])), scope.ints([0, 1, 0, 0]))
    dense = scope.step("weight/taps", "Gather", padded, index, axis=1)
    if blocks * rows == filters:
        return dense
    by_filter = scope.step("weight/by-filter", "Reshape", dense, scope.ints([blocks * rows, channels * taps]))
    return scope.step("weight/all", "Slice", by_filter, scope.ints([0]), scope.ints([filters]))


def _lfsr(scope: Scope, packed: Packed, names: Mapping[str, str]) -> str:
    """By pattern: a state's rank is its kernel's pattern. By position: the places that the states name, marked in a mask."""
    states = write_states(scope, packed)
    if packed.params["scheme"] == "pattern":
        table = pattern_table(prod(packed.shape[2:]), packed.params["taps_per_kernel"]).view(np.uint8)
        wrapped = np.roll(table, -(2**31 % len(table)), axis=0)  # for the states with the highest bit
        ids = write_remainders(scope, states, len(table))
        return _by_pattern(scope, names["values"], scope.body.constant(np.concatenate([table, wrapped])), ids, table.sum(axis=1), prod(packed.shape[:2]))
    none = scope.step("weight/none", "ConstantOfShape", scope.ints([1 << packed.params["width"]]), value=np.zeros(1, np.int32))
    ones = scope.step("weight/ones", "ConstantOfShape", scope.step("weight/how-many", "Shape", states), value=np.ones(1, np.int32))
    marked = scope.step("weight/marked", "ScatterElements", none, states, ones, axis=0)
    return _by_mask(scope, names["values"], scope.step("weight/mask", "Slice", marked, scope.ints([1]), scope.ints([prod(packed.shape) + 1])))


def _csr(scope: Scope, packed: Packed, names: Mapping[str, str]) -> str:
    """Rows as long as the longest: what is past a row's end goes to a column past the last, which is cut off."""
    rows, width, last = packed.shape[0], prod(packed.shape[1:]), len(packed.arrays["columns"])
    longest = int(np.diff(packed.arrays["rows"].astype(np.int64)).max())
    pointers = scope.step("weight/pointers", "Cast", scope.step("weight/column", "Unsqueeze", names["rows"], scope.ints([1])), to=INT64)
    starts = scope.step("weight/starts", "Slice", pointers, scope.ints([0]), scope.ints([rows]))
    ends = scope.step("weight/ends", "Slice", pointers, scope.ints([1]), scope.ints([rows + 1]))
    steps = scope.step("weight/steps", "Range", scope.scalar(0), scope.scalar(longest), scope.scalar(1))
    entries = scope.step("weight/entries", "Add", starts, steps)
    inside = scope.step("weight/inside", "Less", entries, ends)
    index = scope.step("weight/index", "Where", inside, entries, scope.scalar(last))
    columns = scope.step("weight/padded-columns", "Concat", scope.step("weight/columns", "Cast", names["columns"], to=INT64), scope.ints([width]), axis=0)
    values = scope.step("weight/padded-values", "Concat", names["values"], scope.body.constant(ZERO), axis=0)
    kept = (scope.step(f"weight/{what}-by-row", "Gather", array, index) for what, array in (("columns", columns), ("values", values)))
    zeros = scope.step("weight/zeros", "ConstantOfShape", scope.ints([rows, width + 1]))
    filled = scope.step("weight/filled", "ScatterElements", zeros, *kept, axis=1)
    return scope.step("weight/cut", "Slice", filled, scope.ints([0]), scope.ints([width]), scope.ints([1]))


def _by_pattern(scope: Scope, values: str, patterns: str, ids: str, kept: Array, kernels: int) -> str:
    """A pattern for each kernel. Where all keep as many values, these stand in rows, and places are those in the row.

    ResNet18 with 4 of 9 weights kept (11.2 M, one core) loads in onnxruntime 40 ms later than its dense file so, 50 ms later
    with ScatterElements of the rows into zeros, and 75 ms later by a mask.
    """
    if kept.min() < kept.max() or kept.max() > LONGEST_ROW:
        return _by_mask(scope, values, _flat(scope, "mask", _of_kernels(scope, patterns, ids)))
    rows = scope.step("weight/rows-of-values", "Reshape", values, scope.ints([-1, int(kept.max())]))
    zeros = scope.step("weight/zeros", "ConstantOfShape", scope.ints([kernels, 1]))
    padded = scope.step("weight/padded", "Concat", zeros, rows, axis=1)
    places = _places(scope, scope.step("weight/patterns", "Cast", patterns, to=INT32), axis=1)
    index = scope.step("weight/index", "Gather", places, ids)
    return scope.step("weight/taps", "GatherElements", padded, index, axis=1)


def _by_mask(scope: Scope, values: str, mask: str) -> str:
    """Values where a flat int32 mask is one. onnxruntime is a third faster with GatherElements; onnx.reference fails on long axes then."""
    padded = scope.step("weight/padded", "Concat", scope.body.constant(ZERO), values, axis=0)
    return scope.step("weight/taps", "Gather", padded, _places(scope, mask))


def _places(scope: Scope, mask: str, axis: int = 0) -> str:
    """Where an int32 mask is one: its running count along an axis; elsewhere 0."""
    return scope.step("weight/places", "Mul", scope.step("weight/count", "CumSum", mask, scope.scalar(axis)), mask)


def _of_kernels(scope: Scope, patterns: str, ids: str) -> str:
    """The int32 mask of each kernel."""
    return scope.step("weight/masks", "Gather", scope.step("weight/patterns", "Cast", patterns, to=INT32), ids)


def _flat(scope: Scope, what: str, value: str) -> str:
    return scope.step(f"weight/{what}", "Reshape", value, scope.ints([-1]))


LONGEST_ROW = 31
"""onnx.reference gathers elements among at most 32."""

ZERO = np.zeros(1, np.float32)

TABLE: Mapping[str, Decode] = {"dense": _dense, "periodic": _periodic, "lfsr": _lfsr, "pattern": _pattern, "bitmask": _bitmask, "csr": _csr}
