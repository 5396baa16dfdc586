"""From closed windows to everything that follows: one story through all parts, as the control process will run them."""

from typing import Any

from gateway.monitor.apart import Apart
from gateway.monitor.attribution import Attribution, Compared, attribute
from gateway.monitor.board import Board
from gateway.monitor.incidents import Event, Ledger, turn
from gateway.monitor.leases import Ask, Lease, Leases, Limits, grant, in_force, level_of
from gateway.monitor.retrain import Outcome, Requests, Settings, facts_of, offer
from gateway.monitor.words import Finding, Signal, State

HOUR_S = 3600.0
STABLE, CANARY = ("1", "stable"), ("2", "canary")


def test_a_board_holds_the_latest_word_for_twice_its_window():
    window = {"version": "1", "variant": "stable", "window_from_s": 0.0, "window_to_s": 100.0}
    board = Board().take([Finding(signal="latency", state="firing", **window)])  # type: ignore[arg-type]
    board = board.take([Finding(signal="latency", state="ok", **window)])  # type: ignore[arg-type]
    board = board.take([Finding(signal="input_drift", state="firing", mixed=True, **window)])  # type: ignore[arg-type]
    assert board.arm(*STABLE, now_s=300.0).states == {"latency": "ok"}
    assert board.arm(*STABLE, now_s=300.1).states == {"latency": "unknown"}
    assert board.arm(*CANARY, now_s=0.0).is_blind
    assert board.take([], live={CANARY}) == Board()


class Gateway:
    """The parts together, an hour per turn."""

    def __init__(self, **retraining: Any) -> None:
        self.now_s = 1_767_225_600.0
        self.board, self.apart, self.ledger = Board(), Apart(), Ledger(model="credit")
        self.leases, self.requests = Leases(), Requests()
        self.settings = Settings(preset="webhook", **retraining)

    def hour(
        self, stable: dict[Signal, State], canary: dict[Signal, State], scores: tuple[list[int], list[int]]
    ) -> tuple[Attribution, tuple[Event, ...], Lease | None, Outcome | None]:
        window = {"window_from_s": self.now_s, "window_to_s": self.now_s + HOUR_S}
        self.now_s += HOUR_S
        findings = [
            Finding(signal=signal, state=state, version=version, variant=variant, **window)
            for (version, variant), states in ((STABLE, stable), (CANARY, canary))
            for signal, state in states.items()
        ]
        self.board = self.board.take(findings)
        self.apart = self.apart.close(*scores)
        found = attribute(
            self.board.arm(*STABLE, self.now_s),
            self.board.arm(*CANARY, self.now_s),
            Compared(outputs=self.apart.state),
        )
        gone = turn(self.ledger, findings, found, self.now_s)
        self.ledger = gone.ledger
        incident = self.ledger.open
        if incident is None:
            return found, gone.events, None, None
        ask = Ask(
            model="credit", version="2", variant="canary", role="canary", level=level_of(found.action, "rollback"),
            reason=found.sentence, evidence_id=f"{incident.id}/{incident.told}", revision=3,
        )  # fmt: skip
        self.leases, lease, _ = grant(self.leases, ask, self.now_s, token=1, limits=Limits(ttl_s=2 * HOUR_S))
        self.requests, outcome = offer(self.requests, self.settings, found, facts_of(incident, "1"), self.now_s)
        return found, gone.events, lease, outcome


WELL: dict[Signal, State] = {"input_drift": "ok", "prediction_drift": "ok", "performance_realised": "ok"}
EVEN, TILTED = ([500] * 4, [100] * 4), ([500] * 4, [40, 60, 100, 200])


def test_a_broken_canary():
    gateway = Gateway()
    assert gateway.hour(WELL, WELL, EVEN)[0].verdict == "none"
    broken: dict[Signal, State] = {**WELL, "prediction_drift": "firing"}
    found, events, lease, _ = gateway.hour(WELL, {**WELL, "prediction_drift": "pending"}, TILTED)
    assert (found.verdict, events, lease) == ("none", (), None)
    found, events, lease, outcome = gateway.hour(WELL, broken, TILTED)
    assert (found.action, [event.kind for event in events], outcome) == ("rollback", ["opened"], "not_needed")
    assert lease is not None
    assert (lease.level, lease.evidence_id) == ("rollback", events[0].id)
    place: dict[str, Any] = {"model": "credit", "version": "2", "variant": "canary"}
    assert in_force(gateway.leases.held, gateway.now_s, revision=3, **place) == lease
    assert in_force(gateway.leases.held, gateway.now_s, revision=4, **place) is None


def test_a_world_that_changes():
    gateway = Gateway()
    drifts: dict[Signal, State] = {**WELL, "input_drift": "firing", "prediction_drift": "firing"}
    found, events, lease, outcome = gateway.hour(drifts, drifts, EVEN)
    assert (found.verdict, [event.kind for event in events]) == ("world", ["opened"])
    assert (lease, outcome) == (None, "not_needed"), "drift alone trains nothing"
    suffers: dict[Signal, State] = {**drifts, "performance_realised": "firing"}
    found, events, lease, outcome = gateway.hour(suffers, suffers, EVEN)
    assert [event.reason for event in events] == ["new: performance"]
    assert (lease, outcome) == (None, "send")
    assert gateway.hour(suffers, suffers, EVEN)[3] == "duplicate"
    gateway.hour(WELL, WELL, EVEN)
    _, events, _, _ = gateway.hour(WELL, WELL, EVEN)
    assert [event.kind for event in events] == ["closed"]
    gateway.hour(suffers, suffers, EVEN)
    assert gateway.requests.counts == {"send": 1, "cooling_down": 1}
