"""Any sequence of ticks obeys the laws: random views, people, edits, outages, takeovers and clocks."""

from typing import Any, get_args

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from router.rollout.observed import Command, CommandKind, LocalZero, Observed, Verdict
from router.rollout.spec import Checks, OnFailure, RolloutSpec
from router.rollout.status import RolloutStatus
from tests.rollout.laws import Laws, tick
from tests.rollout.tower import MINUTE, PASSES, RELEASE, SECOND, TRIPPED, a_spec, command, shadow, step

RAMP = (
    shadow(20, min_samples=5),
    step(1, min_units=5, min_duration_ms=2 * SECOND),
    step(50, approval=RELEASE),
    step(100),
)
SPECS: tuple[RolloutSpec | None, ...] = (
    a_spec(steps=RAMP),
    a_spec(steps=RAMP[1:], four_eyes=True),
    a_spec(steps=(step(0.5), shadow(50), step(2, approval=RELEASE), step(80))),
    a_spec(steps=RAMP[:3], on_timeout="promote", max_duration_ms=2 * MINUTE),
    a_spec(steps=RAMP, on_timeout="rollback", max_duration_ms=2 * MINUTE, checks=Checks(srm="rollback")),
    a_spec(steps=RAMP, canary_digest="sha256:cc", on_failure=OnFailure(do="warn", keep_loaded_ms=MINUTE)),
    a_spec(steps=RAMP, canary_digest="sha256:cc", on_failure=OnFailure(do="hold")),
    a_spec(steps=RAMP, canary_digest="sha256:aa", stable_digest="sha256:bb"),
    a_spec(steps=RAMP, canary_digest="sha256:bb", stable_digest="sha256:bb"),
    None,
)
# What may go wrong in a tick. A script is a list of ticks, most of them without any of these: else nothing gets far.
ODD: tuple[dict[str, Any], ...] = (
    {"store": False},
    {"fresh": False},
    {"acked": -2},
    {"behind": 5},
    {"lagging": ("w1",)},
    {"identity": "another"},
    {"visit": 0},
    {"verdicts": {"error_rate": TRIPPED, "latency": PASSES}},
    {"verdicts": {"error_rate": PASSES}},
    {"verdicts": {"error_rate": PASSES, "latency": Verdict()}},
    {"verdicts": {"error_rate": Verdict(insufficient=True), "latency": PASSES}},
    {"verdicts": {"error_rate": PASSES, "latency": Verdict(passes=True, saturated=True)}},
    {"canary_units": 1},
    {"samples": 1},
    {"srm_p": 0.0},
    {"srm_p": float("nan")},
    {"expected_canary": 10},
    {"signals": ("queue_wait", "unknown")},
    {"canary_ready": False},
    {"canary_failed": "bad file", "canary_ready": False},
    {"killed": True},
    {"canary_crashes": 3},
    {"zeroed": (LocalZero("w1", "failures"),)},
    {"window_open": False},
    {"applied_by": "ann"},
    {"token": 1},
    {"token": -1},
    {"clock_ms": -MINUTE},
    {"clock_ms": 3 * MINUTE},
    *({"spec": spec} for spec in SPECS),
)
SAID: tuple[tuple[CommandKind, str, dict[str, Any]], ...] = (
    *((kind, actor, {}) for kind in get_args(CommandKind) for actor in ("ann", "zoe")),
    *(("promote", "ann", {}),) * 2,
    *(("retry", "ann", {}),) * 4,
    ("approve", "bob", {"labels": ()}),
    ("approve", "ann", {"step": 1}),
    ("abort", "ann", {"identity": "another"}),
    ("retry", "ann", {"reason": ""}),
)
SCRIPTS = st.lists(
    st.tuples(
        st.integers(1, 12),  # calm ticks before
        st.lists(st.sampled_from(ODD), max_size=2),
        st.lists(st.sampled_from(SAID), max_size=2),
    ),
    min_size=1,
    max_size=25,
)


class Play:
    """A document that a script happens to."""

    def __init__(self, spec: RolloutSpec | None) -> None:
        self.spec, self.status, self.laws = spec, RolloutStatus(), Laws()
        self.now_ms, self.revision, self.token, self.number = 1_000_000, 1, 1, 0

    def tick(self, odd: dict[str, Any], said: list[tuple[CommandKind, str, dict[str, Any]]]) -> None:
        """One tick, with everything that is odd in it; only approvals are given by themselves."""
        self.spec = odd.pop("spec", self.spec)
        self.now_ms += odd.pop("clock_ms", SECOND)
        self.token = max(1, self.token + odd.pop("token", 0))
        revision = max(0, self.revision - odd.pop("behind", 0))
        if not said and self.status.phase == "DECIDING":
            said = [("approve", "ann", {})]
        given: dict[str, Any] = {
            "token": self.token,
            "revision": revision,
            "fresh": True,
            "acked_revision": max(0, revision + odd.pop("acked", 0)),
            "identity": self.status.identity,
            "visit": self.status.visit,
            "verdicts": {"error_rate": PASSES, "latency": PASSES},
            "canary_units": 10,
            "stable_units": 10,
            "samples": 10,
            "canary_ready": True,
            "applied_by": "zoe",
            "commands": tuple(self._command(*one) for one in said),
            "cursors": {"w1/1": self.revision},
            "evidence": str(self.revision),
        }
        one = tick(self.spec, self.status, Observed(**(given | odd)), self.now_ms)
        self.laws.check(one)
        self.status, self.revision = one.after, self.revision + 1

    def _command(self, kind: CommandKind, actor: str, rest: dict[str, Any]) -> Command:
        self.number += 1
        return command(kind, actor, **({"id": str(self.number)} | rest))


def perform(spec: RolloutSpec | None, script: list[Any]) -> None:
    play = Play(spec)
    for calm, odd, said in script:
        for _ in range(calm):
            play.tick({}, [])
        play.tick({key: value for one in odd for key, value in one.items()}, said)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(SPECS), SCRIPTS)
def test_every_tick_obeys_the_laws(spec: RolloutSpec | None, script: list[Any]) -> None:
    perform(spec, script)


@pytest.mark.sim
@pytest.mark.timeout(900)
@settings(max_examples=6_000, deadline=None)
@given(st.sampled_from(SPECS), SCRIPTS)
def test_every_tick_of_many_obeys_the_laws(spec: RolloutSpec | None, script: list[Any]) -> None:
    perform(spec, script)
