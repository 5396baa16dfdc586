"""Long runs: how often 3 standard errors are left, and how often the alarm on performance is false."""

import numpy as np
import pytest

from gateway.monitor import cbpe, confusion
from gateway.monitor.cbpe import Performance
from gateway.monitor.performance import Watch
from tests.monitor.performance_rows import counted_rows, labels_counted

IDENTITY = ((0.0, 0.0), (1.0, 1.0))
pytestmark = pytest.mark.sim


def window(rng: np.random.Generator, rows: int) -> tuple[Performance, Performance]:
    """Realised and estimated of the same rows; about 6 % of positives."""
    scores = 1.0 / (1.0 + np.exp(-rng.normal(-4.0, 2.0, rows)))
    table = confusion.counted(labels_counted(scores, rng.random(rows) < scores))
    realised = Performance("realised", "ok", "", rows, confusion.metrics(table), confusion.standard_errors(table))
    return realised, cbpe.estimate(*counted_rows(scores, IDENTITY), calibration=IDENTITY, outside=0.0)


@pytest.mark.timeout(600)
def test_a_a_of_rare_positives() -> None:
    """20,000 windows of 2,000 rows. By chance 0.27 % of values are beyond 3 SE; skewed ones may be in 1 %.

    At one false alarm in 30 days performance has a share of 0.2: with windows of one hour 5.6 alarms in 20,000. With
    120 positives in a window 3 errors are more than the floor, so the floor does not help here.
    """
    rng = np.random.default_rng(2)
    truth = window(rng, 2_000_000)[1].values
    windows, beyond = 20_000, dict.fromkeys(confusion.METRICS, 0)
    references = window(rng, 50_000)
    bare, floored = [[Watch("realised", d), Watch("estimated", d)] for d in (0.0, 0.02)]
    false_alarms = {"bare": 0, "floored": 0}
    for _ in range(windows):
        both = window(rng, 2_000)
        for name, value in both[0].values.items():
            beyond[name] += abs(both[1].values[name] - value) > 3 * both[1].errors[name]
            beyond[name] += abs(truth[name] - both[1].values[name]) > 3 * both[1].errors[name]
        for name, watches in (("bare", bare), ("floored", floored)):
            for watch, seen, reference in zip(watches, both, references, strict=True):
                false_alarms[name] += watch.close(seen, reference).fired
    print(beyond, false_alarms)
    assert max(beyond.values()) <= 0.01 * windows, beyond
    assert max(false_alarms.values()) <= 5, false_alarms
