"""A monitor as people see it in a terminal, or line by line in a pipe. Pure: from what the server says to text."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gateway.control import monitortables as tables
from gateway.control.monitortables import with_error
from gateway.control.monitorwords import (
    chance,
    headline,
    is_judged,
    latency_beside,
    number,
    percent,
    reason_text,
    series_name,
    series_of,
    warnings_of,
)
from gateway.monitor.facts import SIGNALS
from router.rollout.words import duration

_STYLES: Final[Mapping[str, str]] = {
    "ok": "green",
    "firing": "bold red",
    "pending": "bold yellow",
    "resolved": "cyan",
    "critical": "bold red",
    "warning": "bold yellow",
}
_TIMELINE: Final = 8
_WINDOWS: Final = 4
_SERIES: Final = 4
"""Shown whole; of further ones only the states."""
_METRICS: Final = ("accuracy", "precision", "recall", "roc_auc")
View = Mapping[str, Any]


def render(shown: View, now_s: float, trouble: str = "") -> RenderableType:
    """The whole picture.

    Args:
        shown: as `GET /admin/v1/monitors/NAME` answers.
        now_s: Unix time, of the same machine or one near.
        trouble: why nothing newer can be had.
    """
    series = series_of(shown)
    parts: list[RenderableType] = [*_title(shown, now_s)]
    parts += [Text(f"  {text}", "yellow") for text in _notes(shown, trouble)]
    if series:
        parts += [Text("\nsignals", "bold"), _states(shown, series)]
    parts += _incident(shown)
    for version, variant in series[:_SERIES]:
        one = shown["versions"][version]["variants"][variant]
        parts += _one(series_name(version, variant), shown["versions"][version], one)
    if len(series) > _SERIES:
        parts.append(Text(f"\n{len(series) - _SERIES} more series: see --json", "dim"))
    parts += [*_leases(shown), *_retraining(shown)]
    return Group(*parts)


def _title(shown: View, now_s: float) -> Iterator[Text]:
    incident = shown["incident"]
    state = f"incident, {incident['severity']}" if incident else "no incident"
    style = _STYLES[incident["severity"]] if incident and incident["severity"] in _STYLES else "bold cyan"
    title = Text.assemble((shown["name"], "bold"), "  ", (state, style))
    if incident is not None:
        title.append(f"  for {duration(max(0, round((now_s - incident['opened_s']) * 1000)))}")
    document = f"generation {shown['generation']} by {shown['applied_by']}" if shown["generation"] else "the defaults"
    none = shown["lag_ms"] is None or not shown["rows"]
    lag = "no counts yet" if none else f"newest counts {duration(max(0, shown['lag_ms']))} old"
    title.append(f"\n{shown['rows']:,} rows, {lag}; settings: {document}", "dim")
    yield title
    yield Text(headline(shown, clock))


def _notes(shown: View, trouble: str) -> Iterator[str]:
    if trouble:
        yield f"no news: {trouble}"
    yield from warnings_of(shown)


def clock(at_s: float) -> str:
    """A time for people, in their zone."""
    return datetime.fromtimestamp(at_s).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _plain(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for column in columns:
        table.add_column(column)
    return table


def _state(name: str) -> Text:
    return Text(name, _STYLES.get(name, "dim"))


def _states(shown: View, series: Sequence[tuple[str, str]]) -> Table:
    table = _plain("", *(series_name(*one) for one in series))
    for signal in SIGNALS:
        found = [shown["versions"][version]["variants"][variant]["signals"].get(signal) for version, variant in series]
        if any(found):
            states = [_state(one["state"] if one else "unknown") for one in found]
            table.add_row(Text(f"  {signal}"), *states)
    return table


def _incident(shown: View) -> Iterator[Text]:
    incident = shown["incident"]
    if incident is None:
        return
    yield Text.assemble(
        ("\nincident ", "bold"), incident["id"], f"  since {clock(incident['opened_s'])}\n  ",
        incident["attribution"]["sentence"],
    )  # fmt: skip
    if shown["hosts"]:
        yield Text("  hosts: " + ", ".join(f"{host} {state}" for host, state in shown["hosts"].items()))
    for one in incident["alarms"]:
        what = one["text"] or ", ".join(one["keys"])
        yield Text.assemble(
            "  ", (f"{one['severity']:<9}", _STYLES.get(one["severity"], "dim")),
            f"{one['signal']} of {series_name(one['version'], one['variant'])}: {what}",
        )  # fmt: skip
    yield Text("\ntimeline", "bold")
    left = len(incident["timeline"]) - _TIMELINE + incident["left_out"]
    if left > 0:
        yield Text(f"  {left} lines before", "dim")
    for line_ in incident["timeline"][-_TIMELINE:]:
        yield Text.assemble((f"  {clock(line_['at_s'])[11:]}  ", "dim"), line_["what"])


# ---- one series ----


def _one(name: str, version: View, one: View) -> Iterator[RenderableType]:
    yield Text.assemble(
        (f"\n{name}", "bold"),
        f"  {one['rows']:,} rows, {one['skipped']:,} skipped, {one['open_rows']:,} in the open window",
    )
    if not one["windows"]:
        yield Text("  no window has closed yet", "dim")
    else:
        yield _windows(one["windows"][-_WINDOWS:])
    yield from _performance(one)
    yield from _labels(version, one)
    yield from _fairness(one["fairness"])
    yield from _gaps(one["fairness_by_labels"])
    yield from _groups(one)
    if one["stages"]:
        yield _stages(one["stages"])
    if one["beside_champion"] is not None:
        yield Text.assemble(("  beside stable  ", "dim"), latency_beside(one["beside_champion"]))


def _windows(windows: Sequence[View]) -> Table:
    table = _plain("  window closed", "rows", "input p", "PSI", "prediction PSI", "quality")
    for one in windows:
        closed = Text(f"  {clock(one['closed_ms'] / 1000)[11:]}")
        if one["reason"]:
            table.add_row(closed, f"{one['rows']:,}", Text(f"not judged: {reason_text(one['reason'])}", "dim"))
            continue
        families = {family["family"]: family for family in one["families"]}
        inputs = families["input"]
        score = "-" if one["score"] is None else number(one["score"]["psi"])
        table.add_row(
            closed, f"{one['rows']:,}", chance(inputs["p_value"]), Text(_named(one, inputs)), score,
            _state(families["quality"]["state"]),
        )  # fmt: skip
    return table


def _named(window: View, inputs: View) -> str:
    """PSI of each feature that an alarm names; the largest where it names none."""
    psi = {one["name"]: one["psi"] for one in window["features"]}
    names = inputs["named"] or sorted(psi, key=lambda name: -(psi[name] or 0.0))[:1]
    told = ", ".join(f"{name} {number(psi.get(name))}" for name in names[:5])
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return told + more if inputs["named"] else f"largest: {told}"


def _performance(one: View) -> Iterator[RenderableType]:
    estimates = [window["estimated"] for window in one["windows"] if window["estimated"] is not None]
    realised = next((cohort for cohort in reversed(one["cohorts"]) if is_judged(cohort)), None)
    if not estimates and realised is None:
        return
    table = _plain("  ± 3 standard errors", *_METRICS)
    table.add_row("  reference, labels", *(with_error(one["reference_performance"], metric) for metric in _METRICS))
    if estimates:
        table.add_row("  estimated, last window", *(with_error(estimates[-1], metric) for metric in _METRICS))
    if realised is not None:
        table.add_row(f"  came true, {clock(realised['start_s'])[11:]}", *(with_error(realised, m) for m in _METRICS))
    yield table
    if estimates and estimates[-1]["state"] != "ok":
        yield Text(f"  the estimate is withheld: {reason_text(estimates[-1]['reason'])}", "yellow")


def _labels(version: View, one: View) -> Iterator[Text]:
    last = next((cohort for cohort in reversed(one["cohorts"]) if any(cohort["coverage"])), None)
    if last is None:
        return
    covered = " and ".join(percent(share) for share in last["coverage"])
    why_not = reason_text(last["reason"])
    text = f"{covered} of decisions 0 and 1 of {clock(last['start_s'])[11:]}" + (f": {why_not}" if why_not else "")
    delay = [f"{float(q):.0%} in {duration(round(1000 * value))}" for q, value in one["label_delay_s"].items()]
    yield Text.assemble(("  labels  ", "dim"), text, f"; {', '.join(delay)}" if delay else "")
    lost = version["labels"]["too_late"]
    if lost:
        yield Text(f"  {lost:,} labels of this version came too late", "yellow")


def _fairness(groups: Sequence[View]) -> Iterator[RenderableType]:
    if not groups:
        return
    table = _plain("  group", "rows", "decided 1", "disparate impact", "")
    for one in groups:
        rows = one["rows"] if isinstance(one["rows"], str) else f"{one['rows']:,}"
        note = "" if one["compared"] else "too small to be judged"
        impact = number(one.get("disparate_impact"))
        table.add_row(Text(f"  {one['group']}"), rows, percent(one.get("rate")), impact, Text(note, "dim"))
    yield table


def _gaps(groups: Sequence[View]) -> Iterator[RenderableType]:
    """By labels: of positives and of negatives the share decided 1, and how far that is from the best group."""
    if not any(one.get("tpr") is not None or one.get("fpr") is not None for one in groups):
        return
    table = _plain("  by labels", "TPR", "gap", "FPR", "gap", "")
    for one in groups:
        gaps = [number(one.get(name)) for name in ("tpr_gap", "fpr_gap")]
        note = "" if one["compared"] else "too small to be judged"
        rates = [percent(one.get(name)) for name in ("tpr", "fpr")]
        table.add_row(Text(f"  {one['group']}"), rates[0], gaps[0], rates[1], gaps[1], Text(note, "dim"))
    yield table


def _groups(one: View) -> Iterator[RenderableType]:
    rows = list(tables.groups(one))
    if rows:
        table = _plain(f"  {tables.GROUP_COLUMNS[0]}", *tables.GROUP_COLUMNS[1:])
        for group, *cells in rows:
            table.add_row(Text(f"  {group}"), *map(Text, cells))
        yield table


def _stages(found: Sequence[View]) -> Table:
    columns, rows = tables.stages(found)
    table = _plain(*(f"  {column}" if column == "stage" else column for column in columns))
    for stage, *cells in rows:
        table.add_row(f"  {stage}", *cells)
    return table


# ---- what is done about it ----


def _leases(shown: View) -> Iterator[Text]:
    for one in shown["leases"]:
        place = series_name(one["version"], one["variant"])
        until = clock(one["expires_at"])[11:]
        yield Text.assemble(("\nlease ", "bold"), f"{one['level']} on {place} until {until}: {one['reason']}")


def _retraining(shown: View) -> Iterator[RenderableType]:
    if not shown["retraining"]:
        return
    yield Text("\nrequests to train anew", "bold")
    for one in shown["retraining"][-4:]:
        note = f"  {one['note']}" if one["note"] else ""
        yield Text.assemble(
            (f"  {clock(one['at_s'])}  ", "dim"), f"{one['status']:<9} {one['key']}", (f"  {one['by']}", "dim"), note
        )
    if any(one["status"] == "pending" for one in shown["retraining"]):
        yield Text(f"  tidegate monitor approve {shown['name']} REQUEST lets one go", "dim")


# ---- line by line ----


def place(shown: View) -> tuple[object, ...]:
    """What has to differ for another line: numbers that only grow do not."""
    incident = shown["incident"]
    return (
        shown["generation"],
        None if incident is None else (incident["id"], incident["severity"], len(incident["timeline"])),
        shown["verdict"],
        [(version, variant, _short(shown, version, variant)) for version, variant in series_of(shown)],
        shown["blind"],
        bool(shown["store_away"]),
        sorted(shown["problems"].items()),
        [(one["level"], one["variant"]) for one in shown["leases"]],
        [(one["key"], one["status"]) for one in shown["retraining"]],
    )


def _short(shown: View, version: str, variant: str) -> list[tuple[str, str]]:
    signals = shown["versions"][version]["variants"][variant]["signals"]
    return sorted((signal, one["state"]) for signal, one in signals.items())


def line(shown: View, now_s: float, trouble: str = "") -> str:
    """One line on where it stands."""
    if trouble:
        return f"{clock(now_s)} no news: {trouble}"
    states = " ".join(
        f"[{series_name(version, variant)}: {', '.join(f'{signal} {state}' for signal, state in found)}]"
        for version, variant in series_of(shown)
        if (found := [one for one in _short(shown, version, variant) if one[1] != "ok"])
    )
    incident = f"incident {shown['incident']['severity']}" if shown["incident"] else "no incident"
    # What is already told in the headline is not told again.
    return " ".join(part for part in (clock(now_s), shown["name"], incident, states, headline(shown, clock)) if part)
