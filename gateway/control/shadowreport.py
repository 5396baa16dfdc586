"""How a shadow's answers compare with those that were given: counts of the workers, and what they surely say."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

from gateway.control.traffic import Traffic
from gateway.counters import CounterPage
from gateway.shadowfields import (
    ARGMAX,
    CLASSES,
    COMPARED,
    DISAGREED,
    DROPPED,
    FAILED,
    FIELDS,
    MATRIX,
    MICRO,
    ROWS,
    SHIFT,
    SHIFT_BINS,
    SHIFT_SQUARED,
    SHIFTS,
    TOLERANCE,
    TOPK,
    pairs,
    whole,
)
from router.evidence.sequences import bernoulli_interval

ALPHA: Final = 0.05


def shadow_report(name: str, traffic: Traffic) -> dict[str, Any]:
    """Of each variant that was in a policy's shadow. During a rollout of all nodes, else of this one since its start.

    Raises:
        UnknownPolicy
    """
    kept = traffic.policies.get(name)
    judge = kept.record.evidence.get("judge")
    if judge and judge["shadow"]:
        counts, scope = {variant: whole(values) for variant, values in judge["shadow"].items()}, "rollout"
    else:
        living, finals = traffic.pages()
        counts, scope = _of_pages(name, [finals, *living.values()]), "node"
    known = set(kept.policy.names)
    shown = [compared(variant, values) for variant, values in sorted(counts.items()) if variant in known]
    shadow = kept.policy.spec.shadow
    return {
        "name": name,
        "scope": scope,
        "shadow_slots": kept.record.shadow_slots,
        "variant": shadow.variant if shadow is not None else kept.record.canary or None,
        "variants": shown,
    }


def _of_pages(name: str, pages: Iterable[CounterPage]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for page in pages:
        for key, block in page.blocks():
            if key[0] == "shadow" and key[1] == name:
                sums = found.get(key[3], [0] * len(FIELDS))
                found[key[3]] = [a + int(b) for a, b in zip(sums, block, strict=True)]
    return found


def compared(variant: str, counts: Sequence[int]) -> dict[str, Any]:
    """One variant's counts, as `gateway.shadow.FIELDS`, for people and programs.

    `agreement` and `disagreement` take a copy that failed for another answer. The interval holds however often one
    looks, for requests that stand for themselves.
    """
    rows, (asked, differ) = counts[ROWS], pairs(counts)
    surely = bernoulli_interval(differ, asked, ALPHA) if asked else None
    mean = counts[SHIFT] / MICRO / rows if rows else 0.0
    spread = max(0.0, counts[SHIFT_SQUARED] / MICRO / rows - mean * mean) if rows else 0.0
    middle = SHIFT_BINS // 2
    return {
        "variant": variant,
        "requests": counts[COMPARED],
        "disagreed": counts[DISAGREED],
        "agreement": 1.0 - differ / asked if asked else None,
        "disagreement": {"low": surely.low, "high": surely.high, "alpha": ALPHA} if surely else None,
        "failed": counts[FAILED],
        "dropped": counts[DROPPED],
        "rows": rows,
        "rows_other_argmax": counts[ARGMAX],
        "rows_outside_tolerance": counts[TOLERANCE],
        "rows_other_topk": counts[TOPK],
        "shift_mean": mean if rows else None,
        "shift_deviation": math.sqrt(spread) if rows else None,
        "shift_histogram": [
            {"at": round((at - middle) / middle, 2), "rows": counts[SHIFTS + at]} for at in range(SHIFT_BINS)
        ],
        "agreement_matrix": _matrix(counts[MATRIX:]),
    }


def _matrix(counts: Sequence[int]) -> dict[str, Any] | None:
    """Rows by the class that was answered (rows) and the shadow's (columns); None = the outputs have no classes."""
    if not any(counts):
        return None
    rows = [list(counts[at * CLASSES : (at + 1) * CLASSES]) for at in range(CLASSES)]
    return {"classes": [*map(str, range(CLASSES - 1)), "others"], "rows": rows}
