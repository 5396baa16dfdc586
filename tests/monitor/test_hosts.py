"""Several nodes of which one is off: that node is named. Where all are off, or nobody can say, it is not."""

import msgspec
import numpy as np

from gateway.control.monitorheard import taken
from gateway.control.monitorheld import Held, encoded_state, restore_state
from gateway.control.monitorinputs import Series
from gateway.control.monitorviews import view
from gateway.monitor.book import ModelMonitor, Roles
from gateway.monitor.counting import Counter, Counts, empty
from gateway.monitor.hosts import LEAST_ROWS, MOST_HOSTS, OLD_MS, Hosts, state_of
from gateway.monitor.plan import CountPlan, FeaturePlan, ScorePlan
from gateway.monitor.reference import Binding, Reference, identified
from gateway.monitor.settings import Floors, Spec, Window

EDGES = (-9.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 9.0)
PLAN = CountPlan("", (FeaturePlan("age", "numeric", 0, 0, EDGES),), ScorePlan(0, -1, "probability"))
ROLES = Roles(champion=("1", "stable"), live=frozenset({("1", "stable")}))
SPEC = Spec(window=Window(rows=3_000))
FLOORS = Floors()
MINUTE_MS = 60_000


def counts(rng: np.random.Generator, rows: int, shift: float = 0.0) -> Counts:
    vector, values = empty(PLAN), rng.normal(shift, 1.0, (rows, 1))
    Counter(PLAN).count([values], [1 / (1 + np.exp(-values))], np.zeros(rows, np.int64), vector)
    return vector


REFERENCE = identified(Reference(PLAN, counts(np.random.default_rng(1), 100_000), Binding("x", (), ())))
SERIES = Series("m", "1", "stable", REFERENCE.id)


def begun() -> Held:
    held = Held(SPEC, ModelMonitor("m", SPEC), roles=ROLES)
    held.monitor.watch({"1": REFERENCE})
    return held


def told(held: Held, shifts: dict[str, float], minutes: int, *, from_minute: int = 0, rows: int = 500) -> list[str]:
    """Each node tells of 500 rows a minute; the verdicts that were told."""
    rng, found = np.random.default_rng([from_minute, len(shifts)]), []
    totals = {key[0]: seen for key, seen in held.seen.items()}
    for minute in range(from_minute, from_minute + minutes):
        totals = {node: totals.get(node, empty(PLAN)) + counts(rng, rows, shift) for node, shift in shifts.items()}
        deltas = taken(held, {(node, "run", SERIES): vector for node, vector in totals.items()}, "a")
        outcome = held.monitor.turn(deltas, ROLES, minute * MINUTE_MS)
        found += [event.incident.attribution.verdict for event in outcome.events]
    return found


def test_one_node_of_four_drifts_and_is_named() -> None:
    held = begun()
    told(held, dict.fromkeys("abcd", 0.0), 12)
    assert held.monitor.hosts.states == dict.fromkeys("abcd", "ok")
    assert held.monitor.attribution.verdict == "none"
    verdicts = told(held, {"a": 0.0, "b": 0.0, "c": 3.0, "d": 0.0}, 12, from_minute=12)
    assert "host" in verdicts
    incident = held.monitor.ledger.open
    assert incident is not None
    assert (incident.attribution.verdict, incident.attribution.action) == ("host", "eject")
    assert "Only host c is off" in incident.attribution.sentence
    assert not incident.attribution.retrain
    shown = view("m", held, leads=True, away="", now_ms=24 * MINUTE_MS)
    assert shown["hosts"] == {"a": "ok", "b": "ok", "c": "firing", "d": "ok"}


def test_all_nodes_drift_and_none_is_named() -> None:
    held = begun()
    verdicts = told(held, dict.fromkeys("abcd", 0.5), 18)
    assert set(verdicts) == {"world"}
    assert held.monitor.hosts.states == dict.fromkeys("abcd", "firing")


def test_of_two_nodes_none_is_named() -> None:
    held = begun()
    assert set(told(held, {"a": 0.0, "b": 3.0}, 18)) == {"world"}
    assert held.monitor.hosts.states == {}


def test_the_verdict_outlives_a_change_of_the_leader() -> None:
    held, next_one = begun(), begun()
    told(held, {"a": 0.0, "b": 0.0, "c": 3.0}, 12)
    assert restore_state(next_one, encoded_state(held)) == ""
    next_one.monitor.turn([], ROLES, 12 * MINUTE_MS)
    assert next_one.monitor.hosts.states == {"a": "ok", "b": "ok", "c": "firing"}
    assert next_one.monitor.attribution.verdict == "host"


def test_a_new_leader_waits_for_the_hosts_that_the_one_before_heard() -> None:
    """Else its first window, of those that happened to speak first, would blame the world for what one host does."""
    held, next_one = begun(), begun()
    told(held, {"a": 0.0, "b": 0.0, "c": 3.0}, 12)
    assert restore_state(next_one, encoded_state(held)) == ""
    told(next_one, {"a": 0.0, "b": 0.0}, 4, from_minute=12)
    assert next_one.monitor.hosts.states == {"a": "ok", "b": "ok", "c": "firing"}
    told(next_one, {"a": 0.0, "b": 0.0}, OLD_MS // MINUTE_MS, from_minute=16)
    assert next_one.monitor.hosts.states == {}, "it is gone, and of two nobody can say"


def test_a_state_of_a_build_that_did_not_say_whom_it_heard_is_read() -> None:
    held, again = begun(), ModelMonitor("m", SPEC)
    told(held, {"a": 0.0, "b": 0.0, "c": 3.0}, 12)
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(held.monitor.state()))
    del state["hosts"]["heard_ms"]
    again.watch({"1": REFERENCE})
    again.restore(state)
    assert again.hosts.plain()["heard_ms"].keys() == set("abc")


def test_a_state_of_before_there_were_hosts_is_read() -> None:
    held = begun()
    told(held, dict.fromkeys("abc", 0.0), 12)
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(held.monitor.state()))
    del state["hosts"]
    again = ModelMonitor("m", SPEC)
    again.watch({"1": REFERENCE})
    again.restore(state)
    assert again.hosts.states == {}


# ---- when they are judged ----


def known(rows: dict[str, int], hosts: Hosts | None = None, now_ms: int = OLD_MS) -> Hosts:
    hosts, rng = hosts or Hosts(), np.random.default_rng(3)
    hosts.meet("1", "stable", REFERENCE.id)
    for host, count in rows.items():
        hosts.take(host, "1", "stable", REFERENCE.id, counts(rng, count))
    hosts.judge(REFERENCE, FLOORS, now_ms)
    return hosts


def test_hosts_wait_for_the_slowest() -> None:
    hosts = known({"a": LEAST_ROWS, "b": LEAST_ROWS, "c": LEAST_ROWS - 1})
    assert hosts.states == {}
    assert set(known({"c": 1}, hosts, OLD_MS + 1).states) == set("abc")
    assert set(known(dict.fromkeys("abc", 1), hosts, 2 * OLD_MS).states) == set("abc"), (
        "until there are rows for a new verdict"
    )
    assert known(dict.fromkeys("abc", 1), hosts, 2 * OLD_MS + 1).states == {}, "but not for ever"


def test_a_host_that_is_gone_is_waited_for_no_more() -> None:
    hosts = known({"a": 1, "b": LEAST_ROWS, "c": LEAST_ROWS, "d": LEAST_ROWS})
    assert hosts.states == {}
    assert set(known({"b": 1, "c": 1, "d": 1}, hosts, 2 * OLD_MS).states) == set("bcd")


def test_of_more_hosts_than_there_is_room_for_nothing_is_said() -> None:
    rows = {f"h{at}": LEAST_ROWS for at in range(MOST_HOSTS)}
    assert len(known(rows).states) == MOST_HOSTS
    assert known({**rows, "another": LEAST_ROWS}).states == {}


def test_another_champion_begins_anew_and_others_are_not_counted() -> None:
    hosts = known(dict.fromkeys("abc", LEAST_ROWS))
    hosts.take("a", "2", "canary", "else", counts(np.random.default_rng(0), 10))
    hosts.judge(REFERENCE, FLOORS, OLD_MS + 1)
    assert set(hosts.states) == set("abc")
    hosts.meet("2", "stable", REFERENCE.id)
    assert hosts.states == {}


def test_between_off_and_well_there_is_doubt() -> None:
    rng = np.random.default_rng(5)
    states = [state_of(REFERENCE, counts(rng, 2_000, shift), FLOORS) for shift in (0.0, 0.26, 1.0)]
    assert states == ["ok", "pending", "firing"]
    well = [state_of(REFERENCE, counts(rng, LEAST_ROWS), FLOORS) for _ in range(300)]
    assert set(well) == {"ok"}, "chance alone makes no host doubtful"
