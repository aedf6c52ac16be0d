"""Linear feedback shift registers: states as polynomials over GF(2), produced by doubling instead of one by one.

A state of ``width`` bits is a polynomial (bit i: the coefficient of x^i). One clock of the register multiplies it by x
modulo ``polynomial``, a primitive polynomial of degree ``width`` with all its bits written out. Masks use the state after
every ``CLOCKS`` clocks: x^32 mod p is as primitive as x (32 is prime to 2^width − 1, which is odd), so the states still go
through all 2^width − 1 values, and successive states are not one another's double.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsk_deploy.errors import UsageError
from rsk_deploy.masks.checks import whole

CLOCKS = 32
"""Clocks of the register from one state to the next."""

WIDTHS = range(8, 33)

CHUNK = 1 << 16

POLYNOMIALS = {
    8: 0x1a9, 9: 0x34f, 10: 0x679, 11: 0xcf7, 12: 0x19e7, 13: 0x33c7, 14: 0x67a3, 15: 0xcf1f,
    16: 0x19e4f, 17: 0x33c9b, 18: 0x6790f, 19: 0xcf1e7, 20: 0x19e39b, 21: 0x33c6f1, 22: 0x678e03, 23: 0xcf1bbf,
    24: 0x19e3799, 25: 0x33c6f0d, 26: 0x678de0b, 27: 0xcf1bbcf, 28: 0x19e377bf, 29: 0x33c6ef65, 30: 0x678dde7b, 31: 0xcf1bbced,
    32: 0x19e3779d3,
}  # fmt: skip
"""One primitive polynomial a width: the first above 2^width · 1.618…, so that about half of the bits are set and a clock mixes well."""


def times(a: int, b: int, polynomial: int) -> int:
    """The product of two polynomials modulo a third."""
    product, top = 0, 1 << (polynomial.bit_length() - 1)
    while b:
        if b & 1:
            product ^= a
        b >>= 1
        a <<= 1
        if a & top:
            a ^= polynomial
    return product


def power(exponent: int, polynomial: int) -> int:
    """x^exponent modulo a polynomial."""
    result, square = 1, 2
    while exponent:
        if exponent & 1:
            result = times(result, square, polynomial)
        square = times(square, square, polynomial)
        exponent >>= 1
    return result


def prime_factors(number: int) -> list[int]:
    """The different prime factors, by trial division (numbers here are below 2^32)."""
    factors, divisor = [], 2
    while divisor * divisor <= number:
        if number % divisor == 0:
            factors.append(divisor)
            while number % divisor == 0:
                number //= divisor
        divisor += 1
    return [*factors, number] if number > 1 else factors


@lru_cache(maxsize=256)
def primitive(polynomial: int) -> bool:
    """Whether x has order 2^width − 1: then its powers are all the nonzero states."""
    period = (1 << (polynomial.bit_length() - 1)) - 1
    return polynomial & 1 == 1 and power(period, polynomial) == 1 and all(power(period // factor, polynomial) != 1 for factor in prime_factors(period))


def check_register(width: Any, polynomial: Any, seed: Any) -> tuple[int, int, int]:
    """Width, polynomial and seed of a register that runs through all its states, or a UsageError. Polynomial None stands for ours."""
    width = whole("the LFSR width", width, WIDTHS[0], WIDTHS[-1])
    polynomial = whole("the LFSR polynomial", POLYNOMIALS[width] if polynomial is None else polynomial, 1 << width, (2 << width) - 1)
    if not primitive(polynomial):
        raise UsageError(f"the LFSR polynomial {polynomial:#x} of degree {width} is not primitive, so its states repeat early; {POLYNOMIALS[width]:#x} is")
    return width, polynomial, whole("the LFSR seed", seed, 1, (1 << width) - 1)


def states(width: int, polynomial: int, seed: int, count: int) -> NDArray[np.uint32]:
    """The first ``count`` states, from ``seed`` on: state k is seed · x^(32 k) mod polynomial."""
    result = np.empty(count, np.uint32)
    result[:1] = seed
    known = 1
    while known < count:
        fresh = min(known, count - known)
        result[known : known + fresh] = jump(result[:fresh], known, width, polynomial)
        known += fresh
    return result


def state_chunks(width: int, polynomial: int, seed: int) -> Iterator[NDArray[np.uint32]]:
    """One period of states, in chunks of bounded size; the last may run into the next period."""
    period = (1 << width) - 1
    size = min(CHUNK, period)
    chunk = states(width, polynomial, seed, size)
    for _ in range(0, period, size):
        yield chunk
        chunk = jump(chunk, size, width, polynomial)


def jump(array: NDArray[np.uint32], count: int, width: int, polynomial: int) -> NDArray[np.uint32]:
    """Each state moved on by ``count`` states. Looks up the image of each byte: eight times fewer steps than bit by bit."""
    tables = _byte_tables(count, polynomial)
    moved: NDArray[np.uint32] = tables[0][array & np.uint32(255)]
    for byte in range(1, -(-width // 8)):
        moved ^= tables[byte][(array >> np.uint32(8 * byte)) & np.uint32(255)]
    return moved


def images(factor: int, polynomial: int) -> list[int]:
    """The product of a state with each single bit of a 32-bit word (bits beyond the width never occur)."""
    products = [factor]
    while len(products) < 32:
        products.append(times(products[-1], 2, polynomial))
    return products


@lru_cache(maxsize=256)
def _byte_tables(count: int, polynomial: int) -> NDArray[np.uint32]:
    """Where a jump takes each value of each byte of a word, (4, 256)."""
    of_bits = np.array(images(power(CLOCKS * count, polynomial), polynomial), np.uint32).reshape(4, 8)
    tables = np.zeros((4, 256), np.uint32)
    for bit in range(8):
        tables[:, 1 << bit : 2 << bit] = tables[:, : 1 << bit] ^ of_bits[:, bit : bit + 1]
    return tables
