"""The options that several commands share, and how their values are written."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated, Any

import typer

from rsk_deploy.cli.console import version
from rsk_deploy.errors import UsageError
from rsk_deploy.readers import ReadOptions


class RskMode(StrEnum):
    """What becomes of a random sparse kernel."""

    MEAN = "mean"
    TOPK = "topk"
    SAMPLE = "sample"


class Dynamic(StrEnum):
    """What can be left open."""

    BATCH = "batch"


def flag(*names: str, help: str, panel: str | None = None) -> Any:
    """A switch: an option without a value, told without a type."""
    return typer.Option(*names, metavar="", help=help, rich_help_panel=panel)


READING = "Reading the model"
InputShape = Annotated[
    list[str] | None,
    typer.Option("--input-shape", metavar="N,C,H,W", help="Shape of the input; NAME=N,C,H,W once per input if there are several.", rich_help_panel=READING),
]
DynamicOption = Annotated[Dynamic | None, typer.Option("--dynamic", metavar="batch", help="Leave the batch size open in the file.", rich_help_panel=READING)]
Arch = Annotated[str | None, typer.Option(metavar="NAME", help="Architecture of a bare state dict: a zoo name, or module:callable.", rich_help_panel=READING)]
ArchArgs = Annotated[
    list[str] | None, typer.Option("--arch-args", metavar="KEY=VALUE", help="Argument of the architecture; repeatable.", rich_help_panel=READING)
]
AllowPickle = Annotated[bool, flag("--allow-pickle", help="Open files that run code when opened. Only for files you trust.", panel=READING)]
Rsk = Annotated[
    RskMode, typer.Option("--rsk", help="Random sparse kernels: their mean (exact, dense), the largest weights, or one random mask.", rich_help_panel=READING)
]
RskSeed = Annotated[int, typer.Option("--rsk-seed", metavar="N", min=1, help="Seed of --rsk sample.", rich_help_panel=READING)]
Version = Annotated[bool, typer.Option("--version", metavar="", callback=version, is_eager=True, help="Print the version and stop.")]
AsJson = Annotated[bool, flag("--json", help='Print one JSON document instead of text; of a refusal {"error": …, "exit": …}.')]


def read_options(
    input_shape: list[str] | None, dynamic: Dynamic | None, arch: str | None, arch_args: list[str] | None, allow_pickle: bool, rsk: RskMode, rsk_seed: int
) -> ReadOptions:
    """The readers' options from the command line's."""
    return ReadOptions(
        input_shape=shapes(input_shape or []),
        dynamic_batch=dynamic is not None,
        arch=arch,
        arch_args=dict(map(key_value, arch_args or [])),
        allow_pickle=allow_pickle,
        rsk_mode=rsk.value,
        rsk_seed=rsk_seed,
    )


def shapes(texts: list[str]) -> tuple[int, ...] | dict[str, tuple[int, ...]] | None:
    """``["1,3,32,32"]`` → one shape; ``["a=1,3", "b=1,4"]`` → shapes by input name."""
    named = {name: shape(text) for name, _, text in (text.rpartition("=") for text in texts)}
    if len(named) != len(texts) or ("" in named and len(named) > 1):
        raise UsageError(f"--input-shape {' '.join(texts)}: give one shape, or NAME=SHAPE once per input")
    return named.get("", named) if named else None


def shape(text: str) -> tuple[int, ...]:
    """``"1,3,32,32"`` → (1, 3, 32, 32)."""
    try:
        dims = tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        dims = ()
    if not dims or min(dims) < 1:
        raise UsageError(f"--input-shape {text}: not a shape; write positive numbers as in 1,3,32,32")
    return dims


def key_value(text: str) -> tuple[str, Any]:
    """``"width=64"`` → ("width", 64): a value that is JSON is taken as such, else as text."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(f"--arch-args {text}: write KEY=VALUE, as in classes=10")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, {"True": True, "False": False, "None": None}.get(value, value)
