"""What a policy's own signals say: on events that a rollout counts, as guardrails do, but they hold. Pure.

A signal speaks while its e-value is above 1 / alpha, and no longer when it falls below again; a guardrail has tripped
once and for all. Too little to compare is not clean: it is waited for.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gateway.control.record import PolicyRecord
from gateway.tally import BAD, OK
from router.evidence.eprocess import EventShare, log_threshold
from router.evidence.executions import ExecutionShare, expected_of_canary
from router.policy import TrafficPolicy
from router.rollout_document import Analysis, Signal

COMPUTE_TIME: Final = "compute_time"
_EVENTS: Final = {
    "error_rate": "units that erred",
    "latency": "units that were answered late",
    "queue_wait": "units that waited long",
    COMPUTE_TIME: "slow executions",
}


@dataclass(frozen=True, slots=True)
class Sign:
    """One signal on events.

    Attributes:
        events: weight as text -> events (of the canary, of both).
        compared: both variants had something of it in this step.
        step: executions that were compared in this step, (all, slow) of canary and stable; () = of requests.
    """

    signal: Signal
    harm: EventShare
    events: Mapping[str, Sequence[int]]
    compared: bool
    step: Sequence[Sequence[int]] = ()

    def speaks(self, analysis: Analysis) -> bool:
        """Whether it is against the canary now."""
        return self.harm.log_e >= log_threshold(analysis.alpha)

    def is_scarce(self, record: PolicyRecord) -> bool:
        """There is too little to say anything: stable's quantile is not known, or nothing was compared."""
        known = {
            "latency": bool(record.slow_ns),
            "queue_wait": bool(record.wait_ns),
            COMPUTE_TIME: any(record.run_ns.values()),
        }
        return not (self.compared and known.get(self.signal.metric, True))

    def text(self, analysis: Analysis) -> str:
        """Counts and thresholds in words."""
        harm, ratio = self.harm, self.signal.ratio
        expected = expected_of_canary(self.events, ratio)
        return (
            f"of {harm.all_events:,} {_EVENTS[self.signal.metric]} {harm.canary_events:,} were the canary's; at "
            f"{ratio:g} times stable's rate it would be {expected:,.1f}: log e {harm.log_e:.2f}, "
            f"holds from {log_threshold(analysis.alpha):.2f}"
        )

    def evidence(self, analysis: Analysis) -> dict[str, Any]:
        """What it rests on, for the audit, where it is computed anew."""
        kept = (
            "null_ratio",
            "ratios",
            "starts",
            "canary_events",
            "all_events",
            "log_likelihoods",
            "log_starts",
            "log_e",
        )
        harm: Mapping[str, Any] = {**self.harm.state()}
        return {
            "metric": self.signal.metric,
            "speaks": self.speaks(analysis),
            "harm": {name: harm[name] for name in kept},
            "events": dict(self.events),
            **({"step": self.step} if self.step else {}),
        }


def signs_of(analysis: Analysis, judge: Mapping[str, Any], stable: str, canary: str) -> Iterator[Sign]:
    """From what is kept of a judge; signals on which the monitor decides are not among them."""
    asked = all(_done(judge["step"].get(name)) for name in (stable, canary))
    for signal in analysis.signals:
        label = signal.label
        if label in judge["signals"]:
            kept = judge["signals"][label]
            yield Sign(signal, EventShare.from_state(kept["harm"]), kept["events"], asked)
        elif label in judge.get("executions", {}):
            share = ExecutionShare(signal.ratio, judge["executions"][label])
            yield Sign(signal, share.harm, share.events, share.compared, share.step)


def _done(counts: Sequence[int] | None) -> int:
    return counts[OK] + counts[BAD] if counts else 0


def plan_of(policy: TrafficPolicy) -> list[str]:
    """What the signals of a policy will do, in words."""
    rollout = policy.spec.rollout
    return [] if rollout is None else [_planned(signal) for signal in rollout.analysis.signals]


def _planned(signal: Signal) -> str:
    does = "rolls back" if signal.outside_alpha else "holds"
    if signal.metric == COMPUTE_TIME:
        event = f"its executions last longer than p{signal.slow_from * 100:g} of stable's of the same batch size"
    elif signal.metric == "latency":
        event = f"its units are answered later than p{signal.slow_from * 100:g} of stable's requests"
    elif signal.metric == "queue_wait":
        event = f"its units wait longer for their execution than p{signal.slow_from * 100:g} of stable's requests"
    elif signal.metric == "error_rate":
        event = "its units err"
    else:
        return f"{signal.label}: {does} while the monitor says so"
    return f"{signal.label}: {does} while {event} surely more than {signal.ratio:g} times as often"
