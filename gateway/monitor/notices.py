"""What is told of an incident: a log line, the facts of an event, alerts for Alertmanager. Bodies are pure.

Labels of an alert are its identity, so no number and no name of a feature stands in them.
"""

import logging
from collections.abc import Mapping
from typing import Any, Final, Protocol

import msgspec

from gateway.monitor.cloudevents import moment
from gateway.monitor.incidents import Alarm, Event, Incident, Ledger
from gateway.monitor.words import Severity, Signal

ALERT_NAMES: Final[Mapping[Signal, str]] = {
    "input_drift": "TidegateInputDrift",
    "prediction_drift": "TidegatePredictionDrift",
    "data_quality": "TidegateDataQuality",
    "performance_estimated": "TidegateEstimatedPerformanceDrop",
    "performance_realised": "TidegateRealisedPerformanceDrop",
    "concept_drift": "TidegateConceptDrift",
    "fairness": "TidegateFairness",
    "latency": "TidegateLatency",
}
_log: Final = logging.getLogger(__name__)


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """One alert as Alertmanager knows it; the labels are its identity."""

    labels: dict[str, str]
    annotations: dict[str, str]
    starts_s: float
    link: str = ""

    @property
    def key(self) -> tuple[tuple[str, str], ...]:
        """The identity."""
        return tuple(sorted(self.labels.items()))


class Alerted(Protocol):
    """Who wants to know which alerts of a model are on: `gateway.monitor.alertmanager.Alertmanager`."""

    def set(self, model: str, alerts: tuple[Alert, ...]) -> None:
        """These are on, others of the model are over."""


def facts_of(event: Event) -> dict[str, Any]:
    """An event as plain values: `data` of the signed event and the facts of the log line."""
    incident = event.incident
    return {
        "incident": incident.id,
        "id": event.id,
        "kind": event.kind,
        "reason": event.reason,
        "model": incident.model,
        "severity": incident.severity,
        "opened": moment(incident.opened_s),
        "closed": None if incident.closed_s is None else moment(incident.closed_s),
        "verdict": incident.attribution.verdict,
        "recommended": incident.attribution.action,
        "sentence": incident.attribution.sentence,
        "signals": [_signal(alarm) for alarm in incident.alarms],
    }


def _signal(alarm: Alarm) -> dict[str, Any]:
    return {
        "signal": alarm.signal,
        "version": alarm.version,
        "variant": alarm.variant,
        "severity": alarm.severity,
        "keys": list(alarm.keys),
        "text": alarm.text,
        "since": moment(alarm.since_s),
    }


def alerts_of(ledger: Ledger, link: str = "") -> tuple[Alert, ...]:
    """What is on for a model: one alert for each signal of each series in its open incident.

    Args:
        link: to a page on the model; "" = none.
    """
    if ledger.open is None:
        return ()
    return tuple(_alert(ledger.open, alarm, link) for alarm in ledger.open.alarms)


def _alert(incident: Incident, alarm: Alarm, link: str) -> Alert:
    keys = f" of {', '.join(alarm.keys)}" if alarm.keys else ""
    return Alert(
        labels={
            "alertname": ALERT_NAMES[alarm.signal],
            "model": incident.model,
            "version": alarm.version,
            "variant": alarm.variant,
            "signal": alarm.signal,
            "severity": alarm.severity,
        },
        annotations={
            "summary": f"{incident.model}: {alarm.signal}{keys}",
            "description": alarm.text,
            "verdict": incident.attribution.verdict,
            "sentence": incident.attribution.sentence,
            "recommended": incident.attribution.action,
            "incident": incident.id,
        },
        starts_s=alarm.since_s,
        link=link,
    )


class Outlets:
    """Tells the log and the Alertmanager that the settings name. Nothing here waits for a receiver.

    Attributes:
        counts: (signal, severity) -> how often it was told, for `tidegate_alerts_total`.
    """

    def __init__(self, *, alerted: Alerted | None = None, link: str = "") -> None:
        self._alerted = alerted
        self._link = link
        self.counts: dict[tuple[Signal, Severity], int] = {}

    def tell(self, ledger: Ledger, events: tuple[Event, ...]) -> None:
        """After each turn, with or without events: the ledger says which alerts are on."""
        for event in events:
            level = logging.INFO if event.kind == "closed" else logging.WARNING
            _log.log(level, "monitor_alert", extra={"facts": facts_of(event)})
            for alarm in event.incident.alarms:
                key = (alarm.signal, alarm.severity)
                self.counts[key] = self.counts.get(key, 0) + 1
        if self._alerted is not None:
            self._alerted.set(ledger.model, alerts_of(ledger, self._link))
