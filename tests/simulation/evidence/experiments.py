"""All experiments by name, each a function from a scale (1 = full) to rows."""

from collections.abc import Callable, Iterable
from functools import partial

from tests.simulation.evidence import delays, false_alarms
from tests.simulation.evidence.results import Delay, Rate

Row = Rate | Delay
REPLICAS = 4_000
_FEW = 200


def _rows(found: Row | Iterable[Row]) -> list[Row]:
    return [found] if isinstance(found, Rate | Delay) else list(found)


def _run(what: Callable[..., Row | Iterable[Row]], replicas: int, scale: float) -> list[Row]:
    return _rows(what(max(20, round(replicas * scale))))


def _matrix() -> dict[str, Callable[..., Row | Iterable[Row]]]:
    found: dict[str, Callable[..., Row | Iterable[Row]]] = {}
    for rate in (0.001, 0.005, 0.01, 0.05):
        for weight in (0.01, 0.05, 0.1, 0.5):
            found[f"T1 {rate:.1%} {weight:.0%}"] = partial(false_alarms.every_event, rate=rate, weight=weight)
    for rate, weight in ((0.005, 0.5), (0.01, 0.1), (0.001, 0.01)):
        found[f"T1 margin {rate:.1%}"] = partial(false_alarms.every_event, rate=rate, weight=weight, null_ratio=1.25)
    return found


_ALARMS: dict[str, tuple[Callable[..., Row | Iterable[Row]], int]] = {
    **{name: (what, REPLICAS) for name, what in _matrix().items()},
    "T1 others 0.2% 5%": (partial(false_alarms.every_fifty_requests, rate=0.002, weight=0.05), REPLICAS),
    "T1 others 1% 50%": (partial(false_alarms.every_fifty_requests, rate=0.01, weight=0.5), REPLICAS),
    "T2": (partial(false_alarms.adaptive_ramp, hostile=False), REPLICAS),
    "T2 hostile": (partial(false_alarms.adaptive_ramp, hostile=True), REPLICAS),
    "T3 five minutes": (partial(false_alarms.shared_incident, minutes=5), REPLICAS),
    "T3 it stays": (partial(false_alarms.shared_incident, minutes=23), 500),
    "T3 quantiles": (false_alarms.pooled_quantiles, 50),
    **{
        f"T4 {per_unit} {workers}": (
            partial(false_alarms.clustered, per_unit=per_unit, workers=workers),
            REPLICAS,
        )
        for per_unit in (5, 50, 200)
        for workers in (1, 8)
    },
    "C2 at the margin": (partial(false_alarms.false_promotion, sticky=False), 2_000),
    "C2 at the margin, sticky": (partial(false_alarms.false_promotion, sticky=True), 2_000),
    "B3": (false_alarms.batch_buckets, REPLICAS),
    "B3 margin": (partial(false_alarms.batch_buckets, margin=1.2), REPLICAS),
    "B4": (false_alarms.score_bins, 2_000),
    "T6 1%": (partial(delays.coverage_of_rates, rate=0.01), REPLICAS),
    "T6 30%": (partial(delays.coverage_of_rates, rate=0.3), REPLICAS),
    "T6 means": (delays.coverage_of_means, REPLICAS),
    "T7 healthy": (delays.mismatch_when_healthy, REPLICAS),
}

_DELAYS: dict[str, tuple[Callable[..., Row | Iterable[Row]], int]] = {
    **{f"T5 x{ratio:g}": (partial(delays.fault, ratio=ratio), 400) for ratio in (1.5, 2.0, 3.0, 5.0, 10.0)},
    "T5 weight 1%": (partial(delays.fault, ratio=3.0, weight=0.01), _FEW),
    "T5 weight 50%": (partial(delays.fault, ratio=3.0, weight=0.5), _FEW),
    **{
        f"T5 p{quantile * 100:.0f} x{factor}": (partial(delays.slower, quantile=quantile, factor=factor), _FEW)
        for quantile in (0.95, 0.99)
        for factor in (1.1, 1.2, 1.5)
    },
    "T5 late": (partial(delays.late_fault, starts=True), 1_000),
    "T5 late, one start": (partial(delays.late_fault, starts=False), _FEW),
    **{
        f"C1 {weight:.0%} {before}": (partial(delays.step_left, weight=weight, before=before), 400)
        for weight in (0.1, 0.5)
        for before in (0, 500, 5_000)
    },
    "C2 no errors": (partial(delays.promotion, base=0.0, weight=0.1), _FEW),
    "C2 0.1%": (partial(delays.promotion, base=0.001, weight=0.1), _FEW),
    "C2 5%": (partial(delays.promotion, base=0.05, weight=0.5), _FEW),
    "C2 5%, half": (partial(delays.promotion, base=0.05, weight=0.5, ratio=0.5), _FEW),
    "T7 leak 1%": (partial(delays.leak, lost=0.01), 100),
    "T7 leak 5%": (partial(delays.leak, lost=0.05), 100),
}

EXPERIMENTS: dict[str, Callable[[float], list[Row]]] = {
    name: partial(_run, what, replicas) for name, (what, replicas) in (_ALARMS | _DELAYS).items()
}
