"""What the source is made for: how it is compiled there, what memory there is, who runs it here, and how large a strip of a convolution pays."""

from __future__ import annotations

from dataclasses import dataclass

from rsk_deploy.errors import UsageError


@dataclass(frozen=True)
class Memory:
    """Bytes of flash and RAM of a large ``part`` with that core: more is refused unless the user says that there is more."""

    part: str
    flash: int
    ram: int


@dataclass(frozen=True)
class Emulator:
    """Who runs a program of the target here: the first of ``commands`` that is there, with ``arguments`` and the program behind it.

    The program is linked with ``link`` and, on a board without a system, the ``sources`` of c_machines. ``library`` is a file of the
    target's C library. What is missing comes with the Debian ``packages`` of the compiler, the library and the emulator.
    """

    commands: tuple[str, ...]
    arguments: tuple[str, ...]
    link: tuple[str, ...]
    library: str
    packages: tuple[str, str, str]
    sources: tuple[str, ...] = ("main.c",)


@dataclass(frozen=True)
class Target:
    """``compiler`` and ``flags`` are the command of the header; ``positions`` the output positions that a strip has if the output has them.

    ``isa`` is what the runtime's generator writes for it, if it does. Without a ``memory`` there is no limit. With ``neighbours``
    a cell of an 8-bit panel takes 32 bits.
    """

    compiler: str
    flags: str
    positions: int
    isa: str | None = None
    memory: Memory | None = None
    emulator: Emulator | None = None
    neighbours: bool = False


def board(machine: str, constants_at: int, code_at: int = 0, data_at: int = 0x20000000) -> Emulator:
    """A board without a system, whose files are the host's."""
    places = {"code_at": code_at, "constants_at": constants_at, "data_at": data_at}
    return Emulator(
        ("qemu-system-arm",),
        ("-M", machine, "-nographic", "-monitor", "none", "-serial", "none", "-semihosting", "-kernel"),
        ("--specs=rdimon.specs", "-nostartfiles", "-Tcortex_m.ld", *(f"-Wl,--defsym={name}={place:#x}" for name, place in places.items())),
        "rdimon.specs",
        ("gcc-arm-none-eabi", "libnewlib-arm-none-eabi", "qemu-system-arm"),
        ("main.c", "cortex_m.c"),
    )


def process(architecture: str, packages: tuple[str, str, str], *arguments: str) -> Emulator:
    """A process of Linux."""
    return Emulator((f"qemu-{architecture}-static", f"qemu-{architecture}"), arguments, ("-static",), "libc.a", packages)


ARM = ("gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross", "qemu-user-static")
TARGETS = {
    "generic": Target("cc", "", 128),
    "x86-64": Target("gcc", "-march=x86-64-v3", 128, "avx2", emulator=process("x86_64", ("gcc", "libc6-dev", "qemu-user-static"))),
    "aarch64": Target("aarch64-linux-gnu-gcc", "", 128, "neon", emulator=process("aarch64", ARM)),
    "cortex-a53": Target("aarch64-linux-gnu-gcc", "-mcpu=cortex-a53", 64, "neon", emulator=process("aarch64", ARM, "-cpu", "cortex-a53")),
    "cortex-m55": Target(
        "arm-none-eabi-gcc",
        "-mcpu=cortex-m55 -mthumb -mfloat-abi=hard",
        32,
        memory=Memory("an Alif Ensemble E8", 5632 << 10, 8 << 20),
        emulator=board("mps3-an547", 0x70000000, 0x10000000, 0x31000000),
    ),
    "cortex-m7": Target(
        "arm-none-eabi-gcc",
        "-mcpu=cortex-m7 -mthumb -mfloat-abi=hard -mfpu=fpv5-d16",
        32,
        memory=Memory("an STM32H743", 2 << 20, 1 << 20),
        emulator=board("mps2-an500", 0x60000000),
        neighbours=True,
    ),
    "cortex-m4": Target(
        "arm-none-eabi-gcc",
        "-mcpu=cortex-m4 -mthumb -mfloat-abi=hard -mfpu=fpv4-sp-d16",
        16,
        memory=Memory("an STM32L4R5", 2 << 20, 640 << 10),
        emulator=board("mps2-an386", 0x21000000),
        neighbours=True,
    ),
}
"""Targets by the name that ``--target`` takes."""


def target_named(name: str) -> Target:
    """The target of that name."""
    if name not in TARGETS:
        raise UsageError(f"unknown target {name!r} of the C export; known are {', '.join(TARGETS)}")
    return TARGETS[name]
