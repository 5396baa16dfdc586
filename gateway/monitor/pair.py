"""Champion and canary beside each other, and what of their counts can be compared. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from gateway.monitor.apart import Apart
from gateway.monitor.counting import Counts, feature_counts
from gateway.monitor.latencies import Latencies
from gateway.monitor.mistakes import Mistakes
from gateway.monitor.plan import CountPlan
from gateway.monitor.reference import Reference
from gateway.monitor.scorebins import score_counts

OUTPUTS: Final = "outputs"


@dataclass(slots=True)
class Pair:
    """Champion and canary beside each other: rows in the canary's windows, latencies in windows of time, labels."""

    latency: Latencies
    mistakes: Mistakes
    champion: dict[str, Counts] = field(default_factory=dict)
    inputs: Apart = field(default_factory=Apart)
    outputs: Apart = field(default_factory=Apart)

    def take(self, aspect: str, counts: Counts) -> None:
        """Add what the champion was asked or answered."""
        known = self.champion.get(aspect)
        self.champion[aspect] = counts.copy() if known is None or known.shape != counts.shape else known + counts

    def close(self, canary: Mapping[str, Counts]) -> None:
        """The canary's window is over."""
        ours, self.champion = self.champion, {}
        pairs = {name: (ours[name], theirs) for name, theirs in canary.items() if name in ours}
        pairs = {name: pair for name, pair in pairs.items() if pair[0].shape == pair[1].shape}
        inputs = [(a.tolist(), b.tolist()) for name, (a, b) in pairs.items() if name != OUTPUTS]
        if OUTPUTS in pairs:
            a, b = pairs[OUTPUTS]
            self.outputs = self.outputs.close(a.tolist(), b.tolist())
        if inputs:
            self.inputs = self.inputs.close_all(inputs)


def same_bins(one: Reference, other: Reference) -> bool | None:
    """True = counts of the one are counts of the other; None = they are not."""
    return True if _bins_of(one.plan) == _bins_of(other.plan) else None


def _bins_of(plan: CountPlan) -> CountPlan:
    """How its scores are calibrated is a version's own matter."""
    score = plan.score and msgspec.structs.replace(plan.score, calibration=())
    return msgspec.structs.replace(plan, id="", score=score)


def parts(reference: Reference, counts: Counts) -> Iterator[tuple[str, Counts]]:
    """What two variants can be compared in: the data bins of each feature, and the scores."""
    for feature, data, _ in feature_counts(reference.plan, counts):
        yield f"inputs {feature.name}", data
    if reference.plan.score_values:
        yield OUTPUTS, score_counts(reference.plan, counts)
