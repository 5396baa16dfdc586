"""One series on a monitor's page: its signals, features, predictions, performance, groups and speed. Pure.

Everything that came from outside goes through `escape`.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any, Final

from gateway.control import monitortables as tables
from gateway.control.experimentpage import table
from gateway.control.monitorplots import Point, bars, drift, finite, levels, performance, ranges
from gateway.control.monitortables import with_error
from gateway.control.monitorwords import (
    MEASURES,
    by_psi,
    chance,
    is_judged,
    judged,
    latency_beside,
    measures,
    moment,
    number,
    percent,
    reason_text,
    signals_of,
    why,
)
from gateway.monitor.confusion import METRICS
from gateway.monitor.fairness import LEAST_SHOWN
from router.rollout.words import duration

WINDOWS: Final = 20
FIRST_METRICS: Final = ("accuracy", "roc_auc", "precision", "recall")
"""Shown at once; the others are folded."""
_HOW_TO_READ: Final = (
    "lines and bands are ± 3 standard errors; hollow: holds within one decision; × = no number that can be trusted. "
    "An estimate cannot see that the meaning of the inputs has changed."
)
_BURN_MOST: Final = 15.0
"""14.4 times too fast is what pages somebody."""


def clock(time_s: float) -> str:
    """A time below a plot."""
    return datetime.fromtimestamp(time_s, UTC).strftime("%m-%d %H:%M:%S")


def tag(state: str) -> str:
    """A state, or a severity, as a coloured word."""
    return f'<span class="tag {escape(state, quote=True)}">{escape(state)}</span>'


def sections(variant: Mapping[str, Any], about: Mapping[str, Any], drawn: Mapping[str, Any] | None) -> Iterator[str]:
    """All of a series.

    Args:
        variant: of the JSON view.
        about: `gateway.monitor.explaining.explained` of its version, and `span_s` of its cohorts.
        drawn: bins; None = there is no room for pictures of this series.
    """
    yield _signals(variant)
    yield from _windows(variant)
    if drawn is not None:
        yield from _features(variant, about, drawn)
        yield from _score(variant, about, drawn)
    yield from _performance(variant, about)
    yield from _fairness(variant, about)
    yield from _by_group(variant)
    yield from _latency(variant, about)


def _signals(variant: Mapping[str, Any]) -> str:
    cards = "".join(
        f'<div class="card"><span class="soft small">{name.replace("_", " ")}</span><br>{tag(state)}'
        f'<span class="small text">{escape(text)}</span></div>'
        for name, state, text in signals_of(variant)
    )
    counted = (
        f"{variant['rows']:,} rows counted, {variant['skipped']:,} skipped, "
        f"{variant['open_rows']:,} in the window that is open"
    )
    return f'<div class="cards">{cards}</div><p class="soft small">{counted}</p>'


def _windows(variant: Mapping[str, Any]) -> Iterator[str]:
    if not variant["windows"]:
        yield "<p>No window has closed yet.</p>"
        return
    last = variant["windows"][-1]
    lines = "".join(f"<li>{escape(line)}</li>" for line in why(last))
    yield (
        f"<p>The last window, {last['rows']:,} rows, closed {moment(last['closed_ms'] / 1000)}:</p>"
        f'<ul class="small">{lines}</ul>'
    )


# ---- inputs ----


def _psi(windows: Sequence[Mapping[str, Any]], name: str) -> list[Point]:
    """PSI of one feature, or of the score (name "")."""
    points = []
    for window in windows[-WINDOWS:]:
        if window["reason"]:
            points.append(Point(window["closed_ms"] / 1000, None, note=f"not judged: {reason_text(window['reason'])}"))
            continue
        one = window["score"] if not name else next((f for f in window["features"] if f["name"] == name), None)
        value = None if one is None else one["psi"]
        points.append(Point(window["closed_ms"] / 1000, value, note=f" of {window['rows']:,} rows"))
    return points


def _features(variant: Mapping[str, Any], about: Mapping[str, Any], drawn: Mapping[str, Any]) -> Iterator[str]:
    yield "<h3>Inputs</h3>"
    yield _legend()
    last = next(iter(judged(variant["windows"])[::-1]), None)
    seen = {one["name"]: one["psi"] for one in about["features"]}
    for one in drawn["features"]:
        found = None if last is None else next((f for f in last["features"] if f["name"] == one["name"]), None)
        yield _feature(one, found, seen.get(one["name"]), _psi(variant["windows"], one["name"]), _floor(about))
    if drawn["left_out"]:
        yield f"<p>{drawn['left_out']:,} more features differ less; they are in the table.</p>"
    if last is not None:
        rows = [
            [
                one["name"], *measures(one), number(seen.get(one["name"])),
                ", ".join(f"{word} {count:,}" for word, count in one["quality"].items()),
            ]
            for one in by_psi({**last, "score": None})
        ]  # fmt: skip
        columns = ["feature", *MEASURES, "smallest PSI seen", "no data"]
        yield f"<details><summary>All features in the last window</summary>{table(columns, rows)}</details>"


def _legend() -> str:
    keys = [("reference", "reference"), ("window", "last window"), ("floor", "floor: less does not matter")]
    return _keys(keys, "× = a window that was not judged")


def _keys(keys: Sequence[tuple[str, str]], more: str) -> str:
    shown = "".join(f'<span class="item"><span class="key {one}"></span> {text}</span>' for one, text in keys)
    return f'<p class="legend small soft">{shown}{more}</p>'


def _floor(about: Mapping[str, Any]) -> float:
    return float(about["settings"]["floors.psi"])


def _feature(
    one: Mapping[str, Any], found: Mapping[str, Any] | None, seen: float | None, points: list[Point], floor: float
) -> str:
    name = escape(one["name"])
    facts = "no window yet"
    if found is not None:
        facts = f"PSI {number(found['psi'])}, p {chance(found['p_value'])}"
    if seen is not None:
        facts += f"; {number(seen, 2)} would be seen"
    quality = "".join(
        f"<span>{word.replace('_', ' ')}: <b>{now:,}</b> rows, {was:,} in the reference</span>"
        for word, was, now in one["quality"]
    )
    plot = ranges if one["kind"] in ("numeric", "text") else None
    shares = (
        plot(one["bars"], f"{one['name']}: shares per bin", None)
        if plot is not None
        else bars(one["bars"], f"{one['name']}: shares per category")
    )
    over = found is not None and (finite(found["psi"]) or 0.0) >= floor
    return (
        f'<section class="feature{" hot" if over else ""}"><h4>{name} <span class="soft small">{one["kind"]}; {facts}'
        f"</span></h4><div class=pair>{drift(points, floor, clock, one['name'] + ': PSI of the windows')}{shares}</div>"
        f'{"" if found is None else _measured(found)}<p class="small quality">{quality}</p></section>'
    )


def _measured(found: Mapping[str, Any]) -> str:
    """All distances and tests of the last window."""
    return f'<div class="measures">{table(list(MEASURES), [measures(found)])}</div>'


def _score(variant: Mapping[str, Any], about: Mapping[str, Any], drawn: Mapping[str, Any]) -> Iterator[str]:
    score = drawn["score"]
    if score is None:
        return
    yield "<h3>Predictions</h3>"
    last = next(iter(judged(variant["windows"])[::-1]), None)
    points = _psi(variant["windows"], "")
    yield (
        f"<div class=pair>{drift(points, _floor(about), clock, 'score: PSI of the windows')}"
        f"{ranges(score['bars'], 'score: shares per bin', score['threshold'])}</div>"
    )
    if last is not None and last["score"] is not None:
        yield _measured(last["score"])
    if score["threshold"] is not None:
        yield f'<p class="small soft">the broken line is the threshold: from {score["threshold"]:g} on it decides 1</p>'


# ---- performance ----


def _performance(variant: Mapping[str, Any], about: Mapping[str, Any]) -> Iterator[str]:
    windows = [one for one in variant["windows"][-WINDOWS:] if one["estimated"] is not None]
    cohorts = variant["cohorts"] if any(one["rows"] for one in variant["cohorts"]) else []
    if not windows and not cohorts:
        return
    yield "<h3>Performance</h3>"
    keys = [("estimated", "estimated without labels"), ("realised", "came true"), ("band", "reference"),
            ("floor", "less counts towards an alarm")]  # fmt: skip
    yield _keys(keys, _HOW_TO_READ)
    shown = {metric: _metric(metric, variant, windows, cohorts, about) for metric in METRICS}
    first = [shown[metric] for metric in FIRST_METRICS if shown[metric]]
    more = [shown[metric] for metric in METRICS if metric not in FIRST_METRICS and shown[metric]]
    yield f"<div class=pair>{''.join(first)}</div>"
    if more:
        yield f"<details><summary>More metrics</summary><div class=pair>{''.join(more)}</div></details>"
    yield from _last_values(variant, windows, cohorts)
    yield from _labels(variant, cohorts)


def _metric(
    metric: str,
    variant: Mapping[str, Any],
    windows: Sequence[Mapping[str, Any]],
    cohorts: Sequence[Mapping[str, Any]],
    about: Mapping[str, Any],
) -> str:
    estimated = [
        _point((one["opened_ms"] + one["closed_ms"]) / 2000, one["estimated"], metric, f" of {one['rows']:,} rows")
        for one in windows
    ]
    span_s = about["span_s"]
    realised = [
        _point(one["start_s"] + span_s / 2, one, metric, f" coverage {_coverage(one)}{_young(one)}")
        for one in cohorts
        if one["values"] or one["reason"] != "few_labels"
    ]
    reference = variant["reference_performance"]
    value = finite(reference["values"].get(metric))
    band = None if value is None else (value, finite(reference["errors"].get(metric)) or 0.0)
    drops = [drop for one in windows if one["performance"] for drop in one["performance"]["drops"]]
    limits = [drop["reference"] - drop["limit"] for drop in drops if drop["metric"] == metric]
    plot = performance(estimated, realised, band, limits[-1] if limits else None, clock, f"{metric} over time")
    return f"<figure><figcaption>{metric.replace('_', ' ')}</figcaption>{plot}</figure>" if plot else ""


def _point(at_s: float, found: Mapping[str, Any], metric: str, note: str) -> Point:
    """A value that can be trusted, or why there is none: an untrusted one is never shown as a number."""
    value = finite(found["values"].get(metric)) if found["state"] in ("ok", "selective_labels") else None
    if value is None:
        why_not = reason_text(found["reason"] or found["state"]) if found["state"] != "ok" else "not defined"
        return Point(at_s, None, note=why_not)
    sure = found["state"] == "ok"
    more = "" if sure else f", {reason_text(found['state'])}"
    return Point(at_s, value, finite(found["errors"].get(metric)), note + more, sure)


def _young(cohort: Mapping[str, Any]) -> str:
    return "" if cohort["matured"] else ", too young to be judged"


def _coverage(cohort: Mapping[str, Any]) -> str:
    return " / ".join(percent(share) for share in cohort["coverage"])


def _last_values(
    variant: Mapping[str, Any], windows: Sequence[Mapping[str, Any]], cohorts: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    estimated = windows[-1]["estimated"] if windows else None
    realised = next((one for one in reversed(cohorts) if is_judged(one)), None)
    reference = variant["reference_performance"]
    rows = [
        [metric.replace("_", " "), *(with_error(found, metric) for found in (reference, estimated, realised))]
        for metric in METRICS
    ]
    yield table(["metric", "reference, labels", "estimated, last window", "came true, last cohort"], rows)
    if estimated is not None and estimated["state"] != "ok":
        yield f'<p class="warn">The last estimate is withheld: {escape(reason_text(estimated["reason"]))}.</p>'


def _labels(variant: Mapping[str, Any], cohorts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    delay = variant["label_delay_s"]
    if delay:
        told = ", ".join(f"{float(q):.0%} within {duration(round(value * 1000))}" for q, value in delay.items())
        yield f'<p class="small">Labels come late: {escape(told)}.</p>'
    last = next((one for one in reversed(cohorts) if is_judged(one)), None)
    if last is not None:
        covered = [percent(share) for share in last["coverage"]]
        yield (
            f'<p class="small">Labels of the last judged cohort, {last["predictions"]:,} predictions from '
            f"{moment(last['start_s'])}: {covered[0]} of decision 0, {covered[1]} of decision 1.</p>"
        )
    if not cohorts:
        return
    rows = [
        [
            moment(one["start_s"]), f"{one['predictions']:,}", f"{one['rows']:,}",
            *(percent(share) for share in one["coverage"]), with_error(one, "accuracy"),
            (reason_text(one["reason"]) or "judged") if one["matured"] else "too young to be judged",
        ]
        for one in reversed(cohorts)
    ]  # fmt: skip
    columns = ["from", "predictions", "labels", "of decision 0", "of decision 1", "accuracy", ""]
    yield f"<details><summary>Coverage by labels</summary>{table(columns, rows)}</details>"


# ---- groups and speed ----


def _fairness(variant: Mapping[str, Any], about: Mapping[str, Any]) -> Iterator[str]:
    groups = variant["fairness"]
    if not groups:
        return
    floor = float(about["settings"]["floors.disparate_impact"])
    yield "<h3>Groups</h3>"
    known = [one for one in groups if finite(one.get("disparate_impact")) is not None]
    if known:
        rows = [(one["group"], one["disparate_impact"], f"{one['disparate_impact']:.2f}") for one in known]
        plot = levels(rows, floor, max(1.0, *(row[1] for row in rows)), "disparate impact per group")
        yield f'<div class=pair><div>{plot}<p class="small soft">share decided 1 over that of the highest group; the '
        yield f"line is the floor, {floor:g}</p></div></div>"
    columns = ["group", "rows", "decided 1", "disparate impact", "TPR, estimated", "FPR, estimated", "p", ""]
    yield table(columns, [_group(one) for one in groups])
    labelled = [
        one for one in variant["fairness_by_labels"] if one.get("tpr") is not None or one.get("fpr") is not None
    ]
    if labelled:
        columns = ["by labels", "rows", "TPR", "gap", "p", "FPR", "gap", "p"]
        yield table(columns, [_gaps(one) for one in labelled])


def _group(one: Mapping[str, Any]) -> list[str]:
    if not isinstance(one["rows"], int):
        return [one["group"], str(one["rows"]), "", "", "", "", "", f"fewer than {LEAST_SHOWN} rows: not shown"]
    note = "" if one["compared"] else "too small to be judged"
    return [
        one["group"], f"{one['rows']:,}", percent(one.get("rate")), number(one.get("disparate_impact")),
        percent(one.get("tpr")), percent(one.get("fpr")), number(one.get("p_rate"), 2), note,
    ]  # fmt: skip


def _gaps(one: Mapping[str, Any]) -> list[str]:
    """A group of the last cohort with labels, against the one that is decided 1 most often."""
    return [
        one["group"], f"{one['rows']:,}",
        percent(one.get("tpr")), number(one.get("tpr_gap")), number(one.get("p_tpr"), 2),
        percent(one.get("fpr")), number(one.get("fpr_gap")), number(one.get("p_fpr"), 2),
    ]  # fmt: skip


def _by_group(variant: Mapping[str, Any]) -> Iterator[str]:
    rows = list(tables.groups(variant))
    if rows:
        yield "<h3>Performance of each group</h3>"
        yield f'<div class="measures">{table(tables.GROUP_COLUMNS, rows)}</div>'
        yield '<p class="small soft">± 3 standard errors; labels of the last cohort that was judged, by decision, '
        yield "and how soon half came. An estimate takes the calibration to hold within the group. Less than "
        yield "groups.min_size gives no number.</p>"


def _latency(variant: Mapping[str, Any], about: Mapping[str, Any]) -> Iterator[str]:
    rates = variant["burn_rates"]
    slo, objective = (about["settings"].get(f"latency.{name}") for name in ("slo_ms", "objective"))
    if not variant["stages"] and slo is None:
        return
    yield "<h3>Latency</h3>"
    if slo is not None and not rates:
        yield "<p>No answers were seen since the objective is in force.</p>"
    if rates:
        rows = [(window, rate, f"{number(rate)} ×") for window, rate in rates.items()]
        yield f"<div class=pair><div>{levels(rows, 1.0, _BURN_MOST, 'burn rate per window')}"
        yield f'<p class="small soft">How fast the budget burns: {percent(objective)} of answers within '
        yield f"{number(slo)} ms; at 1 it is spent just in time, 14.4 over an hour is critical.</p></div></div>"
    yield from _stages(variant)
    beside = variant["beside_champion"]
    if beside is not None:
        yield f'<p class="small">Beside the champion: {escape(latency_beside(beside))}.</p>'


def _stages(variant: Mapping[str, Any]) -> Iterator[str]:
    if not variant["stages"]:
        return
    columns, rows = tables.stages(variant["stages"])
    yield f'<div class="measures">{table(columns, rows)}</div>'
    if any(one["burns"] for one in variant["stages"]):
        yield '<p class="small soft">Burn rates over two windows each, which alarm where both are over the limit: '
        yield "those of the request. A stage is held against the objective as if it were all there is.</p>"
