"""`reference: champion` over two versions: the canary's windows beside what stable is asked in the same time."""

from typing import Any

import msgspec
import numpy as np
import pytest

from gateway.monitor.book import ModelMonitor, Roles
from gateway.monitor.counting import Counter, Counts, empty
from gateway.monitor.plan import CountPlan, FeaturePlan, ScorePlan
from gateway.monitor.reference import Binding, Reference, identified
from gateway.monitor.results import WindowResult
from gateway.monitor.settings import ReferenceFrom, Spec, Window

EDGES = (-2.0, -1.0, 0.0, 1.0, 2.0)
PLAN = CountPlan("", (FeaturePlan("a", "numeric", 0, 0, EDGES),), ScorePlan(0, -1, "probability"))
STABLE, CANARY = ("1", "stable"), ("2", "canary")
ROLES = Roles(champion=STABLE, canary=CANARY, live=frozenset({STABLE, CANARY}))
SPEC = Spec(window=Window(rows=1000), reference=ReferenceFrom(champion=True))


def counts(rng: np.random.Generator, rows: int, *, shift: float = 0.0, score: float = 0.0, plan: Any = PLAN) -> Counts:
    vector, values = empty(plan), rng.normal(shift, 1.0, (rows, 1))
    scores = 1 / (1 + np.exp(-values - score))
    Counter(plan).count([values], [scores], np.zeros(rows, np.int64), vector)
    return vector


def referenced(plan: CountPlan, digest: str) -> Reference:
    return identified(Reference(plan, counts(np.random.default_rng(1), 50_000, plan=plan), Binding(digest, (), ())))


def monitor(other: CountPlan = PLAN) -> ModelMonitor:
    found = ModelMonitor("m", SPEC)
    found.watch({"1": referenced(PLAN, "x"), "2": referenced(other, "y")})
    return found


def judged(model: ModelMonitor, *, shift: float = 0.0, score: float = 0.0) -> list[WindowResult]:
    """Windows of the canary; inputs of both are shifted, answers of the canary alone."""
    rng, found = np.random.default_rng(7), []
    for minute in range(200):
        # The canary's counts come first: within a turn the order is by chance.
        deltas = [(*CANARY, counts(rng, 50, shift=shift, score=score)), (*STABLE, counts(rng, 50, shift=shift))]
        closed = model.turn(deltas, ROLES, minute * 60_000).closed
        found += [one.result for version, one in closed if version == "2"]
    return found


def test_the_world_moves_both_and_no_alarm_is_the_canarys() -> None:
    found = judged(monitor(), shift=1.0)
    assert len(found) >= 9
    assert {(one.reason, one.reference_origin) for one in found[1:]} == {("", "champion")}
    assert all(900 <= one.reference_rows <= 1100 for one in found[1:])
    assert not any(one.firing for one in found)


def test_answers_of_the_canary_alone_are_found() -> None:
    assert "prediction" in judged(monitor(), score=1.0)[-1].firing


def test_the_champion_itself_is_compared_with_its_file() -> None:
    model = monitor()
    judged(model, shift=1.0)
    last = model.versions["1"].engine.history("stable")[-1]
    assert (last.reference_origin == "champion", "input" in last.firing) == (False, True)


def test_how_scores_are_calibrated_does_not_matter() -> None:
    assert PLAN.score is not None
    score = msgspec.structs.replace(PLAN.score, calibration=((0.0, 0.1), (1.0, 0.9)))
    assert not any(one.reason for one in judged(monitor(msgspec.structs.replace(PLAN, score=score)))[1:])


def test_other_edges_cannot_be_compared_and_it_is_said() -> None:
    feature = msgspec.structs.replace(PLAN.features[0], edges=(-2.0, -1.0, 0.5, 1.0, 2.0))
    found = judged(monitor(msgspec.structs.replace(PLAN, features=(feature,))))
    assert {one.reason for one in found} == {"other_edges"}


def test_other_edges_are_no_matter_of_other_references() -> None:
    feature = msgspec.structs.replace(PLAN.features[0], edges=(-2.0, -1.0, 0.5, 1.0, 2.0))
    model = ModelMonitor("m", msgspec.structs.replace(SPEC, reference=ReferenceFrom(previous_ms=86_400_000)))
    model.watch({"1": referenced(PLAN, "x"), "2": referenced(msgspec.structs.replace(PLAN, features=(feature,)), "y")})
    rng = np.random.default_rng(7)
    other = msgspec.structs.replace(PLAN, features=(feature,))
    closed = [model.turn([(*CANARY, counts(rng, 1000, plan=other))], ROLES, at * 60_000).closed for at in range(2)]
    assert {one.result.reason for each in closed for _, one in each} == {"no_reference"}


@pytest.mark.parametrize("version", ["1", "2"])
def test_a_promotion_changes_who_is_compared_with_whom(version: str) -> None:
    model = monitor()
    judged(model)
    champion = next(one for one in (STABLE, CANARY) if one[0] == version)
    model.turn([], Roles(champion=champion, live=ROLES.live), 300 * 60_000)
    engines = {name: one.engine for name, one in model.versions.items()}
    assert {name: (one.champion, one.abroad) for name, one in engines.items()} == {
        name: (champion[1], False) if name == version else ("", True) for name in engines
    }


def test_it_goes_on_after_a_restart() -> None:
    model, again = monitor(), monitor()
    judged(model, shift=1.0)
    again.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(model.state())))
    assert not any(one.reason or one.firing for one in judged(again, shift=1.0)[1:])
