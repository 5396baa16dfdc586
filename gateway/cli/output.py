"""What commands print: tables for people, JSON for programs, one line for a failure."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


class Failure(Exception):
    """A command could not do what it was asked.

    Attributes:
        exit_code: 1 failed while running, 2 used wrongly, 3 a gate was not passed.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code


def fail(failure: Failure) -> int:
    """Print a failure as one line; gives the exit code."""
    print(f"tidegate: {failure.message}", file=sys.stderr)
    return failure.exit_code


def print(*values: object, file: Any = None) -> None:  # the one place that prints
    """Write a line."""
    stream = file or sys.stdout
    stream.write(" ".join(str(value) for value in values) + "\n")
    stream.flush()


def print_json(value: Any) -> None:
    """Write a value as indented JSON."""
    print(json.dumps(value, indent=2, default=str))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table; plain text when it does not go to a terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*["-" if cell is None or cell == "" else str(cell) for cell in row])
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False, markup=False, emoji=False)
    console.print(table)


def bytes_text(size: int | None) -> str:
    """A size for people."""
    return "-" if size is None else f"{size / 1024**2:.1f} MiB"
