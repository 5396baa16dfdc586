"""A rollout and a world that is kind to it, for tests: specs, what a controller sees, a document that it writes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from router.rollout.actions import Action, Promote, SetShadow, SetWeight, Zero
from router.rollout.machine import advance
from router.rollout.observed import Command, CommandKind, Observed, Verdict
from router.rollout.phases import MAX_TICK_MS
from router.rollout.spec import ALL_SLOTS, Approval, Guardrail, Hold, RolloutSpec, Signal, Step
from router.rollout.status import RolloutStatus, decode, encode

SECOND = 1_000
MINUTE = 60_000
PASSES = Verdict(passes=True, detectable_ratio=2.0)
TRIPPED = Verdict(tripped=True, text="31 of 40 bad requests on 10 % of the traffic")
RELEASE = Approval(by=("label:release",), expires_ms=60 * MINUTE)


def step(percent: float, **hold: Any) -> Step:
    return Step(slots=round(percent * 100), hold=Hold(**hold))


def shadow(percent: float, **hold: Any) -> Step:
    return Step(shadow_slots=round(percent * 100), hold=Hold(**hold))


STEPS = (
    shadow(20, min_samples=500),
    step(1, min_units=500, min_duration_ms=5 * SECOND),
    step(10, min_units=2_000, min_duration_ms=5 * SECOND),
    step(50, approval=RELEASE),
    step(100),
)


def a_spec(**changes: Any) -> RolloutSpec:
    given: dict[str, Any] = {
        "stable_digest": "sha256:aa",
        "canary_digest": "sha256:bb",
        "salt": "fraud-2026q3",
        "steps": STEPS,
        "guardrails": (Guardrail(name="error_rate", margin="ratio=1.25"), Guardrail(name="latency", kind="latency")),
        "signals": (Signal(name="queue_wait"),),
    }
    return RolloutSpec(**(given | changes))


def change(spec: RolloutSpec, **changes: Any) -> RolloutSpec:
    return msgspec.structs.replace(spec, **changes)


def command(kind: CommandKind, actor: str = "ann", **rest: Any) -> Command:
    given = {"id": f"{kind}-{actor}-{rest.get('reason', '')}", "labels": ("release",), "reason": "because"}
    return Command(kind=kind, actor=actor, **(given | rest))


@dataclass
class Tower:
    """One controller, one document. `tick` shows the machine a healthy world with the given changes, and writes.

    Each status goes through JSON, so a tick never sees what a restart would not.
    """

    spec: RolloutSpec | None = field(default_factory=a_spec)
    status: RolloutStatus = field(default_factory=RolloutStatus)
    now_ms: int = 1_000_000
    revision: int = 1
    token: int = 1
    slots: int = 0
    shadow_slots: int = 0
    stable: str = "sha256:aa"
    log: list[Action] = field(default_factory=list)
    changes: dict[str, Any] = field(default_factory=dict)

    def seen(self, **changes: Any) -> Observed:
        """A world in which all is well."""
        names = [one.name for one in self.spec.guardrails] if self.spec else []
        given: dict[str, Any] = {
            "token": self.token,
            "revision": self.revision,
            "fresh": True,
            "acked_revision": self.revision,
            "identity": self.status.identity,
            "visit": self.status.visit,
            "verdicts": dict.fromkeys(names, PASSES),
            "canary_units": 100_000,
            "stable_units": 100_000,
            "samples": 100_000,
            "expected_canary": 1_000,
            "seen_canary": 1_000,
            "canary_ready": True,
            "applied_by": "zoe",
        }
        return Observed(**(given | self.changes | changes))

    def tick(self, *commands: Command, after_ms: int = SECOND, **changes: Any) -> list[Action]:
        self.now_ms += after_ms
        before = self.status.phase
        observed = self.seen(commands=commands, **changes)
        status, actions = advance(self.spec, self.status, observed, self.now_ms)
        assert decode(encode(status)) == status
        self.status = decode(encode(status))
        self.log += actions
        if observed.store:
            self.revision += 1
            if before == "PROMOTED" and status.phase in ("DRAFT", "IDLE"):
                self.slots = 0  # what was the canary is the stable; the next one has nothing
            for action in actions:
                self._write(action)
            assert (self.slots, self.shadow_slots) == (status.slots, status.shadow_slots)
        return actions

    def watch(self, ms: int, **changes: Any) -> None:
        """Tick through a time, often enough that all of it is watched."""
        for _ in range(-(-ms // MAX_TICK_MS)):
            self.tick(after_ms=MAX_TICK_MS, **changes)

    def _write(self, action: Action) -> None:
        match action:
            case SetWeight(slots):
                self.slots = slots
            case SetShadow(slots):
                self.shadow_slots = slots
            case Zero():
                self.slots = self.shadow_slots = 0
            case Promote(digest):
                self.stable, self.slots = digest, ALL_SLOTS
            case _:
                pass

    def until(self, phase: str, *, at: int | None = None, most: int = 60) -> Tower:
        """Tick until a phase (of a step, counted from 0) is reached; approvals are given on the way."""
        for _ in range(most):
            if self.status.phase == phase and at in (None, self.status.step):
                return self
            approve = command("approve", id=f"approve-{self.now_ms}")
            self.tick(*([approve] if self.status.phase == "DECIDING" else []))
        raise AssertionError(f"{phase} not reached: {self.status.phase} step {self.status.step}, {self.status.waits}")


def kinds(actions: list[Action]) -> list[str]:
    return [type(action).__name__ for action in actions]


def of(actions: list[Action], kind: type) -> list[Any]:
    return [action for action in actions if isinstance(action, kind)]
