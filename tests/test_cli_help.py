"""The help of the commands, as a terminal shows it."""

import re

import pytest
from typer.testing import CliRunner

from rsk_deploy.cli import export, inspect
from rsk_deploy.registry import CONVERTERS, converter_named

SHARED = {"target", "sample"}
"""Options of a format that are told with those of all."""


@pytest.mark.parametrize("command", [export.main, inspect.main], ids=["rsk-export", "rsk-inspect"])
@pytest.mark.parametrize("columns", [80, 120])
def test_the_help_fits_the_terminal_and_gives_most_of_it_to_words(command, columns):
    text = CliRunner(env={"COLUMNS": str(columns)}).invoke(command, ["--help"]).stdout
    boxed = [line for line in text.splitlines() if line.startswith(("╭", "│"))]
    assert {len(line) for line in boxed} == {columns}
    assert max(len(re.match(r"│[ *]*--\S+(  .*?)?  (?=[A-Z][a-z]+ )|", line)[0]) for line in boxed) <= columns / 2 + 6


def test_the_help_says_which_options_a_format_has_alone():
    panels = CliRunner(env={"COLUMNS": "80"}).invoke(export.main, ["--help"]).stdout.split("╭")
    for name in CONVERTERS:
        own = {f"--{option.replace('_', '-')}" for option in converter_named(name).OPTIONS - SHARED}
        told = [set(re.findall(r"│ (--[a-z-]+)", panel)) for panel in panels if f"Only with --format {name} " in panel]
        assert told == ([own] if own else [])
