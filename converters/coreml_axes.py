"""Values of more axes than Core ML has, between two reshapes as pixel shuffle has them: axes that stay together are written as one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from math import prod

from rsk_deploy.ir import Graph, Layer, Packed, Reshape, Shape, Transpose

MOST_AXES = 5


def with_fewer_axes(graph: Graph[Packed]) -> Graph[Packed]:
    """The network with every transposition of too many axes, if it stands between reshapes and nothing else reads them, as one of fewer."""
    makers = {name: layer for layer in graph.layers for name in layer.outputs}
    readers: dict[str, list[Layer]] = defaultdict(list)
    for layer in graph.layers:
        for name in layer.inputs:
            readers[name].append(layer)
    once, twice = graph.shapes(), graph.shapes(2)
    written: dict[str, Layer] = {}
    for layer in graph.layers:
        if isinstance(layer, Transpose) and len(layer.perm) > MOST_AXES:
            (before,), (after,) = layer.inputs, layer.outputs
            maker, users = written.get(before, makers.get(before)), readers[after]
            alone = len(readers[before]) == 1 and not {before, after} & set(graph.outputs)
            if alone and isinstance(maker, Reshape) and all(isinstance(user, Reshape) for user in users):
                written |= _with_fewer(maker, layer, users, once[before], twice[before])
    return replace(graph, layers=tuple(written.get(layer.outputs[0], layer) for layer in graph.layers))


def _with_fewer(maker: Reshape, layer: Transpose, users: Sequence[Layer], once: Shape, twice: Shape) -> dict[str, Layer]:
    """The layers in place of these, by what these compute; none where too many axes are left. ``once`` and ``twice``: the shape at batch 1 and 2."""
    groups = together(layer.perm, twice)
    if len(groups) > MOST_AXES:
        return {}
    (before,), (after,) = layer.inputs, layer.outputs
    first, then = f"{before}/together", f"{after}/together"
    target = tuple(-1 if any(once[axis] != twice[axis] for axis in group) else prod(once[axis] for axis in group) for group in groups)
    perm = tuple(sorted(range(len(groups)), key=lambda index: layer.perm.index(groups[index][0])))
    lean = {before: replace(maker, outputs=(first,), target=target), after: replace(layer, inputs=(first,), outputs=(then,), perm=perm)}
    return {**lean, **{user.outputs[0]: replace(user, inputs=(then,)) for user in users}}


def together(perm: Sequence[int], shape: Shape) -> list[tuple[int, ...]]:
    """The axes in runs that the permutation keeps together and in order, in their order before it; axes of one element are in none."""
    order = [axis for axis in perm if shape[axis] != 1]
    place = {axis: number for number, axis in enumerate(sorted(order))}
    runs: list[list[int]] = []
    for axis in order:
        if runs and place[axis] == place[runs[-1][-1]] + 1:
            runs[-1].append(axis)
        else:
            runs.append([axis])
    return sorted(map(tuple, runs)) or [(0,)]
