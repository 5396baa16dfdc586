"""Whose fault is it: champion and canary see the same world at the same time, so only what differs is the model. Pure.

Two arms, one firing and one quiet, need not differ: the quiet one may have too few rows. So a verdict that blames the
canary asks for a direct comparison of the arms (`Compared`), and without one nothing is rolled back.

| inputs champion / canary | outputs champion / canary | more | verdict | action |
|---|---|---|---|---|
| drift of either, of the champion | | one host of three or more | host | eject |
| the arms differ | any | | split | freeze |
| drift / drift | any | | world | page |
| ok / ok | ok / drift | | model | rollback |
| ok / ok | drift / drift | | shared_dependency | page |
| ok / ok | ok / ok | label error of both | concept | retrain |
| ok / ok | ok / ok | label error of the canary | model | rollback |
| any | | latency of the canary | latency | rollback |
| any | | latency of both | latency | page |
| nothing fires | nothing fires | something fires of a third variant | unclear | page; wait while a canary is tried |
"""

from collections.abc import Mapping, Sequence
from typing import Final, Literal

import msgspec

from gateway.monitor.words import CLEAN, PERFORMANCE, Signal, State

Verdict = Literal["world", "model", "split", "shared_dependency", "concept", "latency", "host", "unclear", "none"]
Action = Literal["none", "wait", "page", "freeze", "rollback", "eject", "retrain"]
Aspect = Literal["inputs", "outputs", "performance", "latency"]

ASPECTS: Final[Mapping[Aspect, tuple[Signal, ...]]] = {
    "inputs": ("input_drift", "data_quality"),
    "outputs": ("prediction_drift",),
    "performance": PERFORMANCE,
    "latency": ("latency",),
}
LEAST_OTHER_HOSTS: Final = 2
"""With one other host, nobody can say which of the two is the odd one."""


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    """States of one variant's signals in one window; a signal that is not named is unknown."""

    variant: str
    states: dict[Signal, State] = {}

    def state(self, aspect: Aspect) -> State:
        """Of an aspect's signals: one that fires speaks for all, and one that is known for those that are not."""
        found = {self.states.get(signal, "unknown") for signal in ASPECTS[aspect]}
        order: tuple[State, ...] = ("firing", "pending", "ok", "resolved", "insufficient", "unknown")
        return next(state for state in order if state in found)

    @property
    def is_blind(self) -> bool:
        """Nothing is known of it yet."""
        return not {"firing", "pending", "ok", "resolved"} & set(self.states.values())

    @property
    def firing(self) -> tuple[Signal, ...]:
        """Signals that fire, by name."""
        return tuple(sorted(signal for signal, state in self.states.items() if state == "firing"))

    def fires(self, *signals: Signal) -> bool:
        """Whether one of the signals does."""
        return any(self.states.get(signal) == "firing" for signal in signals)


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """Both arms compared with each other, same time: firing = they differ, ok = they do not, unknown = nobody did."""

    inputs: State = "unknown"
    outputs: State = "unknown"
    performance: State = "unknown"
    latency: State = "unknown"


class Attribution(msgspec.Struct, frozen=True, kw_only=True):
    """Whose fault it is.

    Attributes:
        sentence: for people; plain.
        retrain: a new training would help: performance has suffered, and the data are sound.
    """

    verdict: Verdict
    action: Action
    sentence: str
    retrain: bool = False


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What a verdict is made of, as it can be kept: see `attribute`.

    Attributes:
        series: (version, variant) of champion and canary.
    """

    champion: Arm
    canary: Arm | None = None
    compared: Compared | None = None
    hosts: dict[str, State] = {}
    others: tuple[Arm, ...] = ()
    series: tuple[tuple[str, str], ...] = ()

    def answered(self) -> Attribution:
        """The verdict."""
        return attribute(self.champion, self.canary, self.compared, hosts=self.hosts, others=self.others)


def attribute(
    champion: Arm,
    canary: Arm | None = None,
    compared: Compared | None = None,
    *,
    hosts: Mapping[str, State] | None = None,
    others: Sequence[Arm] = (),
) -> Attribution:
    """The verdict on one window.

    Args:
        canary: None = one variant alone; one of which nothing is known yet is the same.
        hosts: the worst state of the champion's signals on each host; asked only when its inputs or answers fire.
        others: variants that get requests too, as in a split without a rollout: nobody is compared with them.
    """
    found = _of_arms(champion, canary, compared, hosts or {})
    beside = _of_others(others, tried=canary is not None)
    if beside is None or found.verdict not in ("none", "unclear"):
        return found
    if found.verdict == "none":
        return beside
    return msgspec.structs.replace(found, sentence=f"{found.sentence} {beside.sentence}")


def _of_others(others: Sequence[Arm], *, tried: bool) -> Attribution | None:
    fires = " and ".join(f"{', '.join(one.firing)} of {one.variant}" for one in others if one.firing)
    if not fires:
        return None
    # Beside a canary it is no page: that would end a fallback of the canary, of which this says nothing.
    then = "wait" if tried else "look at it"
    return _said("unclear", "wait" if tried else "page", f"{fires}: compared with no other variant; {then}.")


def _of_arms(champion: Arm, canary: Arm | None, compared: Compared | None, hosts: Mapping[str, State]) -> Attribution:
    found = _of_both(champion, canary, compared)
    odd = _odd_host(hosts) if "firing" in (champion.state("inputs"), champion.state("outputs")) else ""
    if not odd:
        return found
    text = f"Only host {odd} is off, all others are well: that host, or what is sent to it, is bad, not the model."
    slow = _of_latency(champion, canary, compared or Compared()) if canary is not None else None
    for harm in (found, slow):
        if harm is not None and harm.action in ("freeze", "rollback"):  # by the canary, beside what the host does
            return msgspec.structs.replace(harm, sentence=f"{harm.sentence} {text}")
    return _said("host", "eject", text)


def _of_both(champion: Arm, canary: Arm | None, compared: Compared | None) -> Attribution:
    if canary is None or canary.is_blind:
        return _alone(champion)
    compared = compared or Compared()
    return (
        _of_inputs(champion, canary, compared)
        or _of_outputs(champion, canary, compared)
        or _of_performance(champion, canary, compared)
        or _of_latency(champion, canary, compared)
        or _open_question(champion, canary)
    )


def _said(verdict: Verdict, action: Action, sentence: str, *, retrain: bool = False) -> Attribution:
    return Attribution(verdict=verdict, action=action, sentence=sentence, retrain=retrain)


def _odd_host(hosts: Mapping[str, State]) -> str:
    firing = [name for name, state in hosts.items() if state == "firing"]
    clean = sum(state in CLEAN for state in hosts.values())
    return firing[0] if len(firing) == 1 and clean == len(hosts) - 1 >= LEAST_OTHER_HOSTS else ""


def _suffers(*arms: Arm) -> bool:
    return all(arm.fires(*PERFORMANCE) for arm in arms)


def _sound(*arms: Arm) -> bool:
    """No arm has broken data: a model trained on them would learn the breakage."""
    return not any(arm.fires("data_quality") for arm in arms)


def _world(*arms: Arm) -> Attribution:
    what = "inputs have shifted" if _sound(*arms) else "input data are broken"
    if len(arms) > 1:
        what += " for both variants alike: the world or its data source has changed, a rollback would not help"
    else:
        what += ": the world or its data source has changed"
    retrain = _sound(*arms) and _suffers(arms[0])
    then = "retraining may help" if retrain else "ask who owns the data"
    return _said("world", "page", f"The {what}; {then}.", retrain=retrain)


def _alone(arm: Arm) -> Attribution:
    inputs, outputs = arm.state("inputs"), arm.state("outputs")
    if inputs == "firing":
        return _world(arm)
    if outputs == "firing" and inputs in CLEAN:
        text = f"The answers of {arm.variant} have shifted with unchanged inputs, and no other variant runs beside it: "
        return _said("unclear", "page", text + "the model or what it depends on has changed.")
    if _suffers(arm) and inputs in CLEAN and outputs in CLEAN:
        return _concept(arm)
    if arm.fires("latency"):
        return _said("latency", "page", "Answers are too slow for the objective.")
    return _open_question(arm)


def _of_inputs(champion: Arm, canary: Arm, compared: Compared) -> Attribution | None:
    ours, theirs = champion.state("inputs"), canary.state("inputs")
    differ = "The variants get different inputs at the same time: the split is not random or preprocessing differs"
    if compared.inputs == "firing":
        return _said("split", "freeze", f"{differ}; the ramp should stop.")
    if ours == theirs == "firing":
        return _world(champion, canary)
    if {ours, theirs} & CLEAN and "firing" in (ours, theirs):
        if compared.inputs in CLEAN:
            return _world(champion, canary)
        return _said("split", "freeze", f"{differ}, it seems, though they were not compared directly; stop the ramp.")
    return None


def _of_outputs(champion: Arm, canary: Arm, compared: Compared) -> Attribution | None:
    if not _inputs_are_clean(champion, canary):
        return None
    ours, theirs = champion.state("outputs"), canary.state("outputs")
    if ours == theirs == "firing":
        return _said(
            "shared_dependency",
            "page",
            "The answers of both variants have shifted with unchanged inputs: something that both use has changed.",
        )
    if theirs == "firing" and ours in CLEAN:
        what = f"The answers of {canary.variant} alone have shifted, with the same inputs as {champion.variant}"
        return _blame(compared.outputs, what, champion, canary)
    if ours == "firing" and theirs in CLEAN:
        what = f"The answers of {champion.variant} alone have shifted"
        if compared.outputs == "firing":
            return _said("model", "page", f"{what}: its version or its reference is off; {canary.variant} is well.")
        return _said("unclear", "wait", f"{what}, but {canary.variant} may have too few rows to show the same; wait.")
    return None


def _of_performance(champion: Arm, canary: Arm, compared: Compared) -> Attribution | None:
    arms = (champion, canary)
    if not _inputs_are_clean(*arms) or not all(arm.state("outputs") in CLEAN for arm in arms):
        return None
    if _suffers(*arms):
        return _concept(*arms)
    if canary.fires(*PERFORMANCE) and champion.state("performance") in CLEAN:
        if canary.fires("performance_realised", "concept_drift"):
            what = f"By its labels, {canary.variant} alone has become worse"
            return _blame(compared.performance, what, champion, canary)
        what = f"{canary.variant} alone is estimated to be worse; an estimate rolls nothing back"
        return _said("model", "freeze", f"{what}; the ramp should stop until labels tell.")
    return None


def _of_latency(champion: Arm, canary: Arm, compared: Compared) -> Attribution | None:
    ours, theirs = champion.state("latency"), canary.state("latency")
    if ours == "firing":
        return _said("latency", "page", "Answers are too slow for the objective, and not of the canary alone.")
    if theirs == "firing" and ours in CLEAN:
        found = _blame(compared.latency, f"{canary.variant} alone is too slow", champion, canary)
        return found if found.verdict == "unclear" else msgspec.structs.replace(found, verdict="latency")
    return None


def _concept(*arms: Arm) -> Attribution:
    if not any(arm.fires("performance_realised", "concept_drift") for arm in arms):
        text = "Performance is estimated to have fallen with unchanged inputs and answers; labels have to tell."
        return _said("unclear", "wait", text)
    text = "The truth has changed though inputs and answers have not: what the model has learned no longer holds"
    return _said("concept", "retrain", f"{text}; retraining may help.", retrain=_sound(*arms))


def _blame(compared: State, what: str, champion: Arm, canary: Arm) -> Attribution:
    if compared == "firing":
        return _said("model", "rollback", f"{what}: the new version behaves differently; roll it back.")
    if compared == "unknown":
        return _said("model", "freeze", f"{what}, but the two were not compared directly; stop the ramp and look.")
    differ = "does not differ" if compared in CLEAN else "does not yet surely differ"
    return _said("unclear", "wait", f"{what}, but {canary.variant} {differ} from {champion.variant}; wait.")


def _inputs_are_clean(*arms: Arm) -> bool:
    return all(arm.state("inputs") in CLEAN for arm in arms)


def _open_question(*arms: Arm) -> Attribution:
    fires = sorted({signal for arm in arms for signal in arm.firing})
    if not fires:
        return _said("none", "none", "No signal fires.")
    if fires == ["fairness"]:
        return _said("unclear", "page", "Groups are treated unequally; which variant does it, the windows do not tell.")
    return _said(
        "unclear", "wait", f"{', '.join(fires)}: too little is known of the rest to say whose fault it is; wait."
    )
