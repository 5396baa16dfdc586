"""Would the monitor say and do the same again? Records of incidents that opened and of leases, computed anew. Pure.

Unlike verdicts on rollouts these are computed by the very code that the monitor uses, and are equal to the last bit:
where numpy and the processor give logarithms another last bit than they did then, to nine digits.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from gateway.control.checks import Check, alike, same
from gateway.monitor.attribution import Asked
from gateway.monitor.grounds import METHOD, arithmetic
from gateway.monitor.leases import level_of
from gateway.monitor.regrounded import found_again

CLOSE: Final = 1e-9
_UNSURE: Final = frozenset({"unknown", "insufficient"})
"""A word that holds no more says neither yes nor no."""

_OF_SEVERAL: Final = frozenset({"fairness", "concept_drift", "latency"})
"""Signals that fire by any of several grounds, of which a restart may have left some."""

Said = dict[tuple[str, str, str], list[dict[str, Any]]]
"""(Signal, version, variant) -> what was found for it, computed again."""


def monitor_checks(said: Mapping[str, Any], partly: list[str]) -> Iterator[Check]:
    """Every ground computed again, then what follows from it. Args: partly: is told what could not be."""
    if said["method"] != METHOD:
        partly.append(f"numbers of the monitor: they were made by method {said['method']}, this is {METHOD}")
        return
    close = 0.0
    if said["arithmetic"] != arithmetic():
        close = CLOSE
        partly.append("the last bits: another numpy or processor made them, so nine digits of numbers are compared")
    if said["grounds_left_out"]:
        partly.append(f"{said['grounds_left_out']} signals, whose counts had no room in the record")
    found: Said = defaultdict(list)
    for ground in said["grounds"]:
        yield from _ground(ground, found, close, partly)
    yield from _signals(said, found, close, partly)
    if said["asked"] is None:
        partly.append("whose fault it is")
    else:
        yield from _attributed(said, found)


def _ground(ground: Mapping[str, Any], found: Said, close: float, partly: list[str]) -> Iterator[Check]:
    name = f"{ground['signal']} of {_who(ground['version'], ground['variant'])}"
    again, taken = found_again(ground)
    plain = json.loads(msgspec.json.encode(again))
    for what in dict.fromkeys((*ground["found"], *plain)):
        yield from alike(f"{name}: {what}", ground["found"].get(what), plain.get(what), close)
    partly += [f"{name}: {one}" for one in taken]
    found[ground["signal"], ground["version"], ground["variant"]].append(plain)


def _who(version: str, variant: str) -> str:
    return f"version {version}" if variant == "-" else variant


def _state(found: Mapping[str, Any]) -> str:
    return str(found["state"] if "state" in found else found["verdict"]["state"])


def _states(found: Said, place: tuple[str, str, str], recorded: str = "firing") -> set[str]:
    """Of a signal. Speed has a word of the canary's own, and one of both beside each other: either may fire.

    The latter is told with the next word of the canary's own, within a minute: until then it speaks against nothing.
    """
    if recorded != "firing":
        return {_state(one) for one in found.get(place, ())}
    beside = (f"{place[0]} beside", *place[1:]) if place[0] == "latency" else place
    return {_state(one) for at in (place, beside) for one in found.get(at, ())}


def _signals(said: Mapping[str, Any], found: Said, close: float, partly: list[str]) -> Iterator[Check]:
    """What an incident names fires, and is told in these words."""
    for signal in said.get("signals", ()):
        grounds = found.get((signal["signal"], signal["version"], signal["variant"]))
        name = f"{signal['signal']} of {_who(signal['version'], signal['variant'])}"
        if grounds is None:
            partly.append(f"{name}: its counts are not in the record")
            continue
        if signal.get("words", 1) > 1:
            partly.append(f"{name}: several windows closed at once, and it is told of all, computed of the last")
            continue
        states = _states(found, (signal["signal"], signal["version"], signal["variant"]))
        if "firing" in states or signal["signal"] not in _OF_SEVERAL:
            yield same(f"{name}, which is told", "firing", "firing" if "firing" in states else min(states))
        else:
            partly.append(f"{name}: not all of its counts are in the record")
        told = [one["told"] for one in grounds if "told" in one]
        if len(told) == len(grounds) == 1:
            yield same(f"{name}: in words", signal["text"], told[0]["text"][:500])
            yield same(f"{name}: severity", signal["severity"], told[0]["severity"])
            yield same(f"{name}: names only what was found", [], sorted({*signal["keys"]} - {*told[0]["keys"]}))


def _attributed(said: Mapping[str, Any], found: Said) -> Iterator[Check]:
    """Whose fault it is follows from the states, and what is done from that."""
    asked = msgspec.convert(said["asked"], Asked)
    arms = [asked.champion, *([asked.canary] if asked.canary is not None else [])]
    for series, arm in zip(asked.series, arms, strict=True):
        for signal, state in arm.states.items():
            states = _states(found, (signal, *series), state)
            sure = "firing" in states or (states and signal not in _OF_SEVERAL)
            if sure and state not in _UNSURE:
                yield _fires(f"{signal} of {arm.variant}, by its counts", state, states)
    yield from _beside(asked, found)
    again = json.loads(msgspec.json.encode(asked.answered()))
    yield from alike("attribution", said["attribution"], again, 0.0)
    if "allowed" in said:
        yield same("what was done", said["what"], f"lease {level_of(again['action'], said['allowed'])}")
        yield same("why it was done", said["reason"], again["sentence"])
    else:
        yield same("verdict", said["verdict"], again["verdict"])
        yield same("what is recommended", said["recommended"], again["action"])


def _beside(asked: Asked, found: Said) -> Iterator[Check]:
    """Champion and canary were compared, and it came to this."""
    if asked.compared is None or len(asked.series) < 2:
        return
    for aspect, state in msgspec.structs.asdict(asked.compared).items():
        states = {_state(one) for one in found.get((f"{aspect} beside", *asked.series[1]), ())}
        if states and state not in _UNSURE:
            yield _fires(f"{aspect} of both beside each other, by their counts", state, states)


def _fires(what: str, state: str, found: set[str]) -> Check:
    return same(what, state == "firing", "firing" in found)
