"""Champion and canary beside each other: rows in the canary's windows, latencies in windows of time, labels. Pure."""

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


@dataclass(frozen=True, slots=True, eq=False)
class Beside:
    """A window of both.

    Attributes:
        before: what windows before it said.
        pairs: rows of champion and canary in the bins of each feature, or of the score.
    """

    before: Apart
    pairs: dict[str, tuple[Counts, Counts]]


@dataclass(slots=True)
class Pair:
    """Both.

    Attributes:
        champion: rows of it since the canary's window began.
        last: the last window by aspect. It is not kept across restarts.
    """

    latency: Latencies
    mistakes: Mistakes
    champion: dict[str, Counts] = field(default_factory=dict)
    inputs: Apart = field(default_factory=Apart)
    outputs: Apart = field(default_factory=Apart)
    last: dict[str, Beside] = field(default_factory=dict)

    def take(self, aspect: str, counts: Counts) -> None:
        """Add what the champion was asked or answered."""
        known = self.champion.get(aspect)
        self.champion[aspect] = counts.copy() if known is None or known.shape != counts.shape else known + counts

    def close(self, canary: Mapping[str, Counts]) -> None:
        """The canary's window is over."""
        ours, self.champion = self.champion, {}
        pairs = {name: (ours[name], theirs) for name, theirs in canary.items() if name in ours}
        pairs = {name: pair for name, pair in pairs.items() if pair[0].shape == pair[1].shape}
        inputs = {name: pair for name, pair in pairs.items() if name != OUTPUTS}
        if OUTPUTS in pairs:
            self.last["outputs"] = Beside(self.outputs, {OUTPUTS: pairs[OUTPUTS]})
            self.outputs = self.outputs.close_all([_lists(pairs[OUTPUTS])])
        if inputs:
            self.last["inputs"] = Beside(self.inputs, inputs)
            self.inputs = self.inputs.close_all([_lists(pair) for pair in inputs.values()])


def _lists(pair: tuple[Counts, Counts]) -> tuple[list[int], list[int]]:
    return pair[0].tolist(), pair[1].tolist()


def same_bins(one: Reference, other: Reference) -> bool | None:
    """True = counts of the one are counts of the other; None = they are not."""
    return True if _bins_of(one.plan) == _bins_of(other.plan) else None


def _bins_of(plan: CountPlan) -> CountPlan:
    """How its scores are calibrated is a version's own matter."""
    score = plan.score and msgspec.structs.replace(plan.score, calibration=())
    return msgspec.structs.replace(plan, id="", score=score)


def parts_of(reference: Reference, counts: Counts) -> Iterator[tuple[str, Counts]]:
    """What two variants can be compared in: the data bins of each feature, and the scores."""
    for feature, data, _ in feature_counts(reference.plan, counts):
        yield f"inputs {feature.name}", data
    if reference.plan.score_values:
        yield OUTPUTS, score_counts(reference.plan, counts)
