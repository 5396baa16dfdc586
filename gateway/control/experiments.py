"""The report of an experiment: computed from counts and rewards, and from nothing else. Pure.

Health stands first: a comparison of groups that are not what they should be says nothing. Intervals hold however often
one looks (`router.evidence.sequences`); an effect is estimated within each epoch and the estimates are weighted by
their inverse variance; values of two epochs are never pooled. Quantiles of latency decide nothing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from gateway import __version__
from gateway.control.health import Health
from gateway.control.rewards import DELAYS_S, Group, Rewards
from gateway.control.study import Study, StudyGoal, shares_of
from gateway.tally import BAD, FALLBACK, OK, ROUTED, SLOW
from router.evidence.planning import POWER_80
from router.evidence.sequences import (
    MIN_UNITS,
    Estimate,
    Interval,
    Moments,
    asymptotic_interval,
    asymptotic_log_e,
    asymptotic_p,
    clocked,
    difference,
    relative_difference,
    stratified,
)
from router.evidence.srm import THRESHOLD, SampleRatio

LEAST_EVENTS: Final = 10
"""Units of the rarer value, of both arms of a proportion, below which the limit of many is not taken for reached."""
MOST_POINTS: Final = 200
METHOD: Final = "asymptotic confidence sequence"
Arms = Mapping[int, Moments]


@dataclass(slots=True)
class Marks:
    """What is remembered of every look.

    Attributes:
        min_p: "goal|variant" -> smallest p so far.
        history: "goal|variant" -> [time in ms, effect, low, high], at most 200.
    """

    min_p: dict[str, float] = field(default_factory=dict)
    history: dict[str, list[list[float]]] = field(default_factory=dict)

    def look(self, report: Mapping[str, Any]) -> None:
        """Remember a report; every other point is dropped when there are too many."""
        for goal in report["goals"]:
            for one in goal["comparisons"]:
                effect = one["absolute"]
                if effect["low"] is None:
                    continue
                key = f"{goal['name']}|{one['variant']}"
                self.min_p[key] = min(self.min_p.get(key, 1.0), one["p"])
                points = self.history.setdefault(key, [])
                points.append([report["as_of_ms"], effect["value"], effect["low"], effect["high"]])
                if len(points) > MOST_POINTS:
                    del points[1:-1:2]


@dataclass(frozen=True, slots=True)
class Live:
    """What is known of the traffic now, for display; nothing of it decides.

    Attributes:
        latency, waits: quantiles per variant, of this node: of whole requests, and of their wait for an execution.
        skew: as `gateway.control.skew.skew_of`; None = there is no policy any more.
    """

    latency: Sequence[Mapping[str, Any]] = ()
    waits: Sequence[Mapping[str, Any]] = ()
    skew: Mapping[str, Any] | None = None


NOTHING_LIVE: Final = Live()


def report_of(
    study: Study,
    health: Health,
    rewards: Rewards,
    marks: Marks,
    *,
    live: Live = NOTHING_LIVE,
    missed: int = 0,
    now_ms: int,
) -> dict[str, Any]:
    """Everything about an experiment, in plain values; numbers that are not known are None.

    Args:
        missed: rewards that the store dropped before they were read.
    """
    report = {
        **_head(study, now_ms),
        "health": _health(study, health, rewards, live.skew, missed),
        "goals": [_goal(study, goal, rewards, marks) for goal in study.goals],
        "guardrails": [_errors(study, health)],
        "latency": list(live.latency),
        "batch_wait": list(live.waits),
        "configuration": _configuration(study),
        "code_version": __version__,
        "raw": _raw(study, health, rewards),
    }
    report["decision"] = _decision(study, report)
    return report


def _head(study: Study, now_ms: int) -> dict[str, Any]:
    revisions = [one for epoch in study.epochs.values() for one in (epoch.first_revision, epoch.last_revision)]
    digests = next(iter(reversed(study.epochs.values()))).digests if study.epochs else ()
    return {
        "name": study.name,
        "state": "ended" if study.ended_ms else "running",
        "hypothesis": study.hypothesis,
        "owner": study.owner,
        "salt": study.salt,
        "unit": study.unit,
        "control": study.variants[study.control],
        "variants": [
            {"name": name, "version": version, "digest": digest}
            for name, version, digest in zip(study.variants, study.versions, digests, strict=True)
        ],
        "method": METHOD,
        "alpha": study.alpha,
        "alpha_per_comparison": _alpha(study),
        "expected_units": study.expected_units,
        "n_star": _n_star(study),
        "began_ms": study.began_ms,
        "ended_ms": study.ended_ms or None,
        "as_of_ms": now_ms,
        "revisions": [min(revisions), max(revisions)] if revisions else [],
    }


def _configuration(study: Study) -> list[dict[str, Any]]:
    """What was in force, epoch by epoch: shares of each split that randomised, or did not."""
    return [
        {
            "epoch": key,
            "revisions": [epoch.first_revision, epoch.last_revision],
            "began_ms": epoch.began_ms,
            "splits": [
                {
                    "rule": lane.rule,
                    "randomised": lane.randomised,
                    "shares": dict(zip(study.variants, lane.shares, strict=True)),
                }
                for lane in epoch.lanes
            ],
        }
        for key, epoch in study.epochs.items()
    ]


def _alpha(study: Study) -> float:
    """Every goal may err with alpha, over all of its comparisons together."""
    return study.alpha / max(1, len(study.variants) - 1)


def _n_star(study: Study) -> float:
    return 2.0 * max(1, study.expected_units)


# ---- health ----


def _health(
    study: Study, health: Health, rewards: Rewards, skew: Mapping[str, Any] | None, missed: int
) -> dict[str, Any]:
    requests, units = health.requests(), health.units()
    primary = next((goal.name for goal in study.goals if goal.primary), study.goals[0].name)
    joined = rewards.predictions(primary)
    arms = []
    for index, name in enumerate(study.variants):
        counts = requests.get(name, [0] * 6)
        delays = rewards.delays.get(index, [0] * (len(DELAYS_S) + 1))
        arms.append(
            {
                "variant": name,
                "units": sum(group.get(index, 0) for group in units.values()),
                "requests": counts[ROUTED],
                "bad": counts[BAD],
                "slow": counts[SLOW],
                "fallback": counts[FALLBACK],
                "fallback_rate": _share(counts[FALLBACK], counts[ROUTED]),
                "predictions_with_feedback": joined.get(index, 0),
                "join_rate": _share(joined.get(index, 0), counts[OK]),
                "median_delay": _median(delays),
                "delays": delays,
            }
        )
    apart, counted = (sum(counts[ROUTED] for counts in part.values()) for part in (health.apart, requests))
    found: dict[str, Any] = {
        "srm_p": health.ratio.min_p,
        "srm_ok": not health.ratio.mismatch,
        "feedback_srm_p": feedback_ratio(study, rewards, primary).min_p,
        "srm_threshold": THRESHOLD,
        "not_randomised": apart,
        "not_randomised_share": _share(apart, apart + counted),
        "revision_skew": skew,
        "units_of_several_variants": health.of_several(),
        "units_kept_of": 1 << rewards.doublings,
        "rewards_beyond_bound": rewards.overfull,
        "rewards_missed": missed,
        "notes_missed": health.missed,
        "stale": health.stale,
        "delay_edges_s": list(DELAYS_S),
        "arms": arms,
    }
    found["warnings"] = list(_warnings(found))
    return found


def feedback_ratio(study: Study, rewards: Rewards, goal: str) -> SampleRatio:
    """Whether units for which a reward came are shared out as units were: else the arms are not comparable."""
    ratio = SampleRatio()
    for group, arms in rewards.groups(goal).items():
        shares = shares_of(study, group)
        counts = [arms[index].n if index in arms else 0 for index in range(len(shares))]
        if all(share or not count for share, count in zip(shares, counts, strict=True)):
            ratio.add(shares, counts)
    return ratio


def _warnings(health: Mapping[str, Any]) -> Any:
    if not health["srm_ok"]:
        yield "Sample ratio mismatch: units did not arrive as the split says. Find out why before reading on."
    if health["feedback_srm_p"] <= THRESHOLD:
        yield "Feedback came for other shares of units than were served: what is missing may differ between the arms."
    skew = health["revision_skew"]
    if skew and skew["nodes_behind"]:
        behind = ", ".join(one["node"] for one in skew["nodes_behind"])
        yield f"Behind the newest revision of the policy, {skew['newest']}, and sharing out by an older one: {behind}."
    if (health["not_randomised_share"] or 0.0) > 0.1:
        yield f"{health['not_randomised_share']:.0%} of the requests were not randomised, and are not in here."
    if health["units_of_several_variants"]:
        yield f"{health['units_of_several_variants']:,} of the sampled units met more than one variant."
    if health["rewards_missed"]:
        yield f"{health['rewards_missed']:,} batches of rewards were lost before they were read."
    if not any(arm["predictions_with_feedback"] for arm in health["arms"]):
        yield "No feedback has come for the primary goal yet."


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _median(delays: Sequence[int]) -> str | None:
    """The bucket of the median delay, in words."""
    total, seen = sum(delays), 0
    for at, count in enumerate(delays):
        seen += count
        if total and 2 * seen >= total:
            return f"< {_seconds(DELAYS_S[at])}" if at < len(DELAYS_S) else f">= {_seconds(DELAYS_S[-1])}"
    return None


def _seconds(value: int) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if value >= size:
            return f"{value // size} {unit}"
    return f"{value} s"


# ---- goals ----


def _goal(study: Study, goal: StudyGoal, rewards: Rewards, marks: Marks) -> dict[str, Any]:
    groups = rewards.groups(goal.name)
    others = [index for index in range(len(study.variants)) if index != study.control]
    comparisons = [compared(study, goal, groups, index) for index in others]
    for one in comparisons:
        key = f"{goal.name}|{one['variant']}"
        one["running_p"] = min(one["p"], marks.min_p.get(key, 1.0))
        one["history"] = marks.history.get(key, [])
    return {
        "name": goal.name,
        "type": goal.type,
        "direction": goal.direction,
        "mde": goal.mde,
        "primary": goal.primary,
        "arms": [
            {"variant": name, "units": _units(groups, index), "mean": _only_mean(groups, index)}
            for index, name in enumerate(study.variants)
        ],
        "comparisons": comparisons,
        "epochs": [_epoch(study, goal, group, arms, others) for group, arms in groups.items()],
    }


def _units(groups: Mapping[Group, Arms], index: int) -> int:
    return sum(arms[index].n for arms in groups.values() if index in arms)


def _only_mean(groups: Mapping[Group, Arms], index: int) -> float | None:
    """Where there is one epoch; means of several are shown one by one."""
    means = [arms[index].mean for arms in groups.values() if index in arms]
    return means[0] if len(groups) == 1 and means else None


def _epoch(study: Study, goal: StudyGoal, group: Group, arms: Arms, others: Sequence[int]) -> dict[str, Any]:
    epoch = study.epochs.get(group[0])
    lane = epoch.lanes[group[1]] if epoch is not None and group[1] < len(epoch.lanes) else None
    return {
        "epoch": group[0],
        "rule": lane.rule if lane is not None else "",
        "revisions": [epoch.first_revision, epoch.last_revision] if epoch is not None else [],
        "began_ms": epoch.began_ms if epoch is not None else None,
        "shares": dict(zip(study.variants, shares_of(study, group), strict=True)),
        "arms": [
            {"variant": study.variants[index], "units": one.n, "mean": one.mean, "variance": one.variance}
            for index, one in arms.items()
        ],
        "comparisons": [compared(study, goal, {group: arms}, index) for index in others],
    }


def usable(goal: StudyGoal, control: Moments, treatment: Moments) -> bool:
    """Whether two arms of a group say anything yet: 100 units each, and for a proportion enough of either value."""
    if min(control.n, treatment.n) < MIN_UNITS or control.variance + treatment.variance == 0.0:
        return False
    if goal.type != "proportion":
        return True
    events = control.n * control.mean + treatment.n * treatment.mean
    return min(events, control.n + treatment.n - events) >= LEAST_EVENTS


def compared(study: Study, goal: StudyGoal, groups: Mapping[Group, Arms], index: int) -> dict[str, Any]:
    """A variant against the control, over all groups that say anything."""
    pairs = [(arms[study.control], arms[index]) for arms in groups.values() if study.control in arms and index in arms]
    pairs = [pair for pair in pairs if usable(goal, *pair)]
    absolute = stratified([difference(*pair) for pair in pairs])
    relative = stratified([relative_difference(*pair) for pair in pairs])
    alpha, n_star, units = _alpha(study), _n_star(study), absolute.n
    absolute, relative = clocked(absolute, pairs), clocked(relative, pairs)
    interval = asymptotic_interval(absolute, alpha, n_star) if pairs else Interval(-math.inf, math.inf)
    seen = POWER_80 * absolute.se + 0.5 * (interval.high - interval.low)
    decision, why = decided(goal, interval)
    return {
        "variant": study.variants[index],
        "units": units if pairs else 0,
        "absolute": _shown(absolute, interval),
        "relative": _shown(relative, asymptotic_interval(relative, alpha, n_star)),
        "p": asymptotic_p(absolute, alpha, n_star) if pairs else 1.0,
        "log_e": asymptotic_log_e(absolute, alpha, n_star) if pairs else 0.0,
        "detectable": seen if math.isfinite(seen) else None,
        "decision": decision,
        "why": why,
    }


def decided(goal: StudyGoal, interval: Interval) -> tuple[str, str]:
    """better | worse | equivalent | undecided, and why."""
    if not math.isfinite(interval.low):
        return "undecided", f"fewer than {MIN_UNITS} units with feedback in an arm, or too few of them differ"
    up = goal.direction == "up"
    if interval.low > 0.0 or interval.high < 0.0:
        better = (interval.low > 0.0) == up
        return ("better" if better else "worse"), "the interval does not hold 0"
    if goal.mde is not None and -goal.mde < interval.low and interval.high < goal.mde:
        return "equivalent", f"the interval lies within {goal.mde:g} of 0"
    return "undecided", "the interval holds 0" + ("" if goal.mde is None else f" and reaches beyond {goal.mde:g}")


def _shown(estimate: Estimate, interval: Interval) -> dict[str, float | None]:
    known = math.isfinite(estimate.se) and math.isfinite(interval.low)
    return {
        "value": estimate.value if known else None,
        "low": interval.low if known else None,
        "high": interval.high if known else None,
    }


def _errors(study: Study, health: Health) -> dict[str, Any]:
    """Bad requests per unit, as a goal that shall go down: `rate` is of `requests`, `mean` of the sampled `units`."""
    goal = StudyGoal(name="error_rate", type="mean", direction="down")
    groups = health.bad_rates()
    others = [index for index in range(len(study.variants)) if index != study.control]
    requests = health.requests()
    return {
        "name": goal.name,
        "direction": goal.direction,
        "arms": [
            {"variant": name, "requests": counts[OK] + counts[BAD], "bad": counts[BAD]}
            | {"rate": _share(counts[BAD], counts[OK] + counts[BAD])}
            | {"units": _units(groups, index), "mean": _only_mean(groups, index)}
            for index, name in enumerate(study.variants)
            for counts in [requests.get(name, [0] * 6)]
        ],
        "comparisons": [compared(study, goal, groups, index) for index in others],
    }


def _decision(study: Study, report: Mapping[str, Any]) -> dict[str, Any]:
    """One line for each variant, on the primary goal; health and guardrails may speak against reading it."""
    primary = next(goal for goal in report["goals"] if goal["primary"] or len(report["goals"]) == 1)
    worse = {
        one["variant"] for rail in report["guardrails"] for one in rail["comparisons"] if one["decision"] == "worse"
    }
    return {
        "goal": primary["name"],
        "trusted": report["health"]["srm_ok"] and report["health"]["feedback_srm_p"] > THRESHOLD,
        "variants": {one["variant"]: one["decision"] for one in primary["comparisons"]},
        "guardrails_worse": sorted(worse),
    }


def _raw(study: Study, health: Health, rewards: Rewards) -> dict[str, Any]:
    """What anybody needs to compute the report anew."""
    return {
        "counts": health.counts,
        "not_randomised": health.apart,
        "goals": {
            goal.name: [
                {"epoch": epoch, "stratum": stratum, "variant": study.variants[index]}
                | {"units": one.n, "mean": one.mean, "variance": one.variance}
                for (epoch, stratum), arms in rewards.groups(goal.name).items()
                for index, one in arms.items()
            ]
            for goal in study.goals
        },
        "srm": health.ratio.state(),
        "epochs": {key: [lane.shares for lane in epoch.lanes] for key, epoch in study.epochs.items()},
    }
