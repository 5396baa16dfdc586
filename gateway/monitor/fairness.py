"""Are declared groups treated alike? From counts per (group, decision, bin), with labels and without. Pure.

Of each group the share that is decided 1 (selection rate), and with labels, counted or expected, the share of positives
decided 1 (TPR) and of negatives decided 1 (FPR). Each is compared with the group of the highest selection rate:

    disparate impact = rate / highest rate      four-fifths rule: below 0.8 asks for an explanation (29 CFR 1607.4 D)
    parity difference = rate - highest rate     TPR gap, FPR gap likewise

A finding is a two-proportion z test against that group; its p-value is multiplied by the number of groups that could
have been the highest. A window's p-value is Simes' over the groups, the groups named are in Benjamini-Hochberg's
selection and over the floor in 2 of the last 3 windows, as for drift, with a knob of its own.

The last group of a plan is everybody else: nobody knows who that is, so it is neither judged nor compared with. Groups
under `min_size` are not judged; in anything that leaves the house groups under 30 are not shown.

A gap that is expected without labels assumes that the calibration holds within each group. That is exactly what may be
unfair, so such a gap is shown and never alarms.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec
import numpy as np

from gateway.monitor.cbpe import expected
from gateway.monitor.confusion import LEAST_MASS, Counts, Table, counted
from gateway.monitor.families import FamilyState, FamilyVerdict, Key
from gateway.monitor.realised import Cohort, class_weights
from router.evidence.special import log_normal_below

FOUR_FIFTHS: Final = 0.8
GAP: Final = 0.1
"""Gaps of TPR or FPR under this do not alarm."""
MIN_SIZE: Final = 100
LEAST_SHOWN: Final = 30
GapBasis = Literal["none", "estimated", "realised"]


class GroupFairness(msgspec.Struct, frozen=True):
    """One declared group. NaN = not defined, or not compared.

    Attributes:
        rows: predictions.
        positives, negatives: labels, counted or expected.
        compared: large enough for a judgement.
        rate: share decided 1.
        disparate_impact, parity_difference: against the group of the highest rate.
        tpr, fpr: of positives, of negatives, the share decided 1; tpr_gap, fpr_gap: less that of the highest group.
        p_rate, p_tpr, p_fpr: 1 where nothing is compared.
    """

    group: str
    rows: int
    positives: float
    negatives: float
    compared: bool
    rate: float
    disparate_impact: float = math.nan
    parity_difference: float = math.nan
    tpr: float = math.nan
    fpr: float = math.nan
    tpr_gap: float = math.nan
    fpr_gap: float = math.nan
    p_rate: float = 1.0
    p_tpr: float = 1.0
    p_fpr: float = 1.0


class Fairness(msgspec.Struct, frozen=True):
    """All declared groups in one window.

    Attributes:
        highest: the group that the others are compared with; "" = fewer than 2 groups are large enough.
        gaps: what TPR and FPR are of.
    """

    groups: tuple[GroupFairness, ...]
    highest: str
    gaps: GapBasis = "none"


def fairness(
    counts: Counts, groups: Sequence[str], *, sums: Counts | None = None, min_size: int = MIN_SIZE
) -> Fairness:
    """Of a window's predictions; with calibrated sums of a trusted calibration also the gaps that are expected.

    Shapes: [group, decision, bin], the last group everybody else; `groups` names all but that one.
    """
    tables = None if sums is None else [expected(counts[i], sums[i]) for i in range(len(groups))]
    return _compared(counts.sum(axis=2), groups, tables, "none" if sums is None else "estimated", min_size)


def realised_fairness(
    cohort: Cohort, groups: Sequence[str], *, min_coverage: float, min_size: int = MIN_SIZE
) -> Fairness:
    """Of a cohort with labels. A group has gaps if each of its decision classes is covered; its labels are weighed."""
    tables = []
    for i in range(len(groups)):
        labels, predicted = cohort.labels[i], cohort.predicted[i].tolist()
        covered = min(cohort.coverage(i)) >= min_coverage and labels.min() >= 0
        by_class = labels.sum(axis=(1, 2)).tolist() if covered else [0, 0]
        table = counted(labels if covered else np.zeros_like(labels))
        tables.append(table.scaled(class_weights(by_class, predicted)) if sum(by_class) else table)
    return _compared(cohort.predicted, groups, tables, "realised", min_size)


def _compared(
    decided: Counts, groups: Sequence[str], tables: list[Table] | None, gaps: GapBasis, min_size: int
) -> Fairness:
    rows = decided[: len(groups)].sum(axis=1).tolist()
    chosen = decided[: len(groups), 1].tolist()
    large = [i for i, n in enumerate(rows) if n >= max(1, min_size)]
    if len(large) < 2:
        large = []
    best = max(large, key=lambda i: (chosen[i] / rows[i], -i), default=-1)
    found = []
    for i, name in enumerate(groups):
        table = tables[i] if tables is not None else None
        facts = _facts(name, rows[i], chosen[i], i in large, table)
        if i in large and i != best:
            other = _facts(groups[best], rows[best], chosen[best], True, tables[best] if tables is not None else None)
            facts = _against(facts, other, len(large) - 1)
        elif i == best:
            facts = msgspec.structs.replace(
                facts, disparate_impact=1.0 if chosen[i] else math.nan, parity_difference=0.0
            )
        found.append(facts)
    return Fairness(tuple(found), groups[best] if large else "", gaps)


def _facts(name: str, rows: int, chosen: int, large: bool, table: Table | None) -> GroupFairness:
    rate = chosen / rows if rows else math.nan
    if table is None:
        return GroupFairness(name, rows, 0.0, 0.0, large, rate)
    positives, negatives = float(table.positives.sum()), float(table.negatives.sum())
    tpr = table.true_positives / positives if positives >= LEAST_MASS else math.nan
    fpr = table.false_positives / negatives if negatives >= LEAST_MASS else math.nan
    return GroupFairness(name, rows, positives, negatives, large, rate, tpr=tpr, fpr=fpr)


def _against(one: GroupFairness, highest: GroupFairness, tries: int) -> GroupFairness:
    """Compared with the highest group, which is one of `tries` + 1."""

    def p(a: float, n: float, b: float, m: float) -> float:
        return min(1.0, tries * two_proportions(a, n, b, m))

    return msgspec.structs.replace(
        one,
        disparate_impact=one.rate / highest.rate if highest.rate else math.nan,
        parity_difference=one.rate - highest.rate,
        tpr_gap=one.tpr - highest.tpr,
        fpr_gap=one.fpr - highest.fpr,
        p_rate=p(one.rate, one.rows, highest.rate, highest.rows),
        p_tpr=p(one.tpr, one.positives, highest.tpr, highest.positives),
        p_fpr=p(one.fpr, one.negatives, highest.fpr, highest.negatives),
    )


def two_proportions(a: float, n: float, b: float, m: float) -> float:
    """p-value of "both shares are equal", two-sided: a of n, b of m. Pooled z test; 1 if a share is not defined.

    With 5 or fewer expected on a side the normal is no good: 1.
    """
    if math.isnan(a) or math.isnan(b) or min(n, m) < 1.0:
        return 1.0
    pooled = (a * n + b * m) / (n + m)
    if min(pooled, 1.0 - pooled) * min(n, m) < 5.0:
        return 1.0
    z = abs(a - b) / math.sqrt(pooled * (1.0 - pooled) * (1.0 / n + 1.0 / m))
    return min(1.0, 2.0 * math.exp(log_normal_below(-z)))


class FairnessWatch:
    """The alarm on fairness of one series. Feed it each window once, in order; or each cohort with labels.

    Of a window it judges the rates of decisions, of a cohort only the gaps: no decisions are judged twice.

    Args:
        disparate_impact: a group under this share of the highest rate may alarm.
        gap: so may one with a realised TPR or FPR gap of at least this.
    """

    def __init__(self, disparate_impact: float = FOUR_FIFTHS, gap: float = GAP) -> None:
        self.disparate_impact = disparate_impact
        self.gap = gap
        self._family = FamilyState()

    def __repr__(self) -> str:
        return f"FairnessWatch({self._family!r})"

    @property
    def state(self) -> str:
        """After the last closed window."""
        return self._family.state

    def close(self, window: Fairness, alpha: float) -> FamilyVerdict:
        """One more closed window.

        Args:
            alpha: of this window: `families.window_alpha` with share 1/2 of fairness' own distance between alarms,
                divided among the series; the other half is that of gaps, or of decisions.
        """
        return self._family.close(list(self._keys(window)), alpha)

    def _keys(self, window: Fairness) -> list[Key]:
        keys = []
        for one in window.groups:
            if not one.compared or one.group == window.highest:
                continue
            if window.gaps != "realised" and not math.isnan(one.disparate_impact):
                # Exactly four fifths is allowed, whatever floats say.
                lacking = 1.0 - one.disparate_impact - 1e-12
                keys.append(Key(f"{one.group}: disparate_impact", one.p_rate, lacking, 1.0 - self.disparate_impact))
            if window.gaps == "realised":
                gaps = (("tpr_gap", one.tpr_gap, one.p_tpr), ("fpr_gap", one.fpr_gap, one.p_fpr))
                keys += [
                    Key(f"{one.group}: {name}", p, abs(gap), self.gap) for name, gap, p in gaps if not math.isnan(gap)
                ]
        return keys

    def plain(self) -> dict[str, Any]:
        """All of it in plain values (JSON, msgpack)."""
        return {"family": self._family.plain()}

    @classmethod
    def from_plain(
        cls, plain: Mapping[str, Any], disparate_impact: float = FOUR_FIFTHS, gap: float = GAP
    ) -> "FairnessWatch":
        """What was seen in `plain`; floors are settings, not something seen."""
        found = cls(disparate_impact, gap)
        found._family = FamilyState.from_plain(plain["family"])
        return found


def exported(window: Fairness) -> list[dict[str, Any]]:
    """What may leave the house, in plain values: NaN is None, and what is of fewer than 30 rows is not there.

    A group that is left out could be told from a total: no total over groups may be exported beside this.
    """
    return [_exported(one) for one in window.groups]


def _exported(one: GroupFairness) -> dict[str, Any]:
    if one.rows < LEAST_SHOWN:
        return {"group": one.group, "rows": f"<{LEAST_SHOWN}", "compared": False}
    facts = msgspec.structs.asdict(one)
    for of, names in (("positives", ("tpr", "tpr_gap", "p_tpr")), ("negatives", ("fpr", "fpr_gap", "p_fpr"))):
        if facts[of] < LEAST_SHOWN:
            facts.update(dict.fromkeys((of, *names)))
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in facts.items()}
