"""Exported C on other machines: what runs it there, and what to install where that is missing."""

import os
import shutil

import pytest

from rsk_deploy.converters.c import TARGETS

MACHINES = ("cortex-m4", "aarch64")


def needs(*tools, packages):
    """Skip without these tools, with what to install; fail in CI, which has them."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing and os.environ.get("CI") == "true":
        pytest.fail(f"CI has no {', '.join(missing)}: apt install {packages}")
    if missing:
        pytest.skip(f"no {', '.join(missing)}: apt install {packages}")


def needs_machine(target):
    """Skip or fail without what runs programs of the target."""
    emulator = TARGETS[target].emulator
    needs(TARGETS[target].compiler, emulator.commands[0], packages=" ".join(emulator.packages))
