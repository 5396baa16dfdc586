"""What the evidence says of one rollout: reports of nodes go in, verdicts of guardrails come out. No clock, no I/O.

Rules of evidence: docs/evidence.md. A unit errs once per guardrail and rollout, whichever worker or node saw it: one
bitmap per guardrail, shared by the variants. A bad event counts with the weight that was in force where it was routed.
Every number here is a sum, so the order of reports within a tick does not matter, and a state goes on where it was
left.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.control.fallbacks import METRIC as FALLBACK_RATIO
from gateway.control.fallbacks import Fallbacks
from gateway.control.intake import Delta
from gateway.control.rails import NOTES, Rail
from gateway.control.shift import METRIC as OUTPUT_SHIFT
from gateway.control.shift import Shift
from gateway.control.signals import COMPUTE_TIME, Sign
from gateway.control.units import MOST_LISTED, Bitmap, Sampled, distinct, shrink
from gateway.shadowfields import FAILED, pairs, whole
from gateway.shadowfields import FIELDS as SHADOW_FIELDS
from gateway.tally import (
    BAD,
    NOTE_BAD,
    NOTE_SEEN,
    OK,
    REVISION_MASK,
    ROUTED,
    SLOW,
    UNCOUNTED,
    happened,
    score_of,
)
from router.evidence.eprocess import log_threshold
from router.evidence.executions import ExecutionShare
from router.evidence.sequences import bernoulli_interval, of_one_side
from router.evidence.srm import SampleRatio
from router.hashing import evidence_index, in_sample
from router.rollout.observed import Verdict
from router.rollout_document import Analysis, Guardrail

SHADOW_DISAGREEMENT: Final = "shadow_disagreement"
MOST_NOTES: Final = 2_000
FEW_NOTES: Final = 600
"""Notes of one report above which the sample's share is halved, and below which it is doubled again: between them a
tick takes 2 to 6 ms."""


Place = tuple[int, str]
"""Routing revision and stratum."""
Weights = Mapping[str, Mapping[str, float]]
"""Routing revision -> stratum -> the canary's share of the slots that randomise there; strata in the order of the
revision's document, by which notes call them."""


class Judge:
    """All guardrails of one rollout.

    Args:
        identity: of the rollout; a new one begins with a new judge.
        sticky: several requests may come from one unit.
        variants: names by the index that notes carry, from the revision `since` on; of those before, the state knows.
        stable, canary: names of the two that are compared.
        since: present revision. It begins with that one, without a state; what was routed before was another rollout's.
        state: what `state` of an earlier judge of the same rollout gave.
    """

    def __init__(
        self,
        identity: str,
        analysis: Analysis,
        *,
        sticky: bool,
        variants: Sequence[str],
        stable: str,
        canary: str,
        since: int = 0,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        usable = state if state and state.get("identity") == identity else None
        self.identity = identity
        self.stable, self.canary = stable, canary
        self.since = int(usable.get("since", 0)) if usable else since
        self.visit = int(usable["visit"]) if usable else 0
        self.step_since = int(usable.get("step_since", 0)) if usable else 0
        self._analysis = analysis
        self._sticky = sticky
        self._named = [(int(first), tuple(names)) for first, names in usable.get("named", ())] if usable else []
        if not self._named or self._named[-1][1] != tuple(variants):
            self._named.append((since if self._named else 0, tuple(variants)))
        rails = [rail for rail in analysis.guardrails if rail.metric in NOTES]
        kept = usable["rails"] if usable else {}
        self.rails = {rail.label: Rail(rail, sticky=sticky, state=kept.get(rail.label)) for rail in rails}
        watched = [one for one in analysis.signals if one.metric in NOTES]
        kept = usable["signals"] if usable else {}
        self.signal_rails = {one.label: Rail(one, sticky=sticky, state=kept.get(one.label)) for one in watched}
        timed = [one for one in analysis.signals if one.metric == COMPUTE_TIME]
        kept = usable.get("executions", {}) if usable else {}
        self.executions = {one.label: ExecutionShare(one.ratio, kept.get(one.label)) for one in timed}
        shifts = [rail for rail in analysis.guardrails if rail.metric == OUTPUT_SHIFT]
        kept = usable.get("shifts", {}) if usable else {}
        self.shifts = {rail.label: Shift(rail, kept.get(rail.label)) for rail in shifts}
        capped = [rail for rail in analysis.guardrails if rail.metric == FALLBACK_RATIO]
        kept = usable.get("fallbacks", {}) if usable else {}
        self.fallbacks = {rail.label: Fallbacks(rail, kept.get(rail.label)) for rail in capped}
        self.counts: dict[str, list[int]] = dict(usable["counts"]) if usable else {}
        self.step: dict[str, list[int]] = dict(usable["step"]) if usable else {}
        self.shares: dict[str, float] = dict(usable.get("shares", {})) if usable else {}
        self.sampled = Sampled(usable["sampled"] if usable else None)
        self.seen = Bitmap(usable["seen"] if usable else "")
        self.first_seen: dict[str, int] = dict(usable["first_seen"]) if usable else {}
        self.shadow: dict[str, list[int]] = {k: whole(v) for k, v in usable["shadow"].items()} if usable else {}
        self.tripped: list[str] = list(usable["tripped"]) if usable else []
        self.shadow_tripped: dict[str, list[int]] = dict(usable["shadow_tripped"]) if usable else {}
        self.missed = int(usable["missed"]) if usable else 0
        self.stale = int(usable["stale"]) if usable else 0
        self.ratio = SampleRatio.from_state(usable["ratio"]) if usable else SampleRatio()

    # ---- taking in ----

    def begin_step(self, visit: int, revision: int = 0) -> None:
        """The rollout has entered a step: what is asked of the step alone begins anew.

        Args:
            revision: in force since; what was routed before, and is heard of later, was of another step.
        """
        if visit == self.visit:
            return
        self.visit, self.step_since = visit, revision
        self.step = {}
        self.sampled.begin()
        self.seen = Bitmap()
        self.first_seen = {}
        self.ratio = SampleRatio()
        for rail in self._every_rail().values():
            rail.new_step()
        for share in self.executions.values():
            share.new_step()
        for one in self.fallbacks.values():
            one.new_step()

    def end(self) -> None:
        """The rollout has ended: its units are forgotten. Verdicts stay as they are, and requests are counted on."""
        self.sampled.end()

    def _every_rail(self) -> dict[str, Rail]:
        return {**self.signal_rails, **self.rails}

    def take(self, delta: Delta, weights: Weights) -> None:
        """Take in what a node has counted since its last report."""
        self.missed += delta.missed
        self._size_sample(len(delta.notes))
        for (revision, variant), counts in delta.shadow.items():
            if revision >= self.since:
                _add_to(self.shadow, variant, counts)
        requests: dict[Place, int] = {}
        for (revision, stratum, variant), counts in delta.counts.items():
            if revision < self.since:
                continue
            _add_to(self.counts, f"{revision}|{stratum}|{variant}", counts)
            weight = weights.get(str(revision), {}).get(stratum, 0.0)
            if stratum == UNCOUNTED or not weight:
                continue  # nothing was drawn: by a rule, or before the canary had a share
            self.shares[f"{revision}|{stratum}"] = weight
            if revision >= self.step_since:
                _add_to(self.step, variant, counts)
            if variant == self.canary:
                for one in self.fallbacks.values() if weight < 1.0 else ():
                    one.routed(counts)
                requests[revision, stratum] = requests.get((revision, stratum), 0) + counts[OK] + counts[BAD]
        lost, events = self._lost(delta), self._events(delta, weights)
        for label, rail in self._every_rail().items():
            found = events[label]
            for place, (canary, every) in (lost if rail.flag == NOTE_BAD else {}).items():
                found[place] = (found.get(place, (0, 0))[0] + canary, found.get(place, (0, 0))[1] + every)
            for place in {*found, *requests}:
                self._feed(rail, place, found.get(place, (0, 0)), requests.get(place, 0), weights)
        for shift in self.shifts.values():
            shift.close()
        for one in self.fallbacks.values():
            one.close()
        self._time(delta)

    def _time(self, delta: Delta) -> None:
        """Executions since the node's last report; of each revision apart, for its thresholds are its own."""
        for revision in sorted({revision for revision, _ in delta.executions if revision >= self.since}):
            canary, stable = (delta.executions.get((revision, name), {}) for name in (self.canary, self.stable))
            for share in self.executions.values():
                share.tick(canary, stable)

    def _size_sample(self, notes: int) -> None:
        if notes > MOST_NOTES:
            self.sampled.thin()
        elif 0 < notes < FEW_NOTES and len(self.sampled.units) < MOST_LISTED // 3:
            self.sampled.widen()

    def _feed(self, rail: Rail, place: Place, events: tuple[int, int], requests: int, weights: Weights) -> None:
        """Erring units of one place, (canary's, all), and the canary's requests there."""
        canary, every = events
        weight = weights.get(str(place[0]), {}).get(place[1])
        if weight is None:
            self.stale += every
            return
        rail.harmed(weight, canary, every)
        if every and 0.0 < weight < 1.0:
            _add_to(rail.events, repr(weight), (canary, every))
        if not self._sticky:
            # A failure may be reported a tick before or after its request is counted as ended.
            rail.saved(weight, canary, every, max(canary, requests))

    def _lost(self, delta: Delta) -> dict[Place, tuple[int, int]]:
        """Requests that died with a worker: (canary's, all) by place; each is a unit of its own."""
        found: dict[Place, tuple[int, int]] = {}
        for (revision, stratum, variant), count in delta.lost.items():
            if revision >= self.since and stratum != UNCOUNTED and variant in (self.canary, self.stable):
                canary, every = found.get((revision, stratum), (0, 0))
                found[revision, stratum] = (canary + count * (variant == self.canary), every + count)
        return found

    def _events(self, delta: Delta, weights: Weights) -> dict[str, dict[Place, tuple[int, int]]]:
        """Guardrail -> place -> (canary's, all) bad events of units that had not erred before."""
        known = {int(text) & REVISION_MASK: int(text) for text in weights if int(text) >= self.since}
        found: dict[str, dict[Place, tuple[int, int]]] = {label: {} for label in self._every_rail()}
        for flags, masked, stratum_index, variant_index, unit in delta.notes:
            if not flags:
                continue
            revision = known.get(masked)
            strata = [*weights[str(revision)].items()] if revision is not None else []
            if revision is None or stratum_index >= len(strata):
                self.stale += 1
                continue
            variant = self._variant(revision, variant_index)
            stratum, weight = strata[stratum_index]
            if variant not in (self.canary, self.stable) or not weight:
                continue  # at 0 nothing was drawn, as in `take`
            if flags & NOTE_SEEN and in_sample(unit, self.sampled.doublings):
                self._see(unit, variant == self.canary, flags, weight, of_step=revision >= self.step_since)
            if weight >= 1.0:
                continue  # What is no evidence must not keep a unit from being evidence once it is drawn.
            what, place = happened(flags), (revision, stratum)
            for label, rail in self._every_rail().items():
                if what & rail.flag and rail.bitmap.add(evidence_index(unit)):
                    canary, every = found[label].get(place, (0, 0))
                    found[label][place] = (canary + (variant == self.canary), every + 1)
        return found

    def _variant(self, revision: int, index: int) -> str:
        """The name that a note of this revision means; "" = none."""
        names = next(names for first, names in reversed(self._named) if first <= revision)
        return names[index] if index < len(names) else ""

    def _see(self, unit: int, canary: bool, flags: int, weight: float, *, of_step: bool) -> None:
        """A request of a unit in the sample."""
        score = score_of(flags)
        if score is not None:
            for shift in self.shifts.values():
                shift.see(unit, canary, score, weight)
        failed, drawn = bool(flags & NOTE_BAD), 0.0 < weight < 1.0
        for one in self.fallbacks.values() if canary and drawn else ():
            one.see(unit, failed)
        if not of_step or self.sampled.ended is not None:
            return
        # Not by the list: a unit that left it when it was thinned may come back.
        new = self.seen.add(evidence_index(unit))
        if new:
            name = self.canary if canary else self.stable
            self.first_seen[name] = self.first_seen.get(name, 0) + 1
        if new and drawn:
            self.ratio.add((1.0 - weight, weight), (int(not canary), int(canary)))
        # A unit whose place another one has taken is not counted, and no error of it is. The place comes from a hash of
        # the unit alone, so this leaves out units of both variants alike, and those that err as often as the others.
        counted = new and canary and drawn
        for one in self.fallbacks.values() if counted else ():
            one.see_in_step(failed)
        erred = self.sampled.see(unit, canary, flags, counted=counted)
        if not self._sticky or not (counted or erred):
            return
        for rail in self.rails.values():
            bad = int(bool(erred & rail.flag))
            # Per unit; the ratio of such counts is not read, see `_of_events`.
            rail.saved(weight, bad, bad, int(counted))

    # ---- verdicts ----

    def verdicts(self, weight: float) -> dict[str, Verdict]:
        """Every guardrail as it stands now.

        Args:
            weight: the canary's share in force.
        """
        found = {}
        for rail in self._analysis.guardrails:
            if rail.metric in NOTES:
                verdict = self._of_events(self.rails[rail.label], weight)
            elif rail.metric == OUTPUT_SHIFT:
                verdict = self.shifts[rail.label].verdict(self._analysis, weight, tripped=rail.label in self.tripped)
            elif rail.metric == FALLBACK_RATIO:
                verdict = self.fallbacks[rail.label].verdict(self._analysis)
            else:
                verdict = self._of_shadow(rail)
            if verdict.tripped and rail.label not in self.tripped:
                self.tripped.append(rail.label)
                if rail.metric == SHADOW_DISAGREEMENT:
                    self.shadow_tripped[rail.label] = list(self.shadow[self.canary])
            found[rail.label] = verdict
        return found

    def _of_events(self, rail: Rail, weight: float) -> Verdict:
        analysis, kept = self._analysis, len(self._analysis.guardrails)
        if self._sticky and self.sampled.ended is None:
            rail.units(self.sampled.moments(True, rail.flag), self.sampled.moments(False, rail.flag))
        done = {variant: self.requests(variant) for variant in (self.canary, self.stable)}
        passes = rail.safety.crossed(analysis.beta) and not self._is_blind(rail, done[self.stable])
        tripped = rail.harm.crossed(analysis.alpha, kept) or rail.rail.label in self.tripped
        canary, stable = done.values()
        # Who is shown to be no worse would not have been missed when worse, also without a single error; and what was
        # found, and is only warned of, has been findable.
        known = passes or tripped
        return Verdict(
            tripped=tripped,
            passes=passes,
            detectable_ratio=1.0 if known else rail.detectable(canary, stable, weight, analysis.alpha, kept),
            insufficient=not all(done.values()),
            saturated=rail.bitmap.saturated,
            log_e=rail.harm.peak_log_e,
            text=self._in_words(rail, done, kept),
        )

    def _is_blind(self, rail: Rail, stable_requests: int) -> bool:
        """So much of stable is slow that no canary could be worse by the margin: a pass would say nothing."""
        slow = self._bad(self.stable, rail.rail.metric)
        return rail.rail.metric == "latency" and slow * rail.margin.ratio >= stable_requests > 0

    def _in_words(self, rail: Rail, done: Mapping[str, int], kept: int) -> str:
        rates = ", ".join(f"{name} {self._bad(name, rail.rail.metric):,} of {count:,}" for name, count in done.items())
        analysis, harm, safety = self._analysis, rail.harm, rail.safety
        return (
            f"in this step {rates}; of {harm.all_events:,} units that erred {harm.canary_events:,} were the canary's: "
            f"log e {harm.log_e:.2f}, rollback at {log_threshold(analysis.alpha, kept):.2f}; no worse than "
            f"{rail.margin.ratio:g} times: {safety.peak_log_e:.2f} of {log_threshold(analysis.beta):.2f}"
        )

    def _of_shadow(self, rail: Guardrail) -> Verdict:
        counts = self.shadow.get(self.canary, [0] * len(SHADOW_FIELDS))
        compared, disagreed = pairs(counts)
        limit, kept = rail.max or 0.0, len(self._analysis.guardrails)
        if not compared:
            return Verdict(insufficient=True, text="nothing was compared yet")
        harm = bernoulli_interval(disagreed, compared, of_one_side(self._analysis.alpha / kept))
        safe = bernoulli_interval(disagreed, compared, of_one_side(self._analysis.beta))
        return Verdict(
            tripped=harm.low > limit or rail.label in self.tripped,
            passes=safe.high < limit,
            detectable_ratio=1.0,
            text=f"{disagreed:,} of {compared:,} answers differ ({counts[FAILED]:,} failed), surely {harm.low:.2%} to "
            f"{harm.high:.2%}; at most {limit:.2%} may",
        )

    def signs(self) -> list[Sign]:
        """Every signal on events as it stands now."""
        asked = bool(self.requests(self.canary) and self.requests(self.stable))
        found = []
        for signal in self._analysis.signals:
            rail, share = self.signal_rails.get(signal.label), self.executions.get(signal.label)
            if rail is not None:
                found.append(Sign(signal, rail.harm, rail.events, asked))
            elif share is not None:
                found.append(Sign(signal, share.harm, share.events, share.compared, share.step))
        return found

    def speaking(self) -> dict[str, str]:
        """Signals on events that are against the canary now, and what they say."""
        analysis = self._analysis
        return {sign.signal.label: sign.text(analysis) for sign in self.signs() if sign.speaks(analysis)}

    # ---- numbers for the rollout ----

    def requests(self, variant: str) -> int:
        """Requests of a variant in this step that ended in an answer or a failure."""
        counts = self.step.get(variant)
        return counts[OK] + counts[BAD] if counts else 0

    def _bad(self, variant: str, metric: str) -> int:
        counts = self.step.get(variant)
        return counts[BAD if metric == "error_rate" else SLOW] if counts else 0

    def routed(self, variant: str) -> int:
        """Requests of a variant in this step that were randomised to it."""
        counts = self.step.get(variant)
        return counts[ROUTED] if counts else 0

    def units(self, variant: str) -> int:
        """Distinct units of a variant in this step: an estimate from the sample where units come again."""
        if not self._sticky:
            return self.requests(variant)
        first_seen, requests = self.first_seen.get(variant, 0), self.requests(variant)
        return distinct(self.sampled, canary=variant == self.canary, first_seen=first_seen, requests=requests)

    def compared(self) -> int:
        """Requests that the canary was asked in the shadow."""
        counts = self.shadow.get(self.canary)
        return pairs(counts)[0] if counts else 0

    def evidence(self, weight: float) -> dict[str, Any]:
        """What the verdicts rest on, for the audit: `gateway.control.replay` computes them anew from it.

        Args:
            weight: as `verdicts`.
        """
        return {
            "identity": self.identity,
            "stable": self.stable,
            "canary": self.canary,
            "sticky": self._sticky,
            "weight": weight,
            "step": self.step,
            "alpha": self._analysis.alpha,
            "beta": self._analysis.beta,
            "guardrails": len(self._analysis.guardrails),
            "rails": {label: rail.evidence() for label, rail in self.rails.items()},
            "shifts": {label: shift.evidence() for label, shift in self.shifts.items()},
            "signals": {sign.signal.label: sign.evidence(self._analysis) for sign in self.signs()},
            "min_detect": self._analysis.min_detect,
            "shadow": self.shadow.get(self.canary),
            "shadow_failed": True,  # its failures count as other answers; in records of before they did not
            "shadow_tripped": self.shadow_tripped,
            "shadow_max": {
                rail.label: rail.max for rail in self._analysis.guardrails if rail.metric == SHADOW_DISAGREEMENT
            },
            "fallbacks": {label: one.evidence() for label, one in self.fallbacks.items()},
            "counts": self.counts,
            "shares": self.shares,
            "missed": self.missed,
        }

    def shrink(self, chars: int) -> None:
        """Make `state` so many characters shorter, as far as it can be.

        Bitmaps are folded; then spans that only explain go, and half of the listed units. Evidence of harm stays what
        it is, and all that comes after means what it did.
        """
        rails = self._every_rail().values()
        seen = [*(one.seen for one in self.shifts.values()), *(one.seen for one in self.fallbacks.values()), self.seen]
        chars -= shrink([*(rail.bitmap for rail in rails), *seen], chars)
        if chars > 0:
            for rail in rails:
                rail.trail.forget()
            self.sampled.thin()

    def state(self) -> dict[str, Any]:
        """Everything, as JSON holds it exactly."""
        return {
            "identity": self.identity,
            "since": self.since,
            "named": [[first, list(names)] for first, names in self._named],
            "visit": self.visit,
            "step_since": self.step_since,
            "rails": {label: rail.state() for label, rail in self.rails.items()},
            "shifts": {label: shift.state() for label, shift in self.shifts.items()},
            "fallbacks": {label: one.state() for label, one in self.fallbacks.items()},
            "signals": {label: rail.state() for label, rail in self.signal_rails.items()},
            "executions": {label: share.state() for label, share in self.executions.items()},
            "counts": self.counts,
            "shares": self.shares,
            "step": self.step,
            "sampled": self.sampled.state(),
            "seen": self.seen.state(),
            "first_seen": self.first_seen,
            "shadow": self.shadow,
            "tripped": self.tripped,
            "shadow_tripped": self.shadow_tripped,
            "missed": self.missed,
            "stale": self.stale,
            "ratio": self.ratio.state(),
        }


def _add_to(sums: dict[str, list[int]], key: str, counts: Sequence[int]) -> None:
    before = sums.get(key)
    sums[key] = list(counts) if before is None else [a + b for a, b in zip(before, counts, strict=True)]
