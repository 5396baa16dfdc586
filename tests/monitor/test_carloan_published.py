"""What NannyML's documentation publishes of drift in the car loans, chunk by chunk, from the rows committed here.

Sources: its tutorials on univariate drift, on data reconstruction and on ranking (Apache-2.0).
Two columns are FP32 here: that moves none of the digits.
"""

import functools
from pathlib import Path

import numpy as np
import pytest

from examples.carloan.loans import DRIFTED, FEATURE_NAMES
from gateway.monitor import distances, reconstruction, significance
from tests.parity import compat

FILE = Path(__file__).parents[2] / "examples" / "carloan" / "data" / "car_loan.npz"
REFERENCE, CHUNK = 50_000, 5_000
TEXTS = frozenset({"salary_range", "repaid_loan_on_prev_car", "size_of_downpayment", "y_pred"})
"""What is a category for NannyML."""
DECIDED_FROM = 65
"""Per cent from which NannyML's model says that a loan will be repaid."""
JS = [0.031661, 0.030011, 0.031129, 0.029464, 0.030809, 0.028681, 0.043628, 0.029253, 0.030628, 0.028330]
KS = [0.01576, 0.01268, 0.01734, 0.01280, 0.01918, 0.00824, 0.01058, 0.01002, 0.01068, 0.00680]
ERRORS = [1.14152, 1.13064, 1.13891, 1.14504, 1.13756, 1.24921, 1.24310, 1.25815, 1.22818, 1.25988]
ERRORS_BEFORE = [
    1.136408, 1.134478, 1.136076, 1.140114, 1.126078, 1.142018, 1.125146, 1.143206, 1.130954, 1.127026
]  # fmt: skip
JS_ALERTS = {
    "car_value": 6,
    "salary_range": 5,
    "repaid_loan_on_prev_car": 5,
    "loan_length": 5,
    "y_pred_proba": 5,
    "y_pred": 2,
    "repaid": 2,
    "debt_to_income_ratio": 1,
    "size_of_downpayment": 0,
    "driver_tenure": 0,
}


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


@pytest.mark.parametrize(("method", "published", "limit", "alone"), [("js", JS, 0.039328, 6), ("ks", KS, 0.018584, 4)])
def test_the_debt_ratio_has_not_changed_and_alarms_by_three_deviations(
    method: str, published: list[float], limit: float, alone: int
) -> None:
    before, after = by_chunk("debt_to_income_ratio", method)
    assert after == pytest.approx(published, abs=6e-7)
    assert compat.nannyml_limits(np.array(before))[1] == pytest.approx(limit, abs=6e-7)
    assert alerts(before, after) == [alone]


def test_nor_is_that_chunk_of_the_debt_ratio_far_from_chance_by_our_test() -> None:
    ratio = columns()["debt_to_income_ratio"]
    reference, chunk = ratio[:REFERENCE], chunks(ratio[REFERENCE:])[6]
    edges = np.histogram_bin_edges(reference, bins="doane")
    counts = [np.histogram(column, edges)[0] for column in (reference, chunk)]
    assert 1e-3 < significance.homogeneity(counts[0], counts[1], ordered=True).p_value < 1e-2
    # The default floor is 0.1.
    assert distances.distances(counts[0], counts[1], True).psi < 0.02


@pytest.mark.parametrize("name", JS_ALERTS)
def test_alerts_by_jensen_shannon(name: str) -> None:
    found = alerts(*by_chunk(name, "js"))
    assert len(found) == JS_ALERTS[name]
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
    assert before == pytest.approx(ERRORS_BEFORE, abs=6e-7)
    assert after == pytest.approx(ERRORS, abs=6e-6)
    low, high = compat.nannyml_limits(np.array(before))
    assert (low, high) == pytest.approx((1.115281, 1.153019), abs=6e-7)
    assert [chunk for chunk, error in enumerate(after) if not low <= error <= high] == [5, 6, 7, 8, 9]
