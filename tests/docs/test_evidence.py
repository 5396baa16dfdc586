"""docs/evidence.md says what the code does: constants, the plan table, and no promise that was not kept."""

from pathlib import Path

import pytest

from router.evidence import eprocess, promotion, sequences, srm
from tests.simulation.evidence import report

PAGE = (Path(__file__).parents[2] / "docs" / "evidence.md").read_text()


def listed(numbers: tuple[float, ...]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)


SAID = [
    f"R in R0 x {{{listed(eprocess.HARM_MULTIPLES)}}}",
    f"after every {eprocess.EVENTS_PER_START} further",
    f"({listed(eprocess.SHIFT_MULTIPLES)} times",
    f"m in {{{listed(promotion.BELOW_MULTIPLES)}}}",
    f"from {sequences.MIN_UNITS} units",
    f"concentration {srm.CONCENTRATION:,.0f}",
    f"held at p <= {srm.THRESHOLD:g}",
    f"`margin.absolute` ({promotion.Margin().absolute:.1%} by default)".replace("%", " %"),
    report.table(report.PLANS, report.plans()),
    "python -m tests.simulation.evidence.report",
]


@pytest.mark.parametrize("said", SAID)
def test_the_page_says(said: str) -> None:
    assert said in PAGE


def test_the_grid_of_promotion_is_the_one_that_is_written_short() -> None:
    assert "{0.4, 0.5 ... 0.9}" in PAGE
    assert list(promotion.SAFE_MULTIPLES) == pytest.approx([0.4 + 0.1 * i for i in range(6)])


def test_the_tables_hold_every_test_and_no_broken_promise() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ")]
    for name in ("T1", "T2", "T3", "T4", "T5", "T6", "T7", "C2", "B3", "B4"):
        assert any(row.startswith(f"| {name} | ") and row.count(" | ") > 3 for row in rows), name
    assert not [row for row in rows if row.endswith(" NO |") or " NO | " in row]
