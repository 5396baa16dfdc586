"""What the metrics page shows of the monitor: plain tuples per family, and how many features may have series. Pure.

Each scrape gets one `MonitorFacts`; `gateway.metrics` writes it. A value that is not known has no tuple: no zero and no
NaN stands for it. Labels are bounded: model, version and variant by what is served, groups and metrics by documents and
code, features by `MAX_FEATURES` for each series.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Final, Literal, NamedTuple

Series = tuple[str, str, str]
"""Model, version, variant; "-" where one does not apply."""
Sample = tuple[str | float, ...]
"""Labels in the order of the family, then the value."""
Samples = Sequence[Sample]

MAX_FEATURES: Final = 50
SIGNALS: Final = (
    "input_drift", "prediction_drift", "data_quality", "performance_estimated", "performance_realised",
    "concept_drift", "fairness", "latency",
)  # fmt: skip
STATES: Final = ("insufficient", "unknown", "ok", "pending", "firing", "resolved")
"""The value of `drift_state` is a state's place here."""
BURN_WINDOWS: Final = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
"""Values of the label `window` of `slo_burn_rate`: the long windows of an alert and the short ones beside them."""


class Family(NamedTuple):
    """One family of the page.

    Attributes:
        name: without `tidegate_`; a counter's without `_total`. So is the field of MonitorFacts called.
        kind: a summary, because Prometheus knows quantiles as such; without sum and count.
        labels: after model, version and variant.
    """

    name: str
    kind: Literal["gauge", "counter", "summary"]
    text: str
    labels: tuple[str, ...] = ()


FAMILIES: Final = (
    Family("drift_score", "gauge", "Distance of a feature's last window from the reference.", ("feature", "metric")),
    Family("drift_pvalue", "gauge", "Of the last window under no drift, before any correction.", ("feature",)),
    Family("drift_state", "gauge", "0 insufficient, 1 unknown, 2 ok, 3 pending, 4 firing, 5 resolved.", ("signal",)),
    Family("prediction_drift_score", "gauge", "Distance of the scores' last window from the reference.", ("metric",)),
    Family("estimated_performance", "gauge", "Estimated without labels, of the last window.", ("metric",)),
    Family("realised_performance", "gauge", "Of the last cohort with enough labels.", ("metric",)),
    Family("label_coverage_ratio", "gauge", "Predictions with a label, in the newest cohort that is old enough."),
    Family("label_delay_seconds", "summary", "From a prediction to its label.", ("quantile",)),
    Family("feature_missing_ratio", "gauge", "Share of rows of the last window with NaN or null.", ("feature",)),
    Family("feature_out_of_range_ratio", "gauge", "Share of rows outside the reference's range.", ("feature",)),
    Family("feature_unseen_ratio", "gauge", "Share of rows with a category the reference has not.", ("feature",)),
    Family("fairness_disparate_impact", "gauge", "Rate of favourable decisions over that of the best group.",
           ("group", "basis")),
    Family("fairness_gap", "gauge", "TPR or FPR of a group by labels, less that of the group most often decided 1.",
           ("group", "rate")),
    Family("slo_burn_rate", "gauge", "Speed at which the latency budget is spent; 1 spends it in its period.",
           ("window",)),
    Family("latency_shift", "gauge", "Cohen's h by which the canary is slower than stable; 0.2 and more matters."),
    Family("monitor_lag_seconds", "gauge", "Age of the newest counts that the monitor has."),
    Family("monitor_rows_observed", "counter", "Rows that were counted."),
    Family("monitor_rows_skipped", "counter", "Rows that were answered and not counted."),
    Family("monitor_deltas_gap", "counter", "Deltas that never came."),
    Family("monitor_deltas_duplicated", "counter", "Deltas that came again and were not counted again."),
    Family("monitor_dead_letters", "counter", "Entries of streams that cannot be read.", ("stream", "reason")),
    Family("monitor_overhead_seconds", "counter", "CPU time spent on counting."),
    Family("monitor_reference_missing", "gauge", "1 while the version has no reference."),
    Family("monitor_blind", "gauge", "1 when two longest windows passed without a verdict."),
    Family("monitor_features_hidden", "gauge", "Features without series of their own, for the bound on labels."),
    Family("degrade_flags", "gauge", "1 for the level of the lease in force on the canary.", ("level",)),
    Family("alerts", "counter", "Alerts told: each event counts all that are on.", ("signal", "severity")),
    Family("alerts_dropped", "counter", "Alerts that reached none of their receivers."),
    Family("retrain_requests", "counter", "Requests for retraining.", ("outcome",)),
    Family("rollout_actions", "counter", "What the monitor did to rollouts.", ("action", "reason")),
)  # fmt: skip
BY_FEATURE: Final = tuple(family.name for family in FAMILIES if "feature" in family.labels)


@dataclass(frozen=True, slots=True)
class MonitorFacts:
    """Everything the page shows of the monitor, at one moment.

    Each attribute is the family of that name: tuples (model, version, variant, further labels, value) as in `FAMILIES`.
    Ratios are in [0, 1], times in seconds, counters are totals since the node's start.
    `monitor_features_hidden` is filled by `bounded`.
    """

    drift_score: Samples = ()
    drift_pvalue: Samples = ()
    drift_state: Samples = ()
    prediction_drift_score: Samples = ()
    estimated_performance: Samples = ()
    realised_performance: Samples = ()
    label_coverage_ratio: Samples = ()
    label_delay_seconds: Samples = ()
    feature_missing_ratio: Samples = ()
    feature_out_of_range_ratio: Samples = ()
    feature_unseen_ratio: Samples = ()
    fairness_disparate_impact: Samples = ()
    fairness_gap: Samples = ()
    slo_burn_rate: Samples = ()
    latency_shift: Samples = ()
    monitor_lag_seconds: Samples = ()
    monitor_rows_observed: Samples = ()
    monitor_rows_skipped: Samples = ()
    monitor_deltas_gap: Samples = ()
    monitor_deltas_duplicated: Samples = ()
    monitor_dead_letters: Samples = ()
    monitor_overhead_seconds: Samples = ()
    monitor_reference_missing: Samples = ()
    monitor_blind: Samples = ()
    monitor_features_hidden: Samples = ()
    degrade_flags: Samples = ()
    alerts: Samples = ()
    alerts_dropped: Samples = ()
    retrain_requests: Samples = ()
    rollout_actions: Samples = ()

    def samples(self) -> Iterable[tuple[Family, Samples]]:
        """Every family with its samples, in the order of the page."""
        return ((family, getattr(self, family.name)) for family in FAMILIES)


assert [one.name for one in fields(MonitorFacts)] == [one.name for one in FAMILIES], "a field for each family"


def bounded(facts: MonitorFacts, allowed: Mapping[str, Sequence[str]] | None = None) -> MonitorFacts:
    """The same facts with at most MAX_FEATURES features in each (model, version, variant), and the rest counted.

    Args:
        allowed: model -> features that may have series, most wanted first. Of a model that is not in it, the first
            features of its facts have: give the features of its plan, so that series do not come and go with values.
    """
    wanted = allowed or {}
    found: dict[Series, dict[str, None]] = {}
    for name in BY_FEATURE:
        for sample in getattr(facts, name):
            found.setdefault(_series(sample), {})[str(sample[3])] = None
    shown = {series: _chosen(names, wanted.get(series[0])) for series, names in found.items()}
    kept = {name: tuple(one for one in getattr(facts, name) if one[3] in shown[_series(one)]) for name in BY_FEATURE}
    hidden = tuple((*series, len(names) - len(shown[series])) for series, names in found.items())
    return replace(facts, **kept, monitor_features_hidden=hidden)


def _series(sample: Sample) -> Series:
    return str(sample[0]), str(sample[1]), str(sample[2])


def _chosen(names: Iterable[str], wanted: Sequence[str] | None) -> frozenset[str]:
    known = frozenset(names)
    order = names if wanted is None else (name for name in wanted if name in known)
    chosen: dict[str, None] = {}
    for name in order:
        if len(chosen) == MAX_FEATURES:
            break
        chosen[name] = None
    return frozenset(chosen)
