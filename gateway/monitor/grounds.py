"""What the word on a signal was computed from, in plain values: for the audit trail, and to be computed again. Pure.

A ground has the counts and settings that went in, and under `found` what came out. `gateway.monitor.regrounded` puts
the one through the code that a running gateway uses and gets the other, bit for bit. A ground is asked for with so many
bins (of features) at most: what else was tested is then in it as p-value and effect alone.
"""

import functools
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from gateway.monitor.apart import ALPHA, Apart, enough, p_value
from gateway.monitor.attribution import Asked
from gateway.monitor.book import ModelMonitor
from gateway.monitor.cbpe import outside_reference, scores_of
from gateway.monitor.comparing import Binned, input_bins, quality_counts, score_bins
from gateway.monitor.counting import Counts
from gateway.monitor.engine import Closed, estimated
from gateway.monitor.fairness import realised_fairness
from gateway.monitor.families import FamilyVerdict
from gateway.monitor.pair import Beside
from gateway.monitor.plan import CountPlan
from gateway.monitor.realised import in_label_bins, performance
from gateway.monitor.results import FamilyResult
from gateway.monitor.settings import Spec
from gateway.monitor.significance import POWER
from gateway.monitor.telling import SIGNALS, findings, of_budget, of_realised
from gateway.monitor.watching import Watching
from gateway.monitor.windows import sparse
from gateway.monitor.words import Finding, Signal

METHOD: Final = 1
"""Of all that is computed here; another number when the same counts give other numbers."""
ALL: Final = 20
"""Features whose bins are told of one ground."""
FEWER: Final = (ALL, 5, 0)
"""So many are tried one after the other, until it fits."""

SAID: Final = ("state", "fired", "p_value", "alpha", "selected", "named")
"""Of a family's verdict."""

Ground = Callable[[int], dict[str, Any]]
"""Features whose bins are told at most -> the ground."""
Signalled = tuple[Signal, str, str]
"""Signal, version, variant."""


@functools.cache
def arithmetic() -> str:
    """Eight digits, other ones where another numpy or processor gives logarithms, powers or sums another last bit."""
    x = np.linspace(0.001, 30.0, 997)
    whole = [np.log(x), np.sqrt(x), x**POWER, np.cumsum(x), np.sum(np.log(x)), np.dot(x, np.log(x))]
    single = [(math.exp(-one), math.lgamma(one), math.log(one), math.asin(one / 30.0)) for one in x.tolist()]
    content = b"".join(np.asarray(one, "<f8").tobytes() for one in (*whole, single))
    return hashlib.sha256(content).hexdigest()[:8]


def grounds_of(monitor: ModelMonitor, signals: Sequence[Signalled]) -> Iterator[Ground]:
    """Of each of these signals whose last word is still known: what was said before a restart is not."""
    wanted = dict.fromkeys(signals)
    for at, (signal, version, variant) in enumerate(wanted):
        watching = monitor.versions.get(version)
        if watching is not None:
            yield from _of_series(watching, signal, variant)
        if not at:
            yield from beside_of(monitor)
    if not wanted:
        yield from beside_of(monitor)


def arms_of(asked: Asked) -> Iterator[Signalled]:
    """The signals that a verdict is about: first those that fire, the canary's before the champion's."""
    arms = [one for one in (asked.canary, asked.champion) if one is not None]
    known = [
        (state, (signal, *series))
        for series, arm in zip(reversed(asked.series), arms, strict=True)
        for signal, state in arm.states.items()
    ]
    quiet = [place for state, place in known if state != "firing"]
    yield from (place for state, place in known if state == "firing")
    # What it takes most room to compute again comes last.
    yield from sorted(quiet, key=lambda place: place[0] == "performance_estimated")


def _of_series(watching: Watching, signal: Signal, variant: str) -> Iterator[Ground]:
    closed = watching.last.get(variant)
    if closed is not None:
        family = next((name for name, one in SIGNALS.items() if one == signal), "")
        found = closed.result.family(family)
        if found is not None and found.keys:
            yield functools.partial(_family, watching, closed, found)
        if signal == "performance_estimated" and closed.result.performance is not None:
            yield functools.partial(_estimated, watching, closed)
    for kind, make in _KEPT.get(signal, {}).items():
        places = [f"{variant}/{decision}" for decision in (0, 1)] if kind == "concept" else [variant]
        for kept in [watching.grounds[kind][place] for place in places if place in watching.grounds[kind]]:
            yield functools.partial(make, watching, variant, kept)


def told(finding: Finding) -> dict[str, Any]:
    """What an incident says of a signal that fires."""
    return {"severity": finding.severity, "keys": finding.keys, "level": finding.level, "text": finding.text}


# ---- windows against a reference ----


def _place(watching: Watching, closed: Closed, signal: Signal) -> dict[str, Any]:
    result = closed.result
    return {
        "signal": signal,
        "version": watching.version,
        "variant": result.variant,
        "opened_ms": result.opened_ms,
        "closed_ms": result.closed_ms,
        "rows": result.rows,
        "reference": closed.reference.id,
        "origin": result.reference_origin,
        "reference_rows": result.reference_rows,
    }


def _family(watching: Watching, closed: Closed, found: FamilyResult, most: int) -> dict[str, Any]:
    """A family of keys: features, the score, or rows without data."""
    before = closed.before[found.family]
    known = {*found.named, *found.selected, *(name for names in before["found"] for name in names)}
    # Of those that are surely quiet the family asks only how many there are.
    silent = {key.name for key in found.keys if (key.p_value, key.effect) == (1.0, 0.0) and key.name not in known}
    keys = [key for key in found.keys if found.alpha >= 1.0 or key.name not in silent]
    least = min(found.keys, key=lambda key: key.p_value)
    names = list(dict.fromkeys((*found.named, *found.selected, least.name)))[:most]
    said = {name: getattr(found, name) for name in SAID}
    said["keys"] = [[key.name, key.p_value, key.effect] for key in keys]
    inputs: dict[str, Any]
    if found.family == "quality":
        inputs = _quality(closed, {key.name for key in keys} if most == ALL else set(names))
    else:
        inputs, said["compared"] = _bins(closed, found.family, names)
    return {
        "test": found.family,
        **_place(watching, closed, SIGNALS[found.family]),
        "sharing": closed.sharing,
        "distance_ms": watching.spec.false_alarms.at_most_one_per_ms,
        "floor": found.keys[0].floor,
        "before": before,
        "silent": len(found.keys) - len(keys),
        **inputs,
        "found": said | _told(watching, closed, SIGNALS[found.family], found.state),
    }


def _told(watching: Watching, closed: Closed, signal: Signal, state: str) -> dict[str, Any]:
    if state != "firing":
        return {}
    (found,) = (one for one in findings(closed.result, watching.version) if one.signal == signal)
    return {"told": told(found)}


def _bins(closed: Closed, family: str, names: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Bins of features or of the score, and what was said of them."""
    reference, result = closed.reference, closed.result
    every = list(input_bins(reference, closed.counts)) if family == "input" else [score_bins(reference, closed.counts)]
    compared = result.features if family == "input" else (result.score,)
    said = {one.name: msgspec.to_builtins(one) for one in compared if one is not None and one.name in names}
    return {"bins": [_plain(one) for one in every if one is not None and one.name in names]}, said


def _plain(one: Binned) -> dict[str, Any]:
    counts = {"reference": one.before.tolist(), "window": one.now.tolist(), "quality": one.quality.tolist()}
    return {"name": one.name, "edges": one.edges, "phi": one.phi, **counts}


def _quality(closed: Closed, names: set[str]) -> dict[str, Any]:
    """Rows without data, of the reference and of the window."""
    found = quality_counts(closed.reference.plan, closed.reference.counts, closed.counts)
    return {"counts": [list(one) for one in found if one[0] in names]}


# ---- performance without labels ----


def _estimated(watching: Watching, closed: Closed, most: int) -> dict[str, Any]:
    reference, result, spec = closed.reference, closed.result, watching.spec
    said: dict[str, Any] = {
        "window": msgspec.to_builtins(result.estimated),
        "reference": msgspec.to_builtins(estimated(reference, reference.counts, spec.min_rows)),
        "verdict": msgspec.to_builtins(result.performance),
    }
    assert result.performance is not None, "it is judged"
    assert result.estimated is not None, "it was estimated"
    trusted = result.estimated.state == "ok"
    said |= _told(watching, closed, "performance_estimated", result.performance.state)
    return {
        "test": "estimated",
        **_place(watching, closed, "performance_estimated"),
        "before": closed.before["estimated"],
        **_scores(
            reference.plan,
            {"window": closed.counts, "reference": reference.counts},
            spec,
            whole=most == ALL and trusted,
        ),
        "found": said,
    }


def _scores(plan: CountPlan, of: dict[str, Counts], spec: Spec, *, whole: bool) -> dict[str, Any]:
    """Settings of an estimate, and the scores by decision and bin, as (places, rows) and (places, calibrated sums)."""
    assert plan.score is not None, "an estimate has a score"
    found: dict[str, Any] = {"drop": spec.floors.performance_drop, "min_rows": spec.min_rows,
                             "calibrated": bool(plan.score.calibration)}  # fmt: skip
    found["outside"] = {name: outside_reference(plan, counts) for name, counts in of.items()}
    if whole:
        found["scores"] = {
            name: [sparse(one.sum(axis=0).ravel()) for one in scores_of(plan, counts)] for name, counts in of.items()
        }
    return found


# ---- labels, groups, speed ----


def _settings(watching: Watching, kept: dict[str, Any]) -> dict[str, Any]:
    """Of a family of groups."""
    distance_ms = watching.spec.false_alarms.at_most_one_per_ms
    return {"before": kept["before"], "span_ms": kept["span_ms"], "sharing": kept["sharing"],
            "distance_ms": distance_ms, "found": _verdict(kept["verdict"])}  # fmt: skip


def _verdict(verdict: FamilyVerdict) -> dict[str, Any]:
    return {name: getattr(verdict, name) for name in SAID}


def _of(watching: Watching, signal: Signal, variant: str) -> dict[str, Any]:
    return {"signal": signal, "version": watching.version, "variant": variant}


def _realised(watching: Watching, variant: str, kept: dict[str, Any], most: int) -> dict[str, Any]:
    """Performance by labels; the labels are in it unless late ones have come since."""
    judged, verdict, version = kept["judged"], kept["verdict"], watching.version
    span = judged.start_s, kept["end_s"]
    said = {"cohort": msgspec.to_builtins(judged.performance), "verdict": msgspec.to_builtins(verdict)}
    said["reference"] = msgspec.to_builtins(watching.realised_reference())
    if verdict.state == "firing":
        said["told"] = told(of_realised(verdict, version, variant, *span))
    ground = {"test": "realised", **_of(watching, "performance_realised", variant), "span": span,
              "before": kept["before"], "drop": watching.spec.floors.performance_drop,
              "min_coverage": watching.spec.labels.min_coverage, "found": said}  # fmt: skip
    cohort = watching.cohorts.find(judged.start_s, variant)
    same = cohort is not None and performance(cohort, min_coverage=ground["min_coverage"]) == judged.performance
    if cohort is not None and same and most == ALL:
        labels = watching.reference.labels
        counted = np.zeros(0, np.int64) if labels is None else in_label_bins(labels).sum(axis=0).ravel()
        ground["predicted"] = cohort.predicted.sum(axis=0).tolist()
        ground["labels"] = {"cohort": sparse(cohort.labels.sum(axis=0).ravel()), "reference": sparse(counted)}
    return ground


def _fairness(watching: Watching, variant: str, kept: dict[str, Any], most: int) -> dict[str, Any]:
    """Decisions of groups."""
    plan, groups, closed = watching.reference.plan, watching.spec.groups, watching.last[variant]
    decided = scores_of(plan, closed.counts)[0].sum(axis=2).tolist()
    return {
        "test": "fairness",
        **_of(watching, "fairness", variant),
        **_settings(watching, kept),
        "groups": plan.groups,
        "min_size": groups.min_size if groups is not None else 0,
        "floor": watching.spec.floors.disparate_impact,
        "decided": decided,
    }


def _gaps(watching: Watching, variant: str, kept: dict[str, Any], most: int) -> dict[str, Any]:
    """Groups by labels; the labels are in it unless late ones have come since."""
    plan, groups, coverage = watching.reference.plan, watching.spec.groups, watching.spec.labels.min_coverage
    ground = {
        "test": "gaps",
        **_of(watching, "fairness", variant),
        **_settings(watching, kept),
        "groups": plan.groups,
        "min_size": groups.min_size if groups is not None else 0,
        "min_coverage": coverage,
    }
    cohort = watching.cohorts.find(kept["start_s"], variant)
    if cohort is not None and most == ALL:
        now = realised_fairness(cohort, plan.groups, min_coverage=coverage, min_size=ground["min_size"])
        if msgspec.json.encode(now) == msgspec.json.encode(watching.gaps[variant]):
            ground["predicted"], ground["labels"] = cohort.predicted.tolist(), sparse(cohort.labels.ravel())
    return ground


def _concept(watching: Watching, variant: str, kept: dict[str, Any], most: int) -> dict[str, Any]:
    """Errors of one decision: ADWIN as it was before the cohort, and the cohort."""
    run, text = kept["run"], kept["text"]
    return {
        "test": "concept",
        **_of(watching, "concept_drift", variant),
        "decision": run.decision,
        "floor": watching.spec.floors.performance_drop,
        "before": kept["before"],
        "wrong": run.wrong,
        "rows": run.rows,
        "found": {"state": "firing" if text else "ok", "text": text},
    }


def _budget(watching: Watching, variant: str, kept: dict[str, Any], most: int) -> dict[str, Any]:
    """Slow answers, by window in seconds."""
    found = of_budget(kept["events"], kept["objective"], watching.version, variant, kept["now_s"])
    return {
        "test": "budget",
        **_of(watching, "latency", variant),
        "objective": kept["objective"],
        "now_s": kept["now_s"],
        "events": [[window, *events] for window, events in kept["events"].items()],
        "found": {"state": found.state, "severity": found.severity, "text": found.text},
    }


_Make = Callable[[Watching, str, dict[str, Any], int], dict[str, Any]]
_KEPT: Final[dict[Signal, dict[str, _Make]]] = {
    "performance_realised": {"realised": _realised},
    "concept_drift": {"concept": _concept},
    "fairness": {"fairness": _fairness, "gaps": _gaps},
    "latency": {"budget": _budget},
}
"""What is kept for a signal, by kind."""


# ---- champion and canary beside each other ----


def beside_of(monitor: ModelMonitor) -> Iterator[Ground]:
    """Every comparison of the two that has been made since a restart."""
    asked, pair = monitor.asked, monitor.pair
    if asked is None or asked.canary is None:
        return
    place = {"version": asked.series[1][0], "variant": asked.series[1][1]}
    for aspect, last in pair.last.items():
        after = pair.outputs if aspect == "outputs" else pair.inputs
        yield functools.partial(_apart, {"signal": f"{aspect} beside", **place}, last, after)
    latency, mistakes = pair.latency, pair.mistakes
    if latency.ground is not None:
        said = {"test": "latency", "signal": "latency beside", **place, **msgspec.to_builtins(latency.ground)}
        yield _whole({**said, "found": msgspec.to_builtins(latency.last)})
    if mistakes.ground is not None and mistakes.verdict is not None:
        said = {"test": "mistakes", "signal": "performance beside", **place, **msgspec.to_builtins(mistakes.ground)}
        yield _whole({**said, "found": _verdict(mistakes.verdict)})


def _whole(ground: dict[str, Any]) -> Ground:
    return lambda _: ground


def _apart(place: dict[str, Any], last: Beside, after: Apart, most: int) -> dict[str, Any]:
    """Rows of both in the bins of each feature, or of the score."""
    pairs = {name: (a.tolist(), b.tolist()) for name, (a, b) in last.pairs.items()}
    p_values = {name: p_value(*pair) for name, pair in pairs.items() if enough(*pair)}
    names = sorted(p_values, key=lambda name: p_values[name])[:most]
    return {
        "test": "apart",
        **place,
        "alpha": ALPHA,
        "before": last.before.windows,
        "pairs": [{"name": name, "champion": pairs[name][0], "canary": pairs[name][1]} for name in names],
        "found": {"p_values": p_values, "windows": after.windows, "state": after.state},
    }
