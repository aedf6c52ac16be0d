"""Parameters of masks come from users and from files: every one is checked before it sizes an array."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from operator import index
from typing import Any

from rsk_deploy.errors import UsageError


def whole(what: str, value: Any, low: int, high: int) -> int:
    """``value`` as an int from ``low`` to ``high``, or a UsageError."""
    try:
        number = None if isinstance(value, bool) else index(value)
    except TypeError:
        number = None
    if number is None or not low <= number <= high:
        raise UsageError(f"{what} is {reprlib.repr(value)}; a whole number from {low} to {high} is needed")
    return number


def fraction(what: str, value: Any) -> float:
    """``value`` as a float from 0 to 1, or a UsageError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise UsageError(f"{what} is {reprlib.repr(value)}; a number from 0 to 1 is needed")
    return float(value)


def tap_set(value: Any, taps: int) -> list[int]:
    """``value`` as ascending different taps of a kernel, or a UsageError."""
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) > taps:
        raise UsageError(f"the taps are {reprlib.repr(value)}; a list of different places from 0 to {taps - 1} is needed")
    places = sorted(whole("a tap", tap, 0, taps - 1) for tap in value)
    if len(set(places)) < len(places):
        raise UsageError(f"the taps {reprlib.repr(value)} name a place twice")
    return places


def taps_kept(value: Any, taps: int) -> int:
    """``value`` as the number of taps that each kernel keeps, or a UsageError."""
    return whole("taps_per_kernel", value, 1, taps)
