"""An experiment's report as one page: styles and plots stand in it, scripts do not. Pure.

Everything that came from outside goes through `escape`. Colours are variables, so that both themes of a browser, and
paper, show the same page.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any, Final

from gateway.control.experimentplots import delays, forest, over_time, shifts

STYLE: Final = """
:root{--ink:#1b2430;--soft:#566273;--line:#d8dee6;--paper:#ffffff;--card:#f5f7fa;--good:#1a7f4b;--bad:#b3261e;
--even:#3b5fb5;--none:#6b7685;--warn:#fff4d6;--warn-ink:#6b4e00;color-scheme:light dark}
@media (prefers-color-scheme:dark){:root{--ink:#e6ebf2;--soft:#9aa7b8;--line:#323c4a;--paper:#12171e;--card:#1a212b;
--good:#4cc38a;--bad:#ff7b72;--even:#8aa9ff;--none:#93a0b0;--warn:#3a2f10;--warn-ink:#f2d488}}
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif}
main{max-width:60rem;margin:0 auto;padding:2rem 1.25rem 4rem}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 .25rem}h2{font-size:1.15rem;margin:2.25rem 0 .5rem}
h3{font-size:1rem;margin:1.5rem 0 .4rem}p{margin:.3rem 0}.soft{color:var(--soft)}.small{font-size:.875rem}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(12.5rem,1fr));gap:.75rem;margin:1rem 0}
.card{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:.7rem .9rem}
.card b{display:block;font-size:1.25rem;line-height:1.3}.warn{background:var(--warn);color:var(--warn-ink);
border-radius:.5rem;padding:.6rem .9rem;margin:.5rem 0}
.tag{display:inline-block;border-radius:1rem;padding:.05rem .65rem;font-size:.875rem;font-weight:600;
border:1px solid currentColor}.better{color:var(--good)}.worse{color:var(--bad)}.equivalent{color:var(--even)}
.undecided{color:var(--none)}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:.92rem}
th,td{padding:.35rem .6rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th{font-weight:600;color:var(--soft);white-space:normal}.wraps td{white-space:normal}
th:first-child,td:first-child{text-align:left}
svg{display:block;width:100%;height:auto;margin:.5rem 0}svg text{fill:var(--soft);font-size:12px;
font-family:inherit}svg .name{fill:var(--ink)}svg .axis{stroke:var(--line)}svg .zero{stroke:var(--soft);
stroke-dasharray:3 3}svg .mde{fill:var(--line);opacity:.45}svg .band{fill:currentColor;opacity:.18;stroke:none}
svg .mark{stroke:currentColor;fill:none;stroke-width:2}svg .dot{fill:currentColor}svg .bar{fill:var(--even)}
details{margin-top:2rem}pre{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:.8rem;
overflow:auto;max-height:28rem;font-size:.8rem}code{font-size:.9em}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1rem;margin:.75rem 0;font-size:.92rem}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
@media print{main{max-width:none;padding:0}pre{max-height:none}}
"""
MODEL_NOTE: Final = (
    "of all requests, not only of those that were randomised, and not only since it began: they decide nothing"
)
SHADOW_COLUMNS: Final = (
    "variant", "requests", "agreement", "disagreement, surely", "rows", "other argmax", "outside tolerance",
    "other top k", "score shift",
)  # fmt: skip
ARM_COLUMNS: Final = ("variant", "signals", "last window", "rows", "PSI of features, worst first", "PSI of the score")
TIMES: Final = {"whole requests": "latency", "wait for an execution": "batch_wait"}
"""Titles of the tables, and where their rows stand in a report."""
TIMES_COLUMNS: Final = ("variant", "requests", "p50 ms", "p90 ms", "p99 ms")
TIMES_NOTE: Final = (
    "of this node since its start, with limits that hold at all looks for requests that stand for themselves; those of "
    "one unit, or of one moment, do not: for display, and it decides nothing"
)
_MOST_LOG: Final = 700.0
_WORDS: Final = {
    "better": "better than the control",
    "worse": "worse than the control",
    "equivalent": "no difference that matters",
    "undecided": "not decided yet",
}


def page_of(report: Mapping[str, Any]) -> str:
    """The page of a report, as `gateway.control.experiments.report_of` makes it."""
    title = f"Experiment {report['name']}"
    parts = [
        _head(report),
        *_verdicts(report),
        *_health(report),
        *(part for goal in report["goals"] for part in _goal(report, goal)),
        *_guardrails(report),
        *_latency(report),
        *_model(report),
        *_history(report),
        _raw(report),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><main>\n" + "\n".join(parts) + "\n"
        "</main></body></html>\n"
    )


def _head(report: Mapping[str, Any]) -> str:
    listed = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in headline(report))
    hypothesis = f"<p>{escape(report['hypothesis'])}</p>" if report["hypothesis"] else ""
    seen = f'<p class="soft small">as of {moment(report["as_of_ms"])}; may be read at any time, as often as wanted</p>'
    return f"<h1>Experiment {escape(report['name'])}</h1>{seen}{hypothesis}<dl>{listed}</dl>"


def headline(report: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """What is compared, since when and how: names and values, for people."""
    until = f" until {moment(report['ended_ms'])}" if report["ended_ms"] else ""
    yield "owner", report["owner"] or "-"
    yield "state", report["state"]
    yield "in force", f"{'' if until else 'since '}{moment(report['began_ms'])}{until}"
    yield "stopped", report.get("stop_reason") or "-"
    for one in report["variants"]:
        role = "; control" if one["name"] == report["control"] else ""
        yield f"variant {one['name']}", f"version {one['version']}, {one['digest']}{role}"
    yield "unit", f"{report['unit']}; salt {report['salt']}"
    yield "policy revisions", " to ".join(map(str, dict.fromkeys(report["revisions"]))) or "-"
    alpha = f"alpha {report['alpha']:g}, {report['alpha_per_comparison']:g} per comparison"
    yield "method", f"{report['method']}, {alpha}"
    narrowest = f"intervals are narrowest at N* = {report['n_star']:,.0f}"
    yield "expected units", f"{report['expected_units']:,} per variant; {narrowest}"


def moment(time_ms: float) -> str:
    """A time for people, in UTC."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


def tag(decision: str) -> str:
    """A decision as a coloured word."""
    return f'<span class="tag {decision}">{_WORDS[decision]}</span>'


def _verdicts(report: Mapping[str, Any]) -> Iterable[str]:
    found = report["decision"]
    lines = "".join(f"<p>{escape(name)}: {tag(one)}</p>" for name, one in found["variants"].items())
    yield f"<h2>Decision on {escape(found['goal'])}</h2>{lines}"
    if not found["trusted"]:
        yield '<p class="warn">Do not act on this: the arms are not what the split says (see health).</p>'
    for name in found["guardrails_worse"]:
        yield f'<p class="warn">{escape(name)} fails more often than the control.</p>'


def _health(report: Mapping[str, Any]) -> Iterable[str]:
    health = report["health"]
    cards = [
        ("sample ratio p", number(health["srm_p"]), "a mismatch from 0.001 down" if health["srm_ok"] else "MISMATCH"),
        ("the same, with feedback", number(health["feedback_srm_p"]), "of the primary goal"),
        ("not randomised", percent(health["not_randomised_share"]), f"{health['not_randomised']:,} requests"),
        ("units in several variants", f"{health['units_of_several_variants']:,}", "of the sampled ones"),
        ("nodes behind", *skew(health)),
    ]
    shown = "".join(
        f'<div class="card"><span class="soft small">{what}</span><b>{value}</b>'
        f'<span class="soft small">{escape(note)}</span></div>'
        for what, value, note in cards
    )
    yield f'<h2>Health</h2><div class="cards">{shown}</div>'
    for warning in health["warnings"]:
        yield f'<p class="warn">{escape(warning)}</p>'
    yield table(
        ["variant", "units", "requests", "bad", "fallbacks", "with feedback", "join rate", "median delay"],
        [
            [
                one["variant"], f"{one['units']:,}", f"{one['requests']:,}", f"{one['bad']:,}",
                percent(one["fallback_rate"]), f"{one['predictions_with_feedback']:,}", percent(one["join_rate"]),
                one["median_delay"] or "-",
            ]
            for one in health["arms"]
        ],
    )  # fmt: skip
    if any(sum(one["delays"]) for one in health["arms"]):
        yield "<h3>How long after the prediction feedback came</h3>"
        yield delays(health["arms"], health["delay_edges_s"])


def skew(health: Mapping[str, Any]) -> tuple[str, str]:
    """How many nodes are behind the newest revision, and of what, for people."""
    found = health["revision_skew"]
    if found is None:
        return "-", "there is no policy any more"
    workers = f"{found['workers_behind']} of {found['workers']} workers of this node"
    return f"{len(found['nodes_behind'])} of {found['nodes']}", f"revision {found['newest']}; {workers}"


def _goal(report: Mapping[str, Any], goal: Mapping[str, Any]) -> Iterable[str]:
    primary = " (primary)" if goal["primary"] else ""
    mde = f", smallest effect worth finding {goal['mde']:g}" if goal["mde"] is not None else ""
    yield f"<h2>Goal {escape(goal['name'])}{primary}</h2>"
    what = "share of units" if goal["type"] == "proportion" else "mean per unit"
    yield f'<p class="soft small">{what}; {goal["direction"]} is better{mde}</p>'
    yield forest(goal["comparisons"], goal["mde"])
    yield table(
        ["variant", "units", "mean", "effect", "interval", "relative", "smallest p", "e-value", "would have seen"],
        [*_arms(report, goal)],
    )
    for one in goal["comparisons"]:
        why = f'<span class="soft small">{escape(one["why"])}</span>'
        yield f"<p>{escape(one['variant'])}: {tag(one['decision'])} {why}</p>"
        if len(one["history"]) > 1:
            yield f"<h3>{escape(one['variant'])} against {escape(report['control'])} over time</h3>"
            yield over_time(one["history"], one["decision"], moment)
    if len(goal["epochs"]) > 1:
        yield "<h3>Per epoch: never pooled</h3>"
        yield _epochs(report, goal)


def _arms(report: Mapping[str, Any], goal: Mapping[str, Any]) -> Iterable[list[str]]:
    compared = {one["variant"]: one for one in goal["comparisons"]}
    for arm in goal["arms"]:
        one = compared.get(arm["variant"])
        line = [arm["variant"], f"{arm['units']:,}", number(arm["mean"])]
        if one is None:
            yield [*line, "control", "", "", "", "", ""]
            continue
        absolute, relative = one["absolute"], one["relative"]
        yield [
            *line, signed(absolute["value"]), interval(absolute), percent_interval(relative),
            number(one["running_p"]), e_value(one["log_e"]), number(one["detectable"]),
        ]  # fmt: skip


class Tagged(str):
    """A decision, to be shown as one."""


def _epochs(report: Mapping[str, Any], goal: Mapping[str, Any]) -> str:
    rows: list[list[str]] = []
    for epoch in goal["epochs"]:
        means = {arm["variant"]: f"{number(arm['mean'])} of {arm['units']:,}" for arm in epoch["arms"]}
        shares = " / ".join(f"{share / 100:g} %" for share in epoch["shares"].values())
        span = " to ".join(map(str, dict.fromkeys(epoch["revisions"])))
        lane = f"{span}{' rule ' + epoch['rule'] if epoch['rule'] else ''}"
        control = means.get(report["control"], "-")
        rows += [
            [
                lane, shares, control, one["variant"], means.get(one["variant"], "-"),
                signed(one["absolute"]["value"]), interval(one["absolute"]),
            ]
            for one in epoch["comparisons"]
        ]  # fmt: skip
    return table(["revisions", "shares", "control", "variant", "mean", "effect", "interval"], rows)


def _guardrails(report: Mapping[str, Any]) -> Iterable[str]:
    for rail in report["guardrails"]:
        compared = {one["variant"]: one for one in rail["comparisons"]}
        rows: list[list[str]] = []
        for arm in rail["arms"]:
            one = compared.get(arm["variant"])
            more = ["control", "", ""]
            if one is not None:
                more = [interval(one["absolute"]), number(one["p"]), e_value(one["log_e"])]
            counts = [f"{arm['requests']:,}", f"{arm['bad']:,}", percent(arm["rate"]), f"{arm['units']:,}"]
            line = [arm["variant"], *counts, *more]
            rows.append([*line, Tagged(one["decision"]) if one else ""])
        yield "<h2>Guardrail: failed requests</h2>"
        yield table(["variant", "requests", "bad", "rate", "units", "difference per unit", "p", "e-value", ""], rows)


def _latency(report: Mapping[str, Any]) -> Iterable[str]:
    tables = [(title, rows) for title, name in TIMES.items() if (rows := [*times(report[name])])]
    if tables:
        yield "<h2>Latency</h2>"
        yield f'<p class="soft small">{TIMES_NOTE}</p>'
    for title, rows in tables:
        yield f"<h3>{title}</h3>"
        yield table(TIMES_COLUMNS, rows)


def times(found: Sequence[Mapping[str, Any]]) -> Iterable[list[str]]:
    """A row for each variant with its quantiles and their limits, for people; none without any request."""
    for one in found if any(one["requests"] for one in found) else ():
        yield [one["variant"], f"{one['requests']:,}", *(_quantile(one, f"p{q}") for q in (50, 90, 99))]


def _quantile(one: Mapping[str, Any], name: str) -> str:
    if not one["requests"]:
        return "-"
    low, high = one[f"{name}_low_ms"], one[f"{name}_high_ms"]
    limits = f"above {number(low)}" if high is None else f"{number(low)} to {number(high)}"
    return f"{number(one[f'{name}_ms'])} ({limits})"


def _model(report: Mapping[str, Any]) -> Iterable[str]:
    model = report.get("model")
    if model is None:
        return
    yield "<h2>Models</h2>"
    yield f'<p class="soft small">{MODEL_NOTE}</p>'
    yield "<h3>In the shadow</h3>"
    yield from _shadow(report["name"], model)
    yield "<h3>Drift and performance, by the monitor</h3>"
    if model["arms"] is None:
        yield f'<p class="soft">{escape(model["arms_missing"])}</p>'
        return
    yield table(ARM_COLUMNS, arms_of(model), wraps=True)
    for title, columns, rows in arm_tables(model):
        yield f"<h3>{title}</h3>"
        yield table(columns, rows)


def _shadow(name: str, model: Mapping[str, Any]) -> Iterable[str]:
    if model["shadow"] is None:
        yield f'<p class="soft">{escape(model["shadow_missing"])}</p>'
        return
    yield table(SHADOW_COLUMNS, shadows_of(model), wraps=True)
    for title, columns, rows in matrices_of(model["shadow"]["variants"]):
        yield f"<h3>{escape(title)}</h3>"
        yield table(columns, rows)
    yield "<h3>How far the score shifted in the shadow</h3>"
    yield shifts(model["shadow"]["variants"])
    yield f'<p class="soft small">where they differ: <code>tidegate shadow samples {escape(name)}</code></p>'


def shadows_of(model: Mapping[str, Any]) -> Iterable[list[str]]:
    """A row for each variant that was in the shadow, for people; none without a shadow."""
    for one in model["shadow"]["variants"] if model["shadow"] else ():
        surely = one["disagreement"]
        limits = f"{percent(surely['low'])} to {percent(surely['high'])}" if surely else "-"
        kinds = [f"{one[f'rows_{kind}']:,}" for kind in ("other_argmax", "outside_tolerance", "other_topk")]
        shift = f"{signed(one['shift_mean'])} +- {number(one['shift_deviation'])}"
        yield [
            one["variant"],
            f"{one['requests']:,}",
            percent(one["agreement"]),
            limits,
            f"{one['rows']:,}",
            *kinds,
            shift,
        ]


def matrices_of(variants: Iterable[Mapping[str, Any]]) -> Iterable[tuple[str, list[str], list[list[str]]]]:
    """Title, columns and rows of each variant's matrix of classes; without those of which no row was."""
    for one in variants:
        matrix = one["agreement_matrix"]
        if matrix is None:
            continue
        counts = matrix["rows"]
        used = [at for at, row in enumerate(counts) if any(row) or any(other[at] for other in counts)]
        names = [matrix["classes"][at] for at in used]
        rows = [[f"answered {matrix['classes'][at]}", *(f"{counts[at][to]:,}" for to in used)] for at in used]
        yield f"rows by class: answered, and of {one['variant']}", ["", *(f"{name}, shadow" for name in names)], rows


def arms_of(model: Mapping[str, Any]) -> Iterable[list[str]]:
    """A row for each variant with what the monitor says of it, for people."""
    for one in model["arms"] or ():
        drift = one["drift"]
        words = one["missing"] or ", ".join(f"{signal} {state}" for signal, state in one["signals"].items()) or "-"
        told = ["-"] * 4
        if drift is not None:
            worst = ", ".join(f"{feature['name']} {number(feature['psi'])}" for feature in drift["features"]) or "-"
            told = [moment(drift["closed_ms"]), f"{drift['rows']:,}", worst, number(drift["score_psi"])]
        yield [one["variant"], words, *told]


def arm_tables(model: Mapping[str, Any]) -> Iterable[tuple[str, Sequence[str], list[list[str]]]]:
    """Title, columns and rows of what labels say of the variants, for people; only those that have rows."""
    realised, calibration = [], []
    for one in model["arms"] or ():
        came = one["realised"] or {"values": {}}
        realised += [
            [one["variant"], metric, number(value), number(came["errors"].get(metric)),
             number(came["reference"].get(metric)), f"{came['rows']:,}", came["state"]]
            for metric, value in came["values"].items()
        ]  # fmt: skip
        calibration += [
            [one["variant"], number(bin["score"]), percent(bin["positive"]), f"{bin['labels']:,}"]
            for bin in one["calibration"] or ()
        ]
    if realised:
        columns = ["variant", "metric", "came true", "standard error", "reference", "labels", "state"]
        yield "What came true, of the last cohort that has matured", columns, realised
    if calibration:
        yield "Calibration: positive labels by score", ["variant", "mean score", "positive", "labels"], calibration


def _history(report: Mapping[str, Any]) -> Iterable[str]:
    yield "<h2>History</h2>"
    yield f'<p class="soft small">computed by tidegate {escape(report["code_version"])}</p>'
    yield table(["revisions", "since", "rule", "shares"], configured(report))
    if report.get("audit") is not None:
        yield table(["record", "time", "what", "actor", "revision", "reason"], edits(report))
        if report["audit_left_out"]:
            yield f'<p class="soft small">and {report["audit_left_out"]:,} in between</p>'


def configured(report: Mapping[str, Any]) -> Iterable[list[str]]:
    """A row for each split of each epoch, for people."""
    for epoch in report["configuration"]:
        span = " to ".join(map(str, dict.fromkeys(epoch["revisions"])))
        for split in epoch["splits"]:
            shares = " / ".join(f"{name} {share / 100:g} %" for name, share in split["shares"].items())
            apart = "" if split["randomised"] else ", not randomised"
            yield [span, moment(epoch["began_ms"]), split["rule"] or "-", shares + apart]


def edits(report: Mapping[str, Any]) -> Iterable[list[str]]:
    """A row for each record of the audit trail that changed the experiment, for people."""
    for one in report["audit"]:
        revisions = f"{one['revision_before']} to {one['revision_after']}"
        yield [one["id"], moment(one["time_ms"]), one["what"], one["actor"], revisions, one["reason"] or "-"]


def _raw(report: Mapping[str, Any]) -> str:
    text = json.dumps({key: value for key, value in report.items() if key != "goals"} | {"goals": _bare(report)})
    return (
        "<details><summary>Raw counts as JSON: enough to compute this page anew</summary>"
        f"<pre>{escape(json.dumps(json.loads(text), indent=1))}</pre></details>"
    )


def _bare(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Goals without the points of the plots."""
    return [
        {**goal, "comparisons": [{k: v for k, v in one.items() if k != "history"} for one in goal["comparisons"]]}
        for goal in report["goals"]
    ]


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, wraps: bool = False) -> str:
    """A table; cells are text and escaped. Args: wraps: cells hold sentences, and may take several lines."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(
        "<tr>"
        + "".join(f"<td>{tag(cell) if isinstance(cell, Tagged) else escape(cell)}</td>" for cell in row)
        + "</tr>"
        for row in rows
    )
    kind = ' class="wraps"' if wraps else ""
    return f'<div class="scroll"><table{kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def number(value: float | None) -> str:
    """Four digits that count; "-" = not known."""
    return "-" if value is None else f"{value:.4g}"


def e_value(log: float) -> str:
    """An e-value by its logarithm; too large a number for a float is told as such."""
    return number(math.exp(log)) if log < _MOST_LOG else f"> e^{_MOST_LOG:g}"


def signed(value: float | None) -> str:
    """The same with its sign."""
    return "-" if value is None else f"{value:+.4g}"


def percent(value: float | None) -> str:
    """A share."""
    return "-" if value is None else f"{value:.2%}"


def interval(one: Mapping[str, float | None]) -> str:
    """Two limits."""
    return "-" if one["low"] is None else f"{signed(one['low'])} to {signed(one['high'])}"


def percent_interval(one: Mapping[str, float | None]) -> str:
    """Two limits of a relative effect."""
    low, high = one["low"], one["high"]
    return "-" if low is None or high is None else f"{low:+.1%} to {high:+.1%}"
