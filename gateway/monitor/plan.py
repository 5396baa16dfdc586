"""What is counted of one model version: features, bins, scores, groups, and where each count stands. Pure.

A plan is made from a reference (`gateway.monitor.reference`), reaches workers in the snapshot, and fixes the layout of
one vector of int64, which adds exactly over batches, workers, nodes and time:

    rows | skipped | data bins and quality bins of feature 0, 1, ... | score counts | calibrated sums | value bins

A feature has its data bins, then one bin for each word of QUALITY. Scores of a classifier are counted in SCORE_BINS
equal bins of [0, 1] per (group, decision), what lies outside in the first or last; the calibrated sum of the same cell
is in units of 2^-32. A probability that is NaN or infinite is in no bin: scores may be fewer than rows. The score of a
regression ("value") is binned and quality-binned like a numeric feature instead.
"""

from typing import Any, Final, Literal

import msgspec

QUALITY: Final = ("missing", "below", "above", "infinite", "unseen", "type_error")
"""What is no data: NaN or null; under or over the reference's range; +-inf; a category without a bin; what cannot be
read as the feature's kind."""
MISSING, BELOW, ABOVE, INFINITE, UNSEEN, TYPE_ERROR = range(len(QUALITY))
SCORE_BINS: Final = 1000
LABEL_BINS: Final = 250
"""Score bins of labels: a prediction id has one byte for it, and 255 there means unknown."""
CALIBRATED_UNIT: Final = 2.0**-32
ROWS, SKIPPED, HEAD = 0, 1, 2
"""Places of the first two counts, and where features begin."""
FeatureKind = Literal["numeric", "categorical", "boolean", "text", "multivariate"]
MULTIVARIATE: Final = "(multivariate)"
"""Name of the feature that is made of the others; a model's own may not have it."""


class FeaturePlan(msgspec.Struct, frozen=True, array_like=True):
    """How one feature is counted.

    Attributes:
        name: from `feature_names` of the model's config, or the input's own.
        kind: text is counted by its length in characters, like a number; multivariate is the reconstruction error of
            a row, see `MultivariatePlan`.
        input: index among the model's inputs; -1 = made of other features.
        column: in a row of that input; -1 = the row is one value.
        edges: numeric, text and multivariate: ascending, one more than data bins; bin i holds [edges[i], edges[i+1]),
            the last one its upper edge, too. Under edges[0] is "below", over edges[-1] "above".
        values: categorical and boolean: the category of each data bin.
        other: categorical: one more data bin, for categories of the reference that have none of their own (each of
            them is in `others`); what is in neither is "unseen".
        bf16: the input's numbers are bit patterns (see `runtimes.tensors`).
    """

    name: str
    kind: FeatureKind
    input: int
    column: int
    edges: tuple[float, ...] = ()
    values: tuple[str | float, ...] = ()
    other: bool = False
    others: tuple[str | float, ...] = ()
    bf16: bool = False

    @property
    def bins(self) -> int:
        """Data bins."""
        return len(self.edges) - 1 if self.edges else len(self.values) + self.other

    @property
    def ordered(self) -> bool:
        """Neighbouring bins are alike, as those of numbers."""
        return bool(self.edges)

    @property
    def width(self) -> int:
        """All bins."""
        return self.bins + len(QUALITY)


class ScorePlan(msgspec.Struct, frozen=True, array_like=True):
    """What of the outputs is the score, and what is decided by it.

    Attributes:
        output: index among the model's outputs.
        column: in a row of that output; -1 = the row is one value.
        kind: "probability" of the positive class, or a "value".
        threshold: a probability of at least this decides 1.
        calibration: (score, calibrated probability), ascending in both; between points by straight lines.
        edges: of a "value", as for a numeric feature.
        bf16: the output's numbers are bit patterns.
    """

    output: int
    column: int
    kind: Literal["probability", "value"]
    threshold: float = 0.5
    calibration: tuple[tuple[float, float], ...] = ()
    edges: tuple[float, ...] = ()
    bf16: bool = False


class MultivariatePlan(msgspec.Struct, frozen=True, array_like=True):
    """How the reconstruction error of a row is made (`gateway.monitor.reconstruction`); columns are features.

    Attributes:
        features: numeric, categorical and boolean ones: indices into those of the plan.
        shares: of each column, what its categories become: those of `values`, then those of `others`; () = a number.
        fill, centre: of each column.
        weights: [left out, columns].
        sample: share of rows whose error is counted, above 0.
    """

    features: tuple[int, ...]
    shares: tuple[tuple[float, ...], ...]
    fill: tuple[float, ...]
    centre: tuple[float, ...]
    weights: tuple[tuple[float, ...], ...]
    sample: float = 1.0


class CountPlan(msgspec.Struct, frozen=True, array_like=True):
    """All that is counted of one version under one reference.

    Attributes:
        id: of the reference: 16 hexadecimal digits of its sha256.
        groups: declared values of the group header; everybody else is one more group, the last.
        multivariate: how the last feature is made of the others; None = there is no such feature.
    """

    id: str
    features: tuple[FeaturePlan, ...]
    score: ScorePlan | None = None
    groups: tuple[str, ...] = ()
    multivariate: MultivariatePlan | None = None

    def __post_init__(self) -> None:
        assert all(feature.bins > 0 for feature in self.features), "a feature has data bins"

    @property
    def group_count(self) -> int:
        """Groups, with the one of everybody else."""
        return len(self.groups) + 1

    def feature_at(self, index: int) -> int:
        """Where the bins of a feature begin."""
        return HEAD + sum(feature.width for feature in self.features[:index])

    @property
    def score_at(self) -> int:
        """Where the scores begin: counts as (group, decision, bin), then calibrated sums of the same shape."""
        return self.feature_at(len(self.features))

    @property
    def score_values(self) -> int:
        """Counts of all scores; as many calibrated sums follow them."""
        if self.score is None or self.score.kind != "probability":
            return 0
        return self.group_count * 2 * SCORE_BINS

    @property
    def size(self) -> int:
        """Values of the whole vector."""
        value = 0 if self.score is None or self.score.kind != "value" else len(self.score.edges) - 1 + len(QUALITY)
        return self.score_at + 2 * self.score_values + value


def encoded(plan: CountPlan) -> bytes:
    """A plan for the node link."""
    return msgspec.msgpack.encode(plan)


def decoded(data: bytes | Any) -> CountPlan:
    """What `encoded` wrote."""
    return msgspec.msgpack.decode(data, type=CountPlan)
