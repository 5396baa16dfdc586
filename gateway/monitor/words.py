"""Words that alarms are told in: signals, families, states, severities; and what one window says of one signal. Pure.

Metrics, logs, alerts, incidents and people use the same words.
"""

from collections.abc import Iterable, Mapping
from typing import Final, Literal

import msgspec

Signal = Literal[
    "input_drift",
    "prediction_drift",
    "data_quality",
    "performance_estimated",
    "performance_realised",
    "concept_drift",
    "fairness",
    "latency",
]
State = Literal["insufficient", "unknown", "ok", "pending", "firing", "resolved"]
Severity = Literal["info", "warning", "critical"]
Family = Literal["input", "prediction", "quality", "performance", "fairness", "latency"]

FAMILIES: Final[Mapping[Signal, Family]] = {
    "input_drift": "input",
    "prediction_drift": "prediction",
    "data_quality": "quality",
    "performance_estimated": "performance",
    "performance_realised": "performance",
    "concept_drift": "performance",
    "fairness": "fairness",
    "latency": "latency",
}
"""The first four share the knob of false alarms; fairness and latency have their own."""
SEVERITIES: Final[tuple[Severity, ...]] = ("info", "warning", "critical")
CLEAN: Final = frozenset({"ok", "resolved"})
"""States that say "no alarm". Pending, insufficient and unknown say neither yes nor no."""
WORST_FIRST: Final[tuple[State, ...]] = ("firing", "pending", "unknown", "insufficient", "resolved", "ok")
"""What is not known stands before what is clean: among several it is not to be taken for ok."""
NOT_KNOWN: Final = frozenset({"unknown", "insufficient"})
PERFORMANCE: Final[tuple[Signal, ...]] = ("performance_realised", "performance_estimated", "concept_drift")


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What one closed window says of one signal of one series.

    Attributes:
        version, variant: the series; variant "-" = no policy decides.
        severity: of a firing signal.
        keys: features, groups or metrics that it names, the worst first.
        level: effect over its floor; 1 = at the floor. None = there is no such number.
        schema_break: rows cannot be read as what the model was trained on; nothing else can be judged.
        mixed: the view is over all variants together, so that a change of the split changes its population.
        window_from_s, window_to_s: the window, Unix time.
        told_s: when it was said, where that is long after the window: of labels that had to come. 0 = at its end.
        text: numbers in words, for people.
    """

    signal: Signal
    state: State
    version: str = ""
    variant: str = "-"
    severity: Severity = "warning"
    keys: tuple[str, ...] = ()
    level: float | None = None
    schema_break: bool = False
    mixed: bool = False
    window_from_s: float = 0.0
    window_to_s: float = 0.0
    told_s: float = 0.0
    text: str = ""

    @property
    def series(self) -> tuple[str, str]:
        """Version and variant."""
        return self.version, self.variant


def worst_of(states: Iterable[State]) -> State:
    """The one word for several states, at least one."""
    return min(states, key=WORST_FIRST.index)


def rank(severity: Severity) -> int:
    """0 to 2; higher is worse."""
    return SEVERITIES.index(severity)
