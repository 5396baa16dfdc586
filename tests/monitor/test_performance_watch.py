"""The alarm on performance: 2 of 3, apart for estimated and realised, silent on A/A, resumed to the bit."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.monitor import cbpe, confusion
from gateway.monitor.cbpe import Performance
from gateway.monitor.performance import Verdict, Watch
from tests.monitor.performance_rows import counted_rows, labels_counted
from tests.monitor.test_performance_carloan import DATA, estimates, labelled

IDENTITY = ((0.0, 0.0), (1.0, 1.0))


def seen(accuracy: float, error: float = 0.001, basis: cbpe.Basis = "realised") -> Performance:
    return Performance(basis, "ok", "", 5_000, {"accuracy": accuracy}, {"accuracy": error})


REFERENCE = seen(0.95, 0.0)
BLIND = Performance("realised", "selective_labels", "low_coverage", 900, {"precision": 0.1}, {"precision": 0.01})


def states(watch: Watch, windows: list[Performance], reference: Performance = REFERENCE) -> list[str]:
    return [watch.close(window, reference).state for window in windows]


def test_two_of_three_fire_and_two_clean_ones_resolve() -> None:
    watch = Watch("realised")
    assert watch.state == "unknown"
    assert states(watch, [seen(0.95), seen(0.92), seen(0.95), seen(0.93)]) == ["ok", "pending", "ok", "firing"]
    # 0.017 lost is no hit any more, but not clean either: under 0.8 of the limit is.
    assert states(watch, [seen(0.933)] * 3) == ["firing"] * 3
    assert states(watch, [seen(0.95), seen(0.933), seen(0.95), seen(0.95)]) == ["firing"] * 3 + ["resolved"]
    assert states(watch, [seen(0.95)]) == ["ok"]


def test_hits_three_windows_apart_do_not_fire() -> None:
    assert "firing" not in states(Watch("realised"), [seen(0.9), seen(0.95), seen(0.95)] * 5)


def test_the_limit_is_the_floor_or_three_errors_of_the_difference() -> None:
    wide = Watch("realised")
    verdict = wide.close(seen(0.92, 0.008), seen(0.95, 0.006))
    assert verdict.drops[0].limit == pytest.approx(0.03)
    assert verdict.drops[0].hit
    assert not Watch("realised").close(seen(0.921, 0.008), seen(0.95, 0.006)).drops[0].hit
    assert Watch("realised").close(seen(0.931), REFERENCE).drops[0].hit is False
    assert Watch("realised", drop=0.01).close(seen(0.931), REFERENCE).drops[0].hit is True


def test_what_is_not_known_changes_nothing_and_never_resolves() -> None:
    watch = Watch("realised")
    few = Performance("realised", "insufficient", "few_labels", 3)
    assert states(watch, [BLIND, few]) == ["unknown", "insufficient"]
    assert states(watch, [seen(0.9), BLIND, few, seen(0.9), BLIND, few]) == [
        *("pending", "unknown", "insufficient", "firing", "firing", "firing"),
    ]
    assert watch.close(seen(0.9), BLIND).reason == "low_coverage"


def test_an_estimate_never_takes_traffic_away() -> None:
    for basis, may, severity in (("estimated", False, "warning"), ("realised", True, "critical")):
        watch = Watch(basis)  # type: ignore[arg-type]
        reference = seen(0.95, 0.0, basis)  # type: ignore[arg-type]
        verdicts = [watch.close(seen(0.5, 0.001, basis), reference) for _ in range(6)]  # type: ignore[arg-type]
        assert [verdict.fired for verdict in verdicts] == [False, True, False, False, False, False]
        assert [verdict.may_roll_back for verdict in verdicts] == [False] + [may] * 5
        assert {verdict.severity for verdict in verdicts[1:]} == {severity}
        assert verdicts[1].signal == f"performance_{basis}"
    with pytest.raises(AssertionError, match="same basis"):
        Watch("realised").close(seen(0.9), seen(0.9, basis="estimated"))


WINDOWS = st.lists(st.one_of(st.floats(0.85, 0.99).map(seen), st.just(BLIND)), max_size=30)


@given(WINDOWS, st.integers(0, 30))
def test_a_restart_goes_on_to_the_bit(windows: list[Performance], cut: int) -> None:
    through, first = Watch("realised"), Watch("realised")
    whole = [through.close(window, REFERENCE) for window in windows]
    parts = [first.close(window, REFERENCE) for window in windows[:cut]]
    again = Watch.from_plain(json.loads(json.dumps(first.plain())))
    parts += [again.close(window, REFERENCE) for window in windows[cut:]]
    assert parts == whole
    assert again.plain() == through.plain()


def test_car_loan_fires_at_the_second_bad_chunk_and_nowhere_before() -> None:
    found = estimates()
    reference = confusion.counted(labelled(DATA["reference"]))
    truth = Performance(
        "realised", "ok", "", 50_000, confusion.metrics(reference), confusion.standard_errors(reference)
    )
    expected = Performance("estimated", "ok", "", 50_000, truth.values, truth.errors)
    real, likely = Watch("realised"), Watch("estimated")
    verdicts: list[tuple[Verdict, Verdict]] = []
    for estimate, chunk in zip(found, DATA["analysis"], strict=True):
        table = confusion.counted(labelled([chunk]))
        seen_now = Performance("realised", "ok", "", 5_000, confusion.metrics(table), confusion.standard_errors(table))
        verdicts.append((real.close(seen_now, truth), likely.close(estimate, expected)))
    for verdict in zip(*verdicts, strict=True):
        assert [one.state for one in verdict] == ["ok"] * 5 + ["pending"] + ["firing"] * 4
    # Recall is estimated too low here (0.884 for 0.905) and precision too high, as by NannyML: why both are shown.
    assert set(verdicts[9][0].firing) == {"accuracy", "precision", "recall", "f1", "specificity"}
    assert set(verdicts[9][1].firing) == {"accuracy", "recall", "f1"}


def test_a_a_windows() -> None:
    """Without a floor a window is a hit once in 740 per metric; with the default floor nothing fires, ever."""
    rng = np.random.default_rng(11)
    bare, floored = Watch("realised", drop=0.0), Watch("realised")
    bare_estimate, floored_estimate = Watch("estimated", drop=0.0), Watch("estimated")
    references = _window(rng, 100_000)
    windows, hits, fired = 1_500, dict.fromkeys(confusion.METRICS, 0), 0
    for _ in range(windows):
        realised, estimated = _window(rng, 2_000)
        for watch, window, reference in (
            (bare, realised, references[0]),
            (bare_estimate, estimated, references[1]),
        ):
            for drop in watch.close(window, reference).drops:
                hits[drop.metric] += drop.hit
        fired += floored.close(realised, references[0]).state == "firing"
        fired += floored_estimate.close(estimated, references[1]).state == "firing"
    assert fired == 0
    # Binomial at 1 in 740 for 3,000 windows (an estimate varies less), and a reference that itself lies somewhere.
    mean = 2 * windows * 0.00135
    assert max(hits.values()) <= mean + 5 * math.sqrt(mean), hits


def _window(rng: np.random.Generator, rows: int) -> tuple[Performance, Performance]:
    scores: Any = 1.0 / (1.0 + np.exp(-rng.normal(-0.3, 2.5, rows)))
    table = confusion.counted(labels_counted(scores, rng.random(rows) < scores))
    realised = Performance("realised", "ok", "", rows, confusion.metrics(table), confusion.standard_errors(table))
    return realised, cbpe.estimate(*counted_rows(scores, IDENTITY), calibration=IDENTITY, outside=0.0)
