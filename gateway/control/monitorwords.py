"""What a monitor says, in sentences: from the JSON view to words, for pages and terminals. Pure."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import starmap
from typing import Any, Final

from gateway.monitor.facts import SIGNALS
from gateway.monitor.words import CLEAN, NOT_KNOWN, SEVERITIES

NAMED: Final = 3
"""Features that a sentence names."""
MOST: Final = 2
"""Series, and signals of each, that the headline tells; the worst."""
_BROKEN: Final[Mapping[str, str]] = {
    "data_quality": "data are broken",
    "input_drift": "inputs have drifted",
    "prediction_drift": "predictions have drifted",
    "performance_realised": "performance by labels has dropped",
    "concept_drift": "errors have risen",
    "performance_estimated": "estimated performance has dropped",
    "fairness": "groups are treated unequally",
    "latency": "answers are too slow",
}
_VERDICTS: Final[Mapping[str, str]] = {
    "world": "the world or its data has changed, not the model",
    "model": "the model of the canary is at fault, not the world",
    "split": "the variants are sent different inputs: the split is at fault",
    "shared_dependency": "something that both variants share has changed",
    "concept": "what the inputs mean has changed",
    "latency": "speed is at fault",
    "host": "one host is at fault",
}
_REASONS: Final[Mapping[str, str]] = {
    "few_rows": "too few rows",
    "no_reference": "nothing to compare with yet",
    "other_edges": "the champion's reference has other edges: make both from the same rows",
    "no_calibrator": "untrusted: the scores are not calibrated",
    "outside_reference": "untrusted: too many rows are unlike the reference",
    "few_labels": "too few labels",
    "low_coverage": "labels of one decision only: holds within that decision",
    "unsettled": "labels are still being replaced",
    "selective_labels": "labels of one decision only: holds within that decision",
    "untrusted": "untrusted",
    "insufficient": "too little is known",
}


MEASURES: Final[Mapping[str, str]] = {
    "PSI": "psi",
    "p": "p_value",
    "JS": "js",
    "Hellinger": "hellinger",
    "TVD": "tvd",
    "L-infinity": "linf",
    "chi-square": "chi_square",
    "its p": "chi_square_p",
    "KS of bins": "ks",
    "Wasserstein": "wasserstein",
}
"""Columns of what tells a window from the reference, and where the view has them."""


def moment(time_s: float) -> str:
    """A time for people, in UTC."""
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def number(value: Any, digits: int = 3) -> str:
    """Digits that count; "-" = not known."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}g}"


def chance(p_value: float) -> str:
    """A p-value for people."""
    return "below 1e-300" if p_value == 0.0 else number(p_value, 2)


def fixed(value: Any) -> str:
    """Four places, as of a share or a metric; "-" = not known."""
    return f"{value:.4f}" if isinstance(value, int | float) and math.isfinite(value) else "-"


def percent(value: Any) -> str:
    """A share; "-" = not known."""
    return f"{value:.1%}" if isinstance(value, int | float) and math.isfinite(value) else "-"


def is_judged(cohort: Mapping[str, Any]) -> bool:
    """Whether a cohort of the view is old enough, and has enough labels."""
    return bool(cohort["matured"]) and cohort["state"] == "ok"


def reason_text(reason: str) -> str:
    """Why there is no number, in words; "" = there is one."""
    return _REASONS.get(reason, reason)


def series_name(version: str, variant: str) -> str:
    """A series for people."""
    return f"version {version}" if variant == "-" else f"{variant} (version {version})"


def series_of(view: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(version, variant) of every series: champion, canary, then the others in the order of the view."""
    found = [(version, variant) for version, one in view["versions"].items() for variant in one["variants"]]
    first = [tuple(view["roles"][role]) for role in ("champion", "canary") if view["roles"][role]]
    return sorted(found, key=lambda one: first.index(one) if one in first else len(first))


def judged(windows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Windows that were judged, the oldest first."""
    return [one for one in windows if not one["reason"]]


def by_psi(window: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What was compared in a window: the score, then features, the largest PSI first."""
    score = [] if window["score"] is None else [window["score"]]
    return score + sorted(window["features"], key=lambda one: -_drawn(one["psi"]))


def _drawn(value: Any) -> float:
    return value if isinstance(value, int | float) and math.isfinite(value) else 0.0


def measures(one: Mapping[str, Any]) -> list[str]:
    """All distances and tests of a feature, or of the score, in the order of MEASURES; "-" = there is no such one."""
    return [(chance if name.endswith("_p") or name == "p_value" else number)(one[name]) for name in MEASURES.values()]


def listed(names: Sequence[str], most: int = NAMED) -> str:
    """Some names, and how many more there are."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def headline(view: Mapping[str, Any], at: Callable[[float], str] = moment) -> str:
    """One sentence: what has degraded, for which variant, since when, and whether the world or the model did it.

    Args:
        view: as `GET /admin/v1/monitors/NAME` answers.
        at: a time for people.
    """
    incident = view["incident"]
    if incident is None:
        return _quiet(view)
    by_series: dict[tuple[str, str], list[str]] = {}
    for alarm in _worst_first(incident["alarms"]):
        keys = f" ({listed(alarm['keys'])})" if alarm["keys"] else ""
        by_series.setdefault((alarm["version"], alarm["variant"]), []).append(f"{_BROKEN[alarm['signal']]}{keys}")
    shown = list(by_series.items())[:MOST]
    told = "; ".join(f"{series_name(*series)}: {_and(_few(whats))}" for series, whats in shown)
    if len(by_series) > MOST:
        told += f"; and {len(by_series) - MOST} more series"
    verdict = _VERDICTS.get(incident["attribution"]["verdict"], "whose fault it is cannot be told yet")
    sentence = f"{told}; since {at(incident['opened_s'])}; {verdict}."
    return sentence[0].upper() + sentence[1:]


def _worst_first(alarms: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    order = list(_BROKEN)
    return sorted(alarms, key=lambda one: (-SEVERITIES.index(one["severity"]), order.index(one["signal"])))


def _few(words: list[str]) -> list[str]:
    more = len(words) - MOST
    return words if more <= 0 else [*words[:MOST], f"{more} more signal{'s' if more > 1 else ''}"]


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def made_from(reference: Mapping[str, Any]) -> str:
    """What a version's reference is made of. Args: reference, as in the view."""
    if reference["since_s"] is None:
        return f"made from {reference['origin']}"
    return f"provisional, from the first {reference['rows']:,} rows since {moment(reference['since_s'])}"


def collected(version: str, progress: Mapping[str, Any]) -> str:
    """How far a version is that waits for a reference from its first rows. Args: progress, as in the view."""
    return (
        f"version {version}: collecting {progress['rows']:,} of {progress['wanted']:,} rows for a provisional "
        f"reference, since {moment(progress['since_s'])}"
    )


def _quiet(view: Mapping[str, Any]) -> str:
    """Where no incident is open."""
    if not view["versions"] and view["collecting"]:
        return f"Nothing is watched yet: {'; '.join(starmap(collected, list(view['collecting'].items())[:MOST]))}."
    if not view["versions"]:
        return "Nothing is watched: no version has a reference; make one with `tidegate monitor fit`."
    if view["blind"]:
        return f"No verdict for two of the longest windows: {listed(view['blind'])}."
    series = [one for each in view["versions"].values() for one in each["variants"].values()]
    if not any(judged(one["windows"]) for one in series):
        rows = sum(one["open_rows"] for one in series)
        return f"Nothing can be said yet: no window was judged; {rows:,} rows are in open windows."
    states = _states(view)
    suspected = [name for name, state in states if state == "pending"]
    if suspected:
        return f"No incident; suspected, and waiting for another window: {listed(suspected)}."
    dark = [name for name, state in states if state in NOT_KNOWN]
    if len(dark) == len(states):
        return "No incident, and nothing can be said now: all signals are unknown, or have too few rows."
    return f"No incident: nothing fires{f'; not known: {listed(dark)}' if dark else ''}."


def _states(view: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, state) of each signal of each series."""
    return [
        (f"{_signal(signal)} of {series_name(version, variant)}", one["state"])
        for version, variant in series_of(view)
        for signal, one in view["versions"][version]["variants"][variant]["signals"].items()
    ]


def is_calm(view: Mapping[str, Any]) -> bool:
    """Whether all is known, and clean."""
    states = {state for _, state in _states(view)}
    return view["incident"] is None and not view["blind"] and bool(states) and states <= CLEAN


def _signal(name: str) -> str:
    return name.replace("_", " ")


def signals_of(variant: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(signal, state, text) of each signal, in a fixed order; a signal that nobody spoke of is unknown.

    One that fires and whose last window has nothing to add is told by the names of what fires.
    """
    nobody = {"state": "unknown", "text": "", "keys": []}
    found = [(name, variant["signals"].get(name, nobody)) for name in SIGNALS]
    return [(name, one["state"], one["text"] or ", ".join(one["keys"])) for name, one in found]


def warnings_of(view: Mapping[str, Any]) -> Iterator[str]:
    """What makes the numbers less than they seem."""
    if not view["leads"]:
        yield "another node judges this model; here is what this node has heard"
    if view["store_away"]:
        yield f"the store is away: {view['store_away']}"
    if view["file_problem"]:
        yield f"what its file says is not in force: {view['file_problem']}"
    for version, problem in view["problems"].items():
        yield f"version {version} is not watched: {problem}"
    if view["missed"]:
        yield f"{view['missed']:,} messages of other nodes never came: counts are too low"
    dead = sum(one["count"] for one in view["dead_letters"]["counts"])
    if dead:
        yield f"{dead:,} entries of its streams cannot be read and are not counted: see dead_letters in JSON"
    for place in view["blind"]:
        yield f"{place} is blind: no verdict for two of the longest windows"
    if view["versions"]:
        yield from starmap(collected, view["collecting"].items())
    for version, one in view["versions"].items():
        if one["reference"]["provisional"]:
            made = made_from(one["reference"])
            yield f"the reference of version {version} is {made}: what it calls normal may not be"


# ---- why a window did or did not alarm ----


def why(window: Mapping[str, Any]) -> list[str]:
    """Plain sentences on one window: what was found, and why that did or did not alarm.

    Args:
        window: as in the view, `gateway.monitor.results.WindowResult` in plain values.
    """
    if window["reason"]:
        return [f"not judged: {reason_text(window['reason'])} ({window['rows']:,} rows)"]
    found = [f"{one['family']}: {_family(window, one)}" for one in window["families"]]
    verdict = window["performance"]
    if verdict is not None:
        found.append(f"estimated performance: {_performance(window, verdict)}")
    elif window["score"] is None:
        found.append("performance: not estimated, the plan has no score")
    return found


def _effect(window: Mapping[str, Any], family: str, key: Mapping[str, Any]) -> str:
    """How large a change is: of a share, by how much it rose, and from what to what."""
    if family != "quality":
        return f"PSI {number(key['effect'])}"
    told = f"a share that rose by {number(key['effect'])}"
    name, _, word = key["name"].rpartition(":")
    compared = [one for one in (*window["features"], window["score"]) if one is not None and one["name"] == name]
    if not key["effect"] or not compared or not window["rows"]:
        return told
    now = compared[0]["quality"].get(word, 0) / window["rows"]
    return f"{told}, from {fixed(max(0.0, now - key['effect']))} to {fixed(now)}"


def _family(window: Mapping[str, Any], one: Mapping[str, Any]) -> str:
    if not one["keys"]:
        return "nothing was tested"
    keys = {key["name"]: key for key in one["keys"]}
    largest = max(one["keys"], key=lambda key: key["effect"])
    level = f"p {chance(one['p_value'])}, level {number(one['alpha'], 2)}"
    over = [key for key in one["keys"] if key["effect"] >= key["floor"]]
    hit = one["p_value"] <= one["alpha"]
    if one["state"] == "firing":
        names = ", ".join(f"{name} ({_effect(window, one['family'], keys[name])})" for name in one["named"][:NAMED])
        begun = "an alarm began" if one["fired"] else "the alarm goes on"
        what = f": {names}, at least {number(largest['floor'])} in 2 of the last 3 windows" if names else ""
        return f"{begun}{what}; {level}"
    if one["state"] == "pending":
        return f"suspected: {level}; an alarm needs 2 of the last 3 windows, and the same name over its floor in 2"
    effect = _effect(window, one["family"], largest)
    told = f"the largest is {largest['name']} with {effect}, floor {number(largest['floor'])}"
    if largest["effect"] == 0.0:
        told = "nothing has risen" if one["family"] == "quality" else "nothing differs"
    if one["state"] == "resolved":
        return f"the alarm is over after 2 clean windows; {told}; {level}"
    if hit and not over:
        return f"no alarm: more than chance ({level}), and too small to matter: {told}"
    if over and not hit:
        return f"no alarm: {told}, which chance alone gives, too ({level})"
    return f"no alarm: {told}; {level}"


def latency_beside(one: Mapping[str, Any]) -> str:
    """The canary's latencies beside the champion's, in the last window that both had answers for.

    Args:
        one: as in the view, `gateway.monitor.latencies.Judged` in plain values, with its text.
    """
    told = one["text"] or "no answer is slower than the first edge"
    tested = f"p {chance(one['p_value'])}, level {number(one['alpha'], 2)}"
    return f"{one['state']}: {told}; {tested}; {one['champion']:,} and {one['canary']:,} answers"


def _performance(window: Mapping[str, Any], verdict: Mapping[str, Any]) -> str:
    if verdict["reason"]:
        return f"not judged: {reason_text(verdict['reason'])}"
    hits = [one for one in verdict["drops"] if one["hit"]]
    shown = hits or sorted(verdict["drops"], key=lambda one: one["limit"] - one["drop"])[:1]
    drops = "; ".join(
        f"{one['metric']} {fixed(one['reference'])} -> {fixed(one['value'])}, "
        f"a drop of {fixed(one['drop'])} with a limit of {fixed(one['limit'])}"
        for one in shown
    )
    if verdict["firing"]:
        return f"{'an alarm began' if verdict['fired'] else 'the alarm goes on'}: {listed(verdict['firing'])}; {drops}"
    if hits:
        return f"suspected: {drops}; an alarm needs 2 of the last 3 windows"
    return f"no alarm: nothing drops past its limit; the nearest is {drops}"
