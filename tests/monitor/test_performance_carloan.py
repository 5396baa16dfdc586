"""Car loan, chunk by chunk, against NannyML: its published tables, and a run of it (tests/parity/carloan.py)."""

import json
from pathlib import Path

import numpy as np
import pytest

from gateway.monitor import cbpe, confusion
from tests.monitor.carloan_rows import DATA, estimates, fitted, labelled

NANNYML = json.loads((Path(__file__).parents[1] / "parity" / "golden.json").read_text())["nannyml_car_loan"]
ORACLE = NANNYML["metrics"]
# Source: NannyML documentation, tutorials "Estimating Standard Performance Metrics - Binary Classification" and
# "Calculating Standard Performance Metrics - Binary Classification" (Apache-2.0).
PUBLISHED = {
    ("roc_auc", "estimated"): [
        0.970744, 0.971011, 0.971407, 0.971091, 0.971123, 0.961090, 0.961825, 0.961073, 0.962533, 0.961316
    ],
    ("roc_auc", "realised"): [
        0.970962, 0.970248, 0.976282, 0.967721, 0.969886, 0.960050, 0.958530, 0.959041, 0.963094, 0.957556
    ],
    ("accuracy", "estimated"): [
        0.941792, 0.943321, 0.945492, 0.944816, 0.944645, 0.910714, 0.911149, 0.911193, 0.914389
    ],
    ("accuracy", "realised"): [0.9422, 0.9422, 0.9502, 0.9436, 0.9410, 0.9146, 0.9156, 0.9144, 0.9224, 0.9122],
    ("f1", "estimated"): [
        0.943030, 0.941324, 0.943574, 0.943159, 0.944204, 0.911753, 0.911766, 0.911661, 0.913763, 0.914751
    ],
    ("recall", "estimated"): [0.928723, 0.925261, 0.929317, 0.929713, 0.930604, 0.883990, 0.883528, 0.885501],
    ("recall", "realised"): [
        0.930394, 0.923922, 0.938246, 0.925060, 0.927577, 0.905086, 0.899010, 0.901718, 0.906124, 0.905823
    ],
}  # fmt: skip
LIMITS = {
    "roc_auc": (0.963317, 0.978660),
    "accuracy": (0.935859, 0.951421),
    "f1": (0.934660, 0.950850),
    "recall": (0.917100, 0.941033),
}
ERRORS = {"roc_auc": 0.001811, "accuracy": 0.003261, "f1": 0.006440, "recall": 0.005137}
"""NannyML's standard errors, as published."""


def test_calibrated_as_by_nannyml() -> None:
    assert NANNYML["needs"]
    assert np.array(fitted()) == pytest.approx(np.array(NANNYML["points"]), abs=1e-12)


def test_estimates_as_nannyml() -> None:
    found = estimates()
    for metric in confusion.METRICS:
        ours = [estimate.values[metric] for estimate in found]
        # NannyML rounds cumulated masses to 5 places before it takes AUC and average precision.
        assert ours == pytest.approx(ORACLE[metric]["estimated"], abs=1e-9 if metric not in cbpe.RANKED else 1e-8)


def test_realised_as_nannyml() -> None:
    for chunk in range(10):
        ours = confusion.metrics(confusion.counted(labelled(DATA["analysis"][chunk : chunk + 1])))
        assert ours == pytest.approx({m: ORACLE[m]["realised"][chunk] for m in confusion.METRICS}, abs=1e-12)


@pytest.mark.parametrize(("metric", "basis"), PUBLISHED)
def test_as_published(metric: str, basis: str) -> None:
    published = PUBLISHED[metric, basis]
    if basis == "estimated":
        ours = [estimate.values[metric] for estimate in estimates()]
    else:
        ours = [confusion.metrics(confusion.counted(labelled([chunk])))[metric] for chunk in DATA["analysis"]]
    assert ours[: len(published)] == pytest.approx(published, abs=6e-7)


@pytest.mark.parametrize("metric", LIMITS)
def test_thresholds_as_published(metric: str) -> None:
    values = [confusion.metrics(confusion.counted(labelled([chunk])))[metric] for chunk in DATA["reference"]]
    mean, deviation = float(np.mean(values)), float(np.std(values))
    assert (mean - 3 * deviation, mean + 3 * deviation) == pytest.approx(LIMITS[metric], abs=6e-7)


@pytest.mark.parametrize("metric", LIMITS)
def test_estimates_of_chunks_5_to_9_alone_are_beyond_the_published_thresholds(metric: str) -> None:
    low, high = LIMITS[metric]
    beyond = [not low <= estimate.values[metric] <= high for estimate in estimates()]
    assert beyond == ORACLE[metric]["alert"] == [False] * 5 + [True] * 5
    if metric == "roc_auc":
        # What came true in chunk 8 is just so below the limit: one window more or less proves nothing.
        assert 0 < low - PUBLISHED["roc_auc", "realised"][8] < 3e-4


def test_standard_errors_against_nannyml() -> None:
    """Equal where both are binomial; F1 and AUC differ as the module says, by factors that are known."""
    table = confusion.counted(labelled(DATA["reference"]))
    ours = {name: error * np.sqrt(10.0) for name, error in confusion.standard_errors(table).items()}
    theirs = {name: ORACLE[name]["sampling_error"] for name in confusion.METRICS}
    for name in ("accuracy", "precision", "recall", "specificity"):
        assert ours[name] == pytest.approx(theirs[name], rel=1e-9)
    for name in ("accuracy", "recall"):
        assert ours[name] == pytest.approx(ERRORS[name], abs=6e-7)
    q = table.true_positives / (table.true_positives + table.false_positives + table.false_negatives)
    assert ours["f1"] * (1 + q) == pytest.approx(theirs["f1"], rel=1e-9)
    assert theirs["f1"] == pytest.approx(ERRORS["f1"], abs=6e-7)
    # Published: .001811, a run of today: .001814; the order of tied rows differs. It leaves out one of the two classes.
    assert theirs["roc_auc"] == pytest.approx(ERRORS["roc_auc"], abs=5e-6)
    assert theirs["roc_auc"] < ours["roc_auc"] < theirs["roc_auc"] * np.sqrt(2.2)


def test_chunks_5_to_9_and_no_other_are_worse_than_the_reference_and_an_estimate_says_so_without_labels() -> None:
    whole = confusion.metrics(confusion.counted(labelled(DATA["reference"])))
    drops = [whole["accuracy"] - estimate.values["accuracy"] >= 0.02 for estimate in estimates()]
    assert drops == [False] * 5 + [True] * 5
