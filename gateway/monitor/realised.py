"""Performance that came true: labels by the time of their prediction, however late they come. Pure.

A cohort is what one variant answered in one span of time. It knows how many predictions there were per (group,
decision), and counts labels per (group, decision, bin, label). A label that comes late is added to the cohort of its
prediction, sealed or not; one that is replaced is taken out again and the new one added: so counts depend on which
labels stand in the end and not on their order.

Labels are rarely missing at random: a loan that was refused never shows whether it would have been repaid. So the
performance of all rows is published only if enough of *each* decision class has its label. Then each class weighs what
it weighs among predictions, not among labels. Otherwise only what holds within a class is: precision (of decision 1)
and negative_precision (of decision 0: the share of negatives), marked `selective_labels`.

Memory: 9 KB per group, cohort and variant; the oldest cohorts go first, and labels for them are counted as too late.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import numpy as np

from gateway.monitor.cbpe import MIN_ROWS, Performance
from gateway.monitor.confusion import Counts, Table, counted, metrics, standard_errors
from gateway.monitor.plan import LABEL_BINS, SCORE_BINS
from gateway.monitor.spans import Spans
from router.evidence.quantiles import log_edges, quantile_of_histogram

MIN_COVERAGE: Final = 0.6
LEAST_CLASS: Final = 30
"""Labels that a decision class needs before anything is said of it alone."""
KEEP: Final = 200
MOST_VARIANTS: Final = 16
ERRORS_TOLD: Final = 0b011
JUDGED: Final = 0b100
ALL_TOLD: Final = ERRORS_TOLD | JUDGED
SLICES: Final = 60
"""Parts of a cohort's span by which its errors are in order."""
DELAY_EDGES_S: Final = log_edges(1.0, 90 * 86_400.0, 1.25)
QUANTILES: Final = (0.5, 0.9, 0.99)


class Labelled(msgspec.Struct, frozen=True):
    """One label, as the ledger of feedback took it: new, or instead of another one.

    Attributes:
        predicted_s, observed_s: Unix times of the prediction and of the label.
        variant: that answered; "" = nobody knows any more.
        group: index in the plan's groups; the last one = not known.
        decision, bin: of the prediction; None = its id does not say.
        label: 1 = the positive class; None = not known any more, or still not: then nothing is counted.
        before: the label that stood there until now; None = none. Equal to `label`: nothing changes.
    """

    predicted_s: float
    observed_s: float
    variant: str
    group: int
    decision: int | None
    bin: int | None
    label: int | None
    before: int | None = None


@dataclass(slots=True, eq=False)
class Cohort:
    """Predictions of one variant in one span, and their labels.

    Attributes:
        predicted: [group, decision].
        labels: [group, decision, bin, label]. A cell may be negative for a moment, if nodes tell in another order.
        errors: [slice, decision, right or wrong].
        delays: first labels, [group, DELAY_EDGES_S].
        told: decision classes whose errors were given out (ERRORS_TOLD), and whether its performance was (JUDGED).
    """

    predicted: Counts
    labels: Counts
    errors: Counts
    delays: Counts
    told: int = 0

    @classmethod
    def empty(cls, groups: int) -> "Cohort":
        """Without rows."""
        return cls(
            predicted=np.zeros((groups, 2), np.int64),
            labels=np.zeros((groups, 2, LABEL_BINS, 2), np.int64),
            errors=np.zeros((SLICES, 2, 2), np.int64),
            delays=np.zeros((groups, len(DELAY_EDGES_S)), np.int64),
        )

    def coverage(self, group: int | None = None) -> tuple[float, float]:
        """Share of predictions with a label, by decision class, of all groups or of one.

        A class without predictions and labels is covered; one with labels alone is not: predictions went missing.
        """
        chosen = _chosen(group)
        predicted = self.predicted[chosen].sum(axis=0).tolist()
        no, yes = (
            min(1.0, n / m) if m else float(not n)
            for n, m in zip(self.labels[chosen].sum(axis=(0, 2, 3)).tolist(), predicted, strict=True)
        )
        return no, yes


class ErrorRun(msgspec.Struct, frozen=True):
    """Errors of one decision class of a matured cohort, for a detector of concept drift.

    Attributes:
        wrong, rows: by slice of the span, in order of time.
    """

    start_s: int
    variant: str
    decision: int
    wrong: tuple[int, ...]
    rows: tuple[int, ...]

    def stream(self) -> Iterator[int]:
        """1 for an error, 0 for none, in order of slices; within one, errors are spread evenly."""
        for wrong, rows in zip(self.wrong, self.rows, strict=True):
            yield from ((k + 1) * wrong // rows - k * wrong // rows for k in range(rows))


class Judged(msgspec.Struct, frozen=True):
    """The performance of a cohort that has matured: told once, at the first time that it can be."""

    start_s: int
    variant: str
    performance: Performance
    coverage: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Due:
    """What has matured since the last look, oldest first."""

    judged: list[Judged] = field(default_factory=list)
    errors: list[ErrorRun] = field(default_factory=list)


class Cohorts:
    """All cohorts of one model version. `advance` says what time it is, before anything is counted.

    Args:
        groups: of the plan, with the one of everybody else.
        span_s: of a cohort; `lasting` changes it.
        keep: cohorts per variant. `keep` spans should be longer than labels take.

    Attributes:
        too_late: labels for cohorts that are gone, or of no time.
        unplaced: labels of predictions whose variant, decision or bin is not known, or of no group here.
        crowded: predictions and labels of more than MOST_VARIANTS variants.
    """

    def __init__(self, *, groups: int = 1, span_s: int = 3_600, keep: int = KEEP) -> None:
        assert min(groups, span_s, keep) > 0, "a cohort has a group, time and a place"
        self.groups, self.spans, self.keep = groups, Spans(((0, span_s),)), keep
        self.too_late = self.unplaced = self.crowded = 0
        self._now = self._heard = 0
        """Start of the newest cohort, and when it was last said what time it is."""
        self._cohorts: dict[tuple[int, str], Cohort] = {}
        self._of_variant: Counter[str] = Counter()
        self._fresh: set[tuple[int, str]] = set()
        """Cohorts that changed since `due` looked at them, or were too young then."""
        self._packed: dict[tuple[int, str], bytes] = {}
        """Cells of cohorts as they are kept, of those that have not changed since."""
        self._rules: tuple[float, float, int] | None = None

    def __repr__(self) -> str:
        labels = sum(int(cohort.labels.sum()) for cohort in self._cohorts.values())
        return f"Cohorts({len(self._cohorts)}, labels={labels}, fresh={len(self._fresh)})"

    # ---- counting ----

    def advance(self, now_s: float) -> None:
        """Time goes on: what is older than `keep` spans is forgotten."""
        self._heard = max(self._heard, int(now_s))
        start = self.spans.start(now_s)
        if start <= self._now:
            return  # each label comes by here
        self._now = start
        for key in [key for key in self._cohorts if self._is_over(key[0])]:
            self._drop(key)
        self._of_variant = +self._of_variant

    def lasting(self, span_s: int) -> None:
        """Cohorts that begin from now on last so long; those that there are stay, and so do their labels."""
        if not self._cohorts:
            self.spans = Spans(((0, span_s),))
        elif span_s != self.span_s:
            self.spans = self.spans.changed(span_s, self._heard + 1, {start for start, _ in self._cohorts})

    @property
    def span_s(self) -> int:
        """Of cohorts that begin now."""
        return self.spans.span_s

    def _is_over(self, start: int) -> bool:
        return self.spans.end(start) < self._now - (self.keep - 2) * self.span_s

    def _drop(self, key: tuple[int, str]) -> None:
        del self._cohorts[key]
        self._fresh.discard(key)
        self._packed.pop(key, None)
        self._of_variant[key[1]] -= 1

    def predict(self, predicted_s: float, variant: str, counts: Counts) -> None:
        """Add predictions. Shape [group, decision] or [group, decision, bin]: as a window counts its scores."""
        cohort = self._at(predicted_s, variant, int(counts.sum()))
        if cohort is not None:
            cohort.predicted += counts.reshape(self.groups, 2, -1).sum(axis=2)

    def label(self, item: Labelled) -> None:
        """Add a label, put it in the place of the one before, or take that one out."""
        if item.label is None and item.before is None:
            return
        known = item.variant and item.decision in (0, 1) and item.bin is not None and 0 <= item.bin < LABEL_BINS
        if not known or not 0 <= item.group < self.groups or item.label not in (0, 1, None):
            self.unplaced += 1
            return
        cohort = self._at(item.predicted_s, item.variant, 1)
        if cohort is None:
            return
        place = self._slice(item.predicted_s)
        for label, change in ((item.label, 1), (item.before, -1)):
            if label is not None:
                cohort.labels[item.group, item.decision, item.bin, label] += change
                cohort.errors[place, item.decision, int(label != item.decision)] += change
        if item.before is None:  # then this is the first that says anything
            delay = max(0.0, item.observed_s - item.predicted_s)
            cohort.delays[item.group, min(int(np.searchsorted(DELAY_EDGES_S, delay)), len(DELAY_EDGES_S) - 1)] += 1

    def _slice(self, predicted_s: float) -> int:
        start = self.spans.start(predicted_s)
        return min(SLICES - 1, int((predicted_s - start) * SLICES / (self.spans.end(start) - start)))

    def _at(self, predicted_s: float, variant: str, rows: int) -> Cohort | None:
        """The cohort of a time, made if need be; None = counted as too late or crowded."""
        start = self.spans.start(predicted_s)
        found = self._cohorts.get((start, variant))
        if found is None:
            # Clocks differ a little: one span ahead is still now.
            if self._is_over(start) or start > self._now + self.span_s or not self._has_room(start, variant):
                self.too_late += rows
                return None
            if variant not in self._of_variant and len(self._of_variant) >= MOST_VARIANTS:
                self.crowded += rows
                return None
            found = self._made(start, variant)
        self._packed.pop((start, variant), None)
        if found.told != ALL_TOLD:
            self._fresh.add((start, variant))
        return found

    def _has_room(self, start: int, variant: str) -> bool:
        """Whether one more cohort is kept: in place of the oldest, where spans were shorter before."""
        if self._of_variant[variant] <= self.keep:
            return True
        oldest = min(key for key in self._cohorts if key[1] == variant)
        if start > oldest[0]:
            self._drop(oldest)
        return start > oldest[0]

    def _made(self, start: int, variant: str) -> Cohort:
        self._of_variant[variant] += 1
        cohort = self._cohorts[start, variant] = Cohort.empty(self.groups)
        return cohort

    # ---- reading ----

    @property
    def variants(self) -> Set[str]:
        """Those with a cohort."""
        return self._of_variant.keys()

    def find(self, start_s: int, variant: str) -> Cohort | None:
        """The cohort of a span; None = it is forgotten, or was never begun."""
        return self._cohorts.get((start_s, variant))

    def judged(self, start_s: int, variant: str) -> Cohort | None:
        """The same, if its performance was told: it is old enough, and each decision class is covered."""
        cohort = self.find(start_s, variant)
        return cohort if cohort is not None and cohort.told & JUDGED else None

    def items(self) -> list[tuple[int, str, Cohort]]:
        """(start, variant, cohort), oldest first."""
        return [(*key, self._cohorts[key]) for key in sorted(self._cohorts)]

    def matured(self, now_s: float, variant: str, mature_after_s: float, after_s: int = -1) -> list[tuple[int, Cohort]]:
        """(start, cohort) of those with predictions that ended `mature_after_s` ago or earlier, oldest first.

        Args:
            after_s: only those that start later.
        """
        mine = [
            key
            for key in self._cohorts
            if key[1] == variant and after_s < key[0] and self.spans.end(key[0]) + mature_after_s <= now_s
        ]
        return [(key[0], self._cohorts[key]) for key in sorted(mine) if self._cohorts[key].predicted.any()]

    def due(
        self, now_s: float, *, mature_after_s: float, min_coverage: float = MIN_COVERAGE, min_rows: int = MIN_ROWS
    ) -> Due:
        """What can be said now of cohorts that ended `mature_after_s` ago or earlier; each thing once.

        A cohort whose labels are too few waits until they come, or until it is forgotten. A look costs as much as there
        is new: a cohort that was not told and has not changed says again what it said.
        """
        rules = (mature_after_s, min_coverage, min_rows)
        if rules != self._rules:
            self._rules, self._fresh = rules, set(self._cohorts)
        due = Due()
        for start, variant in sorted(self._fresh):
            if self.spans.end(start) + mature_after_s > now_s:
                break  # those after it are younger
            self._fresh.remove((start, variant))
            cohort = self._cohorts[start, variant]
            coverage = cohort.coverage()
            for decision in (0, 1):
                run = _run(cohort, start, variant, decision)
                if not cohort.told & 1 << decision and run is not None and coverage[decision] >= min_coverage:
                    cohort.told |= 1 << decision
                    due.errors.append(run)
            if not cohort.told & JUDGED and min(coverage) >= min_coverage:
                found = performance(cohort, min_coverage=min_coverage, min_rows=min_rows)
                if found.state == "ok":
                    cohort.told |= JUDGED
                    due.judged.append(Judged(start, variant, found, coverage))
        return due

    def delay_quantiles(self, variant: str, group: int | None = None, least: int = 1) -> dict[float, float]:
        """Seconds from prediction to first label, rounded up to DELAY_EDGES_S, by quantile; of all groups or of one.

        Args:
            least: labels below which nothing is said.
        """
        chosen = _chosen(group)
        mine = [cohort.delays[chosen].sum(axis=0) for _, name, cohort in self.items() if name == variant]
        counts = np.sum(mine, axis=0).tolist() if mine else []
        if sum(counts) < max(1, least):
            return {}
        return {q: quantile_of_histogram(counts, DELAY_EDGES_S, q) for q in QUANTILES}

    # ---- keeping ----

    def plain(self) -> dict[str, Any]:
        """All of it in plain values (msgpack). What has not changed since the last call is not looked at again."""
        for key, cohort in self._cohorts.items():
            if key not in self._packed:
                self._packed[key] = _packed(cohort)
        heads = {name: getattr(self, name) for name in _HEADS}
        cohorts = [[*key, self._packed[key], cohort.told] for key, cohort in self._cohorts.items()]
        eras = [list(era) for era in self.spans.eras]
        return {**heads, "eras": eras, "now": self._now, "heard": self._heard, "cohorts": cohorts}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Cohorts":
        """What `plain` was."""
        found = cls()
        for name in _HEADS:
            setattr(found, name, plain[name])
        found.spans = msgspec.convert({"eras": plain["eras"]}, Spans)
        found._now, found._heard = plain["now"], plain["heard"]
        for start, variant, cells, told in plain["cohorts"]:
            cohort = found._made(start, variant)
            for name, pairs in msgspec.msgpack.decode(cells).items():
                getattr(cohort, name).reshape(-1)[pairs[::2]] = pairs[1::2]
            cohort.told = told
            found._packed[start, variant] = cells
        return found


_HEADS: Final = ("groups", "keep", "too_late", "unplaced", "crowded")


def _packed(cohort: Cohort) -> bytes:
    """Cells that are not 0, as [place, count, place, count, ...] of each array."""
    found = {}
    for name in ("predicted", "labels", "errors", "delays"):
        flat = getattr(cohort, name).reshape(-1)
        places = np.flatnonzero(flat)
        found[name] = np.stack([places, flat[places]], axis=1).reshape(-1).tolist()
    return msgspec.msgpack.encode(found)


def _run(cohort: Cohort, start: int, variant: str, decision: int) -> ErrorRun | None:
    """Errors of a decision class; None = no labels, or unsettled ones."""
    by_slice = cohort.errors[:, decision]
    if by_slice.min() < 0 or not by_slice.any():
        return None
    wrong, rows = by_slice[:, 1].tolist(), by_slice.sum(axis=1).tolist()
    return ErrorRun(start, variant, decision, tuple(wrong), tuple(rows))


def in_label_bins(labels: Counts) -> Counts:
    """Labels of score bins [group, decision, score bin, label], as a cohort counts them."""
    found: Counts = labels.reshape(-1, 2, LABEL_BINS, SCORE_BINS // LABEL_BINS, 2).sum(axis=3)
    return found


def reference_performance(labels: Counts, min_rows: int = MIN_ROWS) -> Performance:
    """What came true in a reference, to compare cohorts with: in their bins, so that rows tie alike.

    Shape [group, decision, score bin, label], with SCORE_BINS bins.
    """
    return counted_performance(in_label_bins(labels), min_rows)


def counted_performance(labels: Counts, min_rows: int = MIN_ROWS) -> Performance:
    """What came true by labels that are all there. Shape [..., decision, label bin, label]."""
    rows = int(labels.sum())
    if rows < max(1, min_rows):
        return Performance("realised", "insufficient", "few_labels", rows)
    table = counted(labels)
    return Performance("realised", "ok", "", rows, metrics(table), standard_errors(table))


def performance(
    cohort: Cohort, *, min_coverage: float = MIN_COVERAGE, min_rows: int = MIN_ROWS, group: int | None = None
) -> Performance:
    """What came true in a cohort, of all its rows or of one group.

    Returns:
        "ok"; "selective_labels" with precision and negative_precision of the labelled; "insufficient" without values.
    """
    chosen = _chosen(group)
    predicted, labels = cohort.predicted[chosen].sum(axis=0).tolist(), cohort.labels[chosen]
    table, rows = counted(labels), int(labels.sum())
    if labels.size and labels.sum(axis=0).min() < 0:
        return Performance("realised", "insufficient", "unsettled", rows)
    by_class = labels.sum(axis=(0, 2, 3)).tolist()
    if min(cohort.coverage(group)) >= min_coverage:
        if rows < max(1, min_rows):
            return Performance("realised", "insufficient", "few_labels", rows)
        weighed = table.scaled(class_weights(by_class, predicted))
        return Performance("realised", "ok", "", rows, metrics(weighed), standard_errors(weighed))
    values, errors = _within_classes(table, by_class)
    if not values:
        return Performance("realised", "insufficient", "few_labels", rows)
    return Performance("realised", "selective_labels", "low_coverage", rows, values, errors)


def _chosen(group: int | None) -> slice:
    return slice(None) if group is None else slice(group, group + 1)


def class_weights(labels: Sequence[int], predicted: Sequence[int]) -> tuple[float, float]:
    """So that each decision class weighs what it does among predictions, and all labels together what they did.

    By decision class; there is at least one label.
    """
    shares = [max(m, n) / n if n else 0.0 for n, m in zip(labels, predicted, strict=True)]
    scale = sum(labels) / sum(share * n for share, n in zip(shares, labels, strict=True))
    return shares[0] * scale, shares[1] * scale


def _within_classes(table: Table, by_class: list[int]) -> tuple[dict[str, float], dict[str, float]]:
    values, errors = {}, {}
    parts = (("negative_precision", table.true_negatives), ("precision", table.true_positives))
    for (name, good), rows in zip(parts, by_class, strict=True):
        if rows >= LEAST_CLASS:
            values[name] = good / rows
            errors[name] = (values[name] * (1.0 - values[name]) / rows) ** 0.5
    return values, errors
