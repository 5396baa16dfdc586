"""What is slow in a step: taken from stable when the step begins, or as soon as there is enough of it; then frozen."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from gateway.control.counts import Values
from gateway.control.documents import Kept
from gateway.control.latency import StableLatency
from gateway.control.plans import quantile_of
from gateway.counters import BATCH_BOUNDS, QUEUE_DURATION, REQUEST_DURATION
from router.rollout.status import UNDER_WATCH, Phase
from router.rollout_document import Metric


class Thresholds(NamedTuple):
    """Fields of a policy's record."""

    slow_ns: int = 0
    wait_ns: int = 0
    run_ns: Mapping[int, int] = MappingProxyType({})


RunTimes = Mapping[tuple[str, str], Values]
"""(Model, version) -> histograms of run times by batch size, as this node has counted them."""


def thresholds_of(kept: Kept, phase: Phase, latency: StableLatency, run_times: RunTimes, *, routed: bool) -> Thresholds:
    """Those in force after this tick.

    Args:
        phase: after this tick.
        routed: a step begins, or the canary's share changes otherwise: everything is asked anew.
    """
    record = kept.record
    frozen = Thresholds(record.slow_ns, record.wait_ns, record.run_ns)
    if not routed and phase not in UNDER_WATCH:
        return frozen
    name = kept.policy.metadata.name
    version = next(pin.version for pin in record.variants if pin.variant == kept.policy.spec.stable)

    def of_requests(metric: Metric, of: int, known: int) -> int:
        quantile = quantile_of(kept.policy, metric)
        if quantile is None:
            return 0
        if known and not routed:
            return known
        return latency.quantile_ns(name, version, quantile, of) or known

    quantile, run_ns = quantile_of(kept.policy, "compute_time"), dict[int, int]()
    if quantile is not None:
        counted, known = run_times.get((name, str(version))), {} if routed else frozen.run_ns
        run_ns = {**frozen.run_ns, **latency.run_ns(name, version, quantile, counted, known.keys())}
    return Thresholds(
        of_requests("latency", REQUEST_DURATION, frozen.slow_ns),
        of_requests("queue_wait", QUEUE_DURATION, frozen.wait_ns),
        run_ns,
    )


def limits_by_size(kept: Kept) -> tuple[int, ...]:
    """What an execution may take, per bucket of batch sizes, as workers count it; () = nobody judges that."""
    if quantile_of(kept.policy, "compute_time") is None:
        return ()
    return tuple(kept.record.run_ns.get(size, 0) for size in (*BATCH_BOUNDS, 0))
