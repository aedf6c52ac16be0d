"""What the source is made for: how it is compiled there, and how large a strip of a convolution pays."""

from __future__ import annotations

from dataclasses import dataclass

from rsk_deploy.errors import UsageError


@dataclass(frozen=True)
class Target:
    """``compiler`` and ``flags`` are the command of the header; ``positions`` the output positions that a strip has if the output has them.

    ``isa`` is what the runtime's generator writes for it, if it does.
    """

    compiler: str
    flags: str
    positions: int
    isa: str | None = None


TARGETS = {
    "generic": Target("cc", "", 128),
    "x86-64": Target("gcc", "-march=x86-64-v3", 128, "avx2"),
    "aarch64": Target("aarch64-linux-gnu-gcc", "", 128, "neon"),
    "cortex-a53": Target("aarch64-linux-gnu-gcc", "-mcpu=cortex-a53", 64, "neon"),
    "cortex-m7": Target("arm-none-eabi-gcc", "-mcpu=cortex-m7 -mthumb -mfloat-abi=hard -mfpu=fpv5-d16", 32),
    "cortex-m4": Target("arm-none-eabi-gcc", "-mcpu=cortex-m4 -mthumb -mfloat-abi=hard -mfpu=fpv4-sp-d16", 16),
}
"""Targets by the name that ``--target`` takes."""


def target_named(name: str) -> Target:
    """The target of that name."""
    if name not in TARGETS:
        raise UsageError(f"unknown target {name!r} of the C export; known are {', '.join(TARGETS)}")
    return TARGETS[name]
