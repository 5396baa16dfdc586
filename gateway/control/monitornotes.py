"""What is still to be told of incidents, and to be written into the audit trail: kept with a monitor's state. Pure.

Both are noted in the turn in which they happen and saved with it, so no end of control loses them: an event goes again
to webhooks after a start, with the same id, until each has taken or finally refused it; a record is written in one step
with the state that has it no more.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from gateway.monitor.incidents import Event, Incident
from gateway.monitor.leases import Lease
from gateway.monitor.notices import facts_of
from gateway.monitor.results import WindowResult
from gateway.monitor.watching import Watching

UNTOLD: Final = 50
"""Events of a model; a webhook gives one up after about 110 s at most: six attempts of 15 s, and waits between them."""
UNWRITTEN: Final = 50
SIGNALS: Final = 20
RECORD_BYTES: Final = 64 * 1024
"""Half of what the trail takes."""
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

    def take(self, events: Sequence[Event], versions: Mapping[str, Watching]) -> None:
        """Note what happened in a turn; the oldest go when there is no room. Args: versions: as they are watched."""
        notes = [Note(id=one.id, kind=one.kind, at_s=one.at_s, data=facts_of(one)) for one in events]
        self.untold = [*self.untold, *notes][-UNTOLD:]
        records = [*self.unwritten, *(record_of(one, versions) for one in events if one.kind in WRITTEN)]
        self.left_out += len(records[:-UNWRITTEN])
        self.unwritten = records[-UNWRITTEN:]

    def written(self, lease: Lease | None) -> tuple[dict[str, Any] | None, "Notes"]:
        """What the trail gets with the state that is saved now, and these notes once it has it: a lease comes first."""
        if lease is not None:
            return {"actor": ACTOR, "what": f"lease {lease.level}", "reason": lease.reason,
                    "evidence": lease.evidence_id}, self  # fmt: skip
        if not self.unwritten:
            return None, self
        return {**self.unwritten[0], "left_out": self.left_out}, Notes(self.untold, self.unwritten[1:])


def record_of(event: Event, versions: Mapping[str, Watching]) -> dict[str, Any]:
    """An incident that opened or closed, as the trail has it, with the numbers that its signals fired on.

    Args:
        versions: as they are watched now.
    """
    facts = facts_of(event)
    signals = facts.pop("signals")
    record = {
        "actor": ACTOR,
        "what": f"incident {event.kind}",
        "reason": facts.pop("reason"),
        **{name: facts[name] for name in ("incident", "severity", "opened", "closed", "verdict", "recommended")},
        "signals": signals[:SIGNALS],
        "evidence": [*_evidence(event.incident, versions)][:SIGNALS],
    }
    if len(msgspec.json.encode(record)) > RECORD_BYTES:
        record |= {"signals": [{**one, "keys": one["keys"][:1]} for one in record["signals"]], "evidence": []}
    return record


def _evidence(incident: Incident, versions: Mapping[str, Watching]) -> Iterator[dict[str, Any]]:
    """Of each series in an incident: its last window in counts and distances, and its last cohort with labels."""
    for version, variant in dict.fromkeys(alarm.series for alarm in incident.alarms):
        watching = versions.get(version)
        if watching is None:
            continue
        named = {key for alarm in incident.alarms if alarm.series == (version, variant) for key in alarm.keys}
        found: dict[str, Any] = {"version": version, "variant": variant, "reference": watching.reference.id}
        history = watching.engine.history(variant)
        if history:
            found["window"] = _window(history[-1], named)
        judged = watching.judged.get(variant)
        if judged is not None:
            found["cohort"] = {"start_s": judged.start_s, "rows": judged.performance.rows,
                               "coverage": judged.coverage, "values": judged.performance.values}  # fmt: skip
        yield found


def _window(result: WindowResult, named: set[str]) -> dict[str, Any]:
    features = [
        {"name": one.name, "rows": one.rows, "psi": one.psi, "p_value": one.p_value, "quality": one.quality}
        for one in result.features
        if one.name in named
    ]
    families = [{"family": one.family, "state": one.state, "p_value": one.p_value, "alpha": one.alpha}
                for one in result.families]  # fmt: skip
    return {"opened_ms": result.opened_ms, "closed_ms": result.closed_ms, "rows": result.rows,
            "reference_rows": result.reference_rows, "families": families, "features": features}  # fmt: skip
