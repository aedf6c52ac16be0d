"""A structured weight as a sum of dense convolutions: for each rectangle of taps, groups of outputs and the inputs that they read."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

import numpy as np

from rsk_deploy.ir import BoolArray
from rsk_deploy.masks.rectangles import Rectangle, covered
from rsk_deploy.rewrite.blocks import Blocks

Group: TypeAlias = tuple[tuple[int, ...], tuple[int, ...]]
"""Classes of outputs, and the classes of inputs that they read."""


@dataclass(frozen=True, eq=False)
class Term:
    """One convolution: the taps of ``rectangle``, with groups of equal sizes that cover every output once.

    Where ``used`` is False for a pair of classes in a group, its weights in this term are zero.
    """

    rectangle: Rectangle
    groups: tuple[Group, ...]
    used: BoolArray


def terms(blocks: Blocks) -> tuple[Term, ...]:
    """The convolutions that sum up to the weight. Every kept tap is in exactly one."""
    sizes = np.bincount(blocks.outputs), np.bincount(blocks.inputs)
    relations: dict[Rectangle, BoolArray] = defaultdict(lambda: np.zeros((len(sizes[0]), len(sizes[1])), bool))
    for pair, taps in blocks.table.items():
        for rectangle in covered(taps, blocks.kernel) or ():
            relations[rectangle][pair] = True
    return tuple(Term(rectangle, groups, used) for rectangle, relation in relations.items() for groups, used in split(relation, *sizes))


def split(relation: BoolArray, outputs: np.ndarray, inputs: np.ndarray) -> list[tuple[tuple[Group, ...], BoolArray]]:
    """The pairs of classes that use a rectangle, as the groups of one or more convolutions.

    Groups that nothing connects are one grouped convolution if they are equally large. Otherwise, if every class has as many
    partners as any other, the pairs are dealt to convolutions in which each class occurs once. What is left is one
    convolution of all outputs with zeros for the pairs that do not belong.
    """
    whole = (tuple(range(len(relation))), tuple(np.flatnonzero(relation.any(axis=0)).tolist()))
    groups = components(relation)
    complete = all(relation[np.ix_(*group)].all() for group in groups)
    if complete and equal(outputs, groups, 0) and equal(inputs, groups, 1) and sum(len(group[0]) for group in groups) == len(relation):
        return [(tuple(groups), relation)]
    degrees = {*relation.sum(axis=0).tolist(), *relation.sum(axis=1).tolist()}
    if len(degrees) == 1 and len(set(outputs.tolist())) == len(set(inputs.tolist())) == 1:
        return [(tuple(((a,), (b,)) for a, b in enumerate(partner)), np.eye(len(inputs), dtype=bool)[partner]) for partner in matchings(relation)]
    return [((whole,), relation)]


def equal(sizes: np.ndarray, groups: list[Group], side: int) -> bool:
    """Whether all groups have as many channels on that side."""
    return len({int(sizes[list(group[side])].sum()) for group in groups}) == 1


def components(relation: BoolArray) -> list[Group]:
    """What is connected: outputs that share an input, and inputs that share an output. Inputs that nothing reads are left out."""
    groups: list[Group] = []
    left = set(range(len(relation)))
    while left:
        outputs, inputs = {min(left)}, set[int]()
        while True:
            reached = set(np.flatnonzero(relation[sorted(outputs)].any(axis=0)).tolist())
            reading = outputs | set(np.flatnonzero(relation[:, sorted(reached)].any(axis=1)).tolist())
            if reached == inputs and reading == outputs:
                break
            inputs, outputs = reached, reading
        left -= outputs
        groups.append((tuple(sorted(outputs)), tuple(sorted(inputs))))
    return groups


def matchings(relation: BoolArray) -> list[list[int]]:
    """A regular relation as perfect matchings: the partner of every output, in each (König: there always is one)."""
    rest, found = relation.copy(), []
    while rest.any():
        partner: dict[int, int] = {}
        for output in range(len(rest)):
            _augment(rest, output, partner, set())
        reading = {output: chosen for chosen, output in partner.items()}
        found.append([reading[output] for output in range(len(rest))])
        rest[np.arange(len(rest)), found[-1]] = False
    return found


def _augment(relation: BoolArray, output: int, partner: dict[int, int], seen: set[int]) -> bool:
    """Find an input for ``output``, moving others to another input where need be. ``partner`` maps inputs to outputs."""
    for chosen in np.flatnonzero(relation[output]).tolist():
        if chosen not in seen:
            seen.add(chosen)
            if chosen not in partner or _augment(relation, partner[chosen], partner, seen):
                partner[chosen] = output
                return True
    return False


def share(blocks: Blocks, found: tuple[Term, ...]) -> float:
    """Multiplications of the terms, as a share of the dense convolution's."""
    outputs, inputs = np.bincount(blocks.outputs), np.bincount(blocks.inputs)
    done = sum(prod(term.rectangle.size) * int(outputs[list(rows)].sum()) * int(inputs[list(columns)].sum()) for term in found for rows, columns in term.groups)
    return done / (prod(blocks.kernel) * len(blocks.outputs) * len(blocks.inputs))
