"""What an exported network takes: flash, memory and multiplications, layer by layer and against the same network with dense weights."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import prod

from rsk_deploy.converters.c.plan import Plan, Step
from rsk_deploy.converters.c.targets import TARGETS, Memory
from rsk_deploy.errors import UsageError
from rsk_deploy.ir import Graph, Json, Packed
from rsk_deploy.rewrite import record_of

UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20}
HEAD = ("layer", "flash", "of dense", "RAM", "MACs", "of dense")
LONGEST = 23
"""Characters of a layer's name: with more the table is wider than 80 columns."""


@dataclass(frozen=True)
class Row:
    """A layer, or all: bytes of constants, of memory in use while it runs and of work space in that, and multiplications with kept weights."""

    layer: str
    flash: int
    dense_flash: int
    ram: int
    work: int
    macs: int
    dense_macs: int

    @property
    def cells(self) -> tuple[str, ...]:
        """A line of the table."""
        return (
            shortened(self.layer),
            f"{self.flash:,}",
            share(self.flash, self.dense_flash),
            f"{self.ram:,}",
            f"{self.macs:,}",
            share(self.macs, self.dense_macs),
        )


@dataclass(frozen=True)
class Sizes:
    """The report. ``caller`` is bytes of inputs and outputs; ``code`` are bytes of compiled code and of tables that it reads, or why they are not known."""

    layers: tuple[Row, ...]
    total: Row
    caller: int
    generated: int
    lowered: bool
    code: int | str
    compiler: str

    @property
    def flash(self) -> tuple[int, int]:
        """Bytes of flash, as far as they are known, and of the same with dense weights."""
        code = self.code if isinstance(self.code, int) else 0
        return self.total.flash + code, self.total.dense_flash + code

    def summary(self) -> list[str]:
        """What is the same wherever the network is exported."""
        generated = f" and generated code of {self.generated} convolutions" if self.generated else ""
        return [
            f"flash {self.total.flash:,} bytes of constants{generated} ({share(self.total.flash, self.total.dense_flash)} of dense), beside the code",
            f"RAM {self.total.ram:,} bytes of scratch, and {self.caller:,} of inputs and outputs",
            f"multiplications {self.total.macs:,} ({share(self.total.macs, self.total.dense_macs)} of dense)",
        ]

    def lines(self) -> list[str]:
        """All, for people: 76 columns but for the words at the end."""
        flash, dense_flash = self.flash
        code = [("code without libraries", f"{self.code:,}", *[""] * 4)] if isinstance(self.code, int) else []
        total = ("total", f"{flash:,}", share(flash, dense_flash), *self.total.cells[3:])
        told = f"flash {flash:,} bytes: constants {self.total.flash:,}, "
        return [
            *aligned([HEAD, *(row.cells for row in self.layers), *code, total]),
            *(["of dense: of the network before it was lowered, in total; of what it became, by layer"] if self.lowered else []),
            *([f"{self.generated} convolutions are generated code, among the constants"] if self.generated else []),
            told + (f"code {self.code:,} ({self.compiler} -O3)" if isinstance(self.code, int) else f"and code of unknown size: {self.code}"),
            self.summary()[1],
        ]

    def figures(self) -> dict[str, Json]:
        """All, for machines."""
        flash, dense_flash = self.flash
        known = isinstance(self.code, int)
        return {
            "flash": flash,
            "dense_flash": dense_flash,
            "constants": self.total.flash,
            "code": self.code if known else None,
            "code_unknown": "" if known else self.code,
            "compiler": self.compiler,
            "ram": self.total.ram,
            "caller": self.caller,
            "macs": self.total.macs,
            "dense_macs": self.total.dense_macs,
            "layers": [asdict(row) for row in self.layers],
        }


def sizes(graph: Graph[Packed], plan: Plan, caller: int, itemsize: int, code: int | str, compiler: str) -> Sizes:
    """The report of a program; ``itemsize`` is bytes of a dense weight."""
    weights = {layer.name: layer.weight for layer in graph.weighted()}
    excess = plan.code.excess if plan.code else {}
    more = {name: itemsize * prod(weight.shape) - stored(weight, itemsize) - excess.get(name, 0) for name, weight in weights.items()}
    rows = [row(step, more.get(step.layer, 0) if step.call.dense_macs else 0) for step in plan.steps]
    record = record_of(graph.meta)
    dense_flash, dense_macs = plan.flash + sum(more.values()), sum(row.dense_macs for row in rows)
    if record:
        dense_flash += itemsize * (record.dense_weights - record.weights)
        dense_macs += graph.inputs[0].at(1)[0] * (record.dense_multiplications - record.multiplications)
    total = Row("total", plan.flash, dense_flash, 4 * plan.scratch, max(row.work for row in rows) if rows else 0, sum(row.macs for row in rows), dense_macs)
    return Sizes(tuple(rows), total, caller, len(plan.code.layers) if plan.code else 0, record is not None, code, compiler)


def row(step: Step, more: int) -> Row:
    """A step, which takes ``more`` flash with dense weights."""
    return Row(step.layer, step.flash, step.flash + more, 4 * step.live, 4 * step.call.work, step.call.macs, step.call.dense_macs)


def stored(weight: Packed, itemsize: int) -> int:
    """Bytes of a weight whose values take ``itemsize`` each, and of its structure."""
    values = weight.arrays["values"]
    return weight.nbytes - values.nbytes + itemsize * int(values.size)


def share(part: int, whole: int) -> str:
    """``part`` of ``whole`` in per cent; nothing of nothing."""
    return f"{100 * part / whole:.1f} %" if whole else ""


def shortened(name: str) -> str:
    """A name of LONGEST characters at most, its end kept."""
    plain = "".join(char if char.isprintable() else "?" for char in name)
    return plain if len(plain) <= LONGEST else f"{plain[:6]}…{plain[7 - LONGEST :]}"


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Columns of one width, names to the left and numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join([line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]).rstrip() for line in table]


def nbytes(option: str, text: str | int) -> int:
    """``"256k"`` → 262144."""
    match = re.fullmatch(r"(\d+)\s*([kKmM]?)(i?[bB])?", str(text))
    if not match:
        raise UsageError(f"--{option} {text}: write a number of bytes, as in 65536, 64k or 1M")
    return int(match[1]) * UNITS[match[2].lower()]


def check(plan: Plan, target: str, dtype: str, max_flash: str | int | None, max_ram: str | int | None, code: int = 0) -> None:
    """Refuse a network that is larger than is allowed or than the target's parts have, and name what takes most."""
    eight = "" if dtype == "int8" else " or --dtype int8"
    flash, ram = plan.flash + code, 4 * plan.scratch
    if too_large := refusal("flash", flash, max_flash, target):
        most = ", ".join(f"{step.layer} {step.flash:,}" for step in sorted(plan.steps, key=lambda step: -step.flash)[:3])
        what = f"the constants take {plan.flash:,} bytes of flash and the code {code:,}" if code else f"the constants take {flash:,} bytes of flash"
        raise UsageError(f"{what}; {too_large}. Most take {most}. More zeros{eight} need less")
    if too_large := refusal("ram", ram, max_ram, target):
        step = max(plan.steps, key=lambda step: step.live)
        raise UsageError(
            f"the scratch memory takes {ram:,} bytes; {too_large}. It is fullest at {step.layer}: {4 * step.live:,}, of which "
            f"{4 * step.call.work:,} are work space. A smaller --input-shape{eight} needs less"
        )


def refusal(what: str, taken: int, asked: str | int | None, target: str) -> str:
    """What allows less than is taken; "" where nothing does."""
    memory: Memory | None = TARGETS[target].memory
    if asked is not None:
        allowed = nbytes(f"max-{what}", asked)
        return f"--max-{what} {asked} allows {allowed:,} bytes" if taken > allowed else ""
    if memory is None or taken <= (allowed := {"flash": memory.flash, "ram": memory.ram}[what]):
        return ""
    return f"--target {target} allows {allowed:,}, as much as {memory.part} has, unless --max-{what} says that there is more"
