"""What is slow in a step: taken from stable when the step begins, or as soon as there is enough of it; then frozen."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from gateway.control.counts import Values
from gateway.control.documents import Kept
from gateway.control.latency import StableLatency
from gateway.control.plans import quantile_of
from gateway.counters import BATCH_BOUNDS
from router.rollout.status import UNDER_WATCH, Phase


class Thresholds(NamedTuple):
    """Fields of a policy's record."""

    slow_ns: int = 0
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
    frozen = Thresholds(record.slow_ns, record.run_ns)
    if not routed and phase not in UNDER_WATCH:
        return frozen
    name = kept.policy.metadata.name
    version = next(pin.version for pin in record.variants if pin.variant == kept.policy.spec.stable)
    slow_ns, run_ns = 0, dict[int, int]()
    quantile = quantile_of(kept.policy, "latency")
    if quantile is not None:
        known = 0 if routed else frozen.slow_ns
        slow_ns = known or latency.quantile_ns(name, version, quantile) or frozen.slow_ns
    quantile = quantile_of(kept.policy, "compute_time")
    if quantile is not None:
        counted, by_size = run_times.get((name, str(version))), {} if routed else frozen.run_ns
        run_ns = {**frozen.run_ns, **latency.run_ns(name, version, quantile, counted, by_size.keys())}
    return Thresholds(slow_ns, run_ns)


def limits_by_size(kept: Kept) -> tuple[int, ...]:
    """What an execution may take, per bucket of batch sizes, as workers count it; () = nobody judges that."""
    if quantile_of(kept.policy, "compute_time") is None:
        return ()
    return tuple(kept.record.run_ns.get(size, 0) for size in (*BATCH_BOUNDS, 0))
