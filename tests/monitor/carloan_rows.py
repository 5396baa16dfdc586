"""NannyML's car loans, counted by chunk: what its own model said of them, and what ours estimates from that.

Nothing here needs more than the gateway does, so that tests/parity/carloan.py can hold it against NannyML itself.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from gateway.monitor import cbpe, isotonic
from gateway.monitor.plan import CALIBRATED_UNIT, SCORE_BINS

DATA: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "carloan_counts.json").read_text())


def labelled(chunks: list[list[list[int]]]) -> Any:
    """Counts [decision, bin, label] of some chunks together."""
    counts = np.zeros((2, SCORE_BINS, 2), np.int64)
    for decision, hundredth, label, rows in (cell for chunk in chunks for cell in chunk):
        counts[decision, min(hundredth * 10, SCORE_BINS - 1), label] += rows
    return counts


def fitted() -> isotonic.Points:
    """The calibration that the whole reference teaches."""
    cells = [cell for chunk in DATA["reference"] for cell in chunk]
    return isotonic.fit([score / 100 for _, score, _, _ in cells], [c[2] for c in cells], [c[3] for c in cells])


def estimates() -> list[cbpe.Performance]:
    """Of each chunk of the analysis, from its counts."""
    points, found = fitted(), []
    for chunk in DATA["analysis"]:
        counts, sums = np.zeros((2, SCORE_BINS), np.int64), np.zeros((2, SCORE_BINS), np.int64)
        for decision, hundredth, _, rows in chunk:
            place = decision, min(hundredth * 10, SCORE_BINS - 1)
            counts[place] += rows
            probability = isotonic.applied(points, np.array([hundredth / 100]))[0]
            sums[place] += rows * round(probability / CALIBRATED_UNIT)
        found.append(cbpe.estimate(counts, sums, calibration=points, outside=0.0))
    return found
