"""docs/rollouts.md names every state, every command, and every reason to wait, and no others."""

import re
from typing import get_args

import msgspec

from gateway.control.plans import closed_by
from router.rollout.observed import CommandKind, LocalZero, MonitorLease, Verdict
from router.rollout.spec import Guardrail, OnFailure
from router.rollout.status import MAX_LATCHES, Latch, Phase, RolloutStatus
from router.rollout_document import Window
from tests.docs.tables import DOCS, code, rows
from tests.rollout.test_ramp import HOLDS
from tests.rollout.tower import MINUTE, PASSES, TRIPPED, Tower, a_spec, command, step

TEXT = (DOCS / "rollouts.md").read_text()
FAILING = {"error_rate": TRIPPED, "latency": PASSES}


def given() -> set[str]:
    """Every kind of reason, from the machine itself."""
    found: set[str] = set()
    for seen, _ in HOLDS:
        found |= seen_waiting(Tower().until("BAKING", at=2), **seen)
    shut = {"freeze": [{"from": "1970-01-01T00:00:00Z", "until": "1970-01-02T00:00:00Z"}]}
    for window in (shut, {"notBefore": ["Mon 00:00-01:00 UTC"]}, {"notBefore": ["Mon 00:00-01:00 Nowhere"]}):
        why = closed_by(msgspec.convert(window, Window), 0.0)
        found |= seen_waiting(Tower().until("BAKING", at=1), window_open=False, closed_by=why)
    for seen in ({"canary_ready": False}, {"killed": True}, {"canary_failed": "bad magic"}):
        found |= seen_waiting(Tower().until("PREPARING"), **seen)
    drifted = MonitorLease(do="hold", reason="the answers have shifted", evidence="m/1/1", granted_ms=1, until_ms=2)
    found |= seen_waiting(Tower().until("BAKING", at=1), monitor=drifted)
    held = a_spec(on_failure=OnFailure(do="hold"))
    found |= seen_waiting(Tower(spec=held).until("BAKING", at=1), verdicts=FAILING)
    found |= seen_waiting(Tower().until("BAKING", at=1), lagging=("w2",), acked_revision=0, after_ms=MINUTE)
    found |= seen_waiting(Tower(spec=a_spec(max_duration_ms=1)).until("PREPARING"))
    found |= seen_waiting(Tower().until("DECIDING", at=3), store=False)
    found |= seen_waiting(Tower(spec=a_spec(guardrails=())).until("PREPARING"))
    rails = (Guardrail(name="disagreement", kind="shadow"), Guardrail(name="error_rate"))
    shadowed = Tower(spec=a_spec(guardrails=rails)).until("SHADOWING", at=0)
    found |= seen_waiting(shadowed, samples=0, verdicts={"disagreement": Verdict()})
    weak = {"error_rate": PASSES, "latency": Verdict(detectable_ratio=1.5)}
    found |= seen_waiting(Tower(spec=a_spec(steps=a_spec().steps[1:3])).until("DECIDING", at=1), verdicts=weak)
    counted = Tower(spec=a_spec(steps=(step(1, min_samples=9), step(10)))).until("BAKING", at=0)
    found |= seen_waiting(counted, samples=0, zeroed=(LocalZero("w1", "failures"),))
    paused = Tower().until("BAKING", at=1)
    paused.tick(command("pause"))
    found |= seen_waiting(paused, samples=0)
    latches = tuple(Latch(str(n), "sha256:dd", "ann", n, "bad") for n in range(MAX_LATCHES))
    return found | seen_waiting(Tower(status=RolloutStatus(latches=latches)))


def seen_waiting(tower: Tower, **seen: object) -> set[str]:
    found: set[str] = set()
    for _ in range(3):
        tower.tick(**seen)  # type: ignore[arg-type]
        found |= set(tower.status.waits)
    return found


def written() -> list[str]:
    return [one for row in rows(TEXT, "reason") for one in re.findall(r"`([^`]+)`", row[0])]


def matches(pattern: str, reason: str) -> bool:
    return re.fullmatch(re.escape(pattern).replace("…", ".+"), reason) is not None


def test_every_reason_is_documented_and_every_documented_reason_occurs() -> None:
    reasons = {reason.replace("`", "") for reason in given()}
    patterns = written()
    assert [reason for reason in sorted(reasons) if not any(matches(one, reason) for one in patterns)] == []
    assert [one for one in patterns if not any(matches(one, reason) for reason in reasons)] == []


def test_every_state_is_documented() -> None:
    assert [code(row[0]) for row in rows(TEXT, "state")] == list(get_args(Phase))


def test_every_command_is_documented() -> None:
    assert [code(row[0]) for row in rows(TEXT, "command")] == list(get_args(CommandKind))
