"""What an experiment's report says of the models themselves: their shadow, drift, performance, calibration. Pure.

All of it is counted by others, for other ends: the shadow and the monitor know nothing of what was randomised, nor of
when an experiment began. So it decides nothing, and stands apart from the goals.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from gateway.control.monitorheld import Held
from gateway.control.monitorviews import collecting, latest, problems
from gateway.control.study import Study
from gateway.monitor.plan import LABEL_BINS
from gateway.monitor.realised import Cohort
from gateway.monitor.watching import Watching

MOST_FEATURES: Final = 5
"""Of the last window, the farthest from the reference first."""
BINS: Final = 10
"""Of a score, for its calibration; each holds as many of the bins in which labels are counted."""
NO_SHADOW: Final = "no variant was in the shadow"
SIGNALS: Final = ("input_drift", "data_quality", "prediction_drift", "performance_realised")


def model_of(study: Study, shadow: Mapping[str, Any] | str, held: Held | str, now_ms: int) -> dict[str, Any]:
    """The section; each half of it is null where there is nothing, and its `_missing` says why.

    Args:
        shadow: as `gateway.control.shadowreport.shadow_report`; or why there is none.
        held: the model's monitor; or why there is none.
    """
    missing = shadow if isinstance(shadow, str) else "" if shadow["variants"] else NO_SHADOW
    arms = [
        {"variant": name, "version": str(version), **_arm(held, str(version), name, now_ms)}
        for name, version in zip(study.variants, study.versions, strict=True)
        if not isinstance(held, str)
    ]
    return {
        "shadow": None if missing or isinstance(shadow, str) else {key: shadow[key] for key in ("scope", "variants")},
        "shadow_missing": missing,
        "arms": arms or None,
        "arms_missing": held if isinstance(held, str) else "",
    }


def _arm(held: Held, version: str, variant: str, now_ms: int) -> dict[str, Any]:
    """What the monitor says of one variant; `missing` says why it says nothing."""
    watching = held.monitor.versions.get(version)
    if watching is None:
        return {"missing": _why(held, version), "signals": {}, "drift": None, "realised": None, "calibration": None}
    said = {one.signal: one.state for one in latest(held, now_ms) if one.series == (version, variant)}
    return {
        "missing": "" if variant in watching.engine.variants else "no row of this variant was counted",
        "signals": {signal: said[signal] for signal in SIGNALS if signal in said},
        "drift": _drift(watching, variant),
        "realised": _realised(watching, variant),
        "calibration": _calibration(watching, variant, now_ms),
    }


def _why(held: Held, version: str) -> str:
    if version in collecting(held):
        return "its reference is being made of its first rows"
    found = problems(held)
    return found.get(version) or found.get("*") or "the monitor does not watch this version"


def _drift(watching: Watching, variant: str) -> dict[str, Any] | None:
    """The last window that was judged, against the version's own reference; None = there is none yet."""
    window = next((one for one in reversed(watching.engine.history(variant)) if not one.reason), None)
    if window is None:
        return None
    worst = sorted((one for one in window.features if one.rows), key=lambda one: -one.psi)[:MOST_FEATURES]
    return {
        "closed_ms": window.closed_ms,
        "rows": window.rows,
        "reference": {"rows": window.reference_rows, "origin": window.reference_origin},
        "features": [{"name": one.name, "psi": one.psi, "p_value": one.p_value} for one in worst],
        "score_psi": window.score.psi if window.score is not None else None,
    }


def _realised(watching: Watching, variant: str) -> dict[str, Any] | None:
    """What came true of the last cohort that has matured, beside the reference's; None = none has."""
    judged = watching.judged.get(variant)
    if judged is None:
        return None
    found: dict[str, Any] = msgspec.to_builtins(judged.performance)
    return {
        "start_s": judged.start_s,
        "coverage": list(judged.coverage),
        **found,
        "reference": watching.realised_reference().values,
    }


def _calibration(watching: Watching, variant: str, now_ms: int) -> list[dict[str, Any]] | None:
    """Of each tenth of the score: labels, the share of positive ones, and the mean score; None = nothing is known.

    Labels of all cohorts that have matured and are kept. A label that is missing because of what was decided makes no
    difference within a bin, as the score is what decides.
    """
    plan = watching.reference.plan
    if plan.score is None or plan.score.kind != "probability":
        return None
    return calibration_of([cohort for _, cohort in watching.old_enough(variant, now_ms)])


def calibration_of(cohorts: Sequence[Cohort]) -> list[dict[str, Any]] | None:
    """The same from cohorts; a bin without labels is left out. None = there are no labels, or they are being moved."""
    counted = sum(cohort.labels.sum(axis=(0, 1)) for cohort in cohorts)
    if isinstance(counted, int) or counted.min() < 0 or not counted.any():
        return None
    size, found = LABEL_BINS // BINS, []
    for first in range(0, LABEL_BINS, size):
        cells = counted[first : first + size]
        rows = int(cells.sum())
        if rows:
            scores = sum((first + at + 0.5) / LABEL_BINS * int(cell.sum()) for at, cell in enumerate(cells))
            found.append({"score": scores / rows, "labels": rows, "positive": int(cells[:, 1].sum()) / rows})
    return found
