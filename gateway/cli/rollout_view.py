"""A rollout as people see it in a terminal, or line by line in a pipe. Pure: from what the server says to text."""

import math
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gateway.cli.policy import percent
from gateway.control.exposure import in_words
from router.rollout.words import duration

_STYLES: Final = {
    "PROMOTED": "bold green",
    "ROLLED_BACK": "bold red",
    "ABORTING": "bold red",
    "HOLDING": "bold yellow",
    "PAUSED": "bold yellow",
}
_MARKS: Final = {"passes": "green", "tripped": "bold red", "saturated": "yellow"}
_PASSED: Final = " (all passed before the canary got everybody; from then on there is nobody to compare it with)"
_BAR: Final = 20
_LINES: Final = 6
"""Of the history."""


def render(shown: dict[str, Any], now_s: float, trouble: str = "") -> RenderableType:
    """The whole picture.

    Args:
        shown: as `GET /admin/v1/rollouts/NAME` answers.
        now_s: Unix time, of the same machine or one near.
        trouble: why nothing newer can be had.
    """
    parts: list[RenderableType] = [_title(shown, now_s), *_steps(shown), _weights(shown)]
    parts += [Text(f"  {text}", "yellow") for text in _notes(shown, trouble)]
    waits = shown["waits"] or [shown["reason"]]
    parts.append(Text("\nwaits for" if shown["waits"] else "\nwhy", "bold"))
    parts += [Text(f"  {text.removeprefix('waits for ')}") for text in waits]
    if shown["guardrails"]:
        beside = _PASSED if shown["cleared"] else _units(shown["units"])
        parts += [Text("\nguardrails", "bold").append(beside, "not bold")]
        parts.append(_guardrails(shown["guardrails"]))
    if shown.get("signals"):
        parts += [Text("\nsignals", "bold"), *map(_signal, shown["signals"])]
    parts.append(Text("\nhistory", "bold"))
    parts += [_move(move) for move in shown["history"][-_LINES:]]
    return Group(*parts)


def _title(shown: dict[str, Any], now_s: float) -> Text:
    state = shown["state"]
    beneath = f" ({shown['phase']})" if state != shown["phase"] else ""
    title = Text.assemble(
        (shown["name"], "bold"), "  ", (state + beneath, _STYLES.get(state, "bold cyan")),
        f"  for {duration(max(0, round(now_s * 1000) - shown['entered_at_ms']))}",
    )  # fmt: skip
    versions = {pin["variant"]: pin["version"] for pin in shown["variants"]}
    roles = [(role, shown[role]) for role in ("canary", "stable") if shown[role]]
    told = ", ".join(f"{role}: {name}, version {versions.get(name, '?')}" for role, name in roles)
    return title.append(f"\n{told}; document {shown['generation']} by {shown['applied_by']}", "dim")


def _steps(shown: dict[str, Any]) -> Iterator[Text]:
    """One line for each step: done, in hand, to come."""
    rest = shown["state"] in ("PROMOTED",)
    for step in shown["plan_of_steps"]:
        at = step["step"] - 1
        done = rest or at < shown["step"]
        now = not rest and at == shown["step"] and shown["state"] not in ("ROLLED_BACK", "IDLE")
        mark, style = ("●", "green") if done else ("◐", "bold cyan") if now else ("○", "dim")
        share = f"shadow {percent(step['shadow'])}" if step["weight"] is None else percent(step["weight"])
        held = f"  {duration(shown['held_ms'])} under watch" if now and shown["held_ms"] else ""
        yield Text.assemble((f"  {mark} ", style), f"{share:<14}", (step["hold"] or "no hold", "dim"), held)


def _weights(shown: dict[str, Any]) -> Text:
    weights, canary = shown["weights"], shown["canary"] or shown["stable"]
    intended, in_force = (weights[kind].get(canary, 0.0) for kind in ("intended", "in_force"))
    line = Text.assemble(f"\n{canary} gets ", (_bar(in_force), "cyan"), f" {percent(in_force)}")
    if abs(intended - in_force) > 1e-9:
        line.append(f"  of {percent(intended)} that are intended", "bold yellow")
    if shown["shadow_slots"]:
        line.append(f"  and copies of {percent(shown['shadow_slots'] / 10_000)} in the shadow")
    return line


def _notes(shown: dict[str, Any], trouble: str) -> Iterator[str]:
    if trouble:
        yield f"no news: {trouble}"
    if shown["store_away"]:
        yield f"the store is away, nothing is decided: {shown['store_away']}"
    if shown["pending_abort"]:
        yield _said("aborted", shown["pending_abort"]) + "; it is written when the store is back"
    if shown.get("failed"):
        yield f"its last turn failed on this node (see its log): {shown['failed']}"
    if shown["paused"]:
        yield _said("paused", shown["paused"])
    if shown["killed"]:
        yield f"killed: {', '.join(shown['killed'])}"
    for found in shown["exposed"] if shown["state"] in ("ABORTING", "ROLLED_BACK") else ():
        yield f"had it for a while: {in_words(found)}"
    for node in shown["unacknowledged"]:
        yield f"not reached: {node}"


def _said(what: str, said: dict[str, Any]) -> str:
    return f"{what} by {said['actor']}" + (f": {said['reason']}" if said["reason"] else "")


def _units(units: dict[str, int] | None) -> str:
    """A user counts once, however often it comes: what is waited for may be others."""
    return f" (this step has had {units['canary']:,} users on canary, {units['stable']:,} on stable)" if units else ""


def _guardrails(rails: list[dict[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    # Where there is no room, numbers are cut before names.
    table.add_column("", no_wrap=True, min_width=2 + max(len(rail["name"]) for rail in rails))
    for column in ("", "canary", "stable", "harm: e of rollback", "no worse: e of promotion"):
        table.add_column(column, no_wrap=True)
    for rail in rails:
        state = Text(rail["state"], _MARKS.get(rail["state"], "default"))
        table.add_row(Text(f"  {rail['name']}"), state, *_evidence(rail))
    return table


def _signal(signal: dict[str, Any]) -> Text:
    state = (signal["state"], "bold yellow" if signal["state"] == "speaks" else "default")
    return Text.assemble(f"  {signal['name']}  ", state, f"  {signal['text']}")


def _evidence(rail: dict[str, Any]) -> tuple[RenderableType, ...]:
    if "units" in rail:
        units = rail["units"]
        arms = (units["canary"], units["all"] - units["canary"])
        return *(Text(f"{count:,} scores") for count in arms), _against(rail["harm"], "red"), Text("-")
    if "fell_back" in rail:
        most = Text(f"{rail['max']:.2%} may")
        return Text(_rate(rail["fell_back"])), most, _against(rail["harm"], "red"), _against(rail["safety"], "green")
    if "counts" not in rail:
        compared, disagreed = rail["compared"], rail["disagreed"]
        share = f"{disagreed / compared:.2%}" if compared else "-"
        return (
            Text(f"{disagreed:,} of {compared:,} differ"),
            Text("-"),
            Text(f"{share} of {rail['max']:.2%}"),
            Text("-"),
        )
    counts = (Text(_rate(rail["counts"][role])) for role in ("canary", "stable"))
    return *counts, _against(rail["harm"], "red"), _against(rail["safety"], "green")


def _rate(counts: dict[str, int]) -> str:
    share = f"{counts['bad'] / counts['requests']:.2%}" if counts["requests"] else "-"
    return f"{counts['bad']:,} of {counts['requests']:,}  {share}"


def _against(evidence: dict[str, float] | None, style: str) -> Text:
    """An e-value beside the one that decides; the bar is on a logarithmic scale, from 1 to that."""
    if evidence is None:
        return Text("-")
    peak, limit = evidence["peak_log_e"], evidence["threshold"]
    filled = _bar(peak / limit, 12)
    return Text.assemble((filled, style), f" {_number(evidence['log_e'])} of {_number(limit)}")


def _number(log_e: float) -> str:
    """An e-value, or its power of ten where that is shorter."""
    if log_e > math.log(99_999.5):
        return f"1e{log_e / math.log(10):.0f}"
    value = math.exp(log_e)
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _bar(share: float, width: int = _BAR) -> str:
    filled = round(min(1.0, max(0.0, share)) * width)
    return "█" * filled + "░" * (width - filled)


def _move(move: dict[str, Any]) -> Text:
    return Text.assemble(
        (f"  {_clock(move['at_ms'] / 1000)}  ", "dim"), (f"{move['phase']:<12}", _STYLES.get(move["phase"], "cyan")),
        f" step {move['step'] + 1}  {move['reason']}", (f"  {move['actor']}", "dim"),
    )  # fmt: skip


def _clock(at_s: float) -> str:
    return datetime.fromtimestamp(at_s).astimezone().strftime("%H:%M:%S")


# ---- line by line ----


def place(shown: dict[str, Any]) -> tuple[object, ...]:
    """What has to differ for another line: numbers that only grow do not."""
    return (
        shown["identity"],
        shown["state"],
        shown["phase"],
        shown["step"],
        shown["weights"],
        shown["shadow_slots"],
        sorted(shown["holding"]),
        [(rail["name"], rail["state"]) for rail in shown["guardrails"]],
        shown["killed"],
        bool(shown["store_away"]),
        len(shown["approvals"]),
    )


def line(shown: dict[str, Any], now_s: float, trouble: str = "") -> str:
    """One line on where it stands."""
    if trouble:
        return f"{_clock(now_s)} no news: {trouble}"
    canary = shown["canary"] or shown["stable"]
    step = f" step {min(shown['step'] + 1, shown['steps'])}/{shown['steps']}" if shown["steps"] else ""
    why = "; ".join([*_notes(shown, ""), *(shown["waits"] or [shown["reason"]])])
    rails = "".join(f" [{rail['name']} {rail['state']}]" for rail in shown["guardrails"])
    return (
        f"{_clock(now_s)} {shown['name']} {shown['state']}{step} {canary} "
        f"{percent(shown['weights']['in_force'].get(canary, 0.0))}{rails} {why}"
    )
