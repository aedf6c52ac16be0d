"""The same network with fewer layers: what scales a weight's filters or inputs becomes part of the weight, what does nothing goes."""

from __future__ import annotations

import numpy as np

from rsk_deploy.errors import CorruptFileError
from rsk_deploy.fold.draft import Draft
from rsk_deploy.fold.removal import dead, pad_into_conv, without_effect
from rsk_deploy.fold.scaling import into_consumer, into_producer, merged
from rsk_deploy.ir import Affine, Dense, Graph, Weighted

__all__ = ["fold"]

RULES = (dead, without_effect, into_producer, merged, pad_into_conv, into_consumer)
"""Each rewrites the draft around one layer, if it can, and says whether it did. The first that can wins."""


def fold(graph: Graph[Dense]) -> Graph[Dense]:
    """Fold batch norm, constants and pads into the weights next to them, and remove layers without effect.

    The result computes the same up to the rounding of each folded weight to float32; zeros stay zeros; folding again
    changes nothing. The log says what was done to which layer, and why a batch norm stays.
    """
    for layer in graph.layers:
        if isinstance(layer, Affine):
            _check_finite(layer)
    draft = Draft(graph)
    with np.errstate(all="ignore"):  # what is not finite is refused by name
        while _passed_over(draft):
            pass
    for layer in draft.layers.values():
        if isinstance(layer, Affine):
            draft.note(layer.name, "kept", _why_kept(draft, layer))
    return draft.finished()


def _passed_over(draft: Draft) -> bool:
    """Try every rule on every layer, forwards and backwards: a chain of any length is done in one pass, whichever way it folds."""
    changed = False
    names = list(draft.layers)
    for name in [*names, *reversed(names)]:
        changed |= name in draft.layers and any(rule(draft, draft.layers[name]) for rule in RULES)
    return changed


def _check_finite(layer: Affine) -> None:
    bad = np.flatnonzero(~np.isfinite([layer.scale, layer.shift]).all(0))
    if bad.size:
        channel = int(bad[0])
        raise CorruptFileError(
            f"{layer.name}: the batch norm has scale {layer.scale[channel]} and shift {layer.shift[channel]} at channel {channel}; both must be finite"
            " (a running variance below 0, or training that diverged)"
        )


def _why_kept(draft: Draft, layer: Affine) -> str:
    producer = draft.producer(layer.inputs[0])
    if not isinstance(producer, Weighted):
        return f"it follows {producer.name if producer else 'the input'}, which has no weight, and no weight after it can take it exactly"
    if layer.inputs[0] in draft.graph.outputs:
        return f"the output of {producer.name} is also an output of the network"
    readers = len(draft.readers(layer.inputs[0]))
    return f"the output of {producer.name} is read by {readers} layers" if readers > 1 else f"its channels are not those of {producer.name}"
