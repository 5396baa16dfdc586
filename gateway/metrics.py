"""The metrics page: the node's counts in Prometheus' text format. The only importer of prometheus_client.

There is one registry on a node, in control, and it counts nothing itself: at each scrape it reads the shared pages.
Names: docs/metrics.md. Series of a version exist while the version is wanted; its counts go on when it comes back.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Final, get_args

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from gateway.control.counts import ModelKey, Totals, Values
from gateway.control.messages import ModelState
from gateway.control.policyfacts import PolicyFacts, TrafficFacts
from gateway.counters import (
    BATCH_ROWS,
    CODE_INDEX,
    COMPUTE_INFER_NS,
    COMPUTE_INPUT_NS,
    COMPUTE_OUTPUT_NS,
    CPU_NS,
    CRASHES,
    DURATION_BOUNDS_NS,
    EXECUTION_DURATION,
    EXECUTIONS,
    FAIL,
    INFERENCES,
    INFLIGHT,
    QUEUE_DURATION,
    QUEUE_NS,
    QUEUE_ROWS,
    REASON_INDEX,
    REQUEST_DURATION,
    ROWS_BOUNDS,
    SUCCESS_NS,
    TERMINATED,
    WORKER_FIELDS,
)
from gateway.monitor.facts import MonitorFacts, bounded
from gateway.shadowfields import COMPARED, DISAGREED, DROPPED, FAILED
from gateway.tally import BAD, FALLBACK, NEUTRAL, OK, ROUTED, SLOW
from router.rollout.status import Phase

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_LABELS: Final = ["model", "version", "variant"]
_SECONDS: Final = tuple(f"{bound / 1e9:g}" for bound in DURATION_BOUNDS_NS)
_HISTOGRAMS: Final = (
    ("tidegate_request_duration_seconds", "From the complete request to its answer.", REQUEST_DURATION),
    ("tidegate_queue_duration_seconds", "From admission to the execution.", QUEUE_DURATION),
    ("tidegate_execution_duration_seconds", "One run of the model, whatever its rows.", EXECUTION_DURATION),
)
_GAUGES: Final = (
    ("tidegate_inflight_requests", "Requests admitted and not answered yet.", INFLIGHT),
    ("tidegate_queue_rows", "Rows that wait for an execution.", QUEUE_ROWS),
)
_COUNTERS: Final = (
    ("tidegate_inferences", "Rows answered with success.", INFERENCES, 1.0),
    ("tidegate_executions", "Runs of the model.", EXECUTIONS, 1.0),
    ("tidegate_executions_terminated", "Runs that the watchdog ended.", TERMINATED, 1.0),
    ("tidegate_worker_crashes", "Workers that died while they executed this version.", CRASHES, 1.0),
    ("tidegate_execution_cpu_seconds", "CPU time of gathering inputs and running.", CPU_NS, 1e-9),
)
_TRITON: Final = (
    ("nv_inference_request_success", "Number of successful inference requests", CODE_INDEX[200], 1.0),
    ("nv_inference_request_failure", "Number of failed inference requests", FAIL, 1.0),
    ("nv_inference_count", "Number of inferences performed (rows)", INFERENCES, 1.0),
    ("nv_inference_exec_count", "Number of model executions performed", EXECUTIONS, 1.0),
    ("nv_inference_request_duration_us", "Cumulative inference request duration in us", SUCCESS_NS, 1e-3),
    ("nv_inference_queue_duration_us", "Cumulative inference queuing duration in us", QUEUE_NS, 1e-3),
    ("nv_inference_compute_input_duration_us", "Cumulative compute input duration in us", COMPUTE_INPUT_NS, 1e-3),
    ("nv_inference_compute_infer_duration_us", "Cumulative compute inference duration in us", COMPUTE_INFER_NS, 1e-3),
    ("nv_inference_compute_output_duration_us", "Cumulative compute output duration in us", COMPUTE_OUTPUT_NS, 1e-3),
)
_WORKER_GAUGES: Final = {
    "bytes_in_flight": "Bytes of requests being read or answered.",
    "decisions_waiting": "Lines of the decision log in the workers' buffers.",
}
_OF_MONITOR: Final = frozenset({"monitor_ns_total"})
"""Told as `monitor_overhead_seconds`, where there is a monitor."""
_STATES: Final = ("LOADING", "READY", "UNAVAILABLE")
_ROLLOUT_STATES: Final = (*get_args(Phase), "PAUSED", "HOLDING")
_BY_VARIANT: Final = ["model", "variant"]
_EVIDENCE: Final = (
    ("tidegate_evidence_routed", "Requests that were randomised to a variant.", ROUTED),
    ("tidegate_evidence_slow", "Requests that were answered later than the guardrail on latency allows.", SLOW),
)


@dataclass(frozen=True, slots=True)
class Node:
    """What a page shows.

    Attributes:
        states: of every wanted version; only these have series.
        workers: facts of each worker (`Service.call_workers`).
        build: version of ours and of the libraries that matter.
        traffic: policies and the store.
        monitor: None = there is none, and no family of it on the page.
        shown_features: model -> features that may have series (`gateway.monitor.facts.bounded`).
    """

    totals: Totals
    states: Sequence[ModelState]
    workers: Sequence[dict[str, Any]]
    build: dict[str, str]
    repository_away: bool
    traffic: TrafficFacts = field(default_factory=TrafficFacts)
    monitor: MonitorFacts | None = None
    shown_features: Mapping[str, Sequence[str]] = field(default_factory=dict)


class MetricsPage:
    """Makes the page; `read` is asked once for each."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._node: Node | None = None
        self._registry.register(_Collector(lambda: self._node))

    def render(self, node: Node) -> bytes:
        """The page of this moment, in the text format that every Prometheus reads."""
        self._node = node
        try:
            return generate_latest(self._registry)
        finally:
            self._node = None


class _Collector:
    def __init__(self, node: Callable[[], Node | None]) -> None:
        self._node = node

    def collect(self) -> Iterator[Metric]:
        """All families; none while the registry asks for names."""
        node = self._node()
        if node is None:
            return
        shown = {(state.name, str(state.version)) for state in node.states}
        models = {key: values for key, values in node.totals.models.items() if key[:2] in shown}
        yield from _requests(models)
        yield from (_histogram(name, text, at, models) for name, text, at in _HISTOGRAMS)
        yield _batch_rows(models)
        yield from (_gauge(name, text, at, models) for name, text, at in _GAUGES)
        yield from (_counter(name, text, at, unit, models, _LABELS) for name, text, at, unit in _COUNTERS)
        yield from (_triton(name, text, at, unit, models) for name, text, at, unit in _TRITON)
        yield from _lifecycle(node.states)
        yield from _workers(node)
        yield from _policies(node.traffic.policies)
        yield from _rollouts(node.traffic.policies)
        yield from _evidence(node.traffic.policies)
        yield GaugeMetricFamily("tidegate_store_up", "0 while the store does not answer.", not node.traffic.store_away)
        yield GaugeMetricFamily(
            "tidegate_policy_files_refused",
            "Files of the policy folder that are not in force.",
            node.traffic.refused_files,
        )
        if node.monitor is not None:
            yield from _monitor(bounded(node.monitor, node.shown_features))


def _requests(models: dict[ModelKey, Values]) -> Iterator[Metric]:
    requests = CounterMetricFamily("tidegate_requests", "Requests by status sent (499: the caller left).",
                                   labels=[*_LABELS, "code"])  # fmt: skip
    rejected = CounterMetricFamily(
        "tidegate_rejected", "Requests not executed, by reason.", labels=[*_LABELS, "reason"]
    )
    for key, values in models.items():
        for code, at in CODE_INDEX.items():
            if values[at] or code == 200:
                requests.add_metric([*key, str(code)], int(values[at]))
        for reason, at in REASON_INDEX.items():
            if values[at]:
                rejected.add_metric([*key, reason], int(values[at]))
    yield requests
    yield rejected


def _histogram(name: str, text: str, at: int, models: dict[ModelKey, Values]) -> Metric:
    family = HistogramMetricFamily(name, text, labels=_LABELS)
    for key, values in models.items():
        counts = accumulate(int(n) for n in values[at : at + len(_SECONDS) + 1])
        buckets = list(zip((*_SECONDS, "+Inf"), counts, strict=True))
        family.add_metric(list(key), buckets, sum_value=int(values[at + len(_SECONDS) + 1]) / 1e9)
    return family


def _batch_rows(models: dict[ModelKey, Values]) -> Metric:
    family = HistogramMetricFamily("tidegate_batch_rows", "Rows of one execution.", labels=_LABELS)
    for key, values in models.items():
        counts = accumulate(int(n) for n in values[BATCH_ROWS : BATCH_ROWS + len(ROWS_BOUNDS) + 1])
        buckets = list(zip((*map(str, ROWS_BOUNDS), "+Inf"), counts, strict=True))
        family.add_metric(list(key), buckets, sum_value=int(values[BATCH_ROWS + len(ROWS_BOUNDS) + 1]))
    return family


def _gauge(name: str, text: str, at: int, models: dict[ModelKey, Values]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=_LABELS)
    for key, values in models.items():
        family.add_metric(list(key), int(values[at]))
    return family


def _counter(
    name: str, text: str, at: int, unit: float, models: dict[ModelKey, Values], labels: Sequence[str]
) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for key, values in models.items():
        family.add_metric(list(key)[: len(labels)], int(values[at]) * unit if unit != 1.0 else int(values[at]))
    return family


def _triton(name: str, text: str, at: int, unit: float, models: dict[ModelKey, Values]) -> Metric:
    """Triton's names have no `_total`, so they are written as the untyped families that they would be read as."""
    family = Metric(name, text, "unknown")
    sums: dict[tuple[str, str], float] = {}
    for (model, version, _), values in models.items():
        sums[model, version] = sums.get((model, version), 0) + int(values[at]) * unit
    for (model, version), value in sums.items():
        family.add_sample(name, {"model": model, "version": version}, value)
    return family


def _lifecycle(states: Iterable[ModelState]) -> Iterator[Metric]:
    info = GaugeMetricFamily("tidegate_model_info", "1 for each wanted version.", labels=["model", "version", "digest"])
    state_of = GaugeMetricFamily("tidegate_model_state", "1 for the state a version is in.",
                                 labels=["model", "version", "state"])  # fmt: skip
    loads = GaugeMetricFamily("tidegate_model_load_duration_seconds", "Longest last load on a worker.",
                              labels=["model", "version"])  # fmt: skip
    for state in states:
        version = str(state.version)
        info.add_metric([state.name, version, state.digest[:19]], 1)
        for name in _STATES:
            state_of.add_metric([state.name, version, name], int(state.state == name))
        if state.load_ns:
            loads.add_metric([state.name, version], state.load_ns / 1e9)
    yield info
    yield state_of
    yield loads


def _workers(node: Node) -> Iterator[Metric]:
    for name, value in zip(WORKER_FIELDS, node.totals.workers.tolist(), strict=True):
        if name in _OF_MONITOR:
            continue
        if name in _WORKER_GAUGES:
            yield GaugeMetricFamily(f"tidegate_{name}", _WORKER_GAUGES[name], value)
        elif name.endswith("_ns_total"):
            short = name.removesuffix("_ns_total")
            yield CounterMetricFamily(f"tidegate_{short}_seconds", f"Sum of {short} over all workers.", value / 1e9)
        else:
            short = name.removesuffix("_total")
            yield CounterMetricFamily(f"tidegate_{short}", f"Number of {short} over all workers.", value)
    up = GaugeMetricFamily("tidegate_worker_listening", "1 for a worker that answers.", labels=["slot"])
    rss = GaugeMetricFamily("tidegate_worker_resident_memory_bytes", "Resident memory.", labels=["slot"])
    lag = GaugeMetricFamily("tidegate_worker_loop_lag_seconds", "Last lag of the event loop.", labels=["slot"])
    restarts = CounterMetricFamily("tidegate_worker_restarts", "Times that a slot's worker was replaced.",
                                   labels=["slot"])  # fmt: skip
    for worker in node.workers:
        slot = [str(worker["slot"])]
        up.add_metric(slot, int(worker["listening"]))
        rss.add_metric(slot, worker["rss_bytes"] or 0)
        lag.add_metric(slot, (worker["loop_lag_ms"] or 0) / 1e3)
        restarts.add_metric(slot, worker["restarts"])
    yield from (up, rss, lag, restarts)
    lost = int(sum(node.totals.lost[at] for at in CODE_INDEX.values()))
    yield CounterMetricFamily(
        "tidegate_unlabelled_requests", "Requests counted without labels: the page is full.", lost
    )
    yield GaugeMetricFamily(
        "tidegate_repository_up", "0 while the repository cannot be read.", int(not node.repository_away)
    )
    yield InfoMetricFamily("tidegate_build", "Versions of what runs.", node.build)


def _policies(policies: Sequence[PolicyFacts]) -> Iterator[Metric]:
    weight = GaugeMetricFamily("tidegate_policy_weight_ratio", "Share of the default split.",
                               labels=[*_BY_VARIANT, "kind"])  # fmt: skip
    revision = GaugeMetricFamily("tidegate_policy_revision", "Newest revision of the routing.", labels=["model"])
    acked = GaugeMetricFamily(
        "tidegate_policy_acked_revision", "Lowest revision that a live worker acts on.", labels=["model"]
    )
    zeroed = GaugeMetricFamily("tidegate_policy_local_zeros",
                               "Workers that zeroed the canary by themselves.", labels=["model"])  # fmt: skip
    for policy in policies:
        for kind, shares in (("intended", policy.intended), ("in_force", policy.in_force)):
            for variant, share in shares.items():
                weight.add_metric([policy.name, variant, kind], share)
        revision.add_metric([policy.name], policy.revision)
        acked.add_metric([policy.name], policy.acked)
        zeroed.add_metric([policy.name], policy.zeroed)
    yield from (weight, revision, acked, zeroed)


def _rollouts(policies: Sequence[PolicyFacts]) -> Iterator[Metric]:
    state = GaugeMetricFamily("tidegate_rollout_state", "1 for the state a rollout is in.", labels=["model", "state"])
    step = GaugeMetricFamily("tidegate_rollout_step", "Step that a rollout is in.", labels=["model"])
    steps = GaugeMetricFamily("tidegate_rollout_steps", "Steps of a rollout.", labels=["model"])
    labels = ["model", "guardrail", "test"]
    log_e = GaugeMetricFamily("tidegate_guardrail_log_e", "Natural logarithm of the e-value.", labels=labels)
    limit = GaugeMetricFamily("tidegate_guardrail_threshold_log_e", "Where it decides.", labels=labels)
    for policy in policies:
        if not policy.state:
            continue
        for name in _ROLLOUT_STATES:
            state.add_metric([policy.name, name], int(name == policy.state))
        step.add_metric([policy.name], policy.step)
        steps.add_metric([policy.name], policy.steps)
        for guardrail, test, value, threshold in policy.guardrails:
            log_e.add_metric([policy.name, guardrail, test], value)
            limit.add_metric([policy.name, guardrail, test], threshold)
    yield from (state, step, steps, log_e, limit)


def _evidence(policies: Sequence[PolicyFacts]) -> Iterator[Metric]:
    for name, text, at in _EVIDENCE:
        family = CounterMetricFamily(name, text, labels=_BY_VARIANT)
        for policy in policies:
            for variant, counts in policy.counts.items():
                family.add_metric([policy.name, variant], int(counts[at]))
        yield family
    finished = CounterMetricFamily("tidegate_evidence_requests", "Randomised requests that ended, by outcome.",
                                   labels=[*_BY_VARIANT, "outcome"])  # fmt: skip
    uncounted = CounterMetricFamily("tidegate_uncounted_requests", "Requests of a policy that are no evidence.",
                                    labels=_BY_VARIANT)  # fmt: skip
    fallbacks = CounterMetricFamily("tidegate_fallbacks", "Failures of a variant that stable answered.",
                                    labels=_BY_VARIANT)  # fmt: skip
    shadow = CounterMetricFamily("tidegate_shadow_requests", "Copies of requests in the shadow, by result.",
                                 labels=[*_BY_VARIANT, "result"])  # fmt: skip
    for policy in policies:
        for variant, counts in policy.counts.items():
            for outcome, at in (("ok", OK), ("bad", BAD), ("neutral", NEUTRAL)):
                finished.add_metric([policy.name, variant, outcome], int(counts[at]))
            none = policy.uncounted[variant]
            uncounted.add_metric([policy.name, variant], int(none[ROUTED]))
            fallbacks.add_metric([policy.name, variant], int(counts[FALLBACK] + none[FALLBACK]))
            copies = policy.shadow[variant]
            for result, count in (
                ("agreed", copies[COMPARED] - copies[DISAGREED]),
                ("disagreed", copies[DISAGREED]),
                ("failed", copies[FAILED]),
                ("dropped", copies[DROPPED]),
            ):
                shadow.add_metric([policy.name, variant, result], int(count))
    yield from (finished, uncounted, fallbacks, shadow)


def _monitor(facts: MonitorFacts) -> Iterator[Metric]:
    for shown, samples in facts.samples():
        name = f"tidegate_{shown.name}"
        family = Metric(name, shown.text, shown.kind)
        labels, suffix = (*_LABELS, *shown.labels), "_total" if shown.kind == "counter" else ""
        for *values, value in samples:
            family.add_sample(name + suffix, dict(zip(labels, map(str, values), strict=True)), float(value))
        yield family
