"""What is still to be told of incidents, and to be written into the audit trail: kept with a monitor's state. Pure.

Both are noted in the turn in which they happen and saved with it, so no end of control loses them: an event goes again
to webhooks after a start, with the same id, until each has taken or finally refused it; a record is written in one step
with the state that has it no more.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from gateway.monitor.attribution import Attribution
from gateway.monitor.book import ModelMonitor
from gateway.monitor.grounds import FEWER, METHOD, Signalled, arithmetic, arms_of, grounds_of
from gateway.monitor.incidents import Event
from gateway.monitor.leases import Lease
from gateway.monitor.notices import facts_of

UNTOLD: Final = 50
"""Events of a model; a webhook gives one up after about 110 s at most: six attempts of 15 s, and waits between them."""
UNWRITTEN: Final = 50
SIGNALS: Final = 20
RECORD_BYTES: Final = 64 * 1024
"""Half of what the trail takes."""
WAITING_BYTES: Final = 4 * RECORD_BYTES
"""Of records that wait, which are kept with the state: what one follows from is left out where it would be more."""
ACTOR: Final = "auto:monitor"
WRITTEN: Final = frozenset({"opened", "closed"})


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """An event for webhooks: see `gateway.monitor.incidents.Event`. Attributes: data: as they get it."""

    id: str
    kind: str
    at_s: float
    data: dict[str, Any]


class Notes(msgspec.Struct):
    """Of one model.

    Attributes:
        untold: events that a webhook has neither taken nor finally refused.
        unwritten: records for the audit trail, the oldest first.
        left_out: records that found no room while the store was away; the next one says how many.
    """

    untold: list[Note] = []
    unwritten: list[dict[str, Any]] = []
    left_out: int = 0

    def take(self, events: Sequence[Event], monitor: ModelMonitor) -> None:
        """Note what happened in a turn of a monitor; the oldest go when there is no room."""
        notes = [Note(id=one.id, kind=one.kind, at_s=one.at_s, data=facts_of(one)) for one in events]
        self.untold = [*self.untold, *notes][-UNTOLD:]
        records = list(self.unwritten)
        for one in events:
            if one.kind in WRITTEN:
                records.append(record_of(one, monitor, WAITING_BYTES - _size(records)))
        self.left_out += len(records[:-UNWRITTEN])
        self.unwritten = records[-UNWRITTEN:]

    def wait(self, lease: Lease, monitor: ModelMonitor) -> None:
        """A lease was granted while the store was away: its record waits, before those of what it brought about."""
        record = lease_record(lease, monitor, WAITING_BYTES - _size(self.unwritten))
        self.left_out += len(self.unwritten) == UNWRITTEN
        self.unwritten = [record, *self.unwritten[-UNWRITTEN + 1 :]]

    def written(self, lease: Lease | None, monitor: ModelMonitor) -> tuple[dict[str, Any] | None, "Notes"]:
        """What the trail gets with the state that is saved now, and these notes once it has it: a lease comes first."""
        if lease is not None:
            return lease_record(lease, monitor), self
        if not self.unwritten:
            return None, self
        return {**self.unwritten[0], "left_out": self.left_out}, Notes(self.untold, self.unwritten[1:])


def lease_record(lease: Lease, monitor: ModelMonitor, most: int = RECORD_BYTES) -> dict[str, Any]:
    """A lease that was granted in this turn, as the trail has it, with what it follows from. Args: most: bytes."""
    record = {
        "actor": ACTOR,
        "what": f"lease {lease.level}",
        "reason": lease.reason,
        "evidence": lease.evidence_id,
        "version": lease.version,
        "variant": lease.variant,
        "revision": lease.revision,
        "allowed": monitor.spec.actions.on_drift_of_canary,
    }
    return record | _grounds(monitor, (), monitor.attribution, min(RECORD_BYTES, most) - _size(record))


def record_of(event: Event, monitor: ModelMonitor, most: int = RECORD_BYTES) -> dict[str, Any]:
    """An incident that opened or closed, as the trail has it; the one that opened with what it follows from.

    Args:
        most: bytes; in more than that there is nothing but the incident.
    """
    facts = facts_of(event)
    signals = [
        {**one, "words": alarm.words} for one, alarm in zip(facts.pop("signals"), event.incident.alarms, strict=True)
    ]
    record = {
        "actor": ACTOR,
        "what": f"incident {event.kind}",
        "reason": facts.pop("reason"),
        **{name: facts[name] for name in ("incident", "severity", "opened", "closed", "verdict", "recommended")},
        "signals": signals[:SIGNALS],
    }
    if _size(record) > RECORD_BYTES:
        record["signals"] = [{**one, "keys": one["keys"][:1]} for one in record["signals"]]
    room = min(RECORD_BYTES, most) - _size(record)
    if event.kind == "opened":
        alarms = [(one.signal, one.version, one.variant) for one in event.incident.alarms]
        return record | _grounds(monitor, alarms, event.incident.attribution, room)
    return record


def _size(value: object) -> int:
    return len(msgspec.json.encode(value))


def _grounds(monitor: ModelMonitor, alarms: Sequence[Signalled], verdict: Attribution, room: int) -> dict[str, Any]:
    """What alarms and a verdict of this turn follow from, as far as there is room: see `gateway.monitor.grounds`."""
    asked = monitor.asked
    wanted = [*alarms, *(arms_of(asked) if asked is not None else ())]
    found: dict[str, Any] = {
        "method": METHOD,
        "arithmetic": arithmetic(),
        "asked": msgspec.to_builtins(asked),
        "attribution": msgspec.to_builtins(verdict),
        "grounds": [],
        "grounds_left_out": 0,
    }
    room -= _size(found)
    for ground in grounds_of(monitor, wanted):
        sizes = ((one, _size(one)) for one in map(ground, FEWER))
        fits = next((pair for pair in sizes if pair[1] < room), None)
        if fits is None or len(found["grounds"]) >= SIGNALS:
            found["grounds_left_out"] += 1
        else:
            found["grounds"].append(fits[0])
            room -= fits[1] + 1
    return found
