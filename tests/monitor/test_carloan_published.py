"""NannyML's figures of drift in the car loans, chunk by chunk, from the rows committed here: as published, and as run.

Two columns are FP32 here, which moves rebuilt rows by 1e-8 and no row from one bin to another.
"""

import functools
import json
from pathlib import Path

import numpy as np
import pytest

from examples.carloan.loans import DRIFTED, FEATURE_NAMES
from gateway.monitor import distances, reconstruction, significance
from tests.parity import compat, published

NANNYML = json.loads((Path(__file__).parents[1] / "parity" / "golden.json").read_text())["nannyml_car_loan"]["drift"]
FILE = Path(__file__).parents[2] / "examples" / "carloan" / "data" / "car_loan.npz"
REFERENCE, CHUNK = 50_000, 5_000
TEXTS = frozenset({"salary_range", "repaid_loan_on_prev_car", "size_of_downpayment", "y_pred"})
"""What is a category for NannyML."""
DECIDED_FROM = 65
"""Per cent from which NannyML's model says that a loan will be repaid."""


@functools.cache
def columns() -> dict[str, np.ndarray]:
    with np.load(FILE, allow_pickle=False) as file:
        found = {name: file[name] for name in file.files}
    found["y_pred"] = (found["y_pred_proba"] >= DECIDED_FROM).astype(np.uint8)
    return {name: column if name in TEXTS else column.astype(np.float64) for name, column in found.items()}


def chunks(column: np.ndarray) -> list[np.ndarray]:
    return [column[at : at + CHUNK] for at in range(0, len(column), CHUNK)]


def by_chunk(name: str, method: str) -> tuple[list[float], list[float]]:
    """A distance from the whole reference: of the reference's chunks, of the analysis's."""
    column = columns()[name]
    reference = column[:REFERENCE]
    found = [
        compat.nannyml_js(reference, part, name not in TEXTS) if method == "js" else compat.nannyml_ks(reference, part)
        for part in chunks(column)
    ]
    return found[: REFERENCE // CHUNK], found[REFERENCE // CHUNK :]


def alerts(before: list[float], after: list[float]) -> list[int]:
    """Chunks above NannyML's upper limit."""
    limit = compat.nannyml_limits(np.array(before))[1]
    return [chunk for chunk, value in enumerate(after) if value > limit]


@pytest.mark.parametrize(
    ("method", "said", "limit", "alone"),
    [("js", published.JS, published.JS_LIMIT, 6), ("ks", published.KS, published.KS_LIMIT, 4)],
)
def test_the_debt_ratio_has_not_changed_and_alarms_by_three_deviations(
    method: str, said: list[float], limit: float, alone: int
) -> None:
    before, after = by_chunk("debt_to_income_ratio", method)
    assert after == pytest.approx(said, abs=6e-7)
    assert after == pytest.approx(NANNYML[method], abs=1e-12)
    upper = compat.nannyml_limits(np.array(before))[1]
    assert (upper, upper) == (pytest.approx(limit, abs=6e-7), pytest.approx(NANNYML[f"{method}_limit"], abs=1e-12))
    assert alerts(before, after) == [alone]


def test_nor_is_that_chunk_of_the_debt_ratio_far_from_chance_by_our_test() -> None:
    ratio = columns()["debt_to_income_ratio"]
    reference, chunk = ratio[:REFERENCE], chunks(ratio[REFERENCE:])[6]
    edges = np.histogram_bin_edges(reference, bins="doane")
    counts = [np.histogram(column, edges)[0] for column in (reference, chunk)]
    assert 1e-3 < significance.homogeneity(counts[0], counts[1], ordered=True).p_value < 1e-2
    # The default floor is 0.1.
    assert distances.distances(counts[0], counts[1], True).psi < 0.02


@pytest.mark.parametrize("name", published.JS_ALERTS)
def test_alerts_by_jensen_shannon(name: str) -> None:
    found = alerts(*by_chunk(name, "js"))
    assert len(found) == published.JS_ALERTS[name]
    assert found == NANNYML["js_alerts"][name]
    if name in DRIFTED:
        assert set(found) >= {5, 6, 7, 8, 9}, "what has changed stays changed"
    elif name in FEATURE_NAMES:
        assert len(found) <= 1


def test_errors_of_rows_rebuilt_from_components() -> None:
    def numbers(name: str) -> np.ndarray:
        column = columns()[name]
        if name not in TEXTS:
            return column
        counts = np.bincount(column[:REFERENCE])
        return reconstruction.shares(counts, 0, REFERENCE)[column]

    table = np.column_stack([numbers(name) for name in FEATURE_NAMES])
    made = reconstruction.fit(table[:REFERENCE], np.full(table.shape[1], np.nan))
    means = [float(part.mean()) for part in chunks(made.errors(table))]
    before, after = means[: REFERENCE // CHUNK], means[REFERENCE // CHUNK :]
    assert before == pytest.approx(published.ERRORS_BEFORE, abs=6e-7)
    assert after == pytest.approx(published.ERRORS, abs=6e-6)
    assert means == pytest.approx(NANNYML["errors"], abs=1e-8)
    low, high = compat.nannyml_limits(np.array(before))
    assert (low, high) == pytest.approx(published.ERROR_LIMITS, abs=6e-7)
    assert [low, high] == pytest.approx(NANNYML["error_limits"], abs=1e-8)
    assert [chunk for chunk, error in enumerate(after) if not low <= error <= high] == [5, 6, 7, 8, 9]
