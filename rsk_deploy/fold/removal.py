"""Layers that a network does without."""

from __future__ import annotations

from dataclasses import replace

from rsk_deploy.fold.draft import Draft
from rsk_deploy.ir import Activation, Constant, Conv, Layer, Pad, Reshape, Slice, Transpose


def dead(draft: Draft, layer: Layer) -> bool:
    """Remove a layer that no output depends on."""
    if any(draft.readers(name) or name in draft.graph.outputs for name in layer.outputs):
        return False
    draft.remove(layer)
    if not isinstance(layer, Constant):
        draft.note(layer.name, "removed", "no output depends on it")
    return True


def without_effect(draft: Draft, layer: Layer) -> bool:
    """Remove a layer whose output is its input."""
    moves_nothing = isinstance(layer, Reshape | Slice | Pad) and draft.same_shape(layer.inputs[0], layer.outputs[0])
    in_place = isinstance(layer, Transpose) and list(layer.perm) == sorted(layer.perm)
    identity = isinstance(layer, Activation) and layer.kind == "identity"
    if not (moves_nothing or in_place or identity) or layer.outputs[0] in draft.graph.outputs:
        return False
    draft.bypass(layer)
    draft.note(layer.name, "removed", "its output is its input")
    return True


def pad_into_conv(draft: Draft, layer: Layer) -> bool:
    """Let the one convolution that reads zeros around its input add them itself."""
    if not isinstance(layer, Pad) or layer.mode != "constant" or layer.value != 0:
        return False
    conv, rank = draft.only_reader(layer.outputs[0]), len(layer.pads) // 2
    if not isinstance(conv, Conv) or any((*layer.pads[:2], *layer.pads[rank : rank + 2])):
        return False
    added = (*layer.pads[2:rank], *layer.pads[rank + 2 :])
    draft.remove(layer)
    draft.put(replace(conv, inputs=layer.inputs, pads=tuple(a + b for a, b in zip(conv.pads, added, strict=True))))
    draft.note(conv.name, "pads", f"{layer.name} added {added}")
    return True
