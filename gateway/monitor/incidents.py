"""One incident per model: what opens it, what is told while it is open, what closes it. Pure; no clock, no I/O.

A turn takes what the closed windows say and gives the next ledger and the events to tell. In an open incident a new
family, a step up in severity or a changed attribution is told at once; else it is told again every 4 hours. A signal
leaves after two clean windows in a row, well under its floor; the incident closes when none is left.

Not told: drift of a feature whose data are broken (inhibited by data quality), anything of a series that cannot be read
at all (inhibited by a schema break), and a view over mixed variants in the window in which the split was changed.
What is not told holds the signal where it was: it is neither an alarm nor a clean window.
"""

from collections.abc import Sequence, Set
from typing import Any, Final, Literal

import msgspec

from gateway.monitor.attribution import Attribution
from gateway.monitor.words import CLEAN, FAMILIES, Family, Finding, Severity, Signal, rank

AGAIN_S: Final = 4 * 3600.0
CLEAN_WINDOWS: Final = 2
CLEAN_LEVEL: Final = 0.8
"""A window is clean below this share of the floor."""
TIMELINE: Final = 200
"""Entries kept of one incident: the first ones tell how it began and stay."""
TIMELINE_HEAD: Final = 20
CLOSED: Final = 20
CLOSED_TIMELINE: Final = 40
"""Entries kept of a closed incident."""
KEYS: Final = 20
Kind = Literal["opened", "changed", "again", "closed"]
Series = tuple[str, str]


class Alarm(msgspec.Struct, frozen=True, kw_only=True):
    """One signal of one series in an incident.

    Attributes:
        severity: the highest so far; it does not go down and up with the windows.
        clean: clean windows in a row.
        words: on the signal since it fires; more than one at once where several windows closed in one turn.
    """

    signal: Signal
    version: str
    variant: str
    severity: Severity
    keys: tuple[str, ...]
    text: str
    since_s: float
    last_s: float
    clean: int = 0
    words: int = 1

    @property
    def series(self) -> Series:
        """Version and variant."""
        return self.version, self.variant


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A line of an incident's timeline."""

    at_s: float
    what: str


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """One incident.

    Attributes:
        id: MODEL/SECOND in which it opened.
        alarms: the signals that are not clean yet.
        families, severity: told so far; what is among them is not told again as new. The severity is the highest.
        attribution: the last one that knows; "unclear" does not replace a known one.
        told: events so far, this one included: the sequence number of an event.
        left_out: entries that the timeline had no room for.
    """

    id: str
    model: str
    opened_s: float
    alarms: tuple[Alarm, ...]
    families: tuple[Family, ...]
    severity: Severity
    attribution: Attribution
    told: int = 0
    told_s: float = 0.0
    closed_s: float | None = None
    timeline: tuple[Entry, ...] = ()
    left_out: int = 0


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something to tell.

    Attributes:
        id: INCIDENT/NUMBER: the same when it is sent again.
        reason: why now, in words.
        incident: as it stands then.
    """

    id: str
    kind: Kind
    at_s: float
    reason: str
    incident: Incident


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """A model's incidents: the open one, and the last closed ones, oldest first."""

    model: str
    open: Incident | None = None
    closed: tuple[Incident, ...] = ()

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found


def ledger_of(value: Any) -> Ledger:
    """What `Ledger.plain` gave. Raises ValueError (msgspec.ValidationError): it is something else."""
    return msgspec.convert(value, Ledger)


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one turn.

    Attributes:
        held: findings that fired and were not told, with the reason.
    """

    ledger: Ledger
    events: tuple[Event, ...] = ()
    held: tuple[tuple[Finding, str], ...] = ()


def turn(
    ledger: Ledger,
    findings: Sequence[Finding],
    attribution: Attribution,
    now_s: float,
    *,
    route_changed_s: float = 0.0,
    live: Set[Series] | None = None,
) -> Turn:
    """Take in what the windows that closed just now say; with none, only time has passed.

    Args:
        findings: one for each signal of each series whose window closed.
        attribution: on the same windows.
        route_changed_s: when the split was last changed; Unix time.
        live: series that still exist; alarms of others end and their last windows open nothing. None = all do.
    """
    told, held = sifted([one for one in findings if live is None or one.series in live], route_changed_s)
    incident = ledger.open
    if incident is None:
        alarms = _alarms((), told, now_s)
        if not alarms:
            return Turn(ledger=ledger, held=held)
        incident, event = _opened(ledger, alarms, attribution, now_s)
        return Turn(ledger=msgspec.structs.replace(ledger, open=incident), events=(event,), held=held)
    alarms = _alarms(incident.alarms, told, now_s)
    lines = _news(incident.alarms, alarms)
    gone = [alarm for alarm in alarms if live is not None and alarm.series not in live]
    lines += [f"{_name(alarm)} ended: {_who(alarm)} is no longer served" for alarm in gone]
    alarms = tuple(alarm for alarm in alarms if alarm not in gone)
    incident = _with_lines(msgspec.structs.replace(incident, alarms=alarms), lines, now_s)
    if not alarms:
        reason = f"{_who(gone[-1])} is no longer served" if gone else "every signal is clean"
        return _closed(ledger, incident, reason, now_s, held)
    return _gone_on(ledger, incident, attribution, now_s, held)


def sifted(
    findings: Sequence[Finding], route_changed_s: float
) -> tuple[tuple[Finding, ...], tuple[tuple[Finding, str], ...]]:
    """Those that may speak, and those that are held back with the reason."""
    broken = {one.series for one in findings if one.schema_break and one.state == "firing"}
    unsound = {
        (one.series, key)
        for one in findings
        if one.signal == "data_quality" and one.state == "firing"
        for key in one.keys
    }
    told: list[Finding] = []
    held: list[tuple[Finding, str]] = []
    for one in findings:
        if one.mixed and one.window_from_s < route_changed_s:
            held.append((one, "the split was changed within its window"))
        elif one.series in broken and not one.schema_break:
            held.append((one, "the schema is broken"))
        elif one.signal == "input_drift" and one.state == "firing" and one.keys:
            sound = tuple(key for key in one.keys if (one.series, key) not in unsound)
            if sound:
                told.append(msgspec.structs.replace(one, keys=sound))
            else:
                held.append((one, "the data of these features are broken"))
        else:
            told.append(one)
    return tuple(told), tuple(held)


# ---- alarms ----


def _alarms(before: Sequence[Alarm], findings: Sequence[Finding], now_s: float) -> tuple[Alarm, ...]:
    alarms = {(one.signal, one.series): one for one in before}
    for one in findings:
        key = (one.signal, one.series)
        alarm = alarms.get(key)
        if one.state == "firing" and (alarm is not None or one.severity != "info"):
            alarms[key] = _fired(alarm, one, now_s)
        elif alarm is not None and one.state in CLEAN and (one.level is None or one.level < CLEAN_LEVEL):
            if alarm.clean + 1 >= CLEAN_WINDOWS:
                del alarms[key]
            else:
                alarms[key] = msgspec.structs.replace(alarm, clean=alarm.clean + 1, words=alarm.words + 1)
        elif alarm is not None and (one.state in CLEAN or one.state == "pending"):
            alarms[key] = msgspec.structs.replace(alarm, clean=0, words=alarm.words + 1)
    return tuple(alarms.values())


def _fired(alarm: Alarm | None, finding: Finding, now_s: float) -> Alarm:
    return Alarm(
        signal=finding.signal,
        version=finding.version,
        variant=finding.variant,
        severity=finding.severity if alarm is None else max(alarm.severity, finding.severity, key=rank),
        keys=finding.keys[:KEYS],
        text=finding.text[:500],
        since_s=alarm.since_s if alarm is not None else now_s,
        last_s=now_s,
        words=alarm.words + 1 if alarm is not None else 1,
    )


def _name(alarm: Alarm) -> str:
    variant = "" if alarm.variant == "-" else f" of {alarm.variant}"
    keys = f" ({', '.join(alarm.keys[:5])})" if alarm.keys else ""
    return f"{alarm.signal}{variant}{keys}"


def _who(alarm: Alarm) -> str:
    return f"version {alarm.version}" if alarm.variant == "-" else alarm.variant


def _news(before: Sequence[Alarm], after: Sequence[Alarm]) -> list[str]:
    old = {(one.signal, one.series): one for one in before}
    new = {(one.signal, one.series): one for one in after}
    lines = [f"{_name(one)} is over" for key, one in old.items() if key not in new]
    for key, one in new.items():
        if key not in old:
            lines.append(f"{_name(one)} fires, {one.severity}")
        elif (old[key].severity, set(old[key].keys)) != (one.severity, set(one.keys)):
            lines.append(f"{_name(one)} is now {one.severity}")
    return lines


# ---- incidents ----


def _opened(
    ledger: Ledger, alarms: tuple[Alarm, ...], attribution: Attribution, now_s: float
) -> tuple[Incident, Event]:
    # A second in which one opened already is taken: an id is never used twice.
    taken = {one.id for one in ledger.closed}
    second = int(now_s)
    while f"{ledger.model}/{second}" in taken:
        second += 1
    incident = Incident(
        id=f"{ledger.model}/{second}",
        model=ledger.model,
        opened_s=now_s,
        alarms=alarms,
        families=_families(alarms),
        severity=_worst(alarms),
        attribution=attribution,
    )
    incident = _with_lines(incident, _news((), alarms), now_s)
    return _told(incident, "opened", "; ".join(_news((), alarms)), now_s)


def _gone_on(
    ledger: Ledger, incident: Incident, attribution: Attribution, now_s: float, held: tuple[tuple[Finding, str], ...]
) -> Turn:
    reasons = []
    fresh = [family for family in _families(incident.alarms) if family not in incident.families]
    if fresh:
        reasons.append(f"new: {', '.join(fresh)}")
    worst = _worst(incident.alarms)
    if rank(worst) > rank(incident.severity):
        reasons.append(f"now {worst}")
    known = incident.attribution
    if attribution.verdict not in ("unclear", "none") and not _is_blind(attribution, incident.alarms):
        if attribution.verdict != known.verdict:
            reasons.append(f"attribution: {known.verdict} -> {attribution.verdict}")
        known = attribution
    incident = msgspec.structs.replace(
        incident,
        families=(*incident.families, *fresh),
        severity=max(incident.severity, worst, key=rank),
        attribution=known,
    )
    events: tuple[Event, ...] = ()
    if reasons:
        reason = "; ".join(reasons)
        incident, event = _told(_with_lines(incident, [reason], now_s), "changed", reason, now_s)
        events = (event,)
    elif now_s - incident.told_s >= AGAIN_S:
        incident, event = _told(incident, "again", "still open", now_s)
        events = (event,)
    return Turn(ledger=msgspec.structs.replace(ledger, open=incident), events=events, held=held)


def _is_blind(attribution: Attribution, alarms: Sequence[Alarm]) -> bool:
    """Speed is blamed last: while something else is open, of which the windows just do not tell, it is not the cause.

    Words on inputs hold for two windows, those on speed for two hours: traffic pauses, and only the latter is left.
    """
    others = any(alarm.signal != "latency" for alarm in alarms)
    return attribution.verdict == "latency" and attribution.action == "page" and others


def _closed(
    ledger: Ledger, incident: Incident, reason: str, now_s: float, held: tuple[tuple[Finding, str], ...]
) -> Turn:
    incident = _with_lines(msgspec.structs.replace(incident, closed_s=now_s), ["closed"], now_s)
    incident, event = _told(incident, "closed", reason, now_s)
    closed = (*ledger.closed, _shortened(incident, CLOSED_TIMELINE))[-CLOSED:]
    return Turn(ledger=msgspec.structs.replace(ledger, open=None, closed=closed), events=(event,), held=held)


def _told(incident: Incident, kind: Kind, reason: str, now_s: float) -> tuple[Incident, Event]:
    incident = msgspec.structs.replace(incident, told=incident.told + 1, told_s=now_s)
    return incident, Event(id=f"{incident.id}/{incident.told}", kind=kind, at_s=now_s, reason=reason, incident=incident)


def _with_lines(incident: Incident, lines: Sequence[str], now_s: float) -> Incident:
    timeline = (*incident.timeline, *(Entry(at_s=now_s, what=line[:500]) for line in lines))
    return _shortened(msgspec.structs.replace(incident, timeline=timeline), TIMELINE)


def _shortened(incident: Incident, most: int) -> Incident:
    over = max(0, len(incident.timeline) - most)
    kept = incident.timeline[:TIMELINE_HEAD] + incident.timeline[TIMELINE_HEAD + over :]
    return msgspec.structs.replace(incident, timeline=kept, left_out=incident.left_out + over)


def _families(alarms: Sequence[Alarm]) -> tuple[Family, ...]:
    return tuple(dict.fromkeys(FAMILIES[alarm.signal] for alarm in alarms))


def _worst(alarms: Sequence[Alarm]) -> Severity:
    return max((alarm.severity for alarm in alarms), key=rank)
