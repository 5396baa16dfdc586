"""What was written down of a verdict, computed again: counts through the code that a running gateway uses. Pure.

Counterpart of `gateway.monitor.grounds`. What it reads may have been edited by anybody: any error is a word on that.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from gateway.monitor.cbpe import Performance, estimate
from gateway.monitor.comparing import Binned, compared, drift_key, quality_key
from gateway.monitor.confusion import METRICS
from gateway.monitor.engine import alpha_of
from gateway.monitor.families import FamilyState, FamilyVerdict, Key
from gateway.monitor.grounds import told
from gateway.monitor.performance import Watch
from gateway.monitor.plan import SCORE_BINS
from gateway.monitor.results import FamilyResult, Tested, WindowResult
from gateway.monitor.telling import findings
from gateway.monitor.windows import dense

MOST: Final = 10_000
"""Keys of a family: more there cannot be, and each takes room."""
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
    names = ("state", "fired", "p_value", "alpha", "selected", "named")
    return {name: getattr(verdict, name) for name in names}


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


_AGAIN: Final[Mapping[str, Callable[[Mapping[str, Any]], Found]]] = {
    "input": _drift,
    "prediction": _drift,
    "quality": _quality,
    "estimated": _estimated,
}
