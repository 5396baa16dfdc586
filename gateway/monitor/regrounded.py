"""What was written down of a verdict, computed again: counts through the code that a running gateway uses. Pure.

Counterpart of `gateway.monitor.grounds`. What it reads may have been edited by anybody: any error is a word on that.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from gateway.monitor.apart import Apart, p_value
from gateway.monitor.cbpe import Performance, estimate
from gateway.monitor.comparing import Binned, compared, drift_key, quality_key
from gateway.monitor.concept import Concept
from gateway.monitor.confusion import METRICS
from gateway.monitor.counting import Counts
from gateway.monitor.engine import alpha_of
from gateway.monitor.fairness import FairnessWatch, fairness, realised_fairness
from gateway.monitor.families import FamilyState, FamilyVerdict, Key
from gateway.monitor.grounds import SAID, told
from gateway.monitor.latencies import Ground as LatencyGround
from gateway.monitor.mistakes import Ground as MistakesGround
from gateway.monitor.performance import Watch
from gateway.monitor.plan import LABEL_BINS, SCORE_BINS
from gateway.monitor.realised import Cohort, ErrorRun, counted_performance, performance
from gateway.monitor.results import FamilyResult, Tested, WindowResult
from gateway.monitor.telling import findings, of_budget, of_realised
from gateway.monitor.watching import fairness_alpha
from gateway.monitor.windows import dense

MOST: Final = 10_000
"""Keys of a family: more there cannot be, and each takes room."""
MOST_ERRORS: Final = 1_000_000
"""Labels of a cohort that are put through ADWIN once more: some seconds."""
_CALIBRATED: Final = ((0.0, 0.0), (1.0, 1.0))
"""Any: that there is one decides."""

Found = tuple[dict[str, Any], list[str]]
"""What comes out, under the names of `found` in a ground; and what of it was taken from the record."""


def found_again(ground: Mapping[str, Any]) -> Found:
    """Compute a ground again.

    Raises:
        KeyError, ValueError, TypeError, IndexError, AttributeError, ArithmeticError, AssertionError: it was edited.
    """
    return _AGAIN[ground["test"]](ground)


def _result(ground: Mapping[str, Any], **said: Any) -> WindowResult:
    """The window as far as words are made of it."""
    names = ("opened_ms", "closed_ms", "rows")
    window = {name: ground[name] for name in names}
    of = {"reference_rows": ground["reference_rows"], "reference_origin": ground["origin"]}
    return WindowResult(variant=ground["variant"], index=0, skipped=0, reason="", **window, **of, **said)


def _told(ground: Mapping[str, Any], result: WindowResult, state: str) -> dict[str, Any]:
    if state != "firing":
        return {}
    (found,) = findings(result, ground["version"])
    return {"told": told(found)}


# ---- families of keys ----


def _family(ground: Mapping[str, Any], known: Mapping[str, Key], **more: Any) -> Found:
    """A window of a family, of keys that were computed again, and of others as they were recorded."""
    floor, silent, family = ground["floor"], int(ground["silent"]), ground["test"]
    if silent > MOST:
        raise ValueError(f"expected at most {MOST:,} keys, got {silent:,}")
    listed = [known.get(name) or Key(name, p_value, effect, floor) for name, p_value, effect in ground["found"]["keys"]]
    keys = [*listed, *(Key(f"{at} of the others", 1.0, 0.0, floor) for at in range(silent))]
    duration_ms = max(1, ground["closed_ms"] - ground["opened_ms"])
    alpha = alpha_of(family, ground["sharing"], duration_ms, ground["distance_ms"])
    verdict = FamilyState.from_plain(ground["before"]).close(keys, alpha)
    found = {**_said(verdict), "keys": [[key.name, key.p_value, key.effect] for key in listed], **more}
    found |= _told(ground, _result(ground, families=(_family_result(family, verdict, keys),)), verdict.state)
    taken = len(listed) - len({key.name for key in listed} & set(known))
    return found, [f"p-values of {taken:,} of {len(keys):,} keys are taken from the record"] if taken else []


def _said(verdict: FamilyVerdict) -> dict[str, Any]:
    return {name: getattr(verdict, name) for name in SAID}


def _family_result(family: str, verdict: FamilyVerdict, keys: Sequence[Key]) -> FamilyResult:
    tested = tuple(Tested(key.name, key.p_value, key.effect, key.floor) for key in keys)
    return FamilyResult(family=family, keys=tested, **_said(verdict))


def _drift(ground: Mapping[str, Any]) -> Found:
    some = [compared(_binned(one)) for one in ground["bins"]]
    keys = {one.name: drift_key(one, ground["floor"]) for one in some}
    return _family(ground, keys, compared={one.name: msgspec.to_builtins(one) for one in some})


def _binned(plain: Mapping[str, Any]) -> Binned:
    before, now, quality = (np.array(plain[name], np.int64) for name in ("reference", "window", "quality"))
    return Binned(plain["name"], before, now, quality, tuple(plain["edges"]), plain["phi"])


def _quality(ground: Mapping[str, Any]) -> Found:
    rows, rows_before, floor = ground["rows"], ground["reference_rows"], ground["floor"]
    keys = {name: quality_key(name, before, now, rows, rows_before, floor) for name, before, now in ground["counts"]}
    return _family(ground, keys)


# ---- performance ----


def _estimated(ground: Mapping[str, Any]) -> Found:
    parts = {name: _estimate(ground, name) for name in ("window", "reference")}
    verdict = _watch(ground).close(parts["window"], parts["reference"])
    found = {**parts, "verdict": verdict} | _told(ground, _result(ground, performance=verdict), verdict.state)
    what = "shares of rows outside the reference" if "scores" in ground else "estimates, without the scores by bin,"
    return found, [f"{what} are taken from the record"]


def _watch(ground: Mapping[str, Any]) -> Watch:
    """As it stood before. Metrics come in an order, which JSON has lost."""
    before = ground["before"]
    metrics = {name: before["metrics"][name] for name in METRICS if name in before["metrics"]}
    return Watch.from_plain({**before, "metrics": metrics}, ground["drop"])


def _estimate(ground: Mapping[str, Any], name: str) -> Performance:
    if "scores" not in ground:
        return msgspec.convert(ground["found"][name], Performance)
    rows, sums = (dense(one, 2 * SCORE_BINS).reshape(2, SCORE_BINS) for one in ground["scores"][name])
    calibration = _CALIBRATED if ground["calibrated"] else ()
    return estimate(rows, sums, calibration=calibration, outside=ground["outside"][name], min_rows=ground["min_rows"])


def _realised(ground: Mapping[str, Any]) -> Found:
    found = ground["found"]
    parts = {name: msgspec.convert(found[name], Performance) for name in ("cohort", "reference")}
    taken = ["performance is taken from the record, without the labels"]
    if "labels" in ground:
        cohort = Cohort.empty(1)
        cohort.predicted[0], labels = ground["predicted"], ground["labels"]
        cohort.labels[0] = _labels(labels["cohort"], 1)[0]
        of_reference = counted_performance(_labels(labels["reference"], 1))
        parts = {"cohort": performance(cohort, min_coverage=ground["min_coverage"]), "reference": of_reference}
        taken = []
    verdict = _watch(ground).close(parts["cohort"], parts["reference"])
    again: dict[str, Any] = {**parts, "verdict": verdict}
    if verdict.state == "firing":
        again["told"] = told(of_realised(verdict, ground["version"], ground["variant"], *ground["span"]))
    return again, taken


def _labels(pairs: Any, groups: int) -> Counts:
    return dense(pairs, groups * 4 * LABEL_BINS).reshape(groups, 2, LABEL_BINS, 2)


# ---- groups, errors, speed ----


def _groups_alpha(ground: Mapping[str, Any]) -> float:
    return fairness_alpha(ground["span_ms"], ground["sharing"], ground["distance_ms"])


def _fairness(ground: Mapping[str, Any]) -> Found:
    decided = np.array(ground["decided"], np.int64)[:, :, None]
    watch = FairnessWatch.from_plain({"family": ground["before"]}, ground["floor"])
    fair = fairness(decided, ground["groups"], min_size=ground["min_size"])
    return _said(watch.close(fair, _groups_alpha(ground))), []


def _gaps(ground: Mapping[str, Any]) -> Found:
    if "labels" not in ground:
        return dict(ground["found"]), ["gaps of groups are taken from the record, without the labels"]
    groups, size = ground["groups"], len(ground["predicted"])
    cohort = Cohort.empty(min(size, MOST))
    cohort.predicted[:], cohort.labels[:] = ground["predicted"], _labels(ground["labels"], size)
    fair = realised_fairness(cohort, groups, min_coverage=ground["min_coverage"], min_size=ground["min_size"])
    return _said(FairnessWatch.from_plain({"family": ground["before"]}).close(fair, _groups_alpha(ground))), []


def _concept(ground: Mapping[str, Any]) -> Found:
    if sum(ground["rows"]) > MOST_ERRORS:
        taken = f"errors of decision {ground['decision']}: {MOST_ERRORS:,} at most are computed again"
        return dict(ground["found"]), [taken]
    concept = Concept()
    concept.restore(ground["before"])
    run = ErrorRun(0, ground["variant"], ground["decision"], tuple(ground["wrong"]), tuple(ground["rows"]))
    concept.take(run, ground["floor"])
    return {"state": "firing" if concept.text else "ok", "text": concept.text}, []


def _budget(ground: Mapping[str, Any]) -> Found:
    events = {window: (slow, every) for window, slow, every in ground["events"]}
    found = of_budget(events, ground["objective"], ground["version"], ground["variant"], ground["now_s"])
    return {"state": found.state, "severity": found.severity, "text": found.text}, []


# ---- champion and canary beside each other ----


def _apart(ground: Mapping[str, Any]) -> Found:
    p_values = dict(ground["found"]["p_values"])
    taken = len(p_values) - len(ground["pairs"])
    p_values |= {one["name"]: p_value(one["champion"], one["canary"]) for one in ground["pairs"]}
    after = Apart(tuple(ground["before"])).judged(list(p_values.values()), ground["alpha"])
    found = {"p_values": p_values, "windows": after.windows, "state": after.state}
    return found, [f"p-values of {taken:,} of {len(p_values):,} features are taken from the record"] if taken else []


def _latency(ground: Mapping[str, Any]) -> Found:
    found: dict[str, Any] = msgspec.to_builtins(msgspec.convert(dict(ground), LatencyGround).judged())
    return found, ["sums over slots of ten seconds are taken from the record"]


def _mistakes(ground: Mapping[str, Any]) -> Found:
    return _said(msgspec.convert(dict(ground), MistakesGround).judged()), []


_AGAIN: Final[Mapping[str, Callable[[Mapping[str, Any]], Found]]] = {
    "input": _drift,
    "prediction": _drift,
    "quality": _quality,
    "estimated": _estimated,
    "realised": _realised,
    "fairness": _fairness,
    "gaps": _gaps,
    "concept": _concept,
    "budget": _budget,
    "apart": _apart,
    "latency": _latency,
    "mistakes": _mistakes,
}
