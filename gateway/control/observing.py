"""What one tick of a rollout sees: reports of nodes, statistics, the drift monitor, commands. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.control.documents import Kept, killed_in
from gateway.control.judge import Judge
from gateway.control.plans import Drift, closed_by, signals_on
from gateway.control.record import NodeReport
from gateway.control.steps import quoted
from router.rollout.observed import Command, LocalZero, Observed


@dataclass(frozen=True, slots=True)
class Circle:
    """The nodes of this store, as who leads knows them.

    Attributes:
        here: the last report of each that has reported of late.
        unheard: those that live and have not reported to this leader yet: nothing is known of what they act on.
        silent: those that were there a while ago.
    """

    here: Mapping[str, NodeReport]
    unheard: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()


def observed_by(
    token: int,
    kept: Kept,
    judge: Judge | None,
    circle: Circle,
    commands: Sequence[Command],
    drift: Drift,
    now_ms: int,
    *,
    store: bool,
) -> Observed:
    """One tick's view. Args: token: of the lease; judge: the statistics of the rollout that is wanted, None = none."""
    record, here, unheard = kept.record, circle.here, circle.unheard
    canary_digest = next((pin.digest for pin in record.variants if pin.variant == record.canary), "")
    weight = record.weights.get(str(record.revision), {}).get("", 0.0)
    failed = [report.failed[canary_digest] for report in here.values() if canary_digest in report.failed]
    routed = judge.routed(judge.canary) + judge.routed(judge.stable) if judge is not None else 0
    everybody = bool(here) and not unheard
    rollout = kept.policy.spec.rollout
    closed = closed_by(rollout.window if rollout is not None else None, now_ms / 1000)
    signs, speaking = (judge.signs(), judge.speaking()) if judge is not None else ([], {})
    return Observed(
        token=token,
        revision=record.revision,
        store=store,
        fresh=everybody and all(report.fresh for report in here.values()),
        acked_revision=0 if unheard else min((report.acked for report in here.values()), default=0),
        lagging=(*unheard, *(f"{node}/{worker}" for node, one in here.items() for worker in one.lagging)),
        unreachable=circle.silent,
        identity=judge.identity if judge is not None else "",
        visit=judge.visit if judge is not None else 0,
        verdicts=judge.verdicts(weight) if judge is not None else {},
        canary_units=judge.units(judge.canary) if judge is not None else 0,
        stable_units=judge.units(judge.stable) if judge is not None else 0,
        samples=_samples(kept, judge),
        srm_p=judge.ratio.min_p if judge is not None else 1.0,
        expected_canary=int(weight * routed),
        seen_canary=judge.routed(judge.canary) if judge is not None else 0,
        signals=(*speaking, *signals_on(kept.policy, drift.signals)),
        said=speaking,
        scarce=tuple(sign.signal.label for sign in signs if sign.is_scarce(record)),
        unknown=signals_on(kept.policy, drift.unknown),
        monitor=drift.lease,
        canary_ready=everybody and all(canary_digest in report.ready for report in here.values()),
        canary_failed=failed[0] if failed else "",
        killed=record.canary in killed_in(record, kept.policy),
        canary_crashes=sum(report.crashes.get(canary_digest, 0) for report in here.values()),
        zeroed=tuple(
            LocalZero(f"{node}/{worker}", reason) for node, one in here.items() for worker, reason in one.zeroed
        ),
        window_open=not closed,
        closed_by=closed,
        applied_by=record.applied_by,
        commands=tuple(commands),
        evidence=quoted(judge.evidence(weight), here.values()) if judge is not None else "",
    )


def _samples(kept: Kept, judge: Judge | None) -> int:
    """Requests of the canary in this step; in a shadow step those that were compared."""
    rollout, status = kept.policy.spec.rollout, kept.record.status
    if judge is None or rollout is None or status.step >= len(rollout.steps):
        return 0
    return judge.compared() if rollout.steps[status.step].shadow is not None else judge.requests(judge.canary)
