"""docs/cli.md names every command, and no other."""

from collections.abc import Iterator
from typing import Any

import typer.main

from gateway.cli import application
from tests.docs.tables import DOCS, code, rows

TEXT = (DOCS / "cli.md").read_text()


def commands(group: Any, before: str = "") -> Iterator[str]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{before}{name} ")
        else:
            yield before + name


def test_every_command_is_documented_and_every_documented_one_exists() -> None:
    found = list(commands(typer.main.get_command(application())))
    assert len(found) > 30
    assert {code(row[0]) for row in rows(TEXT, "command")} == set(found)


def test_every_command_that_prints_has_json() -> None:
    # Those of the audit that are silent here are JSON by themselves.
    silent = {"serve", "config check", "config schema", "policy schema", "monitor schema", "audit show", "audit export"}
    without = set()

    def look(group: Any, before: str = "") -> None:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                look(command, f"{before}{name} ")
            elif not any("--json" in parameter.opts for parameter in command.params):
                without.add(before + name)

    look(typer.main.get_command(application()))
    assert without == silent
