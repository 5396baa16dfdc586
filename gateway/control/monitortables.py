"""Tables that the report and terminals have alike: performance of groups, and stages of answers. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from gateway.control.monitorwords import fixed, number, reason_text
from gateway.monitor.fairness import LEAST_SHOWN
from gateway.monitor.stages import QUANTILES
from router.rollout.words import duration

View = Mapping[str, Any]
GROUP_METRICS: Final = ("accuracy", "precision", "recall", "roc_auc")
GROUP_COLUMNS: Final = (
    "group",
    "",
    "rows",
    "labelled 0 / 1",
    "half within",
    "accuracy",
    "precision",
    "recall",
    "ROC AUC",
)

_FEW: Final = {"few_rows": "not enough rows", "few_labels": "not enough labels"}


def with_error(found: View | None, metric: str) -> str:
    """A value and 3 standard errors; never a number where it is not to be trusted."""
    if found is None or found["state"] not in ("ok", "selective_labels"):
        return "untrusted" if found is not None and found["state"] == "untrusted" else "-"
    value, error = (fixed(found[part].get(metric)) for part in ("values", "errors"))
    return value if "-" in (value, error) else f"{value} ± {3 * found['errors'][metric]:.4f}"


def groups(variant: View) -> Iterator[Sequence[str]]:
    """Rows under GROUP_COLUMNS: of each group of a series what is normal, what is estimated, and what came true."""
    for one in variant["groups"]:
        estimated, realised = one["estimated"], one["realised"]
        yield _row(one["group"], "reference", _many(one["reference"]["rows"]), one["reference"])
        if estimated is not None:
            yield _row("", "estimated", _many(one["rows"]), estimated)
        if realised is not None:
            rows = f"{_many(one['labels'])} of {_many(one['predictions'])}"
            covered = " / ".join(f"{share:.0%}" for share in one["coverage"] or ()) or "-"
            half = one["label_delay_s"].get("0.5")
            late = "-" if half is None else duration(round(1000 * half))
            yield _row("", "came true", rows, realised, covered, late)


def _row(group: str, what: str, rows: str, found: View, covered: str = "", late: str = "") -> list[str]:
    values = [with_error(found, metric) for metric in GROUP_METRICS]
    if not found["values"]:
        values = [_FEW.get(found["reason"], reason_text(found["reason"])), *["-"] * (len(GROUP_METRICS) - 1)]
    return [group, what, rows, covered, late, *values]


def _many(rows: int | str) -> str:
    return f"{rows:,}" if isinstance(rows, int) else f"fewer than {LEAST_SHOWN}"


def stages(found: Sequence[View]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: of each stage how long it took, and how fast it burns the budget against each limit."""
    burns: Sequence[View] = next((one["burns"] for one in found if one["burns"]), [])
    columns = ["stage", "last hour", *(f"{q:.0%} within" for q in QUANTILES)]
    columns += [f"{one['long']} / {one['short']} max {one['limit']:g}" for one in burns]
    return columns, [
        [
            one["stage"],
            f"{one['counted']:,} {one['of']}",
            *(_within(one["within_ms"], str(q)) for q in QUANTILES),
            *(_burn(pair) for pair in one["burns"]),
        ]
        for one in found
    ]


def _within(quantiles: Mapping[str, float | None], q: str) -> str:
    """The edge of a bucket; "-" = too few to say."""
    if q not in quantiles:
        return "-"
    value = quantiles[q]
    return "longer than 10 s" if value is None else f"{value:g} ms"


def _burn(pair: View) -> str:
    """Both rates; over their limit they alarm, or would, were the stage all there is."""
    return f"{number(pair['long_rate'])} / {number(pair['short_rate'])}{' over' if pair['over'] else ''}"
