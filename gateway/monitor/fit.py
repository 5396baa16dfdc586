"""A reference from rows: plan, calibration, counts, and how much they vary by themselves. Pure.

The rows should be ones that the model was not trained on, in the order of time: a model is surer of what it has seen,
and how neighbouring rows are alike is read off ten consecutive parts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from gateway.monitor import calibration, isotonic
from gateway.monitor.columns import column_numbers
from gateway.monitor.counting import Counter, Counts, empty, feature_counts
from gateway.monitor.features import BINS, TOP, Kind, Left, Made, made, quantile_edges
from gateway.monitor.plan import SCORE_BINS, UNSEEN, CountPlan, ScorePlan
from gateway.monitor.reference import Origin, Reference, ReferenceRefused, binding_of, identified
from gateway.monitor.scorebins import nested, nested_starts
from gateway.monitor.scored import bins_of
from gateway.monitor.significance import LEAST_ROWS, largest_window, overdispersion_of
from gateway.monitor.together import fitted as fitted_together
from runtimes.tensors import Array, Signature

PARTS: Final = 10
_ROUNDING: Final = 1e-6
"""By so much a probability may lie outside of 0 to 1: sums of FP32 end at 1.0000001."""
_REASONS: Final = {
    "few_rows": f"fewer than {calibration.MIN_ROWS:,} labels",
    "few_positives": f"fewer than {calibration.MIN_CLASS} positive labels",
    "few_negatives": f"fewer than {calibration.MIN_CLASS} labels that are not positive",
    "badly_calibrated": f"even calibrated they are off by more than {calibration.MOST_ECE}",
}
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ScoreAt:
    """Where the score is: index among the outputs, column in its row (-1 = the row is one value)."""

    output: int
    column: int


@dataclass(frozen=True, slots=True)
class Choices:
    """What whoever fits may say.

    Attributes:
        schema: feature -> kind.
        names: input name -> names of its columns.
        score: None = `score_place` finds it.
        threshold: a probability of at least this decides 1.
        groups: names of groups whose rows carry their index.
        min_rows: of a window, for the warning that the reference is too small.
    """

    schema: Mapping[str, Kind] = field(default_factory=dict)
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    score: ScoreAt | None = None
    threshold: float = 0.5
    groups: tuple[str, ...] = ()
    bins: int = BINS
    top: int = TOP
    min_rows: int = LEAST_ROWS


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a reference, in the order of time.

    Attributes:
        inputs, outputs: [rows, ...] each, in the signature's order; None = left out, or not known.
        groups: [rows] indices into `Choices.groups`; anything else is everybody else.
        labels: [rows] 0, 1, or NaN = not known; None = none at all.
    """

    inputs: Sequence[Array | None]
    outputs: Sequence[Array | None]
    groups: npt.NDArray[Any] | None = None
    labels: Floats | None = None


@dataclass(frozen=True, slots=True)
class Fitted:
    """A reference and what there is to say about it.

    Attributes:
        features: how each is counted, and why.
        left: features that are not counted.
        warnings: sentences for people.
    """

    reference: Reference
    features: tuple[Made, ...]
    left: tuple[Left, ...]
    warnings: tuple[str, ...]


def fit(
    signature: Signature, digest: str, rows: Rows, choices: Choices | None = None, origin: Origin = "fit"
) -> Fitted:
    """A reference from rows.

    Args:
        digest: sha256 of the model file.

    Raises:
        ReferenceRefused: rows that do not fit the signature, no rows, or nothing to count.
    """
    choices = choices or Choices()
    count = _row_count(signature, rows)
    features, left = made(signature, rows.inputs, choices.names, choices.schema, choices.bins, choices.top)
    warnings: list[str] = []
    place = choices.score or score_place(signature, rows.outputs)
    score = None if place is None else _score_plan(signature, place, rows, choices, warnings)
    if place is None:
        warnings.append(
            "no score: no output is one number or the probabilities of two classes; predictions go uncounted"
        )
    if not features and score is None:
        raise ReferenceRefused("nothing to count: no feature and no score")
    plan = CountPlan("", tuple(one.plan for one in features), score, choices.groups)
    groups = np.full(count, len(choices.groups)) if rows.groups is None else rows.groups
    bounds = _bounds(count)
    parts = _part_counts(plan, rows, groups, bounds)
    counts = np.sum(parts, axis=0)
    phis = _overdispersion(plan, parts)
    _leave_one_out(plan, counts, features)
    together, why = fitted_together(plan, rows.inputs, count, bounds)
    if together is None:
        warnings.append(f"features together are not looked at (spec.multivariate): {why}")
    reference = Reference(
        plan,
        counts,
        binding_of(digest, signature, choices.names),
        origin,
        phis,
        _score_overdispersion(plan, parts),
        label_counts(plan, rows, groups),
        together,
    )
    if largest_window(count) < choices.min_rows:
        warnings.append(
            f"{count:,} rows serve windows of up to {largest_window(count):,}, and one with fewer than "
            f"{choices.min_rows:,} (min_rows) is not judged: {10 * choices.min_rows:,} rows are needed"
        )
    return Fitted(identified(reference), tuple(features), tuple(left), tuple(warnings))


def _row_count(signature: Signature, rows: Rows) -> int:
    if len(rows.inputs) != len(signature.inputs) or len(rows.outputs) != len(signature.outputs):
        raise ReferenceRefused(
            f"expected {len(signature.inputs)} inputs and {len(signature.outputs)} outputs, "
            f"got {len(rows.inputs)} and {len(rows.outputs)}"
        )
    arrays = [array for array in (*rows.inputs, *rows.outputs, rows.groups, rows.labels) if array is not None]
    lengths = sorted({len(array) if array.ndim else 1 for array in arrays})
    if len(lengths) != 1 or not lengths[0]:
        raise ReferenceRefused(f"expected as many rows everywhere and at least one, got {lengths or [0]}")
    for spec, given in zip((*signature.inputs, *signature.outputs), (*rows.inputs, *rows.outputs), strict=True):
        if given is not None and given.dtype != spec.datatype.dtype:
            raise ReferenceRefused(f"expected {spec.name!r} as {spec.datatype.name}, got {given.dtype}")
    return lengths[0]


def score_place(signature: Signature, outputs: Sequence[Array | None] = ()) -> ScoreAt | None:
    """Where the score is: the first output of floats that is one number a row, or two (then the second).

    Args:
        outputs: what they gave, where the signature leaves the width open.
    """
    for at, spec in enumerate(signature.outputs):
        array = outputs[at] if at < len(outputs) else None
        shape = spec.shape[1:] if array is None or -1 not in spec.shape[1:] else array.shape[1:]
        width = int(np.prod(shape))
        if spec.datatype.kind == "float" and width in (1, 2):
            return ScoreAt(at, 1 if width == 2 else -1 if len(spec.shape) == 1 else 0)
    return None


def _score_plan(
    signature: Signature, place: ScoreAt, rows: Rows, choices: Choices, warnings: list[str]
) -> ScorePlan | None:
    array, spec = rows.outputs[place.output], signature.outputs[place.output]
    if array is None:
        warnings.append(f"no score: there is nothing of output {spec.name!r}")
        return None
    bf16, width = spec.datatype.name == "BF16", int(np.prod(array.shape[1:]))
    if place.column >= width:
        raise ReferenceRefused(f"output {spec.name!r} has no column {place.column}: {columns_text(width)}")
    scores = column_numbers(array, place.column, bf16)
    finite = scores[np.isfinite(scores)]
    if not len(finite):
        raise ReferenceRefused(f"expected finite scores of output {spec.name!r}, got none")
    if finite.min() < -_ROUNDING or finite.max() > 1 + _ROUNDING:
        edges = quantile_edges(finite, choices.bins)
        return ScorePlan(place.output, place.column, "value", edges=edges, bf16=bf16)
    points = _calibration(scores, rows.labels, warnings)
    return ScorePlan(place.output, place.column, "probability", choices.threshold, points, bf16=bf16)


def columns_text(width: int) -> str:
    """The columns that there are, as they are counted."""
    return "its only one is 0" if width == 1 else f"they go from 0 to {width - 1}"


def _calibration(scores: Floats, labels: Floats | None, warnings: list[str]) -> isotonic.Points:
    if labels is None:
        warnings.append("no labels: scores are not calibrated, and performance cannot be estimated")
        return ()
    known = np.isfinite(scores) & np.isfinite(labels)
    found = calibration.chosen(scores[known], labels[known])
    if found.reason:
        warnings.append(
            f"scores are not calibrated, and performance cannot be estimated: {_REASONS[found.reason]} "
            f"({found.rows:,} labels, {found.positives:,} positive)"
        )
    return found.points


def _bounds(count: int) -> list[int]:
    """Where consecutive parts begin, and where the last one ends; of few rows one part."""
    parts = PARTS if count >= PARTS * LEAST_ROWS else 1
    bounds: list[int] = np.linspace(0, count, parts + 1).astype(int).tolist()
    return bounds


def _part_counts(plan: CountPlan, rows: Rows, groups: npt.NDArray[Any], bounds: Sequence[int]) -> list[Counts]:
    """A vector of each part."""
    count, counter, found = len(groups), Counter(plan), []
    # Outputs that are not known are never looked at: the plan has no score of theirs.
    outputs = [np.zeros(count) if array is None else array for array in rows.outputs]
    for start, stop in pairwise(bounds):
        into = empty(plan)
        inputs = [None if array is None else array[start:stop] for array in rows.inputs]
        counter.count(inputs, [array[start:stop] for array in outputs], groups[start:stop], into)
        found.append(into)
    return found


def _overdispersion(plan: CountPlan, parts: Sequence[Counts]) -> tuple[float, ...]:
    if len(parts) == 1:
        return (1.0,) * len(plan.features)
    columns = zip(*(feature_counts(plan, part) for part in parts), strict=True)
    return tuple(overdispersion_of([data for _, data, _ in column], column[0][0].ordered) for column in columns)


def _score_overdispersion(plan: CountPlan, parts: Sequence[Counts]) -> float:
    if plan.score is None or len(parts) == 1:
        return 1.0
    starts = nested_starts(plan, np.sum(parts, axis=0))
    return overdispersion_of([nested(plan, part, starts) for part in parts], ordered=True)


def _leave_one_out(plan: CountPlan, counts: Counts, features: Sequence[Made]) -> None:
    """Count a row as unseen if its category would not be known without it.

    Otherwise a feature with many rare categories has none unseen in the reference and many ever after: the share of
    those to come is that of the rows whose category has just as many as it needs (Good 1953 for one).
    """
    for (feature, data, quality), one in zip(feature_counts(plan, counts), features, strict=True):
        if feature.kind == "categorical":
            own = data[: len(feature.values)]
            barely = own == one.least
            quality[UNSEEN] += int(own[barely].sum()) + one.least_others
            own[barely] = 0
            data[-1] -= one.least_others


def label_counts(plan: CountPlan, rows: Rows, groups: npt.NDArray[Any]) -> Counts | None:
    """Rows with a label, counted [group, decision, score bin, label]; None without labels or a probability."""
    score = plan.score
    if rows.labels is None or score is None or score.kind != "probability":
        return None
    array = rows.outputs[score.output]
    assert array is not None, "a plan's score was given"
    scores = column_numbers(array, score.column, score.bf16)
    known = np.isfinite(scores) & np.isfinite(rows.labels)
    scores, labels = scores[known], rows.labels[known].astype(np.int64)
    last = len(plan.groups)
    group = np.where((groups >= 0) & (groups < last), groups, last)[known].astype(np.int64)
    decided = (scores >= score.threshold).astype(np.int64)
    cells = ((group * 2 + decided) * SCORE_BINS + bins_of(scores)) * 2 + labels
    shape = (plan.group_count, 2, SCORE_BINS, 2)
    return np.bincount(cells, minlength=int(np.prod(shape))).reshape(shape)


def regrouped(reference: Reference, groups: Sequence[str]) -> Reference:
    """The same reference with the groups that a monitor's settings name, in their order; it gets another id.

    Rows of groups that are not named go to everybody else; of a group that the reference does not know there are none.
    """
    plan = reference.plan
    if tuple(groups) == plan.groups:
        return reference
    target = [groups.index(name) if name in groups else len(groups) for name in (*plan.groups, "")]
    target[-1] = len(groups)
    changed = msgspec.structs.replace(plan, groups=tuple(groups))
    counts = reference.counts
    if plan.score_values:
        at = plan.score_at
        scores = counts[at:].reshape(2, plan.group_count, -1)
        moved = np.zeros((2, changed.group_count, scores.shape[2]), np.int64)
        for old, new in enumerate(target):
            moved[:, new] += scores[:, old]
        counts = np.concatenate([counts[:at], moved.ravel()])
    labels = reference.labels
    if labels is not None:
        labels = np.zeros((changed.group_count, *labels.shape[1:]), np.int64)
        for old, new in enumerate(target):
            labels[new] += reference.labels[old] if reference.labels is not None else 0
    return identified(replace(reference, plan=changed, counts=counts, labels=labels))
