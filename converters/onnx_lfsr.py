"""States of shift registers as standard ONNX operators, from a seed.

Multiplying a state by a field element is linear over GF(2): each of its four bytes looks up its product in a table, and the
four are added (exclusive or, which ONNX has since opset 18). The states from 1 on are computed once for all layers that share
a polynomial, RADIX times as many a step; each layer multiplies them by its seed. The tables are built in the file, from the
products of single bits. The states of ResNet18's 1.2 M kernels take onnxruntime 60 ms so, and 340 ms as products of bit matrices.
"""

from __future__ import annotations

from collections import defaultdict
from math import prod

import numpy as np

from rsk_deploy.converters.onnx_body import BITS, INT32, UINT8, Array, Body, Scope, Sequence
from rsk_deploy.ir import Graph, Packed
from rsk_deploy.masks.gf2 import CLOCKS, power, state_chunks, times

OPSET = 18

RADIX = 8
"""Eight gives the smallest files: with less there are more nodes, with more there are more tables."""


def write_sequences(body: Body, graph: Graph[Packed]) -> None:
    """Append the states that the graph's weights need, once a polynomial."""
    users: defaultdict[int, list[Packed]] = defaultdict(list)
    for layer in graph.weighted():
        if layer.weight.format == "lfsr" and layer.weight.arrays["values"].size:
            users[layer.weight.params["polynomial"]].append(layer.weight)
    for polynomial, weights in users.items():
        seeds = sorted({weight.params["seed"] for weight in weights})
        count = max(states_needed(weight) for weight in weights)
        body.sequences[polynomial] = _sequence(Scope(body, f"rsk.lfsr.{polynomial:x}"), polynomial, count, seeds)


def states_needed(weight: Packed) -> int:
    """How many states the register runs through to draw the weight's mask."""
    params = weight.params
    if params["scheme"] == "pattern":
        return prod(weight.shape[:2])
    missing, seen = params["kept"], 0
    for chunk in state_chunks(params["width"], params["polynomial"], params["seed"]):
        taken = np.flatnonzero(chunk <= prod(weight.shape))
        if len(taken) >= missing:
            return seen + int(taken[missing - 1]) + 1
        missing -= len(taken)
        seen += len(chunk)
    raise AssertionError("a register runs through more states than a weight has places")


def write_states(scope: Scope, weight: Packed) -> str:
    """Append the states that draw the weight's mask, as int32: those of 32 bits wrap around."""
    count, sequence = states_needed(weight), scope.body.sequences[weight.params["polynomial"]]
    places = sequence.places
    if count < sequence.count:
        places = scope.step("weight/octets", "Slice", places, scope.ints([0]), scope.ints([count]), scope.ints([1]))
    table = scope.step("weight/products", "Gather", sequence.products, scope.scalar(sequence.seeds[weight.params["seed"]]))
    terms = scope.step("weight/terms", "Gather", table, places)
    return scope.step("weight/states", "Reshape", _sum(scope, "weight/sum", terms, axis=0, count=4), scope.ints([-1]))


def write_remainders(scope: Scope, states: str, modulus: int) -> str:
    """Append the remainders of the low 31 bits, plus ``modulus`` where the highest bit is set.

    No number on the way reaches 2^24: OpenVINO divides integers as floats. The bits come in digits, the highest first.
    """
    width = min(16, 24 - modulus.bit_length())
    total, bound = "", 0
    for low in range(31 // width * width, -1, -width):
        masked = scope.step(f"weight/{low}/bits", "BitwiseAnd", states, scope.scalar((1 << min(low + width, 31)) - (1 << low), np.int32))
        digit = scope.step(f"weight/{low}/digit", "Div", masked, scope.scalar(1 << low, np.int32)) if low else masked
        factor = (1 << width) % modulus
        if total and bound * factor + (1 << width) > 1 << 24:
            total, bound = scope.step(f"weight/{low}/remainder", "Mod", total, scope.scalar(modulus, np.int32)), modulus
        if total:
            digit = scope.step(f"weight/{low}/total", "Add", scope.step(f"weight/{low}/carry", "Mul", total, scope.scalar(factor, np.int32)), digit)
        total, bound = digit, bound * factor + (1 << width)
    remainders = scope.step("weight/remainders", "Mod", total, scope.scalar(modulus, np.int32))
    negative = scope.step("weight/negative", "Less", states, scope.scalar(0, np.int32))
    offsets = scope.step("weight/offsets", "Where", negative, scope.scalar(modulus, np.int32), scope.scalar(0, np.int32))
    return scope.step("weight/ids", "Add", remainders, offsets)


def _sequence(scope: Scope, polynomial: int, count: int, seeds: list[int]) -> Sequence:
    """Append the states from 1 on, RADIX times as many a step."""
    factors: list[int] = []
    steps: list[tuple[int, int]] = []
    known = 1
    while known < count:
        jumps = range(1, min(RADIX, -(-count // known)))
        steps.append((len(factors), len(factors) + len(jumps)))
        factors += [power(CLOCKS * known * jump, polynomial) for jump in jumps]
        known *= 1 + len(jumps)
    octets = scope.tensor("one", _words([1]).view(np.uint8).reshape(1, 4))
    if factors:
        images = np.stack([_images(factor, polynomial) for factor in factors]).view(np.uint8).reshape(-1, 4, 8, 4, 1)
        tables = _tables(scope, "jumps", images.transpose(0, 1, 3, 2, 4))
        by_byte = scope.step("jumps/by-byte", "Transpose", tables, perm=(0, 1, 4, 2, 3))
        tables = scope.step("jumps/octets", "Reshape", scope.step("jumps/narrow", "Cast", by_byte, to=UINT8), scope.ints([-1, 1024, 4]))
    for number, bounds in enumerate(steps):
        table = scope.step(f"{number}/products", "Slice", tables, *(scope.ints([bound]) for bound in bounds))
        terms = scope.step(f"{number}/terms", "Gather", table, _places(scope, f"{number}", octets), axis=1)
        moved = scope.step(f"{number}/moved", "Reshape", _sum(scope, f"{number}/sum", terms, axis=2, count=4), scope.ints([-1, 4]))
        octets = scope.step(f"{number}/octets", "Concat", octets, moved, axis=0)
    places = scope.step("places", "Transpose", _places(scope, "all", octets), perm=(1, 0))
    products = _tables(scope, "seeds", np.stack([_images(seed, polynomial) for seed in seeds]).view(np.int32).reshape(-1, 4, 8, 1))
    return Sequence(known, places, scope.step("products", "Reshape", products, scope.ints([-1, 1024])), {seed: row for row, seed in enumerate(seeds)})


def _images(factor: int, polynomial: int) -> Array:
    """The product of a field element with each bit of a word (bits beyond the register's width never occur)."""
    images = [factor]
    while len(images) < 32:
        images.append(times(images[-1], 2, polynomial))
    return _words(images)


def _words(states: list[int]) -> Array:
    return np.array(states, "<u4")


def _tables(scope: Scope, what: str, images: Array) -> str:
    """From products with the eight bits of a byte (..., 8, 1) to those with each byte (..., 1, 256)."""
    of_bits = scope.step(f"{what}/of-bits", "Cast", scope.tensor(what, images), to=INT32)
    bits = scope.step(f"{what}/bits", "Cast", scope.body.constant(BITS), to=INT32)
    terms = scope.step(f"{what}/terms", "Mul", of_bits, scope.step(f"{what}/by-bit", "Transpose", bits, perm=(1, 0)))
    return _sum(scope, f"{what}/sum", terms, axis=images.ndim - 2, count=8)


def _places(scope: Scope, what: str, octets: str) -> str:
    """Where each octet of the states (a row each) has its product in a table."""
    offsets = scope.body.constant(np.arange(0, 1024, 256, dtype=np.int32))
    return scope.step(f"{what}/places", "Add", scope.step(f"{what}/wide", "Cast", octets, to=INT32), offsets)


def _sum(scope: Scope, what: str, terms: str, axis: int, count: int) -> str:
    """The sum over GF(2) of ``count`` terms along an axis, which keeps length 1."""
    while count > 1:
        count //= 2
        terms = scope.step(f"{what}-of-{count}", "BitwiseXor", *scope.halves(f"{what}-of-{count}/halves", terms, axis))
    return terms
