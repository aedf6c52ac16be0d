"""From Graph[Dense] to Graph[Packed] and back: for each weight, find its structure and store it in the smallest exact way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

import numpy as np

from rsk_deploy import masks
from rsk_deploy.errors import CorruptFileError, RskError, UsageError, about
from rsk_deploy.ir import Choice, Declared, Dense, FloatArray, Graph, Layer, LogEntry, Mask, Packed, Weighted
from rsk_deploy.ir.graph import with_options, without_options
from rsk_deploy.registry import FORMATS, format_named, known, mask_named, regenerate

AUTO = "auto"
HALF_NORMAL = 2.0**-14
"""The smallest float16 with all its bits."""
BLOCK = 1 << 20
"""Values looked at together, so that what is computed of them stays small."""


@dataclass(frozen=True)
class Option:
    """An encoding that can hold a weight, and the mask that it takes the fewest bytes for."""

    format: str
    nbytes: int
    mask: Mask


def pack(graph: Graph[Dense], weights: str | Mapping[str, str] = AUTO, *, half: bool = False) -> Graph[Packed]:
    """Store every weight in the smallest encoding, or in the one that ``weights`` names (for all layers, or by layer).

    Exact: ``unpack`` gives the same bits, unless ``half`` rounds the values to float16. Weights that are not finite are
    refused. ``log`` tells of declared masks that a weight contradicts, and of what rounding did.
    """
    if not isinstance(graph, Graph):
        raise UsageError(f"a {type(graph).__name__} cannot be packed; read it first: rsk_deploy.pack(rsk_deploy.read(model))")
    wanted = requests(graph, weights)
    layers: list[Layer] = []
    log = list(graph.log)
    for layer in graph.layers:
        if isinstance(layer, Weighted):
            with about(layer.name):
                weight, notes = pack_weight(layer, wanted[layer.name], half=half)
            layers.append(replace(layer, weight=weight))
            log += notes
        else:
            layers.append(layer)
    asked = {name: value for name, value in (("weights", weights if isinstance(weights, str) else dict(weights)), ("half", half)) if value and value != AUTO}
    return Graph[Packed](graph.inputs, graph.outputs, tuple(layers), tuple(log), with_options(graph.meta, **asked))


def unpack(graph: Graph[Packed]) -> Graph[Dense]:
    """The same network with dense float32 weights. A mask that its encoding regenerates stays declared."""

    def dense(layer: Layer) -> Layer:
        if not isinstance(layer, Weighted):
            return layer
        packed = layer.weight
        declared = Declared(packed.format, packed.params) if packed.params else None
        return replace(layer, weight=Dense(format_named(packed.format).decode(packed), declared))

    return Graph[Dense](graph.inputs, graph.outputs, tuple(map(dense, graph.layers)), graph.log, without_options(graph.meta, "weights", "half"))


def requests(graph: Graph[Dense], weights: str | Mapping[str, str]) -> dict[str, str]:
    """The encoding asked for each weighted layer, by name. One for all is for those that have zeros: the others stay dense."""
    names = {layer.name: AUTO for layer in graph.weighted()}
    if isinstance(weights, str):
        known({AUTO: "", **FORMATS}, weights, "weight format")
        weights = {layer.name: weights for layer in graph.weighted() if not layer.weight.values.all()}
    for name, format in weights.items():
        known({AUTO: "", **FORMATS}, format, "weight format")
        names[known(names, name, "weighted layer")] = format
    return names


def pack_weight(layer: Weighted[Dense], wanted: str, *, half: bool) -> tuple[Packed, list[LogEntry]]:
    """The layer's weight in the encoding ``wanted``, and what the user should know of it."""
    check_finite(layer)
    exact = stored = without_negative_zeros(layer.weight.values)
    log = []
    if half:
        stored, detail = halved(exact)
        log.append(LogEntry(layer.name, "half", detail))
    candidates, complaint = explanations(exact, layer.weight.declared)
    if complaint:
        log.append(LogEntry(layer.name, "mask", complaint))
    options = smallest(candidates, stored.itemsize)
    option = chosen(options, wanted, candidates[0])
    encoded = format_named(option.format).encode(stored, option.mask)
    return replace(encoded, choice=explained(option, options, dense=exact.nbytes)), log


def check_finite(layer: Weighted[Dense]) -> None:
    """Refuse NaN and infinity: a sparse product skips what a dense one would spread."""
    for what, values in (("weight", layer.weight.values), ("bias", layer.bias)):
        if values is not None and not (finite := np.isfinite(values)).all():
            first = tuple(int(index) for index in np.unravel_index(finite.argmin(), values.shape))
            count = values.size - np.count_nonzero(finite)
            raise CorruptFileError(f"{count} of {values.size} values of the {what} are NaN or infinite, the first at {first}: {values[first]}")


def without_negative_zeros(values: FloatArray) -> FloatArray:
    """The same values with +0.0 for every zero; the same array where it has no other."""
    sign_alone = values.view(f"u{values.itemsize}") == 1 << (8 * values.itemsize - 1)
    return np.where(sign_alone, values.dtype.type(0), values) if sign_alone.any() else values


def halved(values: FloatArray) -> tuple[FloatArray, str]:
    """The values in float16, and what that cost. Refuses values beyond its range."""
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float16)
    if (infinite := np.isinf(rounded)).any():
        first = values.reshape(-1)[infinite.argmax()]
        count = np.count_nonzero(infinite)
        raise UsageError(f"{count} of {values.size} weights do not fit float16, whose largest is 65504; the first is {first:.9g}. Pack without half")
    worst, small = 0.0, 0
    for start in range(0, values.size, BLOCK):
        before, after = (array.reshape(-1)[start : start + BLOCK] for array in (values, rounded))
        normal = np.abs(before) >= HALF_NORMAL
        ratio = np.divide(after, before, out=np.ones(before.shape, np.float32), where=normal)
        worst = max(worst, float(np.abs(ratio - 1).max()))
        small += int(np.count_nonzero(before) - np.count_nonzero(normal))
    detail = f"rounded to float16, relative error at most {worst:.3g}"
    if small:
        detail += f"; {small} weights below {HALF_NORMAL:.3g} keep fewer bits, {np.count_nonzero(values) - np.count_nonzero(rounded)} of them become 0"
    return without_negative_zeros(rounded), detail


def explanations(values: FloatArray, declared: Declared | None) -> tuple[tuple[Mask, ...], str]:
    """The masks that explain a weight, the one it declares first; and why the declared one does not, if so."""
    found = masks.find(values)
    if declared is None:
        return found, ""
    try:
        mask = regenerate(declared, values.shape)
    except RskError as error:
        return found, f"the declared {declared.family} mask cannot be drawn ({error}); packed by what the weight shows"
    nonzero = np.count_nonzero(values)
    if outside := np.count_nonzero((values != 0) & ~mask.support):
        return found, f"{outside} of {nonzero} nonzero weights lie outside the declared {declared.family} mask; packed by what the weight shows"
    return (replace(mask, evidence=f"declared by the model, all {nonzero} nonzero weights lie inside; {mask.evidence}"), *found), ""


def smallest(candidates: Sequence[Mask], itemsize: int) -> list[Option]:
    """The encodings that can hold the weight, the smallest first; on equal size as in FORMATS."""
    options = []
    for name in FORMATS:
        fitting = [Option(name, size, mask) for mask in candidates if (size := format_named(name).nbytes(mask, itemsize)) is not None]
        options += sorted(fitting, key=attrgetter("nbytes"))[:1]
    return sorted(options, key=attrgetter("nbytes"))


def chosen(options: Sequence[Option], wanted: str, likely: Mask) -> Option:
    """The option asked for; ``likely`` is the mask to name in the refusal where there is none."""
    for option in options:
        if wanted in (AUTO, option.format):
            return option
    raise UsageError(
        f"the weight format {wanted} holds {format_named(wanted).HOLDS}; this weight's mask is {likely.family} "
        f"({mask_named(likely.family).describe(likely)}; {likely.evidence}). Try weights auto, which takes {options[0].format} here"
    )


def kind_of(mask: Mask) -> str:
    """The mask's family; ``dense`` where everything is kept."""
    return "dense" if mask.support.all() else mask.family


def explained(option: Option, options: Sequence[Option], dense: int) -> Choice:
    """Why the weight is stored as it is."""
    others = ", ".join(f"{other.format} {other.nbytes:,}" for other in options if other is not option)
    why = "the smallest" if option is options[0] else "asked for"
    return Choice(
        mask=kind_of(option.mask),
        description=mask_named(option.mask.family).describe(option.mask),
        evidence=option.mask.evidence,
        sizes={other.format: other.nbytes for other in options},
        reason=f"{option.format}, {why}: {option.nbytes:,} bytes, {option.nbytes / dense:.3f} of dense; the others: {others}",
    )
