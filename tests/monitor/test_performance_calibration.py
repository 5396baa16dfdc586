"""Which calibration is chosen, when none is, and its error."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from gateway.monitor import calibration, isotonic
from gateway.monitor.calibration import chosen, ece
from tests.monitor.carloan_rows import DATA, fitted
from tests.parity import streams


def drawn(rows: int, seed: int = 1, bend: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Scores, and labels whose probability is score ** bend."""
    rng = np.random.default_rng(seed)
    scores = rng.beta(1.2, 1.5, rows)
    return scores, (rng.random(rows) < scores**bend).astype(float)


def test_bent_scores_are_calibrated_and_probabilities_are_left_alone() -> None:
    bent = chosen(*drawn(20_000, bend=2.0))
    assert (bent.kind, bent.reason) == ("isotonic", "")
    assert bent.ece_before > 0.1
    assert bent.ece_after < 0.012
    probability = isotonic.applied(bent.points, np.array([0.3, 0.6, 0.8]))
    assert probability == pytest.approx([0.09, 0.36, 0.64], abs=0.04)
    # Perfect scores: isotonic would only learn noise.
    plain = [chosen(*drawn(1_000, seed)).kind for seed in range(40)]
    assert plain.count("identity") >= 35


def test_car_loan_is_calibrated_as_nannyml_decides() -> None:
    cells = np.array([cell for chunk in DATA["reference"] for cell in chunk])
    _, scores, labels, _rows = np.repeat(cells, cells[:, 3], axis=0).T
    found = chosen(scores / 100, labels)
    assert (found.kind, found.rows, found.positives) == ("isotonic", 50_000, 24_979)
    assert found.points == fitted()
    assert found.ece_after < 0.005 < found.ece_before


@pytest.mark.parametrize("name", streams.scored())
def test_lines_as_nannyml_draws_them(name: str) -> None:
    golden = json.loads((Path(__file__).parents[1] / "parity" / "golden.json").read_text())["nannyml_calibration"][name]
    scores, labels = streams.scored()[name]
    ours = isotonic.applied(isotonic.fit(scores, labels), streams.SCORES)
    assert ours == pytest.approx(golden["calibrated"], abs=1e-12)
    # It bends scores that are probabilities, too: by design ours does not.
    assert golden["needs"]
    assert chosen(scores, labels).kind == ("identity" if name == "probabilities" else "isotonic")


def test_the_gate() -> None:
    def reason(scores: np.ndarray, labels: np.ndarray) -> str:
        found = chosen(scores, labels)
        assert found.points == ()
        assert found.kind == "none"
        return found.reason

    scores, labels = drawn(5_000)
    assert reason(scores[:999], labels[:999]) == "few_rows"
    rare = np.zeros(5_000)
    rare[:99] = 1
    assert reason(scores, rare) == "few_positives"
    assert reason(scores, 1 - rare) == "few_negatives"
    assert reason(scores * 3 - 1, labels) == "not_probabilities"
    # Positives in the middle alone: neither the scores nor any rising line can say so.
    assert reason(scores, (np.abs(scores - 0.5) < 0.2).astype(float)) == "badly_calibrated"
    assert math.isnan(chosen(scores[:9], labels[:9]).ece_before)
    for bad in ((scores[:5], labels[:4]), (scores * np.nan, labels), (scores, labels + 1)):
        with pytest.raises(ValueError, match="expected"):
            chosen(*bad)


def test_the_gate_lets_calibrated_scores_of_its_least_size_through() -> None:
    refused = sum(chosen(*drawn(calibration.MIN_ROWS, seed)).kind == "none" for seed in range(200))
    assert refused <= 10


def test_ece() -> None:
    p = np.repeat([0.1, 0.9], 100)
    y = np.r_[np.arange(100) < 20, np.arange(100) < 80].astype(float)
    assert ece(p, y, bins=2) == pytest.approx(0.1)
    assert ece(p, np.r_[np.arange(100) < 10, np.arange(100) < 90].astype(float), bins=2) == pytest.approx(0.0)
    assert ece([0.1, 0.2, 0.3, 0.4, 1.0], [0, 0, 0, 0, 1]) == pytest.approx(1.0 / 5)
    with pytest.raises(ValueError, match="at least 4"):
        ece([0.1], [0])
