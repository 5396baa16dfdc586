"""Would the same be decided again? Every verdict of an audit record, computed anew from the counts in it. Pure.

Formulas: docs/evidence.md. They are written out here once more rather than called where they were used, so that a slip
in one of the two shows. Numbers agree when they differ by less than rounding explains.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from gateway.control.checks import CLOSE, Check, same
from gateway.control.fallbacks import detectable as detectable_fallbacks
from gateway.control.monitorreplay import monitor_checks
from gateway.control.shift import detectable, totals
from gateway.control.units import BITMAP_BITS
from gateway.monitor.settings import Monitor
from gateway.monitor.settings import parse as parse_monitor
from gateway.shadowfields import pairs
from gateway.store.base import AuditRecord
from gateway.tally import BAD, OK
from router.document import PolicyError
from router.evidence.planning import Guardrail, careful_rate, smallest_detectable
from router.evidence.promotion import below_log_e
from router.evidence.sequences import Moments, bernoulli_interval, of_one_side, rate_log_e, unit_ratio_log_e
from router.evidence.special import log_add, log_sum
from router.hashing import SLOTS
from router.policy import TrafficPolicy, parse

_LEAVES_ALONE: Final = frozenset({"fallback", "hold", "go on", "approve", "pause", "resume"})
_FAILED: Final = (ValueError, KeyError, TypeError, IndexError, AttributeError, ArithmeticError, AssertionError)
"""What edited evidence can raise when it is computed with."""
_READERS: Final[Mapping[str, Callable[[object], Monitor | TrafficPolicy]]] = {"monitor": parse_monitor, "policy": parse}
"""Kind of what was written in the store -> reads its documents."""


class Replay(Struct, frozen=True, kw_only=True):
    """What replaying a record found.

    Attributes:
        same: every check agrees.
        text: "same verdict", or what does not agree.
        partly: what could not be computed anew, in words.
    """

    same: bool
    text: str
    checks: tuple[Check, ...]
    partly: tuple[str, ...] = ()


def replay(record: AuditRecord, previous: AuditRecord | None) -> Replay:
    """Compute a record's verdicts anew and hold it against the one before.

    Args:
        previous: the record of the same policy before this one; None = it is the first.
    """
    partly: list[str] = []
    checks = [*_bytes(record)]
    try:
        if record.record.get("kind_of") == "rollout":
            checks += _rollout(record.record, partly)
        elif "document" in record.record:
            checks += _document(record)
        elif "grounds" in record.record:
            checks += monitor_checks(record.record, partly)
        else:
            partly.append("no verdict is recomputed: only the record's bytes and its place in the chain are checked")
        checks += _order(record, previous)
    except _FAILED as error:
        checks.append(Check("the record can be computed with", True, f"{type(error).__name__}: {error}"[:200], False))
    wrong = [check for check in checks if not check.ok]
    text = "same verdict"
    if wrong:
        told = "; ".join(f"{one.what}: recorded {_short(one.recorded)}, is {_short(one.recomputed)}" for one in wrong)
        text = f"mismatch: {told}"
    return Replay(same=not wrong, text=text, checks=tuple(checks), partly=tuple(partly))


def _short(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)[:120]


# ---- any record ----


def _bytes(record: AuditRecord) -> Iterator[Check]:
    """The bytes that the chain holds are what is shown, and have the hash that stands beside them."""
    body = json.loads(record.body)
    yield same("the fields that are shown", record.record, body["record"])
    hashed = hashlib.sha256(bytes.fromhex(body["prev"]) + record.body).hexdigest()
    yield same("hash of the record", record.hash, hashed)


def _order(record: AuditRecord, previous: AuditRecord | None) -> Iterator[Check]:
    """Before and after of a record and of the one before it follow on each other."""
    said = record.record
    before, after, what = said.get("revision_before"), said.get("revision_after"), said.get("what")
    if not isinstance(before, int) or not isinstance(after, int):
        return
    # A policy that is made anew goes on from the revision of the deleted one, which its record does not say.
    anew = before == 0 and what in ("apply", "rollback")
    grown = 0 if what == "delete" else after if anew else before + int(said.get("routed", True))
    yield same("revision after, by what was done", after, grown)
    if what in _LEAVES_ALONE and (what == "fallback" or not said.get("routed")):
        yield same(f"shares, which {what} leaves alone", said.get("shares_after"), said.get("shares_before"))
    if previous is None:
        return
    gone = previous.record.get("what") == "delete"
    last = 0 if gone else previous.record.get("revision_after")
    if isinstance(last, int):
        yield same("revision before, by the record before", before, last)
    yield same("stored later than the record before", True, gone or record.before >= previous.after)


def _document(record: AuditRecord) -> Iterator[Check]:
    """An applied document can be read, and is of the name it was applied to; a policy pins what it names."""
    said = record.record
    try:
        found = _READERS[record.kind](said["document"])
    except PolicyError as error:
        yield Check("the document can be read", True, str(error)[:200], False)
        return
    yield same("name of the document", record.name, found.metadata.name)
    if isinstance(found, TrafficPolicy):
        yield same("variants of the document", sorted(said["variants"]), sorted(found.names))


# ---- decisions of a rollout ----


def _rollout(said: Mapping[str, Any], partly: list[str]) -> Iterator[Check]:
    yield from _shares(said)
    states: dict[str, str] = {}
    evidence: dict[str, Any] = {}
    if said.get("evidence"):
        evidence = json.loads(said["evidence"])
        if evidence["identity"] == said["identity"]:
            for label, signal in evidence.get("signals", {}).items():
                yield from _signal(f"signal {label}", signal, evidence["alpha"], partly)
            for label, mark in said["marks"].items():
                yield from _guardrail(label, mark, evidence, partly)
                states[label] = _state_of(label, evidence)
        else:
            partly.append("the evidence is of another rollout: no verdict is recomputed")
            evidence = {}
    elif said.get("evidence_left_out"):
        partly.append("the evidence was too large for the store: no verdict is recomputed")
        return
    elif said.get("marks"):
        partly.append("nothing had been counted yet: there is no verdict to recompute")
    yield from _decided(said, states)
    yield from _held(said, evidence.get("signals", {}), evidence.get("alpha", 1.0))


def _shares(said: Mapping[str, Any]) -> Iterator[Check]:
    """The canary's slots as a number and among the shares; no slot is without an owner."""
    after = said["shares_after"]
    yield same("slots that are owned", SLOTS, sum(after.values()))
    if said["what"] in ("step", "abort", "superseded", "promoting"):
        yield same("slots of the canary among the shares", said["slots_after"], after.get(said["canary"], 0))


def _decided(said: Mapping[str, Any], states: Mapping[str, str]) -> Iterator[Check]:
    """What was done follows from the verdicts."""
    actor, what = str(said["actor"]), said["what"]
    label = actor.removeprefix("auto:guardrail:")
    if what == "abort" and label != actor:
        yield same(f"guardrail {label}, for which it was rolled back", "tripped", states.get(label, "no verdict"))
    if _leaves_analysis(said) and actor == "auto:rollout":
        for name, state in states.items():
            yield same(f"guardrail {name}, which promotion asks for", "passes", state)
    if what in ("promoting", "step") and actor == "auto:rollout":
        yield same("guardrails that had tripped", [], [name for name, state in states.items() if state == "tripped"])


def _held(said: Mapping[str, Any], signals: Mapping[str, Any], alpha: float) -> Iterator[Check]:
    """A signal on events for which it was held, or rolled back, does speak against the canary."""
    for label, signal in signals.items():
        named = said["what"] == "hold" and re.search(rf"\bsignal {re.escape(label)}(?=[:, ]|$)", said["reason"])
        if named or said["actor"] == f"auto:signal:{label}":
            yield same(f"signal {label}, for which it was {said['what']}", True, _speaks(signal["harm"], alpha))


def _leaves_analysis(said: Mapping[str, Any]) -> bool:
    """All traffic for the canary, from less: the last analysed step is left, and promotion may follow."""
    return said["what"] in ("step", "promoting") and said["slots_after"] == SLOTS > said["slots_before"]


# ---- guardrails ----


def _guardrail(label: str, mark: Mapping[str, Any], evidence: Mapping[str, Any], partly: list[str]) -> Iterator[Check]:
    name = f"guardrail {label}"
    if label in evidence.get("shifts", {}):
        shift = evidence["shifts"][label]
        yield from _shift(name, shift, partly)
        ratio = _seen_shift(shift, evidence)
        yield same(f"{name}: log e that was decided on", mark["log_e"], shift["bins"]["peak_log_e"])
        yield same(f"{name}: smallest ratio that could be seen", mark["detectable_ratio"], ratio)
    if label in evidence.get("fallbacks", {}):
        kept = evidence["fallbacks"][label]
        yield same(f"{name}: largest log e", kept["peak_log_e"], _peak(kept))
        yield same(f"{name}: log e that was decided on", mark["log_e"], kept["peak_log_e"])
        ratio = _seen_fallbacks(kept, evidence)
        yield same(f"{name}: smallest ratio that could be seen", mark["detectable_ratio"], ratio)
    if label in evidence["rails"]:
        rail = evidence["rails"][label]
        yield from _harm(name, rail, partly)
        yield from _safety(name, rail)
        yield same(f"{name}: log e that was decided on", mark["log_e"], rail["harm"]["peak_log_e"])
        yield same(f"{name}: smallest ratio that could be seen", mark["detectable_ratio"], _detectable(rail, evidence))
    yield same(f"{name}: verdict", mark["state"], _state_of(label, evidence))


def _log_likelihoods(events: Mapping[str, Sequence[int]], null: float, ratios: Sequence[float]) -> list[float]:
    """Per ratio R: ln of the chance of whose events these are under R, over that under the null ratio."""
    found = []
    for ratio in ratios:
        total = 0.0
        for text, (canary, every) in events.items():
            weight = float(text)
            odds = math.log1p((ratio - 1.0) * weight) - math.log1p((null - 1.0) * weight)
            total += canary * math.log(ratio / null) - every * odds
        found.append(total)
    return found


def _added(spans: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for span in spans:
        for weight, (canary, every) in span.items():
            before = found.get(weight, [0, 0])
            found[weight] = [before[0] + canary, before[1] + every]
    return found


def _mixture(spans: Sequence[Mapping[str, Sequence[int]]], rest: Mapping[str, Any], harm: Mapping[str, Any]) -> float:
    """ln of the mean over ratios of the mixture over start times: at the begin, and after each span."""
    now = _log_likelihoods(_added([*spans, rest]), harm["null_ratio"], harm["ratios"])
    parts = [one for of_ratio in _starts(spans, now, harm) for one in of_ratio]
    return log_add(log_sum(parts) - math.log(len(now)), -math.log(len(spans) + 2.0))


def _starts(spans: Sequence[Mapping[str, Any]], now: Sequence[float], harm: Mapping[str, Any]) -> list[list[float]]:
    """Per ratio, of each start j: ln of 1/((j+1)(j+2)) times the likelihood ratio since that start."""
    found = [[one - math.log(2.0)] for one in now]
    for number in range(1, len(spans) + 1):
        then = _log_likelihoods(_added(spans[:number]), harm["null_ratio"], harm["ratios"])
        share = math.log((number + 1.0) * (number + 2.0))
        for parts, after, before in zip(found, now, then, strict=True):
            parts.append(after - before - share)
    return found


def _harm(name: str, rail: Mapping[str, Any], partly: list[str]) -> Iterator[Check]:
    harm, trail = rail["harm"], rail["trail"]
    likely = _log_likelihoods(rail["events"], harm["null_ratio"], harm["ratios"])
    yield from _events(name, rail, likely)
    yield same(f"{name}: starts", harm["starts"], trail["cut"] + len(trail["spans"]) + 1)
    if trail["cut"]:
        partly.append(f"{name}: {trail['cut']} starts of the mixture are not in the record, their sums are")
        yield same(f"{name}: log e", harm["log_e"], _from_sums(likely, harm))
        return
    spans, (peak_spans, peak_rest) = trail["spans"], trail["peak"]
    yield same(f"{name}: events by span", rail["events"], _added([*spans, trail["open"]]))
    yield same(f"{name}: spans before the largest log e", True, 0 <= peak_spans <= len(spans))
    begun = [log_sum(parts) - now for parts, now in zip(_starts(spans, likely, harm), likely, strict=True)]
    for ratio, recorded, recomputed in zip(harm["ratios"], harm["log_starts"], begun, strict=True):
        yield same(f"{name}: log weight of the starts for {ratio:g} times", recorded, recomputed)
    yield same(f"{name}: log e", harm["log_e"], _mixture(spans, trail["open"], harm))
    yield same(f"{name}: largest log e", harm["peak_log_e"], _mixture(spans[:peak_spans], peak_rest, harm))


def _events(name: str, kept: Mapping[str, Any], likely: Sequence[float]) -> Iterator[Check]:
    harm = kept["harm"]
    for ratio, recorded, recomputed in zip(harm["ratios"], harm["log_likelihoods"], likely, strict=True):
        yield same(f"{name}: log likelihood ratio of {ratio:g} times", recorded, recomputed)
    sums = [sum(counts[column] for counts in kept["events"].values()) for column in (0, 1)]
    yield same(f"{name}: events", [harm["canary_events"], harm["all_events"]], sums)


def _from_sums(likely: Sequence[float], harm: Mapping[str, Any]) -> float:
    """ln of the mixture, where of its starts only the sums are known."""
    mixed = [a + b for a, b in zip(likely, harm["log_starts"], strict=True)]
    return log_add(log_sum(mixed) - math.log(len(mixed)), -math.log(harm["starts"] + 1.0))


def _signal(name: str, signal: Mapping[str, Any], alpha: float, partly: list[str]) -> Iterator[Check]:
    """A signal on events: likelihoods from the events, its e-value, and whether it speaks."""
    harm = signal["harm"]
    likely = _log_likelihoods(signal["events"], harm["null_ratio"], harm["ratios"])
    yield from _events(name, signal, likely)
    yield same(f"{name}: log e", harm["log_e"], _from_sums(likely, harm))
    yield same(f"{name}: speaks", signal["speaks"], _speaks(harm, alpha))
    if harm["starts"] == 1:
        yield same(
            f"{name}: log weight of the only start", True, _close(harm["log_starts"], [-math.log(2.0)] * len(likely))
        )
    else:
        partly.append(f"{name}: the starts of the mixture are not in the record, their sums are")


def _speaks(harm: Mapping[str, Any], alpha: float) -> bool:
    """Now; unlike a guardrail it may fall silent again."""
    return float(harm["log_e"]) >= math.log(1.0 / alpha)


def _shift(name: str, shift: Mapping[str, Any], partly: list[str]) -> Iterator[Check]:
    """Scores by bin: every likelihood from the units, and the mean over bins and directions."""
    bins, sides = shift["bins"], []
    for at, pair in enumerate(zip(bins["up"], bins["down"], strict=True)):
        events = {weight: [canary[at], every[at]] for weight, (canary, every) in shift["events"].items()}
        for side in pair:
            likely = _log_likelihoods(events, side["null_ratio"], side["ratios"])
            yield same(f"{name}: log likelihood ratios of bin {at}", True, _close(side["log_likelihoods"], likely))
            sides.append(_from_sums(likely, side))
    yield same(f"{name}: log e", bins["log_e"], log_sum(sides) - math.log(len(sides)))
    yield same(f"{name}: largest log e is no smaller", True, bins["peak_log_e"] >= bins["log_e"] - CLOSE)
    partly.append(f"{name}: the starts of the mixture are not in the record, their sums are")


def _close(recorded: Sequence[float], recomputed: Sequence[float]) -> bool:
    pairs = zip(recorded, recomputed, strict=True)
    return all(math.isclose(a, b, rel_tol=CLOSE, abs_tol=CLOSE) for a, b in pairs)


def _seen_shift(shift: Mapping[str, Any], evidence: Mapping[str, Any]) -> float | None:
    return detectable(shift["events"], evidence["weight"], shift["margin"], evidence["alpha"], evidence["guardrails"])


def _shift_state(shift: Mapping[str, Any], evidence: Mapping[str, Any]) -> str:
    if shift["bins"]["peak_log_e"] >= math.log(evidence["guardrails"] / evidence["alpha"]):
        return "tripped"
    if shift.get("seen_units", 0) >= shift.get("seen_places", BITMAP_BITS) // 2:
        return "saturated"
    canary, every = totals(shift["events"])
    if not 0 < canary < every:
        return "insufficient"
    ratio = _seen_shift(shift, evidence)
    return "passes" if ratio is not None and ratio <= evidence["min_detect"] else "undecided"


def _peak(kept: Mapping[str, Any]) -> float:
    failed, units = kept["peak"]
    return rate_log_e(failed, units, kept["max"])


def _fallbacks_trip(kept: Mapping[str, Any], evidence: Mapping[str, Any]) -> bool:
    return _peak(kept) >= math.log(evidence["guardrails"] / evidence["alpha"])


def _fallbacks_pass(kept: Mapping[str, Any], evidence: Mapping[str, Any]) -> bool:
    """Of units of this step those that did not fall back, against as many as the limit leaves."""
    failed, units = kept["step"]
    return rate_log_e(units - failed, units, 1.0 - kept["max"]) >= math.log(1.0 / evidence["beta"])


def _seen_fallbacks(kept: Mapping[str, Any], evidence: Mapping[str, Any]) -> float | None:
    if _fallbacks_pass(kept, evidence) or _fallbacks_trip(kept, evidence):
        return 1.0
    return detectable_fallbacks(kept["units"][1], kept["max"], evidence["alpha"], evidence["guardrails"])


def _fallback_state(kept: Mapping[str, Any], evidence: Mapping[str, Any]) -> str:
    if _fallbacks_trip(kept, evidence):
        return "tripped"
    if kept["seen_units"] >= kept["seen_places"] // 2:
        return "saturated"
    if not kept["step"][1]:
        return "insufficient"
    return "passes" if _fallbacks_pass(kept, evidence) else "undecided"


def _safety(name: str, rail: Mapping[str, Any]) -> Iterator[Check]:
    safety, trail = rail["safety"], rail["trail"]
    if trail["seen"]:
        now = _safe_log_e({**trail["seen"], "step": trail["step"]}, safety)
        counted = [safety["canary_bad"], safety["canary_total"]]
        taken = [trail["seen"]["bad"], trail["seen"]["total"]]
        kept = [safety["units_log_e"] if safety["sticky"] else safety["ratio"]["log_e"], safety["absolute_log_e"]]
        yield same(f"{name}: canary's failures and requests", counted, taken)
        if not safety["sticky"]:
            yield from _ratio(name, safety, trail["step"])
        for what, recorded, recomputed in zip(("ratio", "bad rate"), kept, now, strict=True):
            yield same(f"{name}: log e of a {what} below the margin", recorded, recomputed)
    largest = _mixed(_safe_log_e(trail["safest"], safety), safety) if trail["safest"] else 0.0
    yield same(f"{name}: largest log e of being no worse", safety["peak_log_e"], largest)


def _ratio(name: str, safety: Mapping[str, Any], step: Mapping[str, Any]) -> Iterator[Check]:
    ratio = safety["ratio"]
    likely = _log_likelihoods(step, safety["margin_ratio"], ratio["ratios"])
    for one, recorded, recomputed in zip(ratio["ratios"], ratio["log_likelihoods"], likely, strict=True):
        yield same(f"{name}: log likelihood ratio of {one:g} times in this step", recorded, recomputed)
    sums = [sum(counts[column] for counts in step.values()) for column in (0, 1)]
    yield same(f"{name}: events of this step", [ratio["canary_events"], ratio["all_events"]], sums)


def _safe_log_e(seen: Mapping[str, Any], safety: Mapping[str, Any]) -> list[float]:
    """ln of the e-values against "the ratio is too large" and "the bad rate is too large"."""
    limit, ratios = safety["margin_absolute"], safety["ratio"]["ratios"]
    absolute = below_log_e(seen["bad"], seen["total"], limit) if limit is not None else 0.0
    if safety["sticky"]:
        rates = [Moments(*seen[arm]) if arm in seen else Moments(0, 0.0, 0.0) for arm in ("canary", "stable")]
        return [unit_ratio_log_e(rates[0], rates[1], safety["margin_ratio"]), absolute]
    likely = _log_likelihoods(seen["step"], safety["margin_ratio"], ratios)
    return [log_sum(likely) - math.log(len(ratios)), absolute]


def _mixed(both: Sequence[float], safety: Mapping[str, Any]) -> float:
    return both[0] if safety["margin_absolute"] is None else log_add(both[0], both[1]) - math.log(2.0)


def _done(evidence: Mapping[str, Any]) -> list[int]:
    """Requests of canary and stable in the step that ended."""
    counts = [evidence["step"].get(evidence[arm]) for arm in ("canary", "stable")]
    return [one[OK] + one[BAD] if one else 0 for one in counts]


def _detectable(rail: Mapping[str, Any], evidence: Mapping[str, Any]) -> float | None:
    if _passes(rail, evidence) or ("begun" in rail and _trips(rail, evidence)):
        return 1.0
    (canary, stable), margin = _done(evidence), rail["safety"]["margin_ratio"]
    total = canary + stable
    if "begun" in rail:
        base = careful_rate(sum(every - bad for bad, every in rail["trail"]["step"].values()), stable)
        plan = Guardrail(margin, evidence["alpha"], evidence["guardrails"], begun=rail["begun"])
    else:  # a record of before the age of the process was known
        base = min(1.0, rail["step_events"] / total) if total else 0.0
        plan = Guardrail(margin, evidence["alpha"], evidence["guardrails"])
    found = smallest_detectable(total, evidence["weight"], base, plan)
    return found if found is not None and math.isfinite(found) else None


def _passes(rail: Mapping[str, Any], evidence: Mapping[str, Any]) -> bool:
    return float(rail["safety"]["peak_log_e"]) >= math.log(1.0 / evidence["beta"])


def _trips(rail: Mapping[str, Any], evidence: Mapping[str, Any]) -> bool:
    return float(rail["harm"]["peak_log_e"]) >= math.log(evidence["guardrails"] / evidence["alpha"])


def _state_of(label: str, evidence: Mapping[str, Any]) -> str:
    """The verdict in a word, by thresholds alpha / K and beta."""
    if label in evidence.get("shifts", {}):
        return _shift_state(evidence["shifts"][label], evidence)
    if label in evidence.get("fallbacks", {}):
        return _fallback_state(evidence["fallbacks"][label], evidence)
    rail = evidence["rails"].get(label)
    if rail is None:
        return _shadow_state(label, evidence)
    if _trips(rail, evidence):
        return "tripped"
    if rail["erred_units"] >= rail.get("erred_places", BITMAP_BITS) // 2:
        return "saturated"
    if not all(_done(evidence)):
        return "insufficient"
    return "passes" if _passes(rail, evidence) else "undecided"


def _shadow_state(label: str, evidence: Mapping[str, Any]) -> str:
    """A rate of disagreement against the most that is allowed, by an interval that holds at any time."""
    limit = evidence["shadow_max"][label] or 0.0
    alpha, beta = evidence["alpha"] / evidence["guardrails"], evidence["beta"]
    tripped = evidence["shadow_tripped"].get(label)
    if tripped and bernoulli_interval(*_differ(tripped, evidence), of_one_side(alpha)).low > limit:
        return "tripped"
    disagreed, compared = _differ(evidence["shadow"] or [0, 0, 0], evidence)
    if not compared:
        return "insufficient"
    return "passes" if bernoulli_interval(disagreed, compared, of_one_side(beta)).high < limit else "undecided"


def _differ(counts: Sequence[int], evidence: Mapping[str, Any]) -> tuple[int, int]:
    """Other answers of a shadow, of how many."""
    compared, disagreed = pairs(counts) if evidence.get("shadow_failed") else counts[:2]
    return disagreed, compared
