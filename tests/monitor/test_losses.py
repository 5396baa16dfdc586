"""What a request for retraining says has been lost: the metric, its drops, and the windows that say so."""

import msgspec
import numpy as np
import pytest

from gateway.monitor.book import ModelMonitor
from gateway.monitor.cbpe import Basis, Performance
from gateway.monitor.counting import Counter, Counts, empty
from gateway.monitor.losses import LOOKS, Look, loss_of
from gateway.monitor.performance import Watch
from gateway.monitor.retrain import Facts
from gateway.monitor.settings import Retrain
from tests.monitor.test_settings_changed import ALONE, HOUR_MS, LOW, PLAN, ROLES, model, realised, reference, spec

RETRAIN = Retrain(url="http://127.0.0.1:9", dry_run=True)


def looks(basis: Basis, *accuracies: float, from_s: float = 0.0) -> list[Look]:
    """One an hour, of 500 rows each; precision is as it was."""
    watch, errors = Watch(basis), {"accuracy": 0.001, "precision": 0.001}
    was = Performance(basis, "ok", "", 9_000, {"accuracy": 0.95, "precision": 0.9}, errors)
    found = []
    for at, accuracy in enumerate(accuracies):
        now = Performance(basis, "ok", "", 500, {"accuracy": accuracy, "precision": 0.9}, errors)
        begin = from_s + 3_600 * at
        found.append(Look(watch.close(now, was), 500, begin, begin + 3_600))
    return found[-LOOKS:]


@pytest.mark.parametrize(
    ("estimated", "realised", "expected"),
    [
        ((0.95, 0.91, 0.91), (), (0.04, None, 1_000, 3_600, 10_800)),
        ((0.91, 0.95, 0.90), (), (0.05, None, 1_500, 0, 10_800)),
        ((0.95, 0.95, 0.91, 0.90), (), (0.05, None, 1_000, 7_200, 14_400)),
        ((), (0.9, 0.9), (None, 0.05, 1_000, 0, 7_200)),
        # What came true goes before what is estimated.
        ((0.92, 0.92), (0.9, 0.9), (0.03, 0.05, 1_000, 0, 7_200)),
        ((0.92, 0.92), (0.95, 0.94), (0.03, 0.01, 1_000, 0, 7_200)),
        # Nothing fires, as where the concept alone has drifted: the last look.
        ((0.95, 0.95), (0.95, 0.94), (0.0, 0.01, 500, 3_600, 7_200)),
    ],
)
def test_the_metric_the_drops_and_the_windows(
    estimated: tuple[float, ...],
    realised: tuple[float, ...],
    expected: tuple[float | None, float | None, int, float, float],
) -> None:
    found = loss_of(looks("estimated", *estimated), looks("realised", *realised))
    assert found.pop("metric") == "accuracy"
    assert list(found.values()) == pytest.approx(list(expected))
    assert list(found) == ["estimated_drop", "realised_drop", "rows", "window_from_s", "window_to_s"]


def test_a_number_of_another_time_is_not_known() -> None:
    old = looks("realised", 0.95, 0.95)
    found = loss_of(looks("estimated", 0.9, 0.9, from_s=7_200.0), old)
    assert (found["estimated_drop"], found["realised_drop"]) == (pytest.approx(0.05), None)
    assert loss_of([], []) == {}


def asked(one: ModelMonitor) -> Facts:
    (request,) = one.requests.asked
    return request.facts


def drifted(at: int) -> Counts:
    """The world has moved to rows whose scores are less sure."""
    rng, vector = np.random.default_rng(at), empty(PLAN)
    decided = rng.random(1_000) < 0.5
    scores = np.where(decided, 0.8, 0.2).reshape(-1, 1)
    Counter(PLAN).count([rng.random((1_000, 1)) ** 4], [scores], np.arange(1_000) % 2, vector)
    return vector


def test_an_estimate_that_falls_with_the_inputs_is_named() -> None:
    one = ModelMonitor("m", msgspec.structs.replace(spec(LOW), retrain=RETRAIN))
    one.watch({"1": reference()})
    for at in range(4):
        one.turn([(*ALONE, drifted(at))], ROLES, at * HOUR_MS)
    found = asked(one)
    assert (found.verdict, found.signals[0]) == ("world", "input_drift")
    assert found.metric in one.versions["1"].engine.history("-")[-1].performance.firing  # type: ignore[union-attr]
    assert found.estimated_drop == pytest.approx(0.15, abs=0.03)
    assert (found.realised_drop, found.rows) == (None, 2_000)
    assert found.window_to_s > found.window_from_s


def test_what_came_true_is_named_after_a_restart_too() -> None:
    before = model(LOW)
    assert [realised(before, at) for at in (0, 4)] == ["pending", "firing"]
    after = ModelMonitor("m", msgspec.structs.replace(spec(LOW), retrain=RETRAIN))
    after.watch({"1": reference()})
    after.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(before.state())))
    realised(after, 8)
    found = asked(after)
    assert (found.verdict, found.rows) == ("concept", 3 * 999)
    assert found.realised_drop == pytest.approx(0.15, abs=0.02)
    assert (found.window_from_s, found.window_to_s) == (0.0, 8 * 3_600 + 900)
