"""Reading policy documents: what is right, what is wrong and how that is said, and what the values become."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.document import PolicyError
from router.policy import parse, spec_digest
from tests.router.documents import policy, read

STEPS = [{"setWeight": "1%"}, {"setWeight": "100%"}]


def rollout(**parts: Any) -> dict[str, Any]:
    """A spec with a rollout of these parts."""
    return {"split": {"stable": 10_000}, "rollout": {"to": "canary", "steps": STEPS} | parts}


def analysis(**parts: Any) -> dict[str, Any]:
    return rollout(analysis=parts)


def guardrail(**parts: Any) -> dict[str, Any]:
    return analysis(guardrails=[parts])


def rule(test: Any = None, **parts: Any) -> dict[str, Any]:
    match = [{"headers": {"x-a": {"exact": "1"} if test is None else test}}]
    return {"rules": [{"name": "r", "match": match, "route": {"variant": "canary"}} | parts]}


def experiment(*goals: dict[str, Any], **parts: Any) -> dict[str, Any]:
    goal = {"metric": "reward.paid", "type": "proportion", "direction": "up"}
    return {"experiment": {"goals": list(goals) or [goal]} | parts}


def problems(document: object) -> list[str]:
    with pytest.raises(PolicyError) as error:
        parse(document)
    return [str(problem) for problem in error.value.problems]


TWO = [{"name": "stable", "model": "m:1"}, {"name": "canary", "model": "m:2"}]
HEX = "ab" * 32

# What is wrong in a spec -> the one problem that is named.
WRONG: list[tuple[dict[str, Any], str]] = [
    # sums of shares
    ({"split": {"stable": 9_900}}, "spec.split: the sum is 9,900 slots, expected 10,000"),
    ({"split": {"stable": 99}}, "spec.split: the sum is 99 slots, expected 10,000"),
    (
        {"split": {"stable": 90, "canary": 10}},
        'spec.split: the sum is 100 slots, expected 10,000; whole numbers are slots, percent is written as "90%"',
    ),
    ({"split": {"stable": "90%", "canary": "11%"}}, "spec.split: the sum is 101 %, expected 100 %"),
    ({"split": {"stable": "99%"}}, "spec.split: the sum is 99 %, expected 100 %"),
    ({"split": {"stable": 0, "canary": 0}}, "spec.split: the sum is 0 slots, expected 10,000"),
    ({"split": {}}, "spec.split: expected a mapping of variants to shares, got an empty mapping"),
    (
        {"split": {"stable": 9_000, "canary": "10%"}},
        "spec.split: some shares are slots and some percent; write all in one of the two",
    ),
    (
        {"split": {"stable": "99.995%", "canary": "0.005%"}},
        "spec.split: stable: expected steps of 0.01 % (one slot of 10,000), got 99.995%; "
        "canary: expected steps of 0.01 % (one slot of 10,000), got 0.005%; the sum is 100.000 %",
    ),
    *[
        ({"split": {"stable": share}}, f"spec.split: stable: expected {message}")
        for share, message in [
            (-1, "0 to 10,000 slots or 0 to 100 %, got -1; the sum is -1"),
            ("50", "slots of 10,000 as a whole number, or percent such as \"0.5%\", got text '50'"),
            (True, 'slots of 10,000 as a whole number, or percent such as "0.5%", got true'),
            (None, 'slots of 10,000 as a whole number, or percent such as "0.5%", got nothing'),
            ([], 'slots of 10,000 as a whole number, or percent such as "0.5%", got a list'),
            ("-5%", "0 to 10,000 slots or 0 to 100 %, got -5%; the sum is -5 %"),
            ("1e2%", "slots of 10,000 as a whole number, or percent such as \"0.5%\", got text '1e2%'"),
            (10**400, "0 to 10,000 slots or 0 to 100 %, got a huge number; the sum is a huge number"),
        ]
    ],
    ({"split": {"stable": math.nan}}, "got nan; the sum is nan"),
    ({"split": {"stable": 100.0000001}}, "got 100.0000001; the sum is 100.0000001"),
    ({"split": {"stable": 1e308, "canary": 1e308}}, "got 1e+308; the sum is inf"),
    ({"split": {f"v{at}": 1 for at in range(1001)}}, "spec.split: expected at most 20 variants, got 1,001"),
    ({"split": {"stabel": 10_000}}, "spec.split.stabel: no variant is called 'stabel'; there are stable, canary"),
    # variants
    ({"variants": []}, "spec.variants: expected 1 to 20 entries, got 0"),
    ({"variants": TWO * 501}, "spec.variants: expected 1 to 20 entries, got 1,002"),
    ({"variants": {"stable": "m:1"}}, "spec.variants: expected a list, got a mapping"),
    ({"variants": [*TWO, TWO[0] | {"model": "m:3"}]}, "spec.variants[2].name: 'stable' stands twice"),
    ({"variants": [TWO[0], TWO[1] | {"model": "m:1"}]}, "spec.variants[1].model: m:1 is variant 'stable' already"),
    (
        {"variants": [TWO[0], TWO[1] | {"model": "other:2"}]},
        "spec.variants[1].model: expected a version of 'm', which the policy is for, got 'other'",
    ),
    *[
        ({"variants": [TWO[0], TWO[1] | {"model": model}]}, "spec.variants[1].model: expected NAME, NAME:VERSION")
        for model in (
            "",
            "m:",
            "m:01",
            "m:x",
            "m@",
            "m@sha256:ab",
            f"m@sha256:{HEX}0",
            "m:1\n",
            "../m",
            7,
            None,
            "m:-1",
        )
    ],
    *[
        ({"variants": [TWO[0] | {"name": name}]}, "spec.variants[0].name: expected a name of up to 64")
        for name in ("", "-", "a b", "a\n", "x" * 65, "\u00e9", "a*b", 7)
    ],
    ({"variants": [{"name": "stable"}]}, "spec.variants[0].model: is missing"),
    # unit
    ({"unit": {"salt": ""}}, "spec.unit.salt: expected text of length >= 1, got text ''"),
    ({"unit": {"salt": "x" * 2**20}}, "spec.unit.salt: expected text of length <= 128, got text 'xxxx"),
    (
        {"unit": {"salt": "\ud800"}},
        "spec.unit.salt: expected text in Unicode, got text '\\ud800' with half a surrogate",
    ),
    ({"unit": {"hash": "sha1-6O"}}, "got text 'sha1-6O'; did you mean 'sha1-60'?"),
    ({"unit": {"missing": True}}, "spec.unit.missing: expected one of stable, random, reject, got true"),
    ({"unit": {"from": [{}]}}, "spec.unit.from[0]: expected exactly one of header, cookie and input"),
    ({"unit": {"from": [{"header": "a", "cookie": "b"}]}}, "spec.unit.from[0]: expected exactly one of"),
    ({"unit": {"from": [{"header": "x y"}]}}, "spec.unit.from[0].header: expected a header or cookie name"),
    ({"unit": {"from": [{"header": "x" * 2**20}]}}, "spec.unit.from[0].header: expected a header or cookie name"),
    ({"unit": {"from": [{"input": "x" * 2**20}]}}, "spec.unit.from[0].input: expected text of length <= 128"),
    ({"unit": {"from": [{"input": {"a": 1}}]}}, "spec.unit.from[0].input: expected text, got a mapping"),
    ({"unit": {"from": [{"query": "a"}]}}, "spec.unit.from[0].query: unknown field; known here: header, cookie, input"),
    ({"unit": {"sticky": {"ttl": "1h"}}}, "spec.unit.sticky: a sticky store is not offered"),
    # rules
    (rule(match=[]), "spec.rules[0].match: expected 1 to 16 entries, got 0"),
    (rule(match=[{}]), "spec.rules[0].match[0]: expected at least one condition"),
    (rule({}), "headers.x-a: expected exactly one of exact, prefix, regex, in, present, not"),
    (rule({"exact": "1", "prefix": "2"}), "headers.x-a: expected exactly one of"),
    (rule({"exact": 1}), "headers.x-a.exact: expected text, got 1"),
    (rule({"exact": "x" * 257}), "headers.x-a.exact: expected text of length <= 256"),
    (rule({"in": []}), "headers.x-a.in: expected 1 to 256 entries, got 0"),
    (rule({"regex": "(a+)+"}), "headers.x-a.regex: a repeated group is not in the subset"),
    (rule({"not": {"not": {"exact": "1"}}}), "headers.x-a.not.not: unknown field"),
    (rule({"present": "yes"}), "headers.x-a.present: expected true or false, got text 'yes'"),
    (rule(route={}), "spec.rules[0].route: expected exactly one of variant and split"),
    (rule(route={"variant": "b"}), "spec.rules[0].route.variant: no variant is called 'b'; there are stable, canary"),
    (rule(route={"split": {"b": "100%"}}), "spec.rules[0].route.split.b: no variant is called 'b'"),
    (rule(route={"split": {"canary": "99%"}}), "spec.rules[0].route.split: the sum is 99 %, expected 100 %"),
    (rule(analysed=True), "spec.rules[0].analysed: a rule that names a variant is never evidence"),
    (rule(analysed="no"), "spec.rules[0].analysed: expected true or false, got text 'no'"),
    (rule(match=[{"headers": {"a b": {"exact": "1"}}}]), "headers.a b: is not the name of a header or cookie"),
    (rule(match=[{"headers": {"a": {"exact": "1"}, "A": {"exact": "2"}}}]), "headers: a header stands twice"),
    (rule(match=[{"headers": {"Cookie": {"exact": "1"}}}]), "headers.cookie: use cookies, which reads them by name"),
    (rule(match=[{"input": {"a": {"gt": 1, "gte": 2}}}]), "input.a: expected at most one lower and one upper bound"),
    (rule(match=[{"input": {"a": {"gt": 5, "lt": 5}}}]), "input.a: nothing lies between 5 and 5"),
    (rule(match=[{"input": {"a": {"gte": 6, "lte": 5}}}]), "input.a: nothing lies between 6 and 5"),
    (rule(match=[{"input": {"a": {"gt": math.nan}}}]), "input.a.gt: expected a finite number, got nan"),
    (rule(match=[{"input": {"a": {"gt": True}}}]), "input.a.gt: expected a number, got true"),
    (rule(match=[{"input": {"a": {"gt": 1, "exact": 2}}}]), "input.a: expected one of exact, in, present, gt"),
    (
        rule(match=[{"input": {"a": {"exact": [1]}}}]),
        "input.a.exact: expected true or false or a whole number or a number or text",
    ),
    ({"rules": rule()["rules"] * 65}, "spec.rules: expected 0 to 64 entries, got 65"),
    ({"rules": rule()["rules"] * 2}, "spec.rules[1].name: 'r' stands twice"),
    # shadow
    (
        {"shadow": {"variant": "stable", "percent": 1}, "split": {"stable": 10_000}},
        "spec.shadow.variant: 'stable' answers everything already: it would shadow itself",
    ),
    ({"shadow": {"variant": "canary", "percent": 100.1}}, "spec.shadow.percent: expected 0 to 100 %, got 100.1"),
    ({"shadow": {"variant": "canary", "percent": math.nan}}, "spec.shadow.percent: expected percent as a number"),
    ({"shadow": {"variant": "canary", "percent": "20"}}, "spec.shadow.percent: expected percent as a number"),
    ({"shadow": {"variant": "canary", "percent": True}}, "spec.shadow.percent: expected percent as a number"),
    ({"shadow": {"variant": "canary", "percent": 0.005}}, "expected steps of 0.01 % (one slot of 10,000), got 0.005%"),
    ({"shadow": {"variant": "canary", "percent": 1, "maxInflight": 0}}, "maxInflight: expected a whole number >= 1"),
    # rollout: ramp
    (rollout(steps=[]), "spec.rollout.steps: expected 1 to 32 entries, got 0"),
    (
        rollout(steps=[{"setWeight": "10%"}, {"setWeight": "5%"}]),
        "spec.rollout.steps[1].setWeight: expected more than 1,000 slots of the step before, got 500",
    ),
    (rollout(steps=[{"setWeight": "10%"}] * 2), "expected more than 1,000 slots of the step before, got 1,000"),
    (rollout(steps=[{"setWeight": 10_001}]), "spec.rollout.steps[0].setWeight: expected 0 to 10,000 slots"),
    (rollout(steps=[{"setWeight": 0}, *STEPS]), "spec.rollout.steps[0].setWeight: expected a share above 0"),
    (rollout(steps=[{}, *STEPS]), "spec.rollout.steps[0]: expected exactly one of setWeight and shadow"),
    (rollout(steps=[{"shadow": {"percent": 0}}, *STEPS]), "shadow.percent: expected a share above 0"),
    (
        rollout(steps=[{"shadow": {"percent": 5}, "hold": {"minUnits": 5}}, *STEPS]),
        "steps[0].hold.minUnits: a shadow compares requests: use shadow.minSamples",
    ),
    *[
        (rollout(steps=[{"setWeight": 1, "hold": {name: value}}]), f"spec.rollout.steps[0].hold.{name}: expected")
        for name, value in [
            ("minUnits", 0),
            ("minUnits", -1),
            ("minUnits", "500"),
            ("minSamples", 0),
            ("minDuration", "0s"),
            ("minDuration", "5"),
            ("minDuration", 300),
            ("minDuration", "-5m"),
            ("minDuration", "367d"),
            ("approval", True),
        ]
    ],
    (rollout(to="stable"), "spec.rollout.to: 'stable' is the variant that the canary is judged against"),
    (
        rollout() | {"split": {"stable": 9_000, "canary": 1_000}},
        "spec.split: a rollout begins with all users on 'stable': its steps give 'canary' a share",
    ),
    (rollout(maxDuration="soon"), "spec.rollout.maxDuration: expected a time such as 30s, 5m, 24h or 7d, got text"),
    (rollout(onTimeout="promot"), "did you mean 'promote'?"),
    (rollout(rollbackWindow=True), "spec.rollout.rollbackWindow: expected a whole number, got true"),
    (rollout(promoteWhen="noninferior"), "spec.rollout.promoteWhen: promotion is by non-inferiority, always"),
    (rollout(fourEyes=1), "spec.rollout.fourEyes: expected true or false, got 1"),
    # rollout: analysis
    (analysis(alpha=0), "spec.rollout.analysis.alpha: expected a number > 0.0, got 0"),
    (analysis(alpha=math.nan), "spec.rollout.analysis.alpha: expected a finite number, got nan"),
    (analysis(beta=0.6), "spec.rollout.analysis.beta: expected a number <= 0.5, got 0.6"),
    (analysis(minDetect=1), "spec.rollout.analysis.minDetect: expected a number > 1.0, got 1"),
    (analysis(against="b"), "spec.rollout.analysis.against: no variant is called 'b'"),
    (guardrail(metric="error_rate", margin={"ratio": -1}), "margin.ratio: expected a number >= 1.0, got -1"),
    (guardrail(metric="error_rate", margin={"ratio": 0.9}), "margin.ratio: expected a number >= 1.0, got 0.9"),
    (guardrail(metric="error_rate", margin={"ratio": math.nan}), "margin.ratio: expected a finite number, got nan"),
    (guardrail(metric="error_rate", margin={"ratio": math.inf}), "margin.ratio: expected a finite number, got inf"),
    (guardrail(metric="error_rate", margin={"absolute": -0.1}), "margin.absolute: expected a number > 0.0, got -0.1"),
    (guardrail(metric="error_rate", max=0.1), "guardrails[0].max: means nothing to error_rate"),
    (guardrail(metric="latency"), "guardrails[0].quantile: is missing"),
    (guardrail(metric="latency", quantile=99), "guardrails[0].quantile: expected a number <= 0.9999, got 99"),
    (guardrail(metric="latenzy", quantile=0.9), "got text 'latenzy'; did you mean 'latency'?"),
    (guardrail(metric="queue_wait", quantile=0.9), "queue_wait differs with the share of traffic by itself"),
    (guardrail(metric="compute_time"), "compute_time differs with the share of traffic by itself"),
    (guardrail(metric="output_drift"), "guardrails[0].metric: output_drift is outside the budget for false rollbacks"),
    (guardrail(metric="shadow_disagreement", max=0.02), "guardrails[0]: needs a shadow step to be judged in"),
    (guardrail(metric="fallback_ratio"), "guardrails[0].max: is missing"),
    (guardrail(metric="fallback_ratio", max=1), "guardrails[0].max: expected a number < 1.0, got 1"),
    (
        guardrail(metric="fallback_ratio", max=0.02, margin={"ratio": 2}),
        "margin.ratio: means nothing to fallback_ratio; it has max",
    ),
    (
        rollout(
            analysis={"guardrails": [{"metric": "fallback_ratio", "max": 0.02}]}, onFailure={"fallbackToStable": False}
        ),
        "spec.rollout.analysis.guardrails[0]: needs onFailure.fallbackToStable: true",
    ),
    (analysis(signals=[{"metric": "input_drift", "quantile": 0.9}]), "quantile: means nothing to input_drift"),
    (analysis(signals=[{"metric": "queue_wait"}]), "signals[0].quantile: is missing"),
    (analysis(signals=[{"metric": "compute_time", "quantile": 0.1}]), "signals[0].quantile: expected a number >= 0.5"),
    (
        analysis(signals=[{"metric": "compute_time", "outsideAlpha": True}]),
        "signals[0].outsideAlpha: compute_time holds and never rolls back",
    ),
    (analysis(guardrails=[{"metric": "error_rate"}] * 2), "guardrails[1]: 'error_rate' stands twice"),
    (rollout(steps=[{"setWeight": 10_000}]), "guardrails[0]: needs a step with less than 100 % of the users"),
    (analysis(checks={"srm": "holt"}), "checks.srm: expected one of rollback, hold, warn, got text 'holt'"),
    (analysis(checks={"noTraffic": {"after": "0m"}}), "checks.noTraffic.after: expected a time above 0"),
    # windows
    (rollout(window={"notBefore": ["Mon 09:00-16:00"]}), "notBefore[0]: expected days, times and zone as"),
    (rollout(window={"notBefore": ["Mon 16:00-09:00 UTC"]}), "expected an end after 16:00 on the same day, got 09:00"),
    (rollout(window={"notBefore": ["Mon 09:60-16:00 UTC"]}), "expected a time from 00:00 to 24:00, got 09:60"),
    (rollout(window={"notBefore": "Mon 09:00-16:00 UTC"}), "spec.rollout.window.notBefore: expected a list, got text"),
    (
        rollout(window={"freeze": [{"from": "2026-12-20T00:00:00", "until": "2027-01-02T00:00:00Z"}]}),
        "freeze[0].from: expected a time with a zone",
    ),
    (
        rollout(window={"freeze": [{"from": "2026-12-20T00:00Z", "until": "2026-12-20T01:00+02:00"}]}),
        "freeze[0].until: expected a time after 2026-12-20T00:00Z, got 2026-12-20T01:00+02:00",
    ),
    (rollout(window={"freeze": [{"from": "Christmas", "until": "2027-01-02T00:00Z"}]}), "expected a time such as"),
    # experiment
    (experiment() | rollout(), "spec.experiment: not together with a rollout"),
    (experiment() | {"split": {"stable": 10_000}}, "spec.experiment: needs a split with at least two variants"),
    (
        experiment() | {"split": {"stable": 5000, "canary": 5000}, "feedback": {"ids": False}},
        "spec.feedback.ids: the goals of an experiment come by prediction ids",
    ),
    ({"feedback": {"ids": 0}}, "spec.feedback.ids: expected true or false, got 0"),
    (experiment(method="group-sequential"), "spec.experiment.method: expected asympcs, the asymptotic confidence"),
    (experiment(bandit=None), "spec.experiment.bandit: bandits are not offered"),
    (experiment(layer={}), "spec.experiment.layer: layers are not offered yet"),
    (experiment(holdout={}), "spec.experiment.holdout: holdouts are not offered yet"),
    (experiment(cuped=True), "spec.experiment.cuped: CUPED is not offered yet"),
    (experiment(layers=[]), "spec.experiment.layers: layers are not offered yet"),
    ({"holdouts": []}, "spec.holdouts: holdouts are not offered yet"),
    ({"bandits": []}, "spec.bandits: bandits are not offered"),
    (
        experiment(*[{"metric": f"reward.{at}", "type": "mean", "direction": "up"} for at in "ab"]),
        "spec.experiment.goals: expected one primary goal, got 0",
    ),
    (
        experiment({"metric": "paid", "type": "mean", "direction": "up"}),
        "goals[0].metric: expected reward.NAME, got 'paid'",
    ),
    (
        experiment({"metric": "reward.a", "type": "mean", "direction": "up", "mde": 0}),
        "goals[0].mde: expected a number > 0.0, got 0",
    ),
    # kill and the rest
    ({"kill": {"stable": True}}, "spec.kill.stable: is the variant that the others fall back to; it cannot be killed"),
    ({"kill": {"b": True}}, "spec.kill.b: no variant is called 'b'"),
    ({"kill": {"canary": 1}}, "spec.kill.canary: expected true or false, got 1"),
    ({"explicitVersions": "deny"}, "spec.explicitVersions: expected one of allow, scope, refuse, got text 'deny'"),
    ({"varians": []}, "spec.varians: unknown field; did you mean 'variants'?"),
    ({"bandit": {}}, "spec.bandit: bandits are not offered"),
]


@pytest.mark.parametrize(("spec", "message"), WRONG, ids=lambda value: value[-80:] if isinstance(value, str) else "")
def test_what_is_wrong_is_named(spec: dict[str, Any], message: str) -> None:
    found = problems(policy(**spec))
    assert len(found) == 1, found
    assert message in found[0]
    assert len(found[0]) < 700


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (None, "expected a mapping, got nothing"),
        ([], "expected a mapping, got a list"),
        ("policy", "expected a mapping, got text 'policy'"),
        (policy() | {"apiVersion": "tidegate/v2"}, "apiVersion: expected one of tidegate/v1, got text 'tidegate/v2'"),
        (policy() | {"kind": "Policy"}, "kind: expected one of TrafficPolicy, got text 'Policy'"),
        (policy() | {"metadata": {"name": "m", "revision": 4}}, "metadata.revision: the revision is no part of"),
        (policy() | {"metadata": {"name": "m:1"}}, "metadata.name: expected a model name"),
        (policy() | {"metadata": {"name": "m\n"}}, "metadata.name: expected a model name"),
        (policy() | {"metadata": {"name": "m", "labels": {"a": 1}}}, "metadata.labels.a: expected text, got 1"),
        (policy() | {"metadata": {"name": "m", "labels": {1: "a"}}}, "metadata.labels: expected keys of 1 to 128"),
        (policy() | {"status": {}}, "status: the status is no part of the document"),
        ({name: part for name, part in policy().items() if name != "spec"}, "spec: is missing"),
    ],
)
def test_what_is_wrong_around_the_spec(document: object, message: str) -> None:
    found = problems(document)
    assert len(found) == 1
    assert found[0].startswith(message)


def test_all_problems_are_listed_in_the_order_of_the_document() -> None:
    spec = rule({"regex": "("}) | rollout(steps=[{"setWeight": -1}]) | {"wieghts": 1, "unit": {"salt": ""}}
    found = problems(policy(**spec))
    paths = [line.partition(": ")[0] for line in found]
    assert paths == [
        "spec.wieghts",
        "spec.unit.salt",
        "spec.rules[0].match[0].headers.x-a.regex",
        "spec.rollout.steps[0].setWeight",
    ]


def test_their_number_and_length_are_bounded() -> None:
    found = problems(policy(**{"x" * 5000 + str(at): 1 for at in range(500)}))
    assert len(found) == 50
    assert max(map(len, found)) < 400


def test_an_error_names_its_first_problem() -> None:
    with pytest.raises(PolicyError) as error:
        parse(policy(split={"stable": 1}))
    assert (error.value.path, error.value.message) == ("spec.split", "the sum is 1 slots, expected 10,000")


@pytest.mark.parametrize(
    ("share", "slots"), [("0.5%", 50), ("0.01%", 1), ("33.33%", 3333), ("100%", 10_000), ("1.50 %", 150), (1, 1)]
)
def test_shares_are_exact(share: object, slots: int) -> None:
    steps = [{"shadow": {"percent": 1}}, {"setWeight": share}]
    judged = {"guardrails": [{"metric": "shadow_disagreement", "max": 0.02}]}
    found = read(**rollout(steps=steps, analysis=judged)).spec.rollout
    assert found is not None
    assert found.steps[1].set_weight_slots == slots


@given(st.integers(0, 10_000))
def test_every_slot_can_be_written_in_percent(slots: int) -> None:
    text = f"{slots // 100}.{slots % 100:02}%"
    rest = 10_000 - slots
    assert read(split={"stable": text, "canary": f"{rest / 100:.2f}%"}).counts() == [slots, rest]
    assert parse(policy(shadow={"variant": "canary", "percent": slots / 100})).spec.shadow.percent_slots == slots


@pytest.mark.parametrize(
    ("text", "time_ms"), [("500ms", 500), ("30s", 30_000), ("5m", 300_000), ("24h", 86_400_000), ("7d", 604_800_000)]
)
def test_times_are_milliseconds(text: str, time_ms: int) -> None:
    found = read(**rollout(maxDuration=text)).spec.rollout
    assert found is not None
    assert found.max_duration_ms == time_ms


@pytest.mark.parametrize("model", ["m", "m:2", "m@champion", f"m@sha256:{HEX}"])
def test_ways_to_name_a_version(model: str) -> None:
    found = read(variants=[TWO[0], TWO[1] | {"model": model}])
    assert found.spec.variants[1].model == model


@pytest.mark.parametrize(
    ("spec", "stable"),
    [
        ({}, "stable"),
        ({"variants": [{"name": "a", "model": "m:1"}, {"name": "b", "model": "m:2"}], "split": {"b": 10_000}}, "a"),
        (experiment(control="canary"), "canary"),
        (rollout(to="stable", analysis={"against": "canary"}) | {"split": {"canary": "100%"}}, "canary"),
    ],
)
def test_who_is_stable(spec: dict[str, Any], stable: str) -> None:
    assert read(**spec).spec.stable == stable


def test_guardrails_have_names_and_margins_in_force() -> None:
    metrics = [
        {"metric": "error_rate"},
        {"metric": "latency", "quantile": 0.99, "margin": {"ratio": 1.1}},
        {"metric": "latency", "quantile": 0.5, "name": "median"},
    ]
    found = read(**analysis(guardrails=metrics)).spec.rollout
    assert found is not None
    assert [one.label for one in found.analysis.guardrails] == ["error_rate", "latency-p99", "median"]
    assert [one.ratio for one in found.analysis.guardrails] == [1.25, 1.1, 1.25]
    assert found.analysis.guardrails[0].absolute == 0.005


def test_digests_are_of_the_meaning() -> None:
    one = policy(split={"stable": 9_000, "canary": 1_000}, kill={"canary": False})
    same = policy(kill={"canary": False}, split={"canary": "10%", "stable": "90%"})
    same = dict(reversed(same.items())) | {"metadata": {"labels": {"team": "x"}, "name": "m"}}
    assert spec_digest(parse(one)) == spec_digest(parse(same))
    others = [policy(), policy(unit={"salt": "t"}), policy(split={"stable": 9_001, "canary": 999})]
    assert len({spec_digest(parse(other)) for other in [one, *others]}) == 4


# ---- any value at all ----

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in items for place in places(item, (*path, key)))]


def replaced(value: Any, path: tuple[Any, ...], other: Any) -> Any:
    if not path:
        return other
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], other)
    return copy


WHOLE = policy(
    rules=[
        *rule({"not": {"in": ["a"]}})["rules"],
        {"name": "i", "match": [{"input": {"a": {"gt": 1, "lte": 4}}}], "route": {"split": {"stable": 10_000}}},
    ],
    shadow={"variant": "canary", "percent": 1.5, "compare": {"topk": 3}},
    **rollout(
        steps=[{"shadow": {"percent": 5}}, {"setWeight": "1%", "hold": {"minUnits": 5, "approval": {"by": ["x"]}}}],
        analysis={"guardrails": [{"metric": "latency", "quantile": 0.9}], "signals": [{"metric": "compute_time"}]},
        window={"notBefore": ["Fri-Mon 09:00-24:00 Europe/Berlin"]},
    ),
)


@given(st.sampled_from(places(WHOLE)), PLAIN)
def test_any_value_anywhere_is_read_or_refused(place: tuple[Any, ...], other: Any) -> None:
    try:
        found = parse(replaced(WHOLE, place, other))
    except PolicyError:
        return
    assert sum(found.counts()) == 10_000
    assert len(spec_digest(found)) == 32
