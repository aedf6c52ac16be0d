"""What an exported network takes: flash, memory and multiplications, layer by layer and against the same network with dense weights."""

from __future__ import annotations

import re
from math import prod

from rsk_deploy.converters.c.plan import Plan, Step
from rsk_deploy.errors import UsageError
from rsk_deploy.ir import Graph, Packed
from rsk_deploy.registry import Footprint

UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20}


def footprint(graph: Graph[Packed], plan: Plan, caller: int, itemsize: int) -> Footprint:
    """The report. ``caller`` is bytes of inputs and outputs, ``itemsize`` bytes of a dense weight."""
    flash, ram = plan.flash, 4 * plan.scratch
    weights = {layer.name: layer.weight for layer in graph.weighted()}
    dense_flash = flash - (plan.code.excess if plan.code else 0) + sum(itemsize * prod(weight.shape) - stored(weight, itemsize) for weight in weights.values())
    macs, dense_macs = sum(step.call.macs for step in plan.steps), sum(step.call.dense_macs for step in plan.steps)
    rows = [line(step) for step in plan.steps if step.call.dense_macs]
    total = [
        f"flash {flash:,} bytes of constants{f' and generated code of {len(plan.code.layers)} convolutions' if plan.code else ''}"
        f" ({share(flash, dense_flash)} of dense), beside the code",
        f"RAM {ram:,} bytes of scratch, and {caller:,} of inputs and outputs",
        f"multiplications {macs:,} ({share(macs, dense_macs)} of dense)",
    ]
    figures = {
        "flash": flash,
        "dense_flash": dense_flash,
        "ram": ram,
        "macs": macs,
        "dense_macs": dense_macs,
        "layers": {s.layer: layer(s) for s in plan.steps},
    }
    return Footprint(flash, dense_flash, (*rows, *total), figures)


def stored(weight: Packed, itemsize: int) -> int:
    """Bytes of a weight whose values take ``itemsize`` each, and of its structure."""
    values = weight.arrays["values"]
    return weight.nbytes - values.nbytes + itemsize * int(values.size)


def line(step: Step) -> str:
    """A layer, for people."""
    macs = f"{step.call.macs:,} multiplications, {share(step.call.macs, step.call.dense_macs)} of dense"
    return f"{step.layer}: flash {step.flash:,}, work space {4 * step.call.work:,}, {macs}"


def layer(step: Step) -> dict[str, int]:
    """A layer, for machines."""
    return {"flash": step.flash, "work": 4 * step.call.work, "macs": step.call.macs, "dense_macs": step.call.dense_macs}


def share(part: int, whole: int) -> str:
    """``part`` of ``whole`` in per cent."""
    return f"{100 * part / max(whole, 1):.1f} %"


def nbytes(option: str, text: str | int) -> int:
    """``"256k"`` → 262144."""
    match = re.fullmatch(r"(\d+)\s*([kKmM]?)(i?[bB])?", str(text))
    if not match:
        raise UsageError(f"--{option} {text}: write a number of bytes, as in 65536, 64k or 1M")
    return int(match[1]) * UNITS[match[2].lower()]


def check(plan: Plan, max_flash: str | int | None, max_ram: str | int | None) -> None:
    """Refuse a network that is larger than allowed, and name what takes most."""
    if max_flash is not None and plan.flash > (allowed := nbytes("max-flash", max_flash)):
        largest = sorted(plan.steps, key=lambda step: -step.flash)[:3]
        most = ", ".join(f"{step.layer} {step.flash:,}" for step in largest)
        raise UsageError(f"the constants take {plan.flash:,} bytes of flash, --max-flash allows {allowed:,}; most take {most}. Try --dtype int8")
    if max_ram is not None and 4 * plan.scratch > (allowed := nbytes("max-ram", max_ram)):
        step = max(plan.steps, key=lambda step: step.live)
        raise UsageError(
            f"the scratch memory takes {4 * plan.scratch:,} bytes, --max-ram allows {allowed:,}; it is fullest at {step.layer}: {4 * step.live:,}, of which "
            f"{4 * step.call.work:,} are work space. A smaller --input-shape, or --target cortex-m4, which works in smaller strips, needs less"
        )
