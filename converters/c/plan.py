"""From a packed graph to calls of the C runtime over one scratch memory, every place fixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from string import Template

import numpy as np

from rsk_deploy.converters.c.arena import Block, placed
from rsk_deploy.converters.c.assembly import Code
from rsk_deploy.converters.c.call import Call, Places, Scope
from rsk_deploy.converters.c.data import Data
from rsk_deploy.converters.c.eight import Eight, Scales, chosen, takes_eight
from rsk_deploy.converters.c.ops import as_eight, as_float, lower
from rsk_deploy.converters.c.targets import Target
from rsk_deploy.converters.c.units import Unit, units
from rsk_deploy.converters.c.weights import common_tables
from rsk_deploy.errors import UnsupportedError
from rsk_deploy.ir import Activation, Constant, Graph, Packed, Reshape, Shape

LARGEST_PLACE = (1 << 16) - 1
SCRATCH = "s"


@dataclass(frozen=True)
class Item:
    """A call, and the values that it reads and computes; ``eight``: the output is held in 8 bits."""

    layer: str
    inputs: tuple[str, ...]
    output: str
    shape: Shape
    eight: bool
    call: Call

    @property
    def size(self) -> int:
        """Floats of scratch memory that the output takes."""
        return -(-prod(self.shape) // 4) if self.eight else prod(self.shape)


@dataclass(frozen=True)
class Step:
    """Lines of the program: the value they compute, of ``shape`` at the C expression ``place`` (without a name where it is held in 8 bits).

    ``flash`` is bytes of constants that no step before has; ``live`` floats of scratch memory are in use.
    """

    layer: str
    value: str
    place: str
    shape: Shape
    call: Call
    text: str
    flash: int = 0
    live: int = 0


@dataclass(frozen=True)
class Plan:
    """A program: its constants, its steps, the floats of scratch memory that they need, the activations and the machine code that they call."""

    data: Data
    steps: tuple[Step, ...]
    scratch: int
    wide: bool
    activations: tuple[str, ...]
    code: Code | None = None

    @property
    def flash(self) -> int:
        """Bytes of constants and of machine code."""
        return self.data.nbytes + (len(self.code.content) if self.code else 0)

    @property
    def needs(self) -> frozenset[str]:
        """The runtime's optional parts that the steps use."""
        return frozenset().union(*(step.call.needs for step in self.steps))

    @property
    def headers(self) -> list[str]:
        """The runtime's headers that the steps use."""
        return sorted({header for step in self.steps for header in step.call.headers} | {"base"})


def plan(graph: Graph[Packed], target: Target, parameters: Mapping[str, str], scale: Mapping[str, float] | None = None, code_name: str | None = None) -> Plan:
    """Lower and place a graph. ``parameters`` are the C names of its inputs and outputs; with a ``scale`` for every value it computes in 8 bits.

    With a ``code_name`` hot convolutions become machine code under that symbol.
    """
    check(graph)
    narrow = Lowered(graph, target, Places(), scale, code_name)
    lowered = Lowered(graph, target, Places(wide=True), scale, code_name) if narrow.places.largest > LARGEST_PLACE else narrow
    return lowered.arranged(parameters)


def check(graph: Graph[Packed]) -> None:
    """Refuse what C code cannot be written for: an open batch, and values that are no floats."""
    if graph.dynamic:
        raise UnsupportedError("the C export has no open batch: every size is a constant of the source. Leave --dynamic out")
    for entry in graph.inputs:
        if entry.dtype != "float32":
            raise UnsupportedError(f"input {entry.name!r} holds {entry.dtype}; the C export has inputs of float32 alone")


class Lowered:
    """The calls of a graph in order, before they have places. A value in 8 bits that is also needed as floats, or the other way, is two values."""

    def __init__(self, graph: Graph[Packed], target: Target, places: Places, scale: Mapping[str, float] | None, code_name: str | None) -> None:
        self.graph, self.target, self.places = graph, target, places
        self.shapes, self.data = graph.shapes(), Data(common_tables(graph))
        self.code = Code(target.isa, code_name) if target.isa and code_name else None
        self.roots: dict[str, str] = {}  # of a value that is another one under a new shape
        self.constants: dict[str, str] = {}
        self.items: list[Item] = []
        self.flash: list[int] = []
        joined = units(graph, self.shapes)
        for unit in joined:
            if isinstance(unit.layer, Reshape):
                self.roots[unit.output] = self.root(unit.layer.inputs[0])
        self.eight = chosen(joined, self.roots, graph.outputs, scale) if scale else NONE
        for unit in joined:
            self._lower(unit)

    def root(self, name: str) -> str:
        """The value whose memory this one shares."""
        return self.roots.get(name, name)

    def _lower(self, unit: Unit) -> None:
        layer = unit.layer
        if isinstance(layer, Constant):
            self.constants[unit.output] = self.data.array(f"{layer.name}_constant", layer.values.astype(np.float32))
        elif not isinstance(layer, Reshape):
            whole = bool(self.eight.scale) and (takes_eight(unit) or unit.output in self.eight.held)
            inputs = tuple(self._as(name, eight=whole) for name in unit.inputs)
            scales = self._scales(unit) if whole else None
            ins = tuple(self.shapes[name] for name in unit.inputs)
            scope = Scope(layer.name, self.data, self.target, self.places, ins, self.shapes[unit.output], scales, self.code)
            self._add(layer.name, inputs, unit.output, lower(scope, unit), eight=unit.output in self.eight.held)

    def _scales(self, unit: Unit) -> Scales:
        entry, *others = (self.eight.scale[self.root(name)] for name in unit.inputs)
        return Scales(entry, others[0] if others else None, self.eight.scale[unit.output] if unit.output in self.eight.held else None)

    def _as(self, name: str, *, eight: bool) -> str:
        """The value under a name that holds it so; a conversion is added where none does yet."""
        root = self.root(name)
        if eight == (root in self.eight.held):
            return root
        other = f"{root} in {'8 bits' if eight else 'floats'}"
        if all(item.output != other for item in self.items):
            convert = as_eight if eight else as_float
            self._add(root, (root,), other, convert(prod(self.shapes[name]), self.eight.scale[root]), eight=eight, shape=self.shapes[name])
        return other

    def _add(self, layer: str, inputs: tuple[str, ...], output: str, call: Call, *, eight: bool, shape: Shape | None = None) -> None:
        shape = shape or self.shapes[output]
        self.items.append(Item(layer, inputs, output, shape, eight, call))
        self.flash.append(self.data.nbytes + (len(self.code.content) if self.code else 0))

    def arranged(self, parameters: Mapping[str, str]) -> Plan:
        """The program, with a place for everything."""
        where = {entry.name: parameters[entry.name] for entry in self.graph.inputs} | self.constants
        copies = []
        for name in self.graph.outputs:
            if self.root(name) in where:
                copies.append(name)  # an input, a constant or another output under a new shape
            else:
                where[self.root(name)] = parameters[name]
        spaces, scratch, live = arena(self.items, where, {self.root(name) for name in self.graph.outputs})
        before = [0, *self.flash]
        steps = [
            replace(_step(item, space, where), flash=before[index + 1] - before[index], live=live[index])
            for index, (item, space) in enumerate(zip(self.items, spaces, strict=True))
        ]
        steps += [_copy(name, where[self.root(name)], parameters[name], self.shapes[name]) for name in copies]
        kinds = {layer.kind for layer in self.graph.layers if isinstance(layer, Activation)}
        return Plan(self.data, tuple(steps), scratch, self.places.wide, tuple(sorted(kinds)), self.code)


NONE = Eight(frozenset(), {})


def arena(items: Sequence[Item], where: dict[str, str], outputs: set[str]) -> tuple[list[str], int, list[int]]:
    """Place every value that is nowhere yet; give the work space of every item, the floats in all, and those in use at every item."""
    last = dict.fromkeys(outputs, len(items))
    for index, item in enumerate(items):
        for name in item.inputs:
            last[name] = max(index, last.get(name, index))
    kinds = {item.output: (item.eight, item.size) for item in items}
    values: dict[str, Block] = {}
    holder: dict[str, str] = {}  # of a value that lies on one that it replaces
    for index, item in enumerate(items):
        if item.output in where:
            continue
        end = last.get(item.output, index)
        apart = {name for number, name in enumerate(item.inputs) if number not in item.call.over}
        under = (item.inputs[number] for number in item.call.over)
        free = (name for name in under if name not in where and name not in apart and last[name] == index and kinds[name] == kinds[item.output])
        if (under_it := next(free, None)) is None:
            values[item.output] = Block(item.size, index, end)
        else:
            first = holder[item.output] = holder.get(under_it, under_it)
            values[first] = replace(values[first], last=end)
    blocks = [*values.values(), *(Block(item.call.work, index, index) for index, item in enumerate(items))]
    starts, total = placed(blocks)
    begins = dict(zip(values, starts, strict=False))
    for item in items:
        if item.output not in where:
            place = f"{SCRATCH} + {begins[holder.get(item.output, item.output)]}"
            where[item.output] = f"(int8_t *)({place})" if item.eight else place
    live = [sum(block.size for block in blocks if block.first <= index <= block.last) for index in range(len(items))]
    return [f"{SCRATCH} + {start}" for start in starts[len(values) :]], total, live


def _step(item: Item, space: str, where: Mapping[str, str]) -> Step:
    names = {f"i{number}": where[name] for number, name in enumerate(item.inputs)}
    place = where[item.output]
    text = Template(item.call.text).substitute(names, out=place, work=space)
    return Step(item.layer, "" if item.eight else item.output, place, item.shape, item.call, text)


def _copy(name: str, source: str, to: str, shape: Shape) -> Step:
    return Step(name, name, to, shape, Call(("base",), ""), f"memcpy({to}, {source}, {prod(shape)} * sizeof(float));")
