"""What people and programs see of a monitor: plain values for the admin port, families for the metrics page. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any, Final

import msgspec

from gateway.control.labelnotes import NOBODY
from gateway.control.monitordead import KINDS
from gateway.control.monitorheld import Held
from gateway.control.monitorinputs import Series
from gateway.monitor.counting import Counts
from gateway.monitor.facts import BURN_WINDOWS, STATES, MonitorFacts
from gateway.monitor.leases import DEGRADES
from gateway.monitor.plan import ROWS, SKIPPED
from gateway.monitor.realised import Cohort, performance
from gateway.monitor.results import Compared, WindowResult
from gateway.monitor.watching import Watching
from gateway.monitor.words import SEVERITIES, Finding, Signal, State, worst_of

COHORTS_SHOWN: Final = 40
WINDOWS_SHOWN: Final = 20
_WINDOW_S: Final = dict(zip((300, 1_800, 3_600, 7_200, 21_600, 86_400, 259_200), BURN_WINDOWS, strict=True))


def in_short(name: str, held: Held, now_ms: int, file_problem: str = "") -> dict[str, Any]:
    """A line of `monitor ls`.

    Args:
        file_problem: what is wrong with its file in the policy folder; "" = nothing.
    """
    incident = held.monitor.ledger.open
    return {
        "name": name,
        "generation": held.generation,
        "owner": held.record.owner if held.record is not None else "",
        "states": worst_states(held, now_ms),
        "incident": None if incident is None else {"id": incident.id, "severity": incident.severity,
                                                   "opened_s": incident.opened_s},
        "verdict": held.monitor.attribution.verdict,
        "rows": sum(int(counts[ROWS]) for counts in held.seen.values()),
        "problems": problems(held),
        "collecting": collecting(held),
        "file_problem": file_problem,
        "blind": blind(held, now_ms),
    }  # fmt: skip


def worst_states(held: Held, now_ms: int) -> dict[str, str]:
    """Signal -> the worst state of all series."""
    found: dict[Signal, list[State]] = {}
    for one in latest(held, now_ms):
        found.setdefault(one.signal, []).append(one.state)
    return {signal: worst_of(states) for signal, states in found.items()}


def latest(held: Held, now_ms: int) -> Iterator[Finding]:
    """The word on each signal of each series now; of a version without a reference nothing is known any more."""
    said = set()
    for one in held.monitor.board.shown(now_ms / 1000, held.monitor.silent_s):
        said.add((one.series, one.signal))
        yield one if one.version in held.monitor.versions else msgspec.structs.replace(one, state="unknown")

    for watching in held.monitor.versions.values():
        yield from (one for one in _silence(held, watching) if (one.series, one.signal) not in said)


def _silence(held: Held, watching: Watching) -> Iterator[Finding]:
    """What would be said of a version if it had rows."""
    scored: tuple[Signal, ...] = ("prediction_drift", "performance_estimated")
    signals: tuple[Signal, ...] = ("input_drift", "data_quality", *(scored if watching.reference.plan.score else ()))
    for variant in awaited(held, watching):
        for signal in signals:
            text = "no row was counted yet"
            yield Finding(signal=signal, state="unknown", version=watching.version, variant=variant, text=text)


def awaited(held: Held, watching: Watching) -> list[str]:
    """Variants of a version that has no rows, though somebody should ask for it: those that its policy gives it, or "-"
    where the model has no rows at all. Versions that are loaded beside one that is asked for wait for nobody."""
    if watching.engine.variants:
        return []
    live = held.roles.live or ()
    given = sorted(variant for version, variant in live if version == watching.version and variant != NOBODY)
    asked = any(one.engine.variants for one in held.monitor.versions.values())
    return given or ([] if asked else [NOBODY])


def problems(held: Held) -> dict[str, str]:
    """Version -> why it is not watched; "*" -> why the model is not."""
    found = {version: problem for version, problem in held.problems.items() if problem}
    return found | ({"*": held.failed} if held.failed else {})


def collecting(held: Held) -> dict[str, Any]:
    """Version -> how many of its first rows are there, of versions that wait for a reference from them."""
    waiting = held.first.keys() - held.monitor.versions.keys()
    return {version: asdict(one) for version, one in held.first.items() if version in waiting}


def since_s(held: Held, version: str) -> float | None:
    """When the rows of a provisional reference began to come, Unix time; None = it is not made of first rows."""
    return held.first[version].since_s if version in held.first else None


def blind(held: Held, now_ms: int) -> list[str]:
    """VERSION/VARIANT without a verdict for two of the longest windows."""
    return [
        f"{version}/{variant}"
        for version, watching in held.monitor.versions.items()
        for variant in _dark(held, watching, now_ms)
    ]


def _dark(held: Held, watching: Watching, now_ms: int) -> list[str]:
    return watching.engine.blind(now_ms) + (awaited(held, watching) if watching.idle(now_ms) else [])


def view(name: str, held: Held, *, leads: bool, away: str, now_ms: int, file_problem: str = "") -> dict[str, Any]:
    """Everything about one monitor; arguments as of `in_short`."""
    monitor = held.monitor
    return in_short(name, held, now_ms, file_problem) | {
        "leads": leads,
        "store_away": away,
        "document": held.record.document if held.record is not None else None,
        "applied_by": held.record.applied_by if held.record is not None else "",
        "applied_ms": held.record.applied_ms if held.record is not None else 0,
        "roles": {"champion": list(held.roles.champion), "canary": held.roles.canary and list(held.roles.canary)},
        "attribution": msgspec.to_builtins(monitor.attribution),
        "hosts": dict(sorted(monitor.hosts.states.items())),
        "incident": msgspec.to_builtins(monitor.ledger.open),
        "incidents": msgspec.to_builtins(monitor.ledger.closed),
        "leases": msgspec.to_builtins(monitor.leases.held),
        "retraining": msgspec.to_builtins(monitor.requests.asked),
        "held_back": [{**msgspec.to_builtins(finding), "why": why} for finding, why in monitor.held[-20:]],
        "lag_ms": _lag_ms(held, now_ms),
        "missed": held.missed,
        "dead_letters": held.dead.plain(),
        "versions": {version: _version(held, watching, now_ms) for version, watching in monitor.versions.items()},
    }


def _lag_ms(held: Held, now_ms: int) -> int | None:
    """Age of the newest counts, or of the last word of a node that lives and is silent: its counts are missing."""
    ages = [now_ms - held.fresh_ms] if held.fresh_ms else []
    return max([*ages, *([int(held.monitor.silent_s * 1000)] if held.monitor.silent_s else [])], default=None)


def _version(held: Held, watching: Watching, now_ms: int) -> dict[str, Any]:
    reference = watching.reference
    variants = sorted(
        {
            *watching.engine.variants,
            *awaited(held, watching),
            *(key[2].variant for key in held.seen if key[2].version == watching.version),
        }
    )
    return {
        "reference": {"id": reference.id, "rows": reference.rows, "origin": reference.origin,
                      "provisional": reference.provisional, "since_s": since_s(held, watching.version),
                      "features": len(reference.plan.features)},
        "variants": {variant: _variant(held, watching, variant, now_ms) for variant in variants},
        "labels": {"too_late": watching.cohorts.too_late, "unplaced": watching.cohorts.unplaced,
                   "span_s": watching.cohorts.span_s},
    }  # fmt: skip


def _variant(held: Held, watching: Watching, variant: str, now_ms: int) -> dict[str, Any]:
    history = watching.engine.history(variant)
    findings = [one for one in latest(held, now_ms) if one.series == (watching.version, variant)]
    observed, skipped = _rows(held, watching.version, variant)
    return {
        "rows": observed,
        "skipped": skipped,
        "open_rows": watching.engine.open_rows(variant),
        "signals": {
            one.signal: {"state": one.state, "severity": one.severity, "keys": list(one.keys), "text": one.text,
                         "window_to_s": one.window_to_s}
            for one in findings
        },
        "windows": [msgspec.to_builtins(result) for result in history[-WINDOWS_SHOWN:]],
        "cohorts": _cohorts(held, watching, variant, now_ms),
        "label_delay_s": {str(q): value for q, value in watching.cohorts.delay_quantiles(variant).items()},
        "reference_performance": msgspec.to_builtins(watching.realised_reference()),
        "fairness": watching.exported_fairness(variant),
        "fairness_by_labels": watching.exported_gaps(variant),
        "stages": watching.stages(variant, now_ms),
        "groups": watching.by_group(variant, now_ms),
        "burn_rates": {_WINDOW_S[at]: rate for at, rate in watching.burn_rates(variant, now_ms).items()},
        "beside_champion": _beside_champion(held, watching.version, variant),
    }  # fmt: skip


def _beside_champion(held: Held, version: str, variant: str) -> dict[str, Any] | None:
    """The last comparison of latencies; None = there was none."""
    found = held.monitor.compared_latency((version, variant))
    return None if found is None else {**msgspec.to_builtins(found), "text": found.text}


def _rows(held: Held, version: str, variant: str) -> tuple[int, int]:
    mine = [c for key, c in held.seen.items() if (key[2].version, key[2].variant) == (version, variant)]
    skipped = sum(int(counts[SKIPPED]) for counts in mine) + held.untaken[version, variant]
    return sum(int(counts[ROWS]) for counts in mine), skipped


def _cohorts(held: Held, watching: Watching, variant: str, now_ms: int) -> list[dict[str, Any]]:
    found = [(start, one) for start, name, one in watching.cohorts.items() if name == variant and one.predicted.any()]
    matured = {start for start, _ in watching.old_enough(variant, now_ms)}
    return [_cohort(held, start, one) | {"matured": start in matured} for start, one in found[-COHORTS_SHOWN:]]


def _cohort(held: Held, start_s: int, cohort: Cohort) -> dict[str, Any]:
    """A cohort as it is now; `rows` of it have a label. It is judged once it has matured."""
    came_true = performance(cohort, min_coverage=held.spec.labels.min_coverage, min_rows=held.spec.min_rows)
    return {
        "start_s": start_s,
        "predictions": int(cohort.predicted.sum()),
        "coverage": list(cohort.coverage()),
        **msgspec.to_builtins(came_true),
    }


def explanation(name: str, held: Held, explained: Mapping[str, dict[str, Any]], now_ms: int) -> dict[str, Any]:
    """Every setting in force, what can be seen with it, and why the last windows said what they said.

    Args:
        explained: of each version, as `gateway.monitor.explaining.explained` makes it.
    """
    return {
        "name": name,
        "versions": {
            version: explained[version]
            | {"windows": {variant: [msgspec.to_builtins(one) for one in watching.engine.history(variant)]
                           for variant in watching.engine.variants},
               "stages": {variant: watching.stages(variant, now_ms) for variant in watching.engine.variants},
               "beside_champion": {variant: found for variant in watching.engine.variants
                                   if (found := _beside_champion(held, version, variant)) is not None}}
            for version, watching in held.monitor.versions.items()
            if version in explained
        },
        "problems": problems(held),
        "collecting": collecting(held),
        "attribution": msgspec.to_builtins(held.monitor.attribution),
        "held_back": [{**msgspec.to_builtins(finding), "why": why} for finding, why in held.monitor.held],
    }  # fmt: skip


# ---- the metrics page ----


class Gathered:
    """Samples by family."""

    def __init__(self) -> None:
        self.found: dict[str, list[tuple[str | float, ...]]] = {}

    def add(self, family: str, *sample: str | float) -> None:
        """One sample: labels, then the value."""
        self.found.setdefault(family, []).append(sample)


def facts(
    helds: Mapping[str, Held],
    totals: Mapping[Series, Counts],
    lost: Mapping[Series, int],
    told: Mapping[str, Mapping[tuple[Any, Any], int]],
    *,
    dropped: int,
    overhead_s: float,
    leads: bool,
    now_ms: int,
) -> MonitorFacts:
    """Everything the page shows.

    Args:
        totals, lost: of this node alone; each node has a page of its own.
        leads: judgements are those of the node that leads; others show what they count.
    """
    into = Gathered()
    for series, counts in totals.items():
        into.add("monitor_rows_observed", *series[:3], int(counts[ROWS]))
        into.add("monitor_rows_skipped", *series[:3], int(counts[SKIPPED]) + lost.get(series, 0))
    into.add("monitor_overhead_seconds", "-", "-", "-", overhead_s)
    for name, held in helds.items() if leads else ():
        _model(into, name, held, told.get(name, {}), now_ms)
    if leads and helds:
        into.add("alerts_dropped", "-", "-", "-", dropped)
    return MonitorFacts(**{family: _added(samples) for family, samples in into.found.items()})


def _added(samples: Iterable[tuple[str | float, ...]]) -> list[tuple[str | float, ...]]:
    """Samples of the same labels together: two references of one series are one series here."""
    found: dict[tuple[str | float, ...], float] = {}
    for sample in samples:
        value = sample[-1]
        assert not isinstance(value, str), "the value comes last"
        found[sample[:-1]] = found.get(sample[:-1], 0) + value
    return [(*labels, value) for labels, value in found.items()]


def _model(into: Gathered, name: str, held: Held, alerts: Mapping[tuple[Any, Any], int], now_ms: int) -> None:
    monitor = held.monitor
    for version, problem in held.problems.items():
        into.add(
            "monitor_reference_missing", name, version, "-", float(bool(problem) or version not in monitor.versions)
        )
    lag_ms = _lag_ms(held, now_ms)
    if lag_ms is not None:
        into.add("monitor_lag_seconds", name, "-", "-", lag_ms / 1000)
    into.add("monitor_deltas_gap", name, "-", "-", held.missed)
    into.add("monitor_deltas_duplicated", name, "-", "-", held.duplicated)
    for place in KINDS:
        into.add("monitor_dead_letters", name, "-", "-", *place, held.dead.counts[place])
    for outcome, count in monitor.requests.counts.items():
        into.add("retrain_requests", name, "-", "-", outcome, count)
    for action, count in held.actions.items():
        into.add("rollout_actions", name, *action, count)
    if held.roles.canary is not None:
        lease = monitor.lease(held.roles, now_ms / 1000)
        for level in DEGRADES:
            on = lease is not None and lease.level == level
            into.add("degrade_flags", name, *held.roles.canary, level, float(on))
    worst = worst_states(held, now_ms)
    raised = {(alarm, severity): 0 for alarm in worst for severity in SEVERITIES[1:]} | dict(alerts)
    for (signal, severity), count in raised.items():
        into.add("alerts", name, "-", "-", signal, severity, count)
    for one in latest(held, now_ms):
        into.add("drift_state", name, one.version, one.variant, one.signal, STATES.index(one.state))
    for version, watching in monitor.versions.items():
        dark = _dark(held, watching, now_ms)
        for variant in awaited(held, watching):
            into.add("monitor_blind", name, version, variant, float(variant in dark))
        for variant in watching.engine.variants:
            into.add("monitor_blind", name, version, variant, float(variant in dark))
            _series(into, (name, version, variant), held, watching, now_ms)


def _series(into: Gathered, place: tuple[str, str, str], held: Held, watching: Watching, now_ms: int) -> None:
    variant = place[2]
    history = watching.engine.history(variant)
    judged = next((one for one in reversed(history) if not one.reason), None)
    if judged is not None:
        _window(into, place, judged)
    for window, rate in watching.burn_rates(variant, now_ms).items():
        into.add("slo_burn_rate", *place, _WINDOW_S[window], rate)
    beside = held.monitor.compared_latency(place[1:])
    if beside is not None and beside.worst is not None:
        into.add("latency_shift", *place, beside.worst.effect)
    coverage = watching.coverage(variant, now_ms)
    if coverage is not None:
        into.add("label_coverage_ratio", *place, coverage)
    realised = watching.judged.get(variant)
    if realised is not None:
        for metric, value in realised.performance.values.items():
            into.add("realised_performance", *place, metric, value)
    for quantile, value in watching.cohorts.delay_quantiles(variant).items():
        into.add("label_delay_seconds", *place, f"{quantile:g}", value)
    for group in watching.exported_fairness(variant):
        impact = group.get("disparate_impact")
        if impact is not None:
            into.add("fairness_disparate_impact", *place, group["group"], "decisions", impact)
    for group in watching.exported_gaps(variant):
        for which in ("tpr", "fpr"):
            gap = group.get(f"{which}_gap")
            if gap is not None:
                into.add("fairness_gap", *place, group["group"], which, gap)


def _window(into: Gathered, place: tuple[str, str, str], result: WindowResult) -> None:
    for one in result.features:
        _feature(into, place, one, result.rows)
    if result.score is not None:
        for metric in ("psi", "js", "hellinger"):
            into.add("prediction_drift_score", *place, metric, getattr(result.score, metric))
    if result.estimated is not None and result.estimated.state == "ok":
        for metric, value in result.estimated.values.items():
            into.add("estimated_performance", *place, metric, value)


def _feature(into: Gathered, place: tuple[str, str, str], one: Compared, rows: int) -> None:
    for metric in ("psi", "js", "hellinger"):
        into.add("drift_score", *place, one.name, metric, getattr(one, metric))
    into.add("drift_pvalue", *place, one.name, one.p_value)
    quality, all_rows = one.quality, max(1, rows)
    outside = quality.get("below", 0) + quality.get("above", 0) + quality.get("infinite", 0)
    into.add("feature_missing_ratio", *place, one.name, quality.get("missing", 0) / all_rows)
    into.add("feature_out_of_range_ratio", *place, one.name, outside / all_rows)
    into.add("feature_unseen_ratio", *place, one.name, quality.get("unseen", 0) / all_rows)
