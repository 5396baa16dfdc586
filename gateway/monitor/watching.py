"""One version under watch: its windows, its labels, its groups, its speed; and what they say as findings. Pure.

Counts and labels go in, findings come out: a word on each signal whenever a window or a cohort has closed.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from itertools import chain, groupby
from typing import Any, Final

import msgspec

from gateway.monitor.burnrate import burn_rate
from gateway.monitor.bygroup import by_group
from gateway.monitor.cbpe import Performance, scores_of
from gateway.monitor.concept import Concept
from gateway.monitor.counting import Counts
from gateway.monitor.engine import Closed, Engine
from gateway.monitor.fairness import LEAST_SHOWN, Fairness, FairnessWatch, exported, fairness, realised_fairness
from gateway.monitor.families import FamilyVerdict, window_alpha
from gateway.monitor.losses import LOOKS, Look, loss_of
from gateway.monitor.performance import Watch
from gateway.monitor.realised import (
    ERRORS_TOLD,
    JUDGED,
    Cohort,
    Cohorts,
    Due,
    ErrorRun,
    Judged,
    Labelled,
    reference_performance,
)
from gateway.monitor.reference import Reference
from gateway.monitor.settings import Spec
from gateway.monitor.stages import Speed
from gateway.monitor.telling import findings, of_budget, of_realised
from gateway.monitor.windows import BLIND_AFTER, DAY_MS
from gateway.monitor.words import NOT_KNOWN, Finding, Signal, State, worst_of

SPANS_OF_MATURITY: Final = 4
"""A cohort lasts a quarter of the time that labels take; 200 of them are kept, 50 times as long."""
BLIND_SPANS: Final = 2
"""So many cohorts without enough labels, and what was said before holds no more: as for windows without rows."""
LATENCY_EVERY_MS: Final = 60_000
_GROUNDS: Final = ("budget", "realised", "fairness", "gaps", "concept")


class Unfair(msgspec.Struct, frozen=True):
    """What one look at the groups of a variant says: at its decisions, or at what came true of them."""

    state: State
    keys: tuple[str, ...] = ()
    text: str = ""


class Watching:
    """One version.

    Args:
        version: digits.
        champion: variant that others are compared with.

    Attributes:
        fair: last fairness of decisions by variant; gaps: last of a matured cohort, by labels.
        judged: last matured performance by variant.
        since_ms: when it began to be watched; None = nobody has said yet.
        looks: last verdicts on it by variant, oldest first: as many as an alarm is made of.
        last: last judged window by variant, with its counts, to be drawn: one for each series of the engine.
        grounds: what other last words were made of, of each kind by variant (of concepts, by place), for
            `gateway.monitor.grounds`. Neither is kept across restarts.
    """

    def __init__(self, version: str, reference: Reference, spec: Spec, champion: str = "", others: int = 0) -> None:
        self.version = version
        self.spec = spec
        self.engine = Engine(reference, spec, champion=champion, others=others)
        groups, mature_s = reference.plan.group_count, spec.labels.mature_after_ms / 1000
        self.cohorts = Cohorts(groups=groups, span_s=max(1, int(mature_s / SPANS_OF_MATURITY)))
        self.since_ms: int | None = None
        self.last: dict[str, Closed] = {}
        self.grounds: dict[str, dict[str, dict[str, Any]]] = {kind: {} for kind in _GROUNDS}
        self.fair: dict[str, Fairness] = {}
        self.gaps: dict[str, Fairness] = {}
        self.judged: dict[str, Judged] = {}
        self.looks: dict[str, list[Look]] = {}
        self.speeds: dict[str, Speed] = {}
        self._realised: dict[str, Watch] = {}
        self._fairness: dict[str, FairnessWatch] = {}
        self._gaps: dict[str, FairnessWatch] = {}
        self._unfair: dict[str, dict[str, Unfair]] = {}
        self._concepts: dict[str, Concept] = {}
        self._concepts_told: dict[str, int] = {}
        """Start of the newest cohort that a word on concept drift was about, by variant."""
        self._told_latency_ms: dict[str, int] = {}
        self._looked = 0
        """The newest span that had matured when missing labels were looked for."""

    @property
    def reference(self) -> Reference:
        """What windows are compared with."""
        return self.engine.reference

    # ---- counts ----

    def take(self, variant: str, delta: Counts, now_ms: int) -> list[Closed]:
        """Count rows of a variant; the windows that closed."""
        plan = self.reference.plan
        if plan.score_values:
            self.cohorts.advance(now_ms / 1000)
            self.cohorts.predict(now_ms / 1000, variant, scores_of(plan, delta)[0])
        return self.engine.take(variant, delta, now_ms)

    def label(self, item: Labelled, now_ms: int) -> None:
        """A label has come."""
        self.cohorts.advance(now_ms / 1000)
        self.cohorts.label(item)

    def findings(self, closed: Sequence[Closed], now_ms: int) -> list[Finding]:
        """What closed windows and matured cohorts say."""
        self.last.update({one.result.variant: one for one in closed if not one.result.reason})
        found = [one for each in closed for one in self._of_window(each)]
        due = self.cohorts.due(now_ms / 1000, mature_after_s=self._mature_s, min_coverage=self.spec.labels.min_coverage)
        matured = self.matured(due, self.cohorts.find, self.cohorts.spans.end)
        # A window and a cohort that close together are one look at the groups, and the later word knows of both.
        fair = {one.variant for one in matured if one.signal == "fairness"}
        found = [one for one in found if one.signal != "fairness" or one.variant not in fair]
        matured += self._without_labels(now_ms / 1000)
        found += [msgspec.structs.replace(one, told_s=now_ms / 1000) for one in matured]
        return found

    def coverage(self, variant: str, now_ms: int) -> float | None:
        """Share of predictions with a label in the newest cohort that has matured; the lower one of its decisions."""
        cohorts = self.old_enough(variant, now_ms)
        return min(cohorts[-1][1].coverage()) if cohorts else None

    def old_enough(self, variant: str, now_ms: int) -> list[tuple[int, Cohort]]:
        """(start, cohort) of those with predictions that have matured, oldest first."""
        return self.cohorts.matured(now_ms / 1000, variant, self._mature_s)

    @property
    def _mature_s(self) -> float:
        return self.spec.labels.mature_after_ms / 1000

    def _without_labels(self, now_s: float) -> Iterator[Finding]:
        """What labels said is not known any more once they are missing in two cohorts; told once for each span."""
        newest = self.cohorts.spans.start(max(0.0, now_s - self._mature_s))
        if newest == self._looked:
            return
        self._looked = newest
        for variant, judged in self.judged.items():
            waiting = self._waiting(now_s, variant, judged.start_s, JUDGED)
            if waiting is not None and self._realised[variant].state != "firing":
                yield self._unknown("performance_realised", variant, *waiting)
        for variant, start_s in self._concepts_told.items():
            waiting = self._waiting(now_s, variant, start_s, ERRORS_TOLD)
            told = self._of_concepts(variant, start_s, self.cohorts.spans.end(start_s))
            if waiting is not None and told.state != "firing":
                yield self._unknown("concept_drift", variant, *waiting)

    def _waiting(self, now_s: float, variant: str, after_s: int, told: int) -> tuple[int, Cohort] | None:
        """The newest of the matured cohorts that nothing could be said of; None = fewer than two since."""
        matured = self.cohorts.matured(now_s, variant, self._mature_s, after_s)
        waiting = [(start_s, cohort) for start_s, cohort in matured if not cohort.told & told]
        return waiting[-1] if len(waiting) >= BLIND_SPANS else None

    def _unknown(self, signal: Signal, variant: str, start_s: int, cohort: Cohort) -> Finding:
        shares = " and ".join(f"{share:.0%} of decision {at}" for at, share in enumerate(cohort.coverage()))
        text = f"too few labels in {BLIND_SPANS} cohorts or more; in the newest one {shares}"
        place = {"version": self.version, "variant": variant, **_span(start_s, self.cohorts.spans.end(start_s))}
        return Finding(signal=signal, state="insufficient", text=text, **place)

    def matured(self, due: Due, find: Callable[[int, str], Cohort | None], end: Callable[[int], int]) -> list[Finding]:
        """What cohorts with labels say. Args: find: the cohort of a start and a variant; end: of one, by its start."""
        found = list(self._of_errors(due.errors, end))
        found += [self._of_cohort(judged, end(judged.start_s)) for judged in due.judged]
        for judged in due.judged:
            cohort = find(judged.start_s, judged.variant)
            if cohort is not None and self._has_groups:
                found.append(self._of_gaps(judged, cohort, end(judged.start_s)))
        return found

    @property
    def _has_groups(self) -> bool:
        """Whether decisions of groups are counted and are to be compared."""
        plan = self.reference.plan
        return self.spec.groups is not None and bool(plan.groups and plan.score_values)

    def _of_window(self, closed: Closed) -> Iterator[Finding]:
        yield from findings(closed.result, self.version)
        if self._has_groups and not closed.result.reason:
            yield self._of_groups(closed)

    def _of_groups(self, closed: Closed) -> Finding:
        groups, result = self.spec.groups, closed.result
        assert groups is not None, "asked before"
        plan = self.reference.plan
        counts, sums = scores_of(plan, closed.counts)
        trusted = result.estimated is not None and result.estimated.state == "ok"
        fair = fairness(counts, plan.groups, sums=sums if trusted else None, min_size=groups.min_size)
        self.fair[result.variant] = fair
        watch = self._fairness.setdefault(result.variant, FairnessWatch(self.spec.floors.disparate_impact))
        span_ms = result.closed_ms - result.opened_ms
        ground = {"before": watch.plain()["family"], "span_ms": span_ms, "sharing": self.engine.sharing}
        verdict = watch.close(fair, self._fairness_alpha(span_ms))
        self.grounds["fairness"][result.variant] = ground | {"verdict": verdict}
        self._unfair.setdefault(result.variant, {})["decisions"] = _unfair(verdict, fair)
        span = {"window_from_s": result.opened_ms / 1000, "window_to_s": result.closed_ms / 1000}
        return self._of_fairness(result.variant, span)

    def _fairness_alpha(self, span_ms: int) -> float:
        """Level of a window or a cohort."""
        return fairness_alpha(span_ms, self.engine.sharing, self.spec.false_alarms.at_most_one_per_ms)

    def _of_fairness(self, variant: str, span: Mapping[str, Any]) -> Finding:
        """What decisions and labels say together: the worse of the two.

        One that cannot be compared takes nothing back of what the other says: an alarm could never end. It is told.
        """
        parts = self._unfair[variant].values()
        known = [part for part in parts if part.state not in NOT_KNOWN]
        state = worst_of(part.state for part in known or parts)
        told = [part for part in parts if part.state == state or part.state in NOT_KNOWN]
        return Finding(
            signal="fairness",
            state=state,
            version=self.version,
            variant=variant,
            keys=tuple(dict.fromkeys(key for part in told for key in part.keys)),
            text="; ".join(part.text for part in told if part.text),
            **span,
        )

    def idle(self, now_ms: int) -> bool:
        """No row came for two of the longest windows since it is watched: there is no series that could be blind."""
        longest_ms = BLIND_AFTER * self.engine.rule.longest_ms
        return not self.engine.variants and self.since_ms is not None and now_ms - self.since_ms > longest_ms

    # ---- labels ----

    def _of_cohort(self, judged: Judged, end_s: int) -> Finding:
        variant = judged.variant
        self.judged[variant] = judged
        watch = self._realised.setdefault(variant, Watch("realised", self.spec.floors.performance_drop))
        before = watch.plain()
        verdict = watch.close(judged.performance, self.realised_reference())
        if not verdict.reason:
            look = Look(verdict, judged.performance.rows, float(judged.start_s), float(end_s))
            self.looks[variant] = [*self.looks.get(variant, ()), look][-LOOKS:]
        self.grounds["realised"][variant] = {"before": before, "judged": judged, "end_s": end_s, "verdict": verdict}
        return of_realised(verdict, self.version, variant, judged.start_s, end_s)

    def _of_gaps(self, judged: Judged, cohort: Cohort, end_s: int) -> Finding:
        """Whether the groups of a cohort are told apart by what came true of them."""
        groups, plan, variant = self.spec.groups, self.reference.plan, judged.variant
        assert groups is not None, "asked before"
        fair = self.gaps[variant] = realised_fairness(
            cohort, plan.groups, min_coverage=self.spec.labels.min_coverage, min_size=groups.min_size
        )
        watch = self._gaps.setdefault(variant, FairnessWatch())
        span_ms = (end_s - judged.start_s) * 1000
        ground = {"before": watch.plain()["family"], "span_ms": span_ms, "sharing": self.engine.sharing}
        verdict = watch.close(fair, self._fairness_alpha(span_ms))
        self.grounds["gaps"][variant] = ground | {"verdict": verdict, "start_s": judged.start_s}
        self._unfair.setdefault(variant, {})["labels"] = _apart(verdict, fair)
        return self._of_fairness(variant, _span(judged.start_s, end_s))

    def realised_reference(self) -> Performance:
        """What came true of the reference's own rows."""
        labels = self.reference.labels
        if labels is None:
            return Performance("realised", "insufficient", "few_labels", 0)
        return reference_performance(labels)

    def loss(self, variant: str) -> dict[str, Any]:
        """What its performance has lost, and when: see `losses.loss_of`."""
        looks = [
            Look(one.performance, one.rows, one.opened_ms / 1000, one.closed_ms / 1000)
            for one in self.engine.history(variant)
            if one.performance is not None and not one.performance.reason
        ]
        return loss_of(looks, self.looks.get(variant, ()))

    def _of_errors(self, runs: Sequence[ErrorRun], end: Callable[[int], int]) -> Iterator[Finding]:
        """One finding for each cohort of a variant: the worse of its decisions. Args: runs, by cohort."""
        for (start_s, variant), both in groupby(runs, key=lambda run: (run.start_s, run.variant)):
            for run in both:
                place = _place_of(variant, run.decision)
                concept = self._concepts.setdefault(place, Concept())
                before = concept.plain()
                concept.take(run, self.spec.floors.performance_drop)
                self.grounds["concept"][place] = {"before": before, "run": run, "text": concept.text}
            found = self._of_concepts(variant, start_s, end(start_s))
            # The classes of a cohort may be covered one after the other: it is one clean window all the same.
            if found.state == "firing" or start_s > self._concepts_told.get(variant, -1):
                yield found
            self._concepts_told[variant] = max(start_s, self._concepts_told.get(variant, -1))

    def _of_concepts(self, variant: str, start_s: int, end_s: int) -> Finding:
        places = {f"decision {decision}": self._concepts.get(_place_of(variant, decision)) for decision in (0, 1)}
        firing = {name: one.text for name, one in places.items() if one is not None and one.text}
        words = [f"errors of {name}: {text}" for name, text in firing.items()]
        words += [f"errors of {name} are not known: too few labels" for name, one in places.items() if one is None]
        return Finding(
            signal="concept_drift",
            state="firing" if firing else "ok",
            version=self.version,
            variant=variant,
            keys=tuple(firing),
            text="; ".join(words),
            **_span(start_s, end_s),
        )

    # ---- speed ----

    def answered(self, variant: str, buckets: Sequence[int], now_ms: int) -> Finding | None:
        """Answers since the last call, as of `stages.by_stage`; a finding each minute where there is an objective."""
        latency, speed = self.spec.latency, self.speeds.setdefault(variant, Speed())
        speed.add(buckets, latency.slo_ms if latency is not None else None, now_ms / 1000)
        if latency is None or now_ms - self._told_latency_ms.get(variant, 0) < LATENCY_EVERY_MS:
            return None
        self._told_latency_ms[variant] = now_ms
        events = speed.windows(now_ms / 1000)
        self.grounds["budget"][variant] = {"objective": latency.objective, "events": events, "now_s": now_ms / 1000}
        return of_budget(events, latency.objective, self.version, variant, now_ms / 1000)

    def burn_rates(self, variant: str, now_ms: int) -> dict[int, float]:
        """Per window in seconds, how fast the budget burns; empty without an objective."""
        latency, speed = self.spec.latency, self.speeds.get(variant)
        if latency is None or speed is None:
            return {}
        events = speed.windows(now_ms / 1000).items()
        return {window: burn_rate(bad, total, latency.objective) for window, (bad, total) in events}

    def stages(self, variant: str, now_ms: int) -> list[dict[str, Any]]:
        """Quantiles and burn rates of each stage, as of `stages.Speed.shown`; [] = nothing was answered."""
        latency, speed = self.spec.latency, self.speeds.get(variant)
        return [] if speed is None else speed.shown(now_ms / 1000, latency.objective if latency is not None else None)

    @property
    def variants(self) -> frozenset[str]:
        """Those of which anything is known but their cohorts."""
        windows = (self.engine.variants, self.last, self.fair, self._fairness, self.speeds, self._told_latency_ms)
        labels = (self.judged, self.looks, self._realised, map(_variant_of, self._concepts))
        return frozenset(chain(*windows, *labels, self.gaps, self._gaps, self._unfair))

    def forget(self, gone: Set[str]) -> None:
        """These variants have no windows any more; what labels say of them goes with their last cohort."""
        for variant in gone:
            self.engine.forget(variant)
            grounds = self.grounds["budget"], self.grounds["fairness"]
            for windows in (self.last, self.fair, self._fairness, self.speeds, self._told_latency_ms, *grounds):
                windows.pop(variant, None)
            self._unfair.get(variant, {}).pop("decisions", None)
        for variant in gone - self.cohorts.variants:
            grounds = self.grounds["realised"], self.grounds["gaps"]
            for labels in (self.judged, self.looks, self._realised, self.gaps, self._gaps, self._unfair, *grounds):
                labels.pop(variant, None)
            self._concepts_told.pop(variant, None)
        for place in [place for place in self._concepts if _variant_of(place) in gone - self.cohorts.variants]:
            del self._concepts[place]
            self.grounds["concept"].pop(place, None)

    # ---- across restarts ----

    def state(self) -> dict[str, Any]:
        """Everything in plain values; what is only shown comes again with the next window."""
        return {
            "engine": self.engine.state(),
            "since_ms": self.since_ms,
            "cohorts": self.cohorts.plain(),
            "realised": {variant: watch.plain() for variant, watch in self._realised.items()},
            "fairness": {variant: watch.plain() for variant, watch in self._fairness.items()},
            "gaps": {variant: watch.plain() for variant, watch in self._gaps.items()},
            "unfair": msgspec.to_builtins(self._unfair),
            "speeds": {variant: speed.plain() for variant, speed in self.speeds.items()},
            "concepts": {place: concept.plain() for place, concept in self._concepts.items()},
            "concepts_told": self._concepts_told,
            "judged": {variant: msgspec.to_builtins(judged) for variant, judged in self.judged.items()},
            "looks": msgspec.to_builtins(self.looks),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken. Raises ValueError: it was under another reference."""
        champion, others, abroad = self.engine.champion, self.engine.others, self.engine.abroad
        self.engine = Engine.restored(self.reference, self.spec, state["engine"])
        self.engine.champion, self.engine.others, self.engine.abroad = champion, others, abroad
        self.since_ms = state.get("since_ms")
        if state["cohorts"]["groups"] == self.cohorts.groups:
            span_s = self.cohorts.span_s
            self.cohorts = Cohorts.from_plain(state["cohorts"])
            self.cohorts.lasting(span_s)
        drop, impact = self.spec.floors.performance_drop, self.spec.floors.disparate_impact
        self._realised = {variant: Watch.from_plain(plain, drop) for variant, plain in state["realised"].items()}
        self._fairness = {name: FairnessWatch.from_plain(plain, impact) for name, plain in state["fairness"].items()}
        self._gaps = {variant: FairnessWatch.from_plain(plain) for variant, plain in state.get("gaps", {}).items()}
        self._unfair = msgspec.convert(state.get("unfair", {}), dict[str, dict[str, Unfair]])
        self.judged = {variant: msgspec.convert(plain, Judged) for variant, plain in state["judged"].items()}
        self.looks = msgspec.convert(state.get("looks", {}), dict[str, list[Look]])
        for place, plain in state["concepts"].items():
            self._concepts[place] = Concept()
            self._concepts[place].restore(plain)
        self._concepts_told = dict(state.get("concepts_told", {}))
        for variant, plain in state.get("speeds", {}).items():
            self.speeds[variant] = Speed()
            self.speeds[variant].restore(plain)

    def exported_fairness(self, variant: str) -> list[dict[str, Any]]:
        """The last window's, as it may leave the house."""
        fair = self.fair.get(variant)
        return [] if fair is None else exported(fair)

    def by_group(self, variant: str, now_ms: int) -> list[dict[str, Any]]:
        """Performance, coverage and delay of each declared group, as they may leave the house.

        What came true is that of the newest cohort that was judged; where none was, of the newest one that is old
        enough: it tells how many labels there are.
        """
        groups = self.spec.groups
        if groups is None or not self._has_groups:
            return []
        last = self.last.get(variant)
        cohorts = [cohort for _, cohort in self.old_enough(variant, now_ms)]
        chosen = [cohort for cohort in cohorts if cohort.told & JUDGED] or cohorts
        delays = {
            at: self.cohorts.delay_quantiles(variant, at, LEAST_SHOWN) for at in range(len(self.reference.plan.groups))
        }
        return by_group(
            self.reference,
            last.counts if last is not None else None,
            chosen[-1] if chosen else None,
            delays,
            min_size=groups.min_size,
            min_coverage=self.spec.labels.min_coverage,
        )

    def exported_gaps(self, variant: str) -> list[dict[str, Any]]:
        """The last matured cohort's, by labels, as it may leave the house."""
        gaps = self.gaps.get(variant)
        return [] if gaps is None else exported(gaps)


def fairness_alpha(span_ms: int, sharing: int, distance_ms: int) -> float:
    """Level of a window or a cohort: decisions and labels of all series share the distance that fairness has."""
    return window_alpha(0.5 / sharing, max(1, span_ms) / DAY_MS, distance_ms / DAY_MS)


def _span(start_s: int, end_s: int) -> dict[str, Any]:
    return {"window_from_s": float(start_s), "window_to_s": float(end_s)}


def _place_of(variant: str, decision: int) -> str:
    """Of `Watching._concepts`."""
    return f"{variant}/{decision}"


def _variant_of(place: str) -> str:
    """Of a place of `Watching._concepts`."""
    return place.rpartition("/")[0]


def _unfair(verdict: FamilyVerdict, fair: Fairness) -> Unfair:
    rates = {one.group: one.disparate_impact for one in fair.groups}
    groups = tuple(dict.fromkeys(name.partition(":")[0] for name in verdict.named))
    words = ", ".join(f"{group} gets {rates.get(group, 0.0):.2f} of the rate of {fair.highest}" for group in groups)
    if verdict.state in NOT_KNOWN:
        words = "decisions cannot be compared: fewer than two groups are large enough"
    return Unfair(verdict.state, groups, words)


def _apart(verdict: FamilyVerdict, fair: Fairness) -> Unfair:
    by_name = {one.group: one for one in fair.groups}
    words = []
    for name in verdict.named:
        group, _, gap = name.partition(": ")
        kind = "true" if gap == "tpr_gap" else "false"
        apart = getattr(by_name.get(group), gap, math.nan)
        if not math.isnan(apart):
            words.append(f"by labels the {kind} positive rate of {group} is {apart:+.2f} from that of {fair.highest}")
    groups = tuple(dict.fromkeys(name.partition(":")[0] for name in verdict.named))
    if verdict.state in NOT_KNOWN:
        words = ["groups cannot be compared by labels: fewer than two have enough rows and labels"]
    return Unfair(verdict.state, groups, ", ".join(words))
