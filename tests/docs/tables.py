"""Markdown tables as data."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def rows(text: str, first: str) -> list[list[str]]:
    """Cells of every table whose first column is called `first`."""
    found: list[list[str]] = []
    inside = False
    for line in text.splitlines():
        if not line.startswith("|"):
            inside = False
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] == first:
            inside = True
        elif inside and not set(line) <= set("|- :"):
            found.append(cells)
    return found


def code(cell: str) -> str:
    """What stands between the first two backticks."""
    return cell.split("`")[1]
