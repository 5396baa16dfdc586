"""Writes the dashboards: python deploy/grafana/generate.py. Standard library only; the JSON is never edited by hand.

A dashboard is rows of panels on Grafana's grid of 24 columns; a panel is a title, queries with their legends, a unit,
and a sentence that says how to read it. `FILES` has the dashboards by file name.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "dashboards"
ROW_WIDTH, HEIGHT = 24, 8
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
CHOSEN = '{model=~"$model", version=~"$version", variant=~"$variant"}'
BY_VARIANT = "by (model, version, variant)"
BY_CODE = "by (model, version, variant, code)"
WHO = "{{model}}:{{version}} {{variant}}"
COLOURS = ("#8e8e8e", "#6b7a90", "#56a64b", "#e0b400", "#e02f44", "#3274d9")
STATES = ("insufficient", "unknown", "ok", "pending", "firing", "resolved")


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        queries: (PromQL, legend); Grafana puts the variables in.
        unit: Grafana's name of it: reqps, s, percentunit, short, bytes, ...
        text: how to read it.
        limits: (value, what it means): lines across the panel.
        maximum: of the axis; None = Grafana's choice.
    """

    title: str
    queries: Sequence[tuple[str, str]]
    unit: str
    text: str
    kind: str = "timeseries"
    width: int = 8
    limits: Sequence[tuple[float, str]] = ()
    maximum: float | None = None
    mappings: Sequence[str] = ()


def chosen(metric: str, *more: str) -> str:
    """A selector of the chosen versions, with more matchers."""
    return metric + CHOSEN[:-1] + "".join(f", {one}" for one in more) + "}"


def rate(metric: str, *more: str, by: str = BY_VARIANT) -> str:
    """Increase per second of the chosen versions, summed over nodes."""
    return f"sum {by} (rate({chosen(metric, *more)}[$__rate_interval]))"


def quantiles(metric: str) -> list[tuple[str, str]]:
    """p50, p90 and p99 of a histogram."""
    buckets = f"sum by (model, version, variant, le) (rate({chosen(f'{metric}_bucket')}[$__rate_interval]))"
    return [(f"histogram_quantile({q / 100:g}, {buckets})", f"p{q} {WHO}") for q in (50, 90, 99)]


def of_model(metric: str, *more: str) -> str:
    """A selector of what has no version, or writes `-` for it: a reader who picks one still sees it."""
    return f'{metric}{{model=~"$model"{"".join(f", {one}" for one in more)}}}'


def counted(metric: str, by: str, *more: str) -> str:
    """Increase per second of what has no version."""
    return f"sum {by} (rate({of_model(metric, *more)}[$__rate_interval]))"


def of_policy(metric: str, by: str) -> str:
    """Increase per second of what has a variant and no version."""
    return counted(metric, by, 'variant=~"$variant"')


SERVING = (
    ("Requests", (
        Panel("Requests", [(rate("tidegate_requests_total"), WHO)], "reqps", "Answered, whatever the status."),
        Panel("Errors", [
            (rate("tidegate_requests_total", 'code!="200"', by=BY_CODE), "{{code}} " + WHO),
        ], "reqps", "By status. 4xx is the caller's, 429 is a refusal, 499 a caller that left, 5xx ours."),
        Panel("Refused, by reason", [
            (rate("tidegate_rejected_total", by="by (reason)"), "{{reason}}"),
        ], "reqps", "queue_full, estimated_wait and bytes_in_flight mean more load than this node takes."),
    )),
    ("Latency", (
        Panel("Whole request", quantiles("tidegate_request_duration_seconds"), "s", "From last byte to answer."),
        Panel("In the queue", quantiles("tidegate_queue_duration_seconds"), "s", "From admission to the execution."),
        Panel("Execution", quantiles("tidegate_execution_duration_seconds"), "s", "One run, whatever its rows."),
    )),
    ("Batches and queue", (
        Panel("Rows of an execution", [
            (f"{rate('tidegate_batch_rows_sum')} / {rate('tidegate_batch_rows_count')}", "mean " + WHO),
            (f"histogram_quantile(0.99, sum by (model, version, variant, le) "
             f"(rate({chosen('tidegate_batch_rows_bucket')}[$__rate_interval])))", "p99 " + WHO),
        ], "short", "1 = nothing is batched; it grows with load."),
        Panel("Waiting and in flight", [
            (f"sum {BY_VARIANT} ({chosen('tidegate_queue_rows')})", "rows in the queue " + WHO),
            (f"sum {BY_VARIANT} ({chosen('tidegate_inflight_requests')})", "requests in flight " + WHO),
        ], "short", "A queue that stays is a node at its limit."),
        Panel("Rows, and CPU for each", [
            (rate("tidegate_inferences_total"), "rows/s " + WHO),
            (f"1e6 * {rate('tidegate_execution_cpu_seconds_total')} / {rate('tidegate_inferences_total')}",
             "CPU us per row " + WHO),
        ], "short", "CPU of gathering inputs and running the model, in microseconds per row."),
    )),
    ("Traffic policy and rollout", (
        Panel("Weights in force", [
            (of_model("tidegate_policy_weight_ratio", 'kind="in_force"'), "{{model}} {{variant}}"),
        ], "percentunit", "Share of the default split that a variant gets, after kills and rollbacks.", maximum=1),
        Panel("Evidence against the canary", [
            (of_model("tidegate_guardrail_log_e", 'test="harm"'), "{{model}} {{guardrail}}"),
            (of_model("tidegate_guardrail_threshold_log_e", 'test="harm"'), "rolls back at, {{model}} {{guardrail}}"),
        ], "short", "Logarithm of the e-value of each guardrail. At its line the canary is rolled back."),
        Panel("Evidence that it is no worse", [
            (of_model("tidegate_guardrail_log_e", 'test="no_worse"'), "{{model}} {{guardrail}}"),
            (of_model("tidegate_guardrail_threshold_log_e", 'test="no_worse"'), "enough at, {{model}} {{guardrail}}"),
        ], "short", "Every guardrail must reach its line before the canary gets everything."),
        Panel("State of the rollout", [(of_model("tidegate_rollout_state") + " == 1", "{{model}} {{state}}")],
              "short", "The state a rollout is in.", kind="state-timeline", width=12),
        Panel("Evidence by outcome", [
            (of_policy("tidegate_evidence_requests_total", "by (model, variant, outcome)"),
             "{{outcome}} {{model}} {{variant}}"),
            (of_policy("tidegate_fallbacks_total", "by (model, variant)"),
             "answered by stable instead {{model}} {{variant}}"),
        ], "reqps", "Randomised requests that ended.", width=12),
    )),
    ("Node", (
        Panel("Workers that answer", [("sum by (instance) (tidegate_worker_listening)", "{{instance}}")], "short",
              "Of each node.", width=6),
        Panel("Restarts of workers", [
            ("sum by (instance) (increase(tidegate_worker_restarts_total[1h]))", "{{instance}}"),
        ], "short", "In the last hour.", width=6),
        Panel("Memory", [("tidegate_worker_resident_memory_bytes", "{{instance}} slot {{slot}}")], "bytes",
              "Resident memory of each worker.", width=6),
        Panel("Lateness of event loops", [
            ("max by (instance) (tidegate_worker_loop_lag_seconds)", "at the last look {{instance}}"),
            ("sum by (instance) (rate(tidegate_loop_stall_seconds_total[$__rate_interval]))", "stalled {{instance}}"),
        ], "s", "Last lag of the worst loop; seconds a second that loops were late by more than 20 ms.", width=6),
        Panel("Models and what they lean on", [
            ('sum by (instance) (tidegate_model_state{state="READY"})', "versions ready {{instance}}"),
            ("min by (instance) (tidegate_store_up)", "store answers {{instance}}"),
            ("min by (instance) (tidegate_repository_up)", "repository answers {{instance}}"),
        ], "short", "0 of store or repository: it is away, and what serves goes on.", width=12),
        Panel("Connections", [
            ("sum by (instance) (tidegate_connections_total - tidegate_connections_closed_total)", "open {{instance}}"),
        ], "short", "Open now.", width=12),
    )),
)  # fmt: skip

PERFORMANCE = "by (model, version, variant, metric)"
REFERENCE_MISSING = of_model("tidegate_monitor_reference_missing", 'version=~"$version"')
DRIFT = (
    ("States", (
        Panel("State of every signal", [
            (f"max by (model, version, variant, signal) ({chosen('tidegate_drift_state')})", "{{signal}} " + WHO),
        ], "short", "insufficient: too few rows for a verdict. pending: one window of three. firing: two of three.",
              kind="state-timeline", width=24, mappings=STATES),
    )),
    ("Inputs and predictions", (
        Panel("Drift of features", [
            ("max by (model, version, variant, feature) (" + chosen("tidegate_drift_score", 'metric="psi"') + ")",
             "{{feature}} " + WHO),
        ], "short", "PSI of the last closed window. A high one alone is no alarm: it must be more than chance, too.",
              limits=((0.1, "changed"), (0.25, "changed a lot"))),
        Panel("How surprising", [
            (f"min by (model, version, variant, feature) ({chosen('tidegate_drift_pvalue')})", "{{feature}} " + WHO),
        ], "short", "p-value of the same window if nothing had changed, before any correction."),
        Panel("Drift of predictions", [
            (f"max {PERFORMANCE} ({chosen('tidegate_prediction_drift_score')})", "{{metric}} " + WHO),
        ], "short", "Distance of the scores from those of the reference."),
        Panel("Missing", [
            (f"max by (model, version, variant, feature) ({chosen('tidegate_feature_missing_ratio')})",
             "{{feature}} " + WHO),
        ], "percentunit", "Rows with NaN or null."),
        Panel("Out of range", [
            (f"max by (model, version, variant, feature) ({chosen('tidegate_feature_out_of_range_ratio')})",
             "{{feature}} " + WHO),
        ], "percentunit", "Rows below or above all of the reference."),
        Panel("Unseen categories", [
            (f"max by (model, version, variant, feature) ({chosen('tidegate_feature_unseen_ratio')})",
             "{{feature}} " + WHO),
        ], "percentunit", "Rows with a category that the reference does not have."),
    )),
    ("Performance", (
        Panel("Estimated and realised", [
            (f"max {PERFORMANCE} ({chosen('tidegate_estimated_performance')})", "{{metric}} estimated " + WHO),
            (f"max {PERFORMANCE} ({chosen('tidegate_realised_performance')})", "{{metric}} realised " + WHO),
        ], "short", "Estimated at once from calibrated scores; realised once labels came. Far apart: concept drift.",
              width=12),
        Panel("Labels", [
            (f"max {BY_VARIANT} ({chosen('tidegate_label_coverage_ratio')})", WHO),
        ], "percentunit", "Predictions old enough for a label that have one.", width=6, maximum=1),
        Panel("How late labels are", [
            (f"max by (model, version, variant, quantile) ({chosen('tidegate_label_delay_seconds')})",
             "{{quantile}} " + WHO),
        ], "s", "From the prediction to the label.", width=6),
        Panel("Fairness", [
            (f"min by (model, version, variant, group, basis) ({chosen('tidegate_fairness_disparate_impact')})",
             "{{group}} {{basis}} " + WHO),
        ], "short", "Rate of favourable decisions over that of the best group.", width=6,
              limits=((0.8, "four fifths"),)),
        Panel("Fairness by labels", [
            (f"max by (model, version, variant, group, rate) ({chosen('tidegate_fairness_gap')})",
             "{{group}} {{rate}} " + WHO),
        ], "short", "True or false positive rate of a group less that of the group most often decided 1.", width=6,
              limits=((-0.1, "alarm"), (0.1, "alarm"))),
        Panel("Latency budget", [
            (f"max by (model, version, variant, window) ({chosen('tidegate_slo_burn_rate')})", "{{window}} " + WHO),
        ], "short", "Speed at which the budget is spent; 1 spends exactly all of it.", width=6,
              limits=((1, "all of it"), (6, "page"), (14.4, "page"))),
        Panel("Slower than stable", [
            (f"max {BY_VARIANT} ({chosen('tidegate_latency_shift')})", WHO),
        ], "short", "Cohen's h of the canary's answers against stable's, over the same seconds; 0.2 matters.", width=6,
              limits=((0.2, "matters"),)),
    )),
    ("The monitor itself", (
        Panel("Age of its counts", [
            (f"max by (model) ({of_model('tidegate_monitor_lag_seconds')})", "{{model}}"),
        ], "s", "Age of the newest counts it has.", width=6),
        Panel("Rows", [
            (rate("tidegate_monitor_rows_observed_total"), "counted " + WHO),
            (rate("tidegate_monitor_rows_skipped_total"), "skipped " + WHO),
        ], "short", "Rows a second. Nothing is sampled; skipped rows are a fault.", width=6),
        Panel("Deltas", [
            (counted("tidegate_monitor_deltas_gap_total", "by (model)"), "lost {{model}}"),
            (counted("tidegate_monitor_deltas_duplicated_total", "by (model)"), "seen twice {{model}}"),
            (counted("tidegate_monitor_dead_letters_total", "by (model, reason)"), "unreadable {{model}} {{reason}}"),
        ], "short", "Counts on their way to the store. Seen twice is harmless.", width=6),
        Panel("Its CPU", [
            ("sum by (instance) (rate(tidegate_monitor_overhead_seconds_total[$__rate_interval]))", "{{instance}}"),
        ], "percentunit", "Share of a core that counting takes on each node, for all models.", width=6),
        Panel("Why it may be silent", [
            (f"max {BY_VARIANT} ({chosen('tidegate_monitor_blind')})", "blind " + WHO),
            (f"max by (model, version) ({REFERENCE_MISSING})", "no reference {{model}}:{{version}}"),
            (f"max {BY_VARIANT} ({chosen('tidegate_monitor_features_hidden')})", "features without series " + WHO),
        ], "short", "While it is blind or has no reference, no alarm says nothing.", width=8),
        Panel("Alerts", [
            (f"sum by (model, signal, severity) (increase({of_model('tidegate_alerts_total')}[1h]))",
             "{{signal}} {{severity}} {{model}}"),
            ("sum by (instance) (increase(tidegate_alerts_dropped_total[1h]))", "dropped {{instance}}"),
        ], "short", "In the last hour. Dropped ones are of all models.", width=8),
        Panel("Leases on canaries", [
            (f"max by (model, version, variant, level) ({chosen('tidegate_degrade_flags')})", "{{level}} " + WHO),
        ], "short", "1: freeze stops the ramp, in fallback stable answers, rollback ends it.", width=8, maximum=1),
        Panel("What it did", [
            (f"sum by (model, action, reason) (increase({chosen('tidegate_rollout_actions_total')}[1h]))",
             "{{action}}: {{reason}} {{model}}"),
            (f"sum by (model, outcome) (increase({of_model('tidegate_retrain_requests_total')}[1h]))",
             "retraining {{outcome}} {{model}}"),
        ], "short", "In the last hour.", width=8),
    )),
)  # fmt: skip


def _steps(limits: Sequence[tuple[float, str]]) -> list[dict[str, Any]]:
    colours = ("#e0b400", "#e02f44", "#8f3bb8")
    lines = [{"color": colours[i], "value": value} for i, (value, _) in enumerate(limits)]
    return [{"color": "green", "value": None}, *lines]


def _defaults(panel: Panel) -> dict[str, Any]:
    found: dict[str, Any] = {
        "unit": panel.unit,
        "min": 0,
        "thresholds": {"mode": "absolute", "steps": _steps(panel.limits)},
    }
    if panel.title.startswith("Evidence "):
        del found["min"]  # a logarithm
    if panel.maximum is not None:
        found["max"] = panel.maximum
    if panel.mappings:
        options = {str(i): {"text": text, "color": COLOURS[i], "index": i} for i, text in enumerate(panel.mappings)}
        found["mappings"] = [{"type": "value", "options": options}]
    if panel.kind == "timeseries":
        style = "line" if panel.limits else "off"
        found["custom"] = {"fillOpacity": 8, "showPoints": "never", "thresholdsStyle": {"mode": style}}
    return found


def _options(panel: Panel) -> dict[str, Any]:
    legend = {"displayMode": "list", "placement": "bottom", "showLegend": True}
    if panel.kind == "timeseries":
        return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}
    return {"legend": legend, "mergeValues": True, "showValue": "auto", "rowHeight": 0.9}


def _panel(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    limits = "".join(f" {value:g}: {meaning}." for value, meaning in panel.limits)
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text + limits,
        "datasource": DATASOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": HEIGHT},
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _options(panel),
        "targets": [
            {"refId": chr(ord("A") + i), "datasource": DATASOURCE, "expr": expression, "legendFormat": legend}
            for i, (expression, legend) in enumerate(panel.queries)
        ],
    }


def _panels(rows: Sequence[tuple[str, Sequence[Panel]]]) -> Iterator[dict[str, Any]]:
    number, y = 0, 0
    for title, panels in rows:
        number += 1
        place = {"x": 0, "y": y, "w": ROW_WIDTH, "h": 1}
        yield {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}
        x, y = 0, y + 1
        for panel in panels:
            if x + panel.width > ROW_WIDTH:
                x, y = 0, y + HEIGHT
            number += 1
            yield _panel(panel, number, x, y)
            x += panel.width
        y += HEIGHT


def _variables(metric: str) -> Iterator[dict[str, Any]]:
    yield {
        "name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus",
        "hide": 0, "includeAll": False, "multi": False, "options": [], "refresh": 1, "regex": "",
    }  # fmt: skip
    matchers = ""
    for label in ("model", "version", "variant"):
        query = f"label_values({metric}{{{matchers}}}, {label})" if matchers else f"label_values({metric}, {label})"
        yield {
            "name": label, "label": label, "type": "query", "datasource": DATASOURCE,
            "definition": query, "query": {"query": query, "refId": f"variable-{label}"},
            "includeAll": True, "allValue": ".*", "multi": True, "refresh": 2, "sort": 1, "hide": 0,
            "current": {"selected": True, "text": ["All"], "value": ["$__all"]}, "options": [], "regex": "",
        }  # fmt: skip
        matchers += f'{", " if matchers else ""}{label}=~"${label}"'


def dashboard(uid: str, title: str, rows: Sequence[tuple[str, Sequence[Panel]]], metric: str) -> dict[str, Any]:
    """A dashboard as Grafana imports it; the values of its variables are those of `metric`."""
    links = [
        {"title": "Tidegate", "type": "dashboards", "tags": ["tidegate"], "asDropdown": False, "includeVars": True,
         "keepTime": True, "icon": "external link", "targetBlank": False, "tooltip": "", "url": ""}
    ]  # fmt: skip
    return {
        "uid": uid,
        "title": title,
        "tags": ["tidegate"],
        "schemaVersion": 38,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "links": links,
        "annotations": {"list": []},
        "templating": {"list": list(_variables(metric))},
        "panels": list(_panels(rows)),
    }


FILES = {
    "serving.json": dashboard("tidegate-serving", "Tidegate: serving", SERVING, "tidegate_requests_total"),
    "drift.json": dashboard("tidegate-drift", "Tidegate: drift", DRIFT, "tidegate_drift_state"),
}


def text(name: str) -> str:
    """What the file holds."""
    return json.dumps(FILES[name], indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for file in FILES:
        (FOLDER / file).write_text(text(file), encoding="utf-8")
