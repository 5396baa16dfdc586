"""Numbers in docs/performance.md are those of the code."""

from pathlib import Path

import pytest

from gateway.monitor import calibration, cbpe, fairness, performance, realised

PAGE = " ".join((Path(__file__).parents[2] / "docs" / "performance.md").read_text().split())


@pytest.mark.parametrize(
    "said",
    [
        f"fewer than {calibration.MIN_ROWS:,} rows or {calibration.MIN_CLASS} of a class",
        f"off by more than {calibration.MOST_ECE}",
        f"More than {cbpe.MOST_OUTSIDE:.0%}".replace("%", " %"),
        f"`labels.min_coverage` ({realised.MIN_COVERAGE})",
        f"`floors.performance_drop` ({performance.DROP})",
        f"by {performance.TIMES:g} standard errors",
        f"under {performance.NEARLY} of that limit",
        f"under {fairness.FOUR_FIFTHS} asks",
        f"`groups.min_size` ({fairness.MIN_SIZE})",
        f"groups under {fairness.LEAST_SHOWN} are not shown",
        "`no_calibrator`",
        "`outside_reference`",
        "`few_rows`",
        "`selective_labels`",
    ],
)
def test_the_page_says(said: str) -> None:
    assert said in PAGE
